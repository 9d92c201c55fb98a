# SPDX-License-Identifier: MIT
"""What rules know of a chip's lines."""

from collections.abc import Mapping, MutableSequence
from typing import Protocol

__all__ = ["Flag", "KeptLines", "Level", "Lines", "Times", "Unkept"]

Level = int | None
"""0 or 1 as driven; None: not driven, or gone"""

_KEPT: Mapping[int, Level] = {1: 0, 2: 1}


class Flag(Protocol):
    """One byte that is kept."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class Times(Protocol):
    """A time for each line; 0: never."""

    def __getitem__(self, offset: int, /) -> int: ...
    def __setitem__(self, offset: int, value: int, /) -> None: ...


class KeptLines(Protocol):
    """What is not to be forgotten when the process dies, by offset."""

    @property
    def levels(self) -> Flag:
        """0: not driven, 1: 0, 2: 1."""

    @property
    def on_ns(self) -> Times:
        """When each last became 1."""

    @property
    def off_ns(self) -> Times:
        """When each last ceased to be 1."""

    @property
    def beat_ns(self) -> Times:
        """At 0, when the line that the watchdog waits for last toggled."""

    @property
    def tripped(self) -> Flag:
        """At 0, 1 while the watchdog has tripped."""


class Unkept:
    """Of a chip that ends with its process."""

    def __init__(self, num_lines: int) -> None:
        self.levels: Flag = bytearray(num_lines)
        self.on_ns: MutableSequence[int] = [0] * num_lines
        self.off_ns: MutableSequence[int] = [0] * num_lines
        self.tripped: Flag = bytearray(1)
        self.beat_ns: MutableSequence[int] = [0]


class Lines:
    """The levels that lines are driven to, when they last changed, and the inputs that rules look at."""

    __slots__ = ("_kept", "levels", "off_ns", "on_ns", "tripped")

    def __init__(self, kept: KeptLines, num_lines: int) -> None:
        self._kept = kept.levels
        self.on_ns = kept.on_ns
        """When each last became 1; 0: never"""
        self.off_ns = kept.off_ns
        """When each last ceased to be 1; 0: never"""
        self.tripped = kept.tripped
        self.levels: list[Level] = [None] * num_lines
        """What each line is driven to; of a sensed input, what it is"""

    def copy(self) -> "Lines":
        """The same, to be changed without anybody's notice."""
        kept = Unkept(len(self.levels))
        for offset, level in enumerate(self.levels):
            kept.levels[offset] = 0 if level is None else level + 1
            kept.on_ns[offset], kept.off_ns[offset] = self.on_ns[offset], self.off_ns[offset]
        kept.tripped[0] = self.tripped[0]
        made = Lines(kept, len(self.levels))
        made.levels = list(self.levels)
        return made

    def rise(self, offset: int, now_ns: int) -> None:
        """A line that was driven to 0 is driven to 1."""
        self.on_ns[offset] = now_ns
        self.levels[offset] = 1
        self._kept[offset] = 2

    def fall(self, offset: int, now_ns: int) -> None:
        """A line that was driven to 1 is driven to 0."""
        self.off_ns[offset] = now_ns
        self.levels[offset] = 0
        self._kept[offset] = 1

    def meet(self, offset: int, level: Level, now_ns: int) -> None:
        """A line is driven so; whoever kept what is known of it may have been wrong."""
        self.on_ns[offset] = min(self.on_ns[offset], now_ns)
        self.off_ns[offset] = min(self.off_ns[offset], now_ns)
        self.levels[offset] = _KEPT.get(self._kept[offset])
        self.note(offset, level, now_ns)

    def note(self, offset: int, level: Level, now_ns: int) -> None:
        """A line is driven so from now on."""
        was = self.levels[offset]
        if level == 1:
            if was != 1:
                self.on_ns[offset] = now_ns
        elif was == 1 or (was is None and level == 0 and self.on_ns[offset]):
            self.off_ns[offset] = now_ns  # what was not driven may have been anything
        self.levels[offset] = level
        self._kept[offset] = 0 if level is None else level + 1
