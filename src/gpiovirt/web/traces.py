# SPDX-License-Identifier: MIT
"""Levels of simulated lines since they were first looked at, in memory that does not grow without end."""

from __future__ import annotations

from array import array

from gpiovirt.waveform.thin import UNKNOWN, Trace

__all__ = ["ALL_MAX", "CHANGES_MAX", "Traces"]

CHANGES_MAX = 1 << 18
"""Of one line; the older half is dropped then"""
ALL_MAX = 1 << 22
"""Of all lines; then it is that of the line with the most"""


class Traces:
    """By line."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, int], Trace] = {}
        self._number = 0

    def begin(self, chip: str, offset: int, time_ns: int, level: int) -> None:
        """A line has this level, and what it was before is not known."""
        if (chip, offset) not in self._of:
            self._of[chip, offset] = Trace(array("q", [time_ns]), array("B", [level]))
            self._number += 1
        else:
            self.add(chip, offset, time_ns, level)

    def add(self, chip: str, offset: int, time_ns: int, level: int) -> None:
        """It changes."""
        trace = self._of.get((chip, offset))
        if trace is None:
            return
        if len(trace.times_ns) >= CHANGES_MAX:
            trace = self._halve(chip, offset)
        elif self._number >= ALL_MAX:
            self._halve(*max(self._of, key=lambda line: len(self._of[line].times_ns)))
            trace = self._of[chip, offset]
        self._number += 1
        trace.times_ns.append(max(time_ns, trace.times_ns[-1]))
        trace.levels.append(level)

    def _halve(self, chip: str, offset: int) -> Trace:
        trace = self._of[chip, offset]
        half = len(trace.times_ns) // 2
        self._number -= half
        self._of[chip, offset] = made = Trace(trace.times_ns[half:], trace.levels[half:])
        return made

    def lose(self, time_ns: int) -> None:
        """Changes are missing: no level is known until the next one."""
        for chip, offset in list(self._of):
            self.add(chip, offset, time_ns, UNKNOWN)

    def of_chip(self, chip: str) -> dict[int, Trace]:
        """Its lines."""
        return {offset: trace for (label, offset), trace in self._of.items() if label == chip}
