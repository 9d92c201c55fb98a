# SPDX-License-Identifier: MIT
"""Times as a page has them: microseconds since this process began, exact in JavaScript's numbers."""

from __future__ import annotations

import time

__all__ = ["ORIGIN_NS", "ns_of", "of_monotonic", "us_of"]

ORIGIN_NS = time.time_ns()
"""On CLOCK_REALTIME"""


def us_of(time_ns: int) -> int:
    """Of a time on CLOCK_REALTIME."""
    return (time_ns - ORIGIN_NS) // 1000


def ns_of(time_us: int) -> int:
    """The time on CLOCK_REALTIME."""
    return ORIGIN_NS + time_us * 1000


def of_monotonic(time_ns: int) -> int:
    """What CLOCK_REALTIME was, or is, when CLOCK_MONOTONIC is so."""
    return time.time_ns() - time.monotonic_ns() + time_ns
