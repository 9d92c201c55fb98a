# SPDX-License-Identifier: MIT
"""Files of VMMs that are never touched again: whoever closes one may wait for ever, unkillably."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["Parked"]

_MOST = 16


class Parked:
    """Counts them; `on_full` is called once, when there are too many for this process to go on."""

    def __init__(self, on_full: Callable[[], None]) -> None:
        self._on_full = on_full
        self.count = 0

    def park(self, fds: Iterable[int]) -> None:
        """Leave these open for as long as this process lives."""
        before = self.count
        self.count += len(list(fds))
        if before < _MOST <= self.count:
            self._on_full()
