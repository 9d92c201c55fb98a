# SPDX-License-Identifier: MIT
"""Simulated chips: lines that exist only here, and the world that they are wired to.

Every line is on a net, alone or wired to lines of any chips. A net is low if any line drives it
low, else high if any drives it high, else where the world pulls it. A line on a net of its own
behaves as one of the kernel's gpio-sim: when no longer driven it keeps its level until the pull changes
or its holder is gone. A bias is a pull, as there. Time comes in through `now`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from gpiovirt.core.chip import LineRequest, Now, PresenceSink
from gpiovirt.core.deadline import Cancel, Deadlines
from gpiovirt.core.debounce import Debouncer
from gpiovirt.core.gpiolib import GpioChip, PhysicalEdge, Values
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Bias, Clock, Direction, Drive, Edge, LineSettings
from gpiovirt.core.text import nearest
from gpiovirt.errors import NoSuchChipError, NoSuchLineError, OffsetError, UsageError

__all__ = ["HOG_SETTINGS", "LevelChange", "SimChip", "Simulator"]


class LevelChange(NamedTuple):
    """A line changed its physical level."""

    chip: str
    offset: int
    level: int
    timestamp_ns: int


HOG_SETTINGS = {
    "input": LineSettings(Direction.INPUT),
    "output-low": LineSettings(Direction.OUTPUT),
    "output-high": LineSettings(Direction.OUTPUT, output_value=1),
}
"""How a hog can hold its line, by what that is called"""

_PULL_OF = {Bias.PULL_UP: 1, Bias.PULL_DOWN: 0}


class _Net:
    """Lines that share one level."""

    __slots__ = ("level", "lines", "pull")

    def __init__(self, line: "_SimLine") -> None:
        self.lines = [line]
        self.pull = 0
        self.level = 0

    def settle(self, keep: bool = False) -> None:
        """Recompute the level, and tell every line if it changed.

        With `keep`, a net of one line that nobody drives stays as it is.
        """
        level = self.level if keep and len(self.lines) == 1 else self.pull
        for line in self.lines:
            if line.driven is not None:
                level = line.driven
                if not level:
                    break
        if level != self.level:
            self.level = level
            for line in self.lines:
                line.on_level(level)


class _SimLine:
    """One line: what it drives, and what it tells its chip."""

    __slots__ = (
        "cancel",
        "clock",
        "debouncer",
        "driven",
        "driver",
        "drives_high",
        "drives_low",
        "edge",
        "is_held",
        "is_output",
        "net",
        "offset",
    )

    def __init__(self, driver: "_SimDriver", offset: int) -> None:
        self.driver = driver
        self.offset = offset
        self.net = _Net(self)
        self.is_held = False
        self.is_output = False
        self.driven: int | None = None
        self.drives_low = self.drives_high = True
        self.edge = Edge.NONE
        self.clock = Clock.MONOTONIC
        self.debouncer: Debouncer | None = None
        self.cancel: Cancel | None = None

    def drive(self, value: int) -> None:
        """An output takes a value; if its drive cannot drive that, the hardware becomes an input."""
        self.is_output = self.drives_high if value else self.drives_low
        self.driven = value if self.is_output else None
        self.net.settle(keep=True)

    def let_go(self) -> None:
        """The line becomes an input."""
        self.is_output = False
        self.driven = None
        self.net.settle(keep=True)

    def pull(self, level: int) -> None:
        """The world, or a bias, pulls the line; one held as an output does not follow, driven or not."""
        self.net.pull = level
        self.net.settle(keep=self.is_held and self.is_output)

    def on_level(self, level: int) -> None:
        simulator = self.driver.simulator
        if simulator.observers:
            simulator.report(self, level)
        if self.debouncer is not None:
            is_due = self.debouncer.deadline_ns is not None
            self.debouncer.on_edge(simulator.now(Clock.MONOTONIC))
            if not is_due:
                self._await_stable(self.debouncer)
        elif self.edge:
            self.report_edge(level)

    def _await_stable(self, debouncer: Debouncer) -> None:
        """One deadline at a time: further edges only move the time that it is compared with."""
        if debouncer.deadline_ns is not None:
            deadlines = self.driver.simulator.deadlines
            self.cancel = deadlines.call_at(debouncer.deadline_ns, lambda: self._on_deadline(debouncer))

    def end_debounce(self) -> None:
        self.debouncer = None
        if self.cancel is not None:
            self.cancel()
            self.cancel = None

    def _on_deadline(self, debouncer: Debouncer) -> None:
        self.cancel = None
        now_ns = self.driver.simulator.now(Clock.MONOTONIC)
        if debouncer.deadline_ns is not None and debouncer.deadline_ns > now_ns:
            self._await_stable(debouncer)
        elif debouncer.on_deadline(self.net.level):
            self.report_edge(debouncer.level)

    def report_edge(self, level: int) -> None:
        if self.edge & (Edge.RISING if level else Edge.FALLING):
            self.driver.edge(self.offset, bool(level), self.driver.simulator.now(self.clock))

    def level(self) -> int:
        """As its holder reads it: debounced where it asked for that."""
        return self.net.level if self.debouncer is None else self.debouncer.level


class _SimValues:
    """The values of a fixed set of simulated lines."""

    __slots__ = ("_lines",)

    def __init__(self, lines: Sequence[_SimLine]) -> None:
        self._lines = [(1 << i, line) for i, line in enumerate(lines)]

    def get(self, mask: int) -> int:
        bits = 0
        for bit, line in self._lines:
            if mask & bit and (line.net.level if line.debouncer is None else line.debouncer.level):
                bits |= bit
        return bits

    def set(self, mask: int, bits: int) -> None:
        for bit, line in self._lines:
            if mask & bit:
                line.drive(1 if bits & bit else 0)


class _SimDriver:
    """The Driver of a simulated chip."""

    def __init__(self, simulator: "Simulator", label: str, names: Sequence[str]) -> None:
        self.simulator = simulator
        self.label = label
        self.names: Sequence[str] = list(names)
        self.lines = [_SimLine(self, offset) for offset in range(len(names))]

    def attach(self, edge: PhysicalEdge, presence: PresenceSink) -> None:  # noqa: ARG002 - they stay
        self.edge = edge

    def is_output(self, offset: int) -> bool:
        return self.lines[offset].is_output

    def catch_up(self) -> None:
        """Edges are told at once."""

    def request(self, offset: int, _holder: Holder) -> None:
        self.lines[offset].is_held = True

    def configure(self, offset: int, settings: LineSettings) -> None:
        line = self.lines[offset]
        pull = _PULL_OF.get(settings.bias)
        line.drives_high = settings.drive is not Drive.OPEN_DRAIN
        line.drives_low = settings.drive is not Drive.OPEN_SOURCE
        if settings.direction is Direction.OUTPUT:
            line.edge = Edge.NONE
            line.end_debounce()
            line.drive(settings.output_value)
            if pull is not None:
                line.pull(pull)
            return
        line.let_go()
        if pull is not None:
            line.pull(pull)  # an edge, if edges were watched for before
        line.edge = settings.edge
        line.clock = settings.event_clock
        if not settings.debounce_period_us:
            line.end_debounce()
        elif line.debouncer is not None:
            line.debouncer.period_us = settings.debounce_period_us
        else:
            line.debouncer = Debouncer(line.net.level, settings.debounce_period_us)

    def free(self, offset: int) -> None:
        line = self.lines[offset]
        line.edge = Edge.NONE
        line.driven = None
        line.drives_low = line.drives_high = True
        line.is_held = False
        line.end_debounce()
        line.net.settle()

    def bind(self, offsets: Sequence[int]) -> Values:
        return _SimValues([self.lines[offset] for offset in offsets])


class SimChip(GpioChip):
    """A simulated chip, made by Simulator.add_chip."""

    def __init__(self, driver: _SimDriver, now: Now) -> None:
        super().__init__(driver, now)
        self.lines = driver.lines


class Simulator:
    """Simulated chips and the world around them; `level` and `pull` are the world's side of a line.

    Debounced lines settle when `deadlines` are served.
    """

    def __init__(self, now: Now, deadlines: Deadlines | None = None) -> None:
        self.now = now
        self.deadlines = deadlines or Deadlines()
        self.chips: dict[str, SimChip] = {}
        self.observers: list[Callable[[LevelChange], None]] = []
        self._hogs: list[LineRequest] = []

    def add_chip(self, label: str, names: Iterable[str]) -> SimChip:
        """A chip with one line per name; an empty name leaves the line unnamed."""
        if label in self.chips:
            raise UsageError(f"the chip name {label!r} is in use; choose another")
        names = list(names)
        if not names:
            raise UsageError(f"chip {label!r} has no lines; give it one or more")
        chip = self.chips[label] = SimChip(_SimDriver(self, label, names), self.now)
        return chip

    def hog(self, label: str, offset: int, consumer: str, settings: LineSettings) -> None:
        """Hold a line for good, as a gpio-sim hog does."""
        holder = Holder.of(consumer, HolderKind.HOG)
        self._hogs.append(self._chip(label).request([offset], [settings], holder))

    def wire(self, one: tuple[str, int], other: tuple[str, int]) -> None:
        """Connect two lines, and the lines that each is already wired to, into one net."""
        kept, joined = self._line(*one).net, self._line(*other).net
        if kept is joined:
            return
        for line in joined.lines:
            line.net = kept
        kept.lines = kept.lines + joined.lines
        kept.pull |= joined.pull
        kept.settle()
        if joined.level != kept.level:
            for line in joined.lines:
                line.on_level(kept.level)

    def pull(self, label: str, offset: int, level: int) -> None:
        """Pull a line (and the lines wired to it) up (1) or down (0)."""
        self._line(label, offset).pull(level)

    def level(self, label: str, offset: int) -> int:
        """Physical level of a line."""
        return self._line(label, offset).net.level

    def find_line(self, text: str) -> tuple[str, int]:
        """(chip label, offset) of `LABEL:OFFSET`, `LABEL:NAME` or a unique `NAME`."""
        label, _, which = text.rpartition(":")
        if label and which.isdecimal():
            self._line(label, int(which))
            return label, int(which)
        found = [
            (chip, offset)
            for chip, sim in self.chips.items()
            if label in ("", chip)
            for offset in range(sim.info.num_lines)
            if which and sim.line_info(offset).name == which
        ]
        if len(found) == 1:
            return found[0]
        there = (
            ", ".join(f"{chip} ({sim.info.num_lines} lines)" for chip, sim in self.chips.items()) or "none"
        )
        what = f"{len(found)} simulated lines are" if found else "no simulated line is"
        near = "" if found else nearest(text, self._texts_of_lines(with_chip=bool(label)))
        raise NoSuchLineError(
            f"{what} named {text!r}{near}; write CHIP:OFFSET or CHIP:NAME; the chips are: {there}"
        )

    def _texts_of_lines(self, with_chip: bool) -> Iterator[str]:
        """Of lines with names."""
        for label, chip in self.chips.items():
            for offset in range(chip.info.num_lines):
                if name := chip.line_info(offset).name:
                    yield f"{label}:{name}" if with_chip else name

    def report(self, line: _SimLine, level: int) -> None:
        """A line changed: tell the observers."""
        change = LevelChange(line.driver.label, line.offset, level, self.now(Clock.MONOTONIC))
        for observer in self.observers:
            observer(change)

    def _chip(self, label: str) -> SimChip:
        if label not in self.chips:
            there = ", ".join(self.chips) or "none"
            near = nearest(label, self.chips)
            raise NoSuchChipError(f"no simulated chip {label!r}{near}; the chips are: {there}")
        return self.chips[label]

    def _line(self, label: str, offset: int) -> _SimLine:
        lines = self._chip(label).lines
        if not 0 <= offset < len(lines):
            raise OffsetError(
                f"{label} has no line {offset}: its {len(lines)} lines are 0 to {len(lines) - 1}"
            )
        return lines[offset]
