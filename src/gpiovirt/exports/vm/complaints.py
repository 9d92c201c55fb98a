# SPDX-License-Identifier: MIT
"""What a front-end or a guest does wrong, in the log."""

from __future__ import annotations

from gpiovirt.host.log import RateLimitedLog as Complaints

__all__ = ["Complaints"]
