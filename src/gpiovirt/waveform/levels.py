# SPDX-License-Identifier: MIT
"""From what happened to the lines of a chip to their levels over time: what is not known is not made up."""

from __future__ import annotations

from gpiovirt.core.record import What
from gpiovirt.waveform.vcd import VcdWriter

__all__ = ["LineLevels"]


class LineLevels:
    """The lines of one chip, which are the signals from `first` on."""

    def __init__(self, first: int, num_lines: int) -> None:
        self._first = first
        self.levels: list[int | None] = [None] * num_lines
        self.outputs = [False] * num_lines
        self._due: list[tuple[int, int, str, int | None]] = []
        """(time, signal, what, value) to be written"""
        self._last_ns = 0

    def take(self, what: What, offset: int, value: int, time_ns: int) -> None:
        """An entry of the record, in order; `value` as there."""
        self._last_ns = max(self._last_ns, time_ns)
        match what:
            case What.CONFIGURED:
                is_output = bool(value & 2)
                self._output(offset, is_output, time_ns)
                self._level(offset, value & 1 if is_output else None, time_ns)
            case What.SET | What.EDGE:
                self._level(offset, value & 1, time_ns)
            case What.MISSED:
                self._due.append((time_ns, self._first + offset, "lost", None))
                self.levels[offset] = None
            case What.GONE:
                self._output(offset, False, time_ns)
                self._level(offset, None, time_ns)
            case What.RELEASED:
                if not self.outputs[offset]:
                    self._level(offset, None, time_ns)
                self._output(offset, False, time_ns)

    def lose_all(self, time_ns: int = 0) -> None:
        """Entries are missing: no level is known any more."""
        time_ns = max(time_ns, self._last_ns)
        for offset in range(len(self.levels)):
            self._due.append((time_ns, self._first + offset, "lost", None))
            self.levels[offset] = None

    def _level(self, offset: int, level: int | None, time_ns: int) -> None:
        if self.levels[offset] != level:
            self.levels[offset] = level
            self._due.append((time_ns, self._first + offset, "level", level))

    def _output(self, offset: int, is_output: bool, time_ns: int) -> None:
        if self.outputs[offset] != is_output:
            self.outputs[offset] = is_output
            self._due.append((time_ns, self._first + offset, "output", is_output))

    def forget_due(self) -> None:
        """What was taken so far is the initial state, and need not be written."""
        self._due.clear()

    def write_to(self, writer: VcdWriter, zero_ns: int = 0) -> int:
        """Write what has changed; how much that was."""
        due, self._due = self._due, []
        for time_ns, index, what, value in due:
            at_ns = max(time_ns - zero_ns, 0)
            if what == "level":
                writer.level(index, at_ns, value)
            elif what == "lost":
                writer.lost(index, at_ns)
            else:
                writer.output(index, at_ns, bool(value))
        return len(due)
