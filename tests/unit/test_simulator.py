# SPDX-License-Identifier: MIT
"""The simulated world: nets, wires, pulls, hogs, observers."""

from __future__ import annotations

import pytest

from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Bias, Direction, Drive, Edge, EdgeEvent, LineSettings
from gpiovirt.errors import LineBusyError, NoSuchChipError, OffsetError, UsageError
from gpiovirt.testing import FakeClock, LevelChange, Simulator
from tests.holders import program

INPUT = LineSettings(Direction.INPUT)
OUTPUT = LineSettings(Direction.OUTPUT)


@pytest.fixture
def sim() -> Simulator:
    simulator = Simulator(FakeClock())
    simulator.add_chip("a", [""] * 4)
    simulator.add_chip("b", [""] * 4)
    return simulator


def test_a_wired_input_follows_the_output(sim: Simulator) -> None:
    sim.wire(("a", 0), ("b", 0))
    out = sim.chips["a"].request([0], [OUTPUT], program("out"))
    seen: list[EdgeEvent] = []
    into = sim.chips["b"].request([0], [INPUT._replace(edge=Edge.BOTH)], program("in"), seen.append)
    out.set_values(1, 1)
    assert into.get_values(1) == 1
    out.set_values(1, 0)
    assert [event.rising for event in seen] == [True, False]


def test_wires_join_to_one_net(sim: Simulator) -> None:
    sim.wire(("a", 0), ("b", 0))
    sim.wire(("b", 1), ("a", 1))
    sim.wire(("a", 0), ("a", 1))
    sim.wire(("b", 1), ("a", 0))
    sim.chips["b"].request([1], [OUTPUT._replace(output_value=1)], program("out"))
    assert [sim.level(*line) for line in (("a", 0), ("a", 1), ("b", 0), ("b", 1))] == [1] * 4
    assert sim.level("a", 2) == 0


def test_joining_a_high_net_is_an_edge_on_the_low_one(sim: Simulator) -> None:
    seen: list[EdgeEvent] = []
    sim.chips["b"].request([0], [INPUT._replace(edge=Edge.BOTH)], program("in"), seen.append)
    sim.chips["a"].request([0], [OUTPUT._replace(output_value=1)], program("out"))
    sim.wire(("a", 0), ("b", 0))
    assert [event.rising for event in seen] == [True]


def test_low_wins_where_outputs_disagree(sim: Simulator) -> None:
    sim.wire(("a", 0), ("b", 0))
    sim.chips["a"].request([0], [OUTPUT._replace(output_value=1)], program("high"))
    low = sim.chips["b"].request([0], [OUTPUT], program("low"))
    assert sim.level("a", 0) == 0
    low.release()
    assert sim.level("a", 0) == 1


def test_open_drain_outputs_share_a_pulled_up_wire(sim: Simulator) -> None:
    sim.wire(("a", 0), ("b", 0))
    drain = OUTPUT._replace(drive=Drive.OPEN_DRAIN, output_value=1, bias=Bias.PULL_UP)
    one = sim.chips["a"].request([0], [drain], program("one"))
    two = sim.chips["b"].request([0], [drain], program("two"))
    assert sim.level("a", 0) == 1
    one.set_values(1, 0)
    assert two.get_values(1) == 0
    one.set_values(1, 1)
    assert two.get_values(1) == 1


def test_open_source_drives_high_only(sim: Simulator) -> None:
    request = sim.chips["a"].request(
        [0], [OUTPUT._replace(drive=Drive.OPEN_SOURCE, bias=Bias.PULL_DOWN)], program("source")
    )
    request.set_values(1, 1)
    assert sim.level("a", 0) == 1
    request.set_values(1, 0)
    sim.pull("a", 0, 0)
    assert sim.level("a", 0) == 0
    sim.pull("a", 0, 1)
    assert sim.level("a", 0) == 1


def test_a_wire_that_nobody_drives_goes_where_it_is_pulled(sim: Simulator) -> None:
    sim.wire(("a", 0), ("b", 0))
    request = sim.chips["a"].request([0], [OUTPUT._replace(output_value=1)], program("out"))
    request.reconfigure({0: INPUT})
    assert sim.level("b", 0) == 0
    request.reconfigure({0: OUTPUT})
    sim.pull("b", 0, 1)
    assert sim.level("b", 0) == 0
    request.reconfigure({0: INPUT})
    assert sim.level("b", 0) == 1


def test_an_output_held_as_it_is_does_not_drive_its_wire(sim: Simulator) -> None:
    sim.wire(("a", 0), ("b", 0))
    sim.chips["a"].request([0], [OUTPUT], program("out")).release()
    sim.chips["a"].request([0], [LineSettings()], program("keeper"))
    sim.chips["b"].request([0], [OUTPUT._replace(output_value=1)], program("other"))
    assert sim.level("a", 0) == 1


def test_a_pull_reaches_everything_on_the_wire(sim: Simulator) -> None:
    sim.wire(("a", 0), ("b", 0))
    sim.pull("b", 0, 1)
    assert sim.level("a", 0) == 1


def test_a_hog_holds_its_line(sim: Simulator) -> None:
    sim.hog("a", 3, "regulator", OUTPUT._replace(output_value=1))
    assert sim.level("a", 3) == 1
    assert sim.chips["a"].line_info(3).consumer == "regulator"
    assert sim.chips["a"].line_info(3).holder == Holder("regulator", HolderKind.HOG, 0, 0)
    with pytest.raises(LineBusyError, match='held by "regulator"'):
        sim.chips["a"].request([3], [INPUT], program("me"))


def test_observers_see_every_change_of_level(sim: Simulator) -> None:
    seen: list[LevelChange] = []
    sim.observers.append(seen.append)
    sim.pull("a", 1, 1)
    sim.pull("a", 1, 1)
    sim.chips["b"].request([2], [OUTPUT._replace(output_value=1)], program("out")).release()
    assert [(c.chip, c.offset, c.level) for c in seen] == [("a", 1, 1), ("b", 2, 1), ("b", 2, 0)]


def test_a_deadline_is_due_only_while_a_line_debounces(sim: Simulator) -> None:
    clock = sim.now
    assert isinstance(clock, FakeClock)
    request = sim.chips["a"].request([0], [INPUT._replace(debounce_period_us=1000)], program("in"))
    assert sim.deadlines.next_deadline_ns() is None
    sim.pull("a", 0, 1)
    assert sim.deadlines.next_deadline_ns() == clock.ns + 1_000_000
    clock.ns += 500_000
    sim.pull("a", 0, 0)
    sim.pull("a", 0, 1)
    clock.ns += 500_000
    sim.deadlines.on_deadline(clock.ns)
    assert request.get_values(1) == 0
    clock.ns += 500_000
    sim.deadlines.on_deadline(clock.ns)
    assert request.get_values(1) == 1
    assert sim.deadlines.next_deadline_ns() is None
    sim.pull("a", 0, 0)
    request.release()
    assert sim.deadlines.next_deadline_ns() is None


def test_wrong_names_are_told(sim: Simulator) -> None:
    with pytest.raises(NoSuchChipError, match="no simulated chip 'c'; the chips are: a, b"):
        sim.pull("c", 0, 1)
    with pytest.raises(OffsetError, match="a has no line 4: its 4 lines are 0 to 3"):
        sim.level("a", 4)
    with pytest.raises(UsageError, match="'a' is in use"):
        sim.add_chip("a", [""])
    with pytest.raises(UsageError, match="no lines"):
        sim.add_chip("c", [])
