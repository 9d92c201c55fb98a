# SPDX-License-Identifier: MIT
"""A plugin of pytest's for a slow machine: fewer examples, and no deadline for one."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "patient", deadline=None, max_examples=10, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("patient")
