# SPDX-License-Identifier: MIT
"""A clock that stands still until it is turned."""

from __future__ import annotations

from gpiovirt.core.line import Clock

__all__ = ["FakeClock"]


class FakeClock:
    """The `now` of a Simulator or Aggregate; `ns` is the time on CLOCK_MONOTONIC."""

    EPOCH_NS = 1_600_000_000_000_000_000

    def __init__(self, ns: int = 1_000_000_000) -> None:
        self.ns = ns

    def __call__(self, clock: Clock) -> int:
        return self.ns + self.EPOCH_NS if clock is Clock.REALTIME else self.ns
