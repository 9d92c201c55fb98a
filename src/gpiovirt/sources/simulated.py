# SPDX-License-Identifier: MIT
"""Simulated lines and the nets that they are on: what level a line has, and why it changes.

The chip and the world that they belong to are gpiovirt.sources.simulator's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gpiovirt.core.chip import Now, PresenceSink
from gpiovirt.core.deadline import Cancel, Deadlines
from gpiovirt.core.debounce import Debouncer
from gpiovirt.core.gpiolib import PhysicalEdge, Picked, Values
from gpiovirt.core.holder import Holder
from gpiovirt.core.line import Bias, Clock, Direction, Drive, Edge, LineSettings
from gpiovirt.core.train import Train
from gpiovirt.errors import ChipGoneError

__all__ = ["Net", "SimDriver", "SimLine", "World"]

_PULL_OF = {Bias.PULL_UP: 1, Bias.PULL_DOWN: 0}


class World(Protocol):
    """Where the lines are."""

    now: Now
    deadlines: Deadlines
    observers: list[Callable[[Any], None]]

    def report(self, line: SimLine, level: int) -> None:
        """A line has changed, and there are observers."""


class Net:
    """Lines that share one level."""

    __slots__ = ("level", "lines", "pull", "stuck", "train")

    def __init__(self, line: SimLine) -> None:
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


class SimLine:
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

    def __init__(self, driver: SimDriver, offset: int) -> None:
        self.driver = driver
        self.offset = offset
        self.net = Net(self)
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

    def __init__(self, lines: Sequence[SimLine]) -> None:
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


class SimDriver:
    """The Driver of a simulated chip; `key` is what the simulator calls it."""

    def __init__(self, simulator: World, key: str, label: str, names: Sequence[str]) -> None:
        self.simulator = simulator
        self.key = key
        self.label = label
        self.names: Sequence[str] = list(names)
        self.lines = [SimLine(self, offset) for offset in range(len(names))]
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
