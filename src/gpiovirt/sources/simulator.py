# SPDX-License-Identifier: MIT
"""Simulated chips: lines that exist only here, and the world that they are wired to.

Every line is on a net, alone or wired to lines of any chips. A net is stuck, or it is low if any line drives
it low, else high if any drives it high, else where the world pulls it. A line on a net of its own
behaves as one of the kernel's gpio-sim: when no longer driven it keeps its level until the pull changes
or its holder is gone. A bias is a pull, as there. Time comes in through `now`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from gpiovirt.core.chip import LineRequest, Now, PresenceSink
from gpiovirt.core.deadline import Cancel, Deadlines
from gpiovirt.core.debounce import Debouncer
from gpiovirt.core.gpiolib import GpioChip, PhysicalEdge, Picked, Values
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Bias, Clock, Direction, Drive, Edge, LineSettings
from gpiovirt.core.text import nearest
from gpiovirt.core.train import Train
from gpiovirt.errors import ChipGoneError, NoSuchChipError, NoSuchLineError, OffsetError, UsageError

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


class Vanishing(Protocol):
    """A file of a chip."""

    def vanish(self) -> None:
        """The chip is gone."""


class _Net:
    """Lines that share one level."""

    __slots__ = ("level", "lines", "pull", "stuck", "train")

    def __init__(self, line: "_SimLine") -> None:
        self.lines = [line]
        self.pull = 0
        self.level = 0
        self.stuck: int | None = None
        self.train: Train | None = None
        """What pulls it for a while"""

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
        if self.stuck is not None:
            level = self.stuck
        if level != self.level:
            self.level = level
            for line in self.lines:
                line.on_level(level)


class _SimLine:
    """One line: what it drives, and what it tells its chip."""

    __slots__ = (
        "cancel",
        "changed",
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
        self.changed: Callable[[], object] | None = None
        """Called once when its level, which is not debounced, is another"""

    def tell_changed(self) -> None:
        """It has another level, or none that can be read."""
        changed, self.changed = self.changed, None
        if changed is not None:
            changed()

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

    def vanish(self) -> None:
        """Its chip is unplugged: it drives and sees nothing."""
        self.tell_changed()
        self.edge = Edge.NONE
        self.end_debounce()
        self.is_output = False
        self.driven = None
        self.net.settle()

    def on_level(self, level: int) -> None:
        simulator = self.driver.simulator
        if self.changed is not None:
            self.tell_changed()
        if simulator.observers and self.driver.is_there:
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

    __slots__ = ("_pick",)

    def __init__(self, lines: Sequence[_SimLine]) -> None:
        self._pick = Picked(lines).pick

    def get(self, mask: int) -> int:
        bits = 0
        for bit, line in self._pick(mask):
            if line.net.level if line.debouncer is None else line.debouncer.level:
                bits |= bit
        return bits

    def set(self, mask: int, bits: int) -> None:
        for bit, line in self._pick(mask):
            line.drive(1 if bits & bit else 0)


class _GoneValues:
    """The values of lines whose chip is unplugged."""

    def __init__(self, label: str) -> None:
        self._why = f"the chip {label} is unplugged"

    def get(self, _mask: int) -> int:
        raise ChipGoneError(self._why)

    def set(self, _mask: int, _bits: int) -> None:
        raise ChipGoneError(self._why)


class _SimDriver:
    """The Driver of a simulated chip."""

    def __init__(self, simulator: "Simulator", label: str, names: Sequence[str]) -> None:
        self.simulator = simulator
        self.label = label
        self.names: Sequence[str] = list(names)
        self.lines = [_SimLine(self, offset) for offset in range(len(names))]
        self.is_there = True

    def attach(self, edge: PhysicalEdge, presence: PresenceSink) -> None:
        self.edge = edge
        self.presence = presence

    def is_output(self, offset: int) -> bool:
        return self.lines[offset].is_output

    def catch_up(self) -> None:
        """Edges are told at once."""

    def request(self, offset: int, _holder: Holder) -> None:
        self.lines[offset].is_held = True

    def configure(self, offset: int, settings: LineSettings) -> None:
        if not self.is_there:
            raise ChipGoneError(f"the chip {self.label} is unplugged")
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
        line.changed = None
        line.edge = Edge.NONE
        line.driven = None
        line.drives_low = line.drives_high = True
        line.is_held = False
        line.end_debounce()
        line.net.settle()

    def bind(self, offsets: Sequence[int]) -> Values:
        if not self.is_there:
            return _GoneValues(self.label)
        return _SimValues([self.lines[offset] for offset in offsets])


class SimChip(GpioChip):
    """A simulated chip, made by Simulator.add_chip."""

    def __init__(self, driver: _SimDriver, now: Now) -> None:
        super().__init__(driver, now)
        self.lines = driver.lines
        self.names = driver.names
        self._sim_driver = driver
        self.files: set[Vanishing] = set()
        """Told when it is unplugged, after the holders of its lines"""
        self._levels: list[int] = []
        """Those when it was unplugged"""

    def tell_once(self, offset: int, changed: Callable[[], object]) -> bool:
        line = self.lines[offset]
        line.changed = None if line.debouncer is not None or not self.is_there else changed
        return line.changed is not None

    @property
    def is_there(self) -> bool:
        """Whether it is plugged in."""
        return self._sim_driver.is_there

    def set_there(self, there: bool) -> None:
        """Plug it in or unplug it, as Simulator says."""
        driver = self._sim_driver
        driver.is_there = there
        if not there:
            self._levels = [line.net.level for line in self.lines]
        for line, was in zip(self.lines, self._levels, strict=True):
            if not there:
                line.vanish()
            elif line.net.level != was:
                line.on_level(line.net.level)
            driver.presence(line.offset, there)
        self.rebind()
        if not there:
            for file in list(self.files):
                file.vanish()


class _Hog:
    """Holds a line whenever its chip is there."""

    __slots__ = ("_consumer", "_offset", "_request", "_settings", "chip")

    def __init__(self, chip: SimChip, offset: int, consumer: str, settings: LineSettings) -> None:
        self.chip = chip
        self._offset = offset
        self._consumer = consumer
        self._settings = settings

    def hold(self) -> None:
        holder = Holder.of(self._consumer, HolderKind.HOG)
        self._request: LineRequest = self.chip.request([self._offset], [self._settings], holder)

    def release(self) -> None:
        self._request.release()


class Simulator:
    """Simulated chips and the world around them; `level` and `pull` are the world's side of a line.

    Debounced lines settle when `deadlines` are served.
    """

    def __init__(self, now: Now, deadlines: Deadlines | None = None) -> None:
        self.now = now
        self.deadlines = deadlines or Deadlines()
        self.chips: dict[str, SimChip] = {}
        self.observers: list[Callable[[LevelChange], None]] = []
        self._hogs: list[_Hog] = []

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
        hog = _Hog(self._chip(label), offset, consumer, settings)
        hog.hold()
        self._hogs.append(hog)

    def wire(self, one: tuple[str, int], other: tuple[str, int]) -> None:
        """Connect two lines, and the lines that each is already wired to, into one net."""
        kept, joined = self._line(*one).net, self._line(*other).net
        if kept is joined:
            return
        for line in joined.lines:
            line.net = kept
        kept.lines = kept.lines + joined.lines
        kept.pull |= joined.pull
        kept.stuck = joined.stuck if kept.stuck is None else kept.stuck
        kept.settle()
        if joined.level != kept.level:
            for line in joined.lines:
                line.on_level(kept.level)

    def pull(self, label: str, offset: int, level: int) -> None:
        """Pull a line (and the lines wired to it) up (1) or down (0), and end what pulls it for a while."""
        line = self._line(label, offset)
        self._end_train(line.net)
        line.pull(level)

    def play(
        self, label: str, offset: int, steps: Iterator[tuple[int, int]], at_end: Callable[[], object]
    ) -> None:
        """Pull a line at these times (in ns from now), until something else pulls it."""
        line = self._line(label, offset)
        self._end_train(line.net)
        train = Train(steps, line.pull, self.deadlines, lambda: self.now(Clock.MONOTONIC), at_end)
        line.net.train = train

    @staticmethod
    def _end_train(net: _Net) -> None:
        train, net.train = net.train, None
        if train is not None:
            train.cancel()

    def pulled(self, label: str, offset: int) -> int:
        """Where the world, or a bias, pulls a line."""
        return self._line(label, offset).net.pull

    def stick(self, label: str, offset: int, level: int | None) -> None:
        """Have a line (and the lines wired to it) stuck at a level, whoever drives it; None: no more."""
        net = self._line(label, offset).net
        net.stuck = level
        net.settle()

    def stuck(self, label: str, offset: int) -> int | None:
        """The level at which a line is stuck, if it is."""
        return self._line(label, offset).net.stuck

    def unplug(self, label: str) -> None:
        """A chip vanishes: requests of its lines end, and nothing of it can be opened.

        Observers are not told of its lines until it is back.
        """
        chip = self._plug(label, False)
        for hog in self._hogs:
            if hog.chip is chip:
                hog.release()
        chip.set_there(False)

    def plug(self, label: str) -> None:
        """It is back, and its lines are as if it was new."""
        chip = self._plug(label, True)
        chip.set_there(True)
        for hog in self._hogs:
            if hog.chip is chip:
                hog.hold()

    def _plug(self, label: str, there: bool) -> SimChip:
        chip = self._chip(label)
        if chip.is_there == there:
            raise UsageError(f"the chip {label} is {'plugged in' if there else 'unplugged'} already")
        return chip

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
        if label and label not in self.chips:
            self._chip(label)
        names = [
            name for chip in self.chips.values() if label in ("", chip.info.label) for name in chip.names
        ]
        near = "" if found else nearest(which, filter(None, names))
        raise NoSuchLineError(
            f"{what} named {text!r}{near}; write CHIP:OFFSET or CHIP:NAME; the chips are: {there}"
        )

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
