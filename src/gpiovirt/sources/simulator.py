# SPDX-License-Identifier: MIT
"""Simulated chips: lines that exist only here, and the world that they are wired to.

Every line is on a net, alone or wired to lines of any chips. A net is stuck, or it is low if any line drives
it low, else high if any drives it high, else where the world pulls it. A line on a net of its own
behaves as one of the kernel's gpio-sim: when no longer driven it keeps its level until the pull changes
or its holder is gone. A bias is a pull, as there. Time comes in through `now`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from gpiovirt.core.chip import LineRequest, Now
from gpiovirt.core.deadline import Deadlines
from gpiovirt.core.gpiolib import GpioChip
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Clock, Direction, LineSettings
from gpiovirt.core.text import nearest
from gpiovirt.core.train import Train
from gpiovirt.errors import (
    NoSuchChipError,
    NoSuchLineError,
    OffsetError,
    UsageError,
)
from gpiovirt.sources.simulated import Net, SimDriver, SimLine

__all__ = ["HOG_SETTINGS", "LevelChange", "SimChip", "Simulator", "Vanishing"]


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


class Vanishing(Protocol):
    """A file of a chip."""

    def vanish(self) -> None:
        """The chip is gone."""


class SimChip(GpioChip):
    """A simulated chip, made by Simulator.add_chip."""

    def __init__(self, driver: SimDriver, now: Now, not_valid: frozenset[int] = frozenset()) -> None:
        super().__init__(driver, now)
        self.not_valid = not_valid
        self.key = driver.key
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

    def add_chip(self, label: str, names: Iterable[str], not_valid: frozenset[int] = frozenset()) -> SimChip:
        """A chip with one line per name; an empty name leaves the line unnamed.

        It is known here by its label, or as LABEL#2 and so on if that is taken.
        """
        names = list(names)
        if not names:
            raise UsageError(f"chip {label!r} has no lines; give it one or more")
        key, number = label, 1
        while key in self.chips:
            number += 1
            key = f"{label}#{number}"
        chip = self.chips[key] = SimChip(SimDriver(self, key, label, names), self.now, not_valid)
        return chip

    def remove_chip(self, key: str) -> None:
        """A chip vanishes as if unplugged, and for good."""
        chip = self._chip(key)
        if chip.is_there:
            self.unplug(key)
        for line in chip.lines:
            self._end_train(line.net)
            line.net.lines = [other for other in line.net.lines if other is not line]
        self._hogs = [hog for hog in self._hogs if hog.chip is not chip]
        del self.chips[key]

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
    def _end_train(net: Net) -> None:
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

    def report(self, line: SimLine, level: int) -> None:
        """A line changed: tell the observers."""
        change = LevelChange(line.driver.key, line.offset, level, self.now(Clock.MONOTONIC))
        for observer in self.observers:
            observer(change)

    def _chip(self, label: str) -> SimChip:
        if label not in self.chips:
            there = ", ".join(self.chips) or "none"
            near = nearest(label, self.chips)
            raise NoSuchChipError(f"no simulated chip {label!r}{near}; the chips are: {there}")
        return self.chips[label]

    def _line(self, label: str, offset: int) -> SimLine:
        lines = self._chip(label).lines
        if not 0 <= offset < len(lines):
            raise OffsetError(
                f"{label} has no line {offset}: its {len(lines)} lines are 0 to {len(lines) - 1}"
            )
        return lines[offset]
