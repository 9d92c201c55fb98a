# SPDX-License-Identifier: MIT
"""The kernel's clocks, as event timestamps need them."""

from __future__ import annotations

import time
from functools import partial

from gpiovirt.core.line import Clock

__all__ = ["boot_ns", "now_ns"]


def now_ns(clock: Clock) -> int:
    """ns on CLOCK_MONOTONIC, or since the epoch for Clock.REALTIME."""
    return time.time_ns() if clock is Clock.REALTIME else time.monotonic_ns()


boot_ns = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
"""ns since the machine was started, whether it was suspended meanwhile or not"""
