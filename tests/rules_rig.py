# SPDX-License-Identifier: MIT
"""A chip under rules over simulated lines, on a clock that a test turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpiovirt.core.aggregate import AggregateDriver
from gpiovirt.core.deadline import Deadlines
from gpiovirt.core.gpiolib import GpioChip
from gpiovirt.core.guarded import GuardedDriver
from gpiovirt.core.guards.driver import Happening, RuledDriver
from gpiovirt.core.guards.lines import KeptLines, Unkept
from gpiovirt.testing import FakeClock, Simulator
from gpiovirt.virtual.definition import Definition
from gpiovirt.virtual.guard import guard
from gpiovirt.virtual.memory import KeptMemory

MS = 1_000_000


class Rig:
    """`lines` are names with options; `rules` are tables. `levels` are those of the simulated lines."""

    def __init__(
        self,
        lines: Mapping[str, str],
        rules: Mapping[str, Any] | None = None,
        kept: KeptLines | None = None,
        simulator: Simulator | None = None,
        clock: FakeClock | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.deadlines = Deadlines()
        self.happened: list[Happening] = []
        self.names = list(lines)
        self.simulator = simulator or Simulator(self.clock, self.deadlines)
        if simulator is None:
            self.simulator.add_chip("sim", self.names)
        definition = Definition.parse(
            "plc",
            f"sim 0-{len(lines) - 1}",
            {str(o): text for o, text in enumerate(lines.values()) if text},
            rules or {},
        ).settled(self.names)
        options = definition.by_offset()
        sim = self.simulator.chips["sim"]
        self.source = AggregateDriver("plc", [(sim, offset) for offset in range(len(lines))])
        self.guarded = GuardedDriver(self.source, options, kept if isinstance(kept, KeptMemory) else None)
        self.driver = RuledDriver(
            self.guarded,
            guard(definition.rules, options, self.names),
            kept or Unkept(len(lines)),
            lambda: self.clock.ns,
            lambda delay_ns, callback: self.deadlines.call_at(self.clock.ns + delay_ns, callback),
            self.happened.append,
        )
        self.chip = self.make_chip()
        self.guarded.make_safe(range(len(lines)))
        self.driver.look()

    def make_chip(self) -> GpioChip:
        """What consumers see."""
        return GpioChip(self.driver, self.clock, "plc", self.driver.admit)

    def advance(self, ms: float) -> None:
        """Turn the clock, and do what is due on the way."""
        end_ns = self.clock.ns + int(ms * MS)
        while (due_ns := self.deadlines.next_deadline_ns()) is not None and due_ns <= end_ns:
            self.clock.ns = max(due_ns, self.clock.ns)
            self.deadlines.on_deadline(self.clock.ns)
        self.clock.ns = end_ns

    def level(self, name: str) -> int:
        """Of a simulated line."""
        return self.simulator.level("sim", self.names.index(name))

    def levels(self, *names: str) -> list[int]:
        return [self.level(name) for name in names]

    def pull(self, name: str, level: int) -> None:
        self.simulator.pull("sim", self.names.index(name), level)

    def offsets(self, names: Sequence[str]) -> list[int]:
        return [self.names.index(name) for name in names]
