# SPDX-License-Identifier: MIT
"""Record the lines of a program's chips while it runs, and drive them as a recording says.

Both begin when the program first requests a line: that is time 0, and what is so by then is the beginning.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import IO

from gpiovirt.core.chip import Chip
from gpiovirt.core.line import Clock, Direction, InfoEvent, InfoEventType
from gpiovirt.core.record import Entry, RingReader, What
from gpiovirt.host.clock import now_ns
from gpiovirt.host.reactor import Reactor
from gpiovirt.sources.simulator import LevelChange, Simulator
from gpiovirt.waveform.compare import level_at
from gpiovirt.waveform.levels import LineLevels
from gpiovirt.waveform.vcd import Recording, Signal, VcdWriter, signal_names

__all__ = ["Beginning", "LiveRecording", "Stimulus", "steps_of"]

_FLUSH_S = 0.2
_DRAIN_S = 0.05
_AT_A_TIME = 1 << 16


class Beginning:
    """Knows when the program first requests a line of `chips`, and calls all who want to know, once."""

    def __init__(self, chips: Iterable[Chip]) -> None:
        self._waiting: list[Callable[[int], None]] = []
        self._unwatch = [chip.watch(self._on_info) for chip in chips]
        self.time_ns: int | None = None

    def then(self, callback: Callable[[int], None]) -> None:
        """Call back with the time, CLOCK_MONOTONIC."""
        self._waiting.append(callback)

    def _on_info(self, event: InfoEvent) -> None:
        if event.type is InfoEventType.REQUESTED and self.time_ns is None:
            self.time_ns = event.timestamp_ns
            for callback in self._waiting:
                callback(event.timestamp_ns)


class LiveRecording:
    """Writes the levels of simulated lines, and of lines whose record is in `rings`, to a VCD file.

    Chips that come later are not in it: a file says at its beginning which signals it has.
    What cannot be written is said once, and the program goes on.
    """

    def __init__(
        self,
        file: IO[str],
        simulator: Simulator,
        rings: Mapping[str, tuple[Sequence[str], RingReader]],
        reactor: Reactor,
        beginning: Beginning,
    ) -> None:
        self._file = file
        self._simulator = simulator
        self._chips = dict(simulator.chips)
        self._reactor = reactor
        self._writer: VcdWriter | None = None
        self._zero_ns = 0
        self._has_failed = False
        self._signals: list[Signal] = []
        self._places: dict[tuple[str, int], int] = {}
        for label, chip in simulator.chips.items():
            self._add(label, [chip.line_info(offset).name for offset in range(chip.info.num_lines)])
            chip.watch(lambda event, label=label: self._on_info(label, event))  # type: ignore[misc]
        self._rings: list[tuple[RingReader, LineLevels]] = []
        for label, (names, reader) in rings.items():
            first = len(self._signals)
            self._add(label, names)
            self._rings.append((reader, LineLevels(first, len(names))))
        self._flush_soon = reactor.coalesced(_FLUSH_S, self._flush)
        self.drain_soon = reactor.coalesced(_DRAIN_S, self._drain)
        """There is something in a ring"""
        simulator.observers.append(self._on_level)
        beginning.then(self._begin)

    def _add(self, label: str, names: Sequence[str]) -> None:
        for offset, name in enumerate(signal_names(names)):
            self._places[label, offset] = len(self._signals)
            self._signals.append(Signal(label, name))

    def _begin(self, zero_ns: int) -> None:
        self._zero_ns = zero_ns
        levels: list[int | None] = [None] * len(self._signals)
        outputs = [False] * len(self._signals)
        for label, chip in self._chips.items():
            for offset in range(chip.info.num_lines):
                place = self._places[label, offset]
                info = chip.line_info(offset)
                levels[place] = self._simulator.level(label, offset)
                outputs[place] = info.used and info.direction is Direction.OUTPUT
        self._try(lambda: self._start(levels, outputs))

    def _start(self, levels: Sequence[int | None], outputs: Sequence[bool]) -> None:
        self._writer = VcdWriter(self._file, self._signals, levels, outputs, datetime.now())
        self._flush_soon()

    def _on_level(self, change: LevelChange) -> None:
        place = self._places.get((change.chip, change.offset))
        if (writer := self._writer) is not None and place is not None:
            self._try(lambda: writer.level(place, change.timestamp_ns - self._zero_ns, change.level))

    def _on_info(self, label: str, event: InfoEvent) -> None:
        if (writer := self._writer) is not None:
            info = event.info
            is_output = info.used and info.direction is Direction.OUTPUT
            place = self._places[label, info.offset]
            self._try(lambda: writer.output(place, event.timestamp_ns - self._zero_ns, is_output))

    def _drain(self) -> None:
        """Write what the rings have; their times are of another clock."""
        if (writer := self._writer) is None:
            return
        ahead_ns = time.time_ns() - time.monotonic_ns() + self._zero_ns
        for reader, levels in self._rings:
            for item in reader.read(_AT_A_TIME):
                if not isinstance(item, Entry):
                    levels.lose_all()
                elif item.what != What.HOLDER:
                    levels.take(What(item.what), item.offset, item.value, item.time_ns - ahead_ns)
            self._try(lambda levels=levels: levels.write_to(writer))  # type: ignore[misc]

    def _try(self, write: Callable[[], object]) -> None:
        if self._has_failed:
            return
        try:
            write()
        except OSError as error:
            self._fail(error)
            return
        self._flush_soon()

    def _fail(self, error: OSError) -> None:
        self._has_failed = True
        self._writer = None
        sys.stderr.write(f"gpiovirt: the recording ends: {error.strerror}\n")

    def _flush(self) -> None:
        if self._writer is not None:
            try:
                self._writer.flush()
            except OSError as error:
                self._fail(error)

    def close(self) -> None:
        """The program has ended."""
        if self._writer is None and not self._has_failed:  # it has never requested anything
            self._begin(now_ns(Clock.MONOTONIC))
        self._drain()
        try:
            if self._writer is not None:
                self._writer.close(now_ns(Clock.MONOTONIC) - self._zero_ns)
            self._file.close()
        except OSError as error:
            self._fail(error)


class Stimulus:
    """Pulls simulated lines as a recording says, where it does not say that they are outputs.

    `lines` are the signals to be driven, and which line each is. `at_end` is called `after_ns` later than the
    recording's end.
    """

    def __init__(
        self,
        recording: Recording,
        lines: Mapping[Signal, tuple[str, int]],
        simulator: Simulator,
        beginning: Beginning,
        after_ns: int,
        at_end: Callable[[], object],
    ) -> None:
        self._simulator = simulator
        self._steps = steps_of(recording, lines)
        self._next = 0
        self._end_ns = recording.end_ns + after_ns
        self._at_end = at_end
        self._zero_ns = 0
        self._pull_until(0)  # before the program starts
        beginning.then(self._begin)

    def _begin(self, zero_ns: int) -> None:
        self._zero_ns = zero_ns
        self._go_on()

    def _go_on(self) -> None:
        self._pull_until(now_ns(Clock.MONOTONIC) - self._zero_ns)
        if self._next < len(self._steps):
            due_ns = self._steps[self._next][0]
            self._simulator.deadlines.call_at(self._zero_ns + due_ns, self._go_on)
        else:
            self._simulator.deadlines.call_at(self._zero_ns + self._end_ns, self._at_end)

    def _pull_until(self, time_ns: int) -> None:
        while self._next < len(self._steps) and self._steps[self._next][0] <= time_ns:
            _, (chip, offset), level = self._steps[self._next]
            self._next += 1
            self._simulator.pull(chip, offset, level)


def steps_of(
    recording: Recording, lines: Mapping[Signal, tuple[str, int]]
) -> list[tuple[int, tuple[str, int], int]]:
    """(time in ns, line, level) of all that is to be pulled, in order."""
    steps = []
    for signal, line in lines.items():
        outputs = recording.outputs.get(signal, [])
        for time_ns, level in recording.levels[signal]:
            if level is not None and not level_at(outputs, time_ns):
                steps.append((time_ns, line, level))
    return sorted(steps)
