# SPDX-License-Identifier: MIT
"""What is to be done later."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from itertools import count

__all__ = ["Timers"]


class Timers:
    """Callbacks by when they are due; the reactor's clock."""

    def __init__(self) -> None:
        self._due: list[tuple[int, int, Callable[[], object]]] = []
        self._count = count()

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Have `callback` called once; returns what prevents it."""
        entry = (time.monotonic_ns() + int(delay_s * 1e9), next(self._count), callback)
        heapq.heappush(self._due, entry)

        def cancel() -> None:
            if entry in self._due:
                self._due.remove(entry)
                heapq.heapify(self._due)

        return cancel

    def once_in(self, delay_s: float, callback: Callable[[], object]) -> Callable[[], None]:
        """What has `callback` called a while after it is called, once for all calls until then."""
        is_due = False

        def due() -> None:
            nonlocal is_due
            is_due = False
            callback()

        def call() -> None:
            nonlocal is_due
            if not is_due:
                is_due = True
                self.call_later(delay_s, due)

        return call

    def next_deadline_ns(self) -> int | None:
        """When on_deadline wants to be called, on CLOCK_MONOTONIC; None: not at all."""
        return self._due[0][0] if self._due else None

    def on_deadline(self, now_ns: int) -> None:
        """Time has passed."""
        while self._due and self._due[0][0] <= now_ns:
            heapq.heappop(self._due)[2]()
