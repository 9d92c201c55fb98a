# SPDX-License-Identifier: MIT
"""What is due when: one heap of callbacks for a whole process, with the time passed in.

A loop asks for the next deadline before it waits and calls on_deadline() when one has passed. A callback
that raises leaves the heap as it should be: the loop decides what becomes of the fault, and calls again.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

__all__ = ["Cancel", "Deadlines"]

Cancel = Callable[[], None]
"""Prevents what was asked for; harmless when it is too late"""


class _Entry:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Deadlines:
    """Callbacks by when they are due, in ns on CLOCK_MONOTONIC; at one time in the order of request."""

    __slots__ = ("_count", "_due")

    def __init__(self) -> None:
        self._due: list[tuple[int, int, _Entry]] = []
        self._count = count()

    def call_at(self, deadline_ns: int, callback: Callable[[], object]) -> Cancel:
        """Have `callback` called once, at `deadline_ns` or soon after."""
        entry = _Entry(callback)
        heappush(self._due, (deadline_ns, next(self._count), entry))
        return entry.cancel

    def next_deadline_ns(self) -> int | None:
        """When on_deadline() is to be called; None while nothing is due."""
        due = self._due
        while due:
            if due[0][2].callback is not None:
                return due[0][0]
            heappop(due)
        return None

    def on_deadline(self, now_ns: int) -> None:
        """Call everything due by `now_ns`; what a callback adds for now waits for the next call."""
        due = self._due
        last = next(self._count)
        while due and due[0][0] <= now_ns and due[0][1] < last:
            callback = heappop(due)[2].callback
            if callback is not None:
                callback()
