# SPDX-License-Identifier: MIT
"""Lines that an operator overrides: what holders see, what rules say, and what is left when it ends."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gpiovirt.core.deadline import Deadlines
from gpiovirt.core.forced import FOR_EVER, ForcedDriver
from gpiovirt.core.gpiolib import GpioChip
from gpiovirt.core.line import Direction, Edge, EdgeEvent, LineSettings
from gpiovirt.errors import NotPermittedError
from gpiovirt.host.reactor import Reactor
from gpiovirt.testing import FakeClock, LevelChange, Simulator
from gpiovirt.virtual.memory import KeptMemory, new_memory
from gpiovirt.virtual.options import parse_options
from gpiovirt.virtual.stack import StackedLine, VirtualChip
from tests.holders import program
from tests.rules_rig import MS, Rig

INPUT = LineSettings(Direction.INPUT)
LOW = LineSettings(Direction.OUTPUT)
LINES = {"FWD": "safe=low", "REV": "safe=low", "DOOR": "", "LAMP": "direction=output"}
RULES = {"interlock": [{"never_both": ["FWD", "REV"]}, {"only_while": {"line": "FWD", "is": {"DOOR": 0}}}]}


class Operated(Rig):
    """A chip under rules whose lines can be forced."""

    def __init__(self, *rig: Any, memory: int | None = None) -> None:
        self.memory = new_memory("plc", len(LINES), 0) if memory is None else memory
        self.ended: list[int] = []
        super().__init__(LINES, RULES, *rig)

    def make_chip(self) -> GpioChip:
        self.forced = ForcedDriver(
            self.driver,
            KeptMemory(self.memory, len(LINES), 0),
            lambda: self.clock.ns,
            self.clock,
            lambda delay_ns, callback: self.deadlines.call_at(self.clock.ns + delay_ns, callback),
            lambda: self.chip.rebind(),
            self.ended.append,
        )
        self.driver.made_safe = self.forced.drop_output
        self.driver.fixed = self.forced.levels
        self.forced.not_started = self.driver.dependents
        self.forced.ask_rules, self.forced.waiting = self.driver.admit, self.driver.waiting
        return GpioChip(self.forced, self.clock, "plc", self.forced.admit)

    def force(self, name: str, level: int, for_ms: int = 0) -> None:
        until_ns = self.clock.ns + for_ms * MS if for_ms else FOR_EVER
        drives = "direction=output" in LINES[name]
        self.forced.force(self.names.index(name), level, until_ns, drives)

    def clear(self, name: str) -> bool:
        return self.forced.clear(self.names.index(name))


def test_an_output_is_what_the_operator_says_and_then_what_its_holder_has_said() -> None:
    rig = Operated()
    request = rig.chip.request([3], [LOW], program("me"))
    rig.force("LAMP", 1)
    assert rig.level("LAMP") == 1
    request.set_values(1, 1)
    request.set_values(1, 0)
    assert rig.level("LAMP") == 1
    request.set_values(1, 1)
    rig.force("LAMP", 0)
    assert (rig.level("LAMP"), request.get_values(1)) == (0, 0)
    assert rig.clear("LAMP")
    assert rig.level("LAMP") == 1
    assert not rig.clear("LAMP")
    request.set_values(1, 0)
    assert rig.level("LAMP") == 0


def test_it_ends_by_itself() -> None:
    rig = Operated()
    rig.chip.request([3], [LOW], program("me"))
    rig.force("LAMP", 1, for_ms=100)
    rig.advance(99)
    assert rig.level("LAMP") == 1
    rig.advance(1)
    assert (rig.level("LAMP"), rig.ended) == (0, [3])


def test_no_rule_is_broken() -> None:
    rig = Operated()
    request = rig.chip.request([0, 1], [LOW, LOW], program("me"))
    request.set_values(1, 1)
    with pytest.raises(NotPermittedError, match="never both"):
        rig.force("REV", 1)
    assert rig.levels("FWD", "REV") == [1, 0]
    assert rig.forced.levels == {}
    rig.force("FWD", 1)
    rig.pull("DOOR", 1)
    assert rig.level("FWD") == 0, "a force does not keep what a rule makes safe"
    assert (rig.forced.levels, rig.ended) == ({}, [0])


def test_an_input_seems_to_be_what_the_operator_says_but_to_rules() -> None:
    rig = Operated()
    events: list[EdgeEvent] = []
    request = rig.chip.request([2], [INPUT._replace(edge=Edge.BOTH)], program("me"), events.append)
    motor = rig.chip.request([0], [LOW], program("me"))
    rig.pull("DOOR", 1)
    rig.force("DOOR", 0)
    assert request.get_values(1) == 0
    with pytest.raises(NotPermittedError):
        motor.set_values(1, 1)
    rig.pull("DOOR", 0)
    rig.pull("DOOR", 1)
    assert request.get_values(1) == 0
    rig.clear("DOOR")
    assert request.get_values(1) == 1
    assert [event.rising for event in events] == [True, False, True]


def test_a_line_that_nobody_holds_is_driven_if_it_is_an_output() -> None:
    rig = Operated()
    rig.force("LAMP", 1)
    assert rig.level("LAMP") == 1
    assert rig.chip.line_info(3).direction is Direction.OUTPUT
    rig.force("DOOR", 1)
    assert rig.level("DOOR") == 0, "an input is never driven"
    request = rig.chip.request([3], [LOW], program("me"))
    assert rig.level("LAMP") == 1
    request.release()
    assert rig.forced.levels == {2: 1}, "that of an output ends with its holder"


def test_a_refused_call_changes_nothing_of_what_counts_later() -> None:
    rig = Operated()
    request = rig.chip.request([0, 1, 3], [LOW, LOW, LOW], program("me"))
    request.set_values(0b001, 0b001)
    rig.force("LAMP", 0)
    with pytest.raises(NotPermittedError):
        request.set_values(0b110, 0b110)
    rig.clear("LAMP")
    assert rig.level("LAMP") == 0


def test_a_reconfigured_line_stays_forced() -> None:
    rig = Operated()
    request = rig.chip.request([3], [LOW], program("me"))
    rig.force("LAMP", 1)
    seen: list[LevelChange] = []
    rig.simulator.observers.append(seen.append)
    request.reconfigure({0: LOW})
    assert not seen
    rig.clear("LAMP")
    assert rig.level("LAMP") == 0


def test_what_waits_for_an_interlock_does_not_start_because_a_force_ends() -> None:
    rig = Operated()
    request = rig.chip.request([0], [LOW], program("me"))
    request.set_values(1, 1)
    rig.force("FWD", 0)
    rig.pull("DOOR", 1)
    rig.pull("DOOR", 0)
    rig.clear("FWD")
    assert rig.level("FWD") == 0
    request.set_values(1, 0)
    request.set_values(1, 1)
    assert rig.level("FWD") == 1


def test_a_force_that_ends_before_the_holder_is_back_takes_nothing_from_it() -> None:
    clock, deadlines = FakeClock(), Deadlines()
    simulator = Simulator(clock, deadlines)
    sim = simulator.add_chip("sim", ["LAMP"])
    sim.request([0], [LOW], program("me")).release()  # which leaves an output
    memory = new_memory("plc", 1, 0)
    kept = KeptMemory(memory, 1, 0)
    kept.held[0] = 1  # a former process served the holder
    kept.set_force(0, 1, FOR_EVER)
    lines = [StackedLine("LAMP", local=(sim, 0))]
    options = [parse_options("safe=low")]
    chip = VirtualChip("plc", lines, clock, Reactor(), options, kept, deadlines=deadlines)
    assert chip.clear(0)
    assert chip.num_held == 1, "its holder may still come back"
    chip.free_unclaimed()
    assert chip.num_held == 0
    os.close(memory)


def test_what_nobody_holds_is_as_it_was_when_a_force_ends() -> None:
    rig = Operated()
    rig.force("LAMP", 1)
    rig.clear("LAMP")
    assert rig.level("LAMP") == 0


def test_a_force_outlives_the_process() -> None:
    rig = Operated()
    rig.force("LAMP", 1, for_ms=100)
    rig.advance(40)
    rig.source.detach()
    again = Operated(None, rig.simulator, rig.clock, memory=rig.memory)
    assert again.forced.levels == {3: 1}
    again.advance(60)
    assert again.forced.levels == {}


def test_the_force_of_an_output_ends_when_its_source_is_unplugged() -> None:
    rig = Operated()
    rig.chip.request([3], [LOW], program("me"))
    rig.force("LAMP", 1)
    rig.force("DOOR", 1)
    for offset in (2, 3):
        rig.driver._on_presence(offset, False)
        rig.driver._on_presence(offset, True)
    assert rig.forced.levels == {2: 1}, "an input still seems to have its level"
    assert rig.ended == [3]
