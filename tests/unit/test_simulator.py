# SPDX-License-Identifier: MIT
"""The simulated world: nets, wires, pulls, hogs, observers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gpiovirt.core.aggregate import Aggregate
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Bias, Direction, Drive, Edge, EdgeEvent, LineSettings
from gpiovirt.core.train import bounce, pulses
from gpiovirt.errors import (
    ChipGoneError,
    InvalidError,
    LineBusyError,
    NoSuchChipError,
    NoSuchLineError,
    OffsetError,
    UsageError,
)
from gpiovirt.sources.simulator import HOG_SETTINGS
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
    with pytest.raises(UsageError, match="no lines"):
        sim.add_chip("c", [])


def test_a_stuck_line_stays_where_it_is_whoever_drives_it(sim: Simulator) -> None:
    seen: list[EdgeEvent] = []
    sim.wire(("a", 0), ("b", 0))
    sim.chips["b"].request([0], [INPUT._replace(edge=Edge.BOTH)], program("in"), seen.append)
    out = sim.chips["a"].request([0], [OUTPUT], program("out"))
    sim.stick("a", 0, 1)
    out.set_values(1, 0)
    sim.pull("b", 0, 0)
    assert (sim.level("b", 0), out.get_values(1), sim.stuck("b", 0)) == (1, 1, 1)
    sim.stick("b", 0, None)
    assert (sim.level("a", 0), sim.stuck("a", 0)) == (0, None)
    assert [event.rising for event in seen] == [True, False]


def test_a_line_that_is_stuck_no_more_is_where_it_is_pulled(sim: Simulator) -> None:
    sim.pull("a", 0, 1)
    sim.stick("a", 0, 0)
    assert sim.level("a", 0) == 0
    sim.stick("a", 0, None)
    assert sim.level("a", 0) == 1


def levels_over_time(sim: Simulator, clock: FakeClock) -> list[tuple[int, int]]:
    """(ms, level) of what changes until nothing is due."""
    seen: list[tuple[int, int]] = []
    began_ns = clock.ns
    sim.observers.append(
        lambda change: seen.append(((change.timestamp_ns - began_ns) // 10**6, change.level))
    )
    while (due_ns := sim.deadlines.next_deadline_ns()) is not None:
        clock.ns = due_ns
        sim.deadlines.on_deadline(due_ns)
    return seen


def test_pulses_come_at_their_times() -> None:
    clock = FakeClock()
    sim = Simulator(clock)
    sim.add_chip("a", [""])
    sim.pull("a", 0, 1)
    ended: list[int] = []
    sim.play("a", 0, pulses(1, 2_000_000, 3, 5_000_000), lambda: ended.append(clock.ns))
    assert (sim.level("a", 0), ended) == (0, [])
    assert levels_over_time(sim, clock) == [(2, 1), (5, 0), (7, 1), (10, 0), (12, 1)]
    assert len(ended) == 1


def test_a_contact_bounces_and_settles() -> None:
    clock = FakeClock()
    sim = Simulator(clock)
    sim.add_chip("a", [""])
    sim.play("a", 0, bounce(1, 4_000_000), lambda: None)
    assert sim.level("a", 0) == 1
    assert levels_over_time(sim, clock) == [(1, 0), (2, 1), (3, 0), (4, 1)]


def test_a_debounced_holder_of_a_bouncing_line_sees_one_edge() -> None:
    clock = FakeClock()
    sim = Simulator(clock)
    sim.add_chip("a", [""])
    seen: list[EdgeEvent] = []
    settings = INPUT._replace(edge=Edge.BOTH, debounce_period_us=2000)
    sim.chips["a"].request([0], [settings], program("in"), seen.append)
    sim.play("a", 0, bounce(1, 8_000_000), lambda: None)
    assert len(levels_over_time(sim, clock)) == 8
    assert [event.rising for event in seen] == [True]


def test_who_pulls_a_line_ends_what_pulled_it_for_a_while(sim: Simulator) -> None:
    ended: list[str] = []
    sim.play("a", 0, pulses(0, 2_000_000), lambda: ended.append("first"))
    sim.play("a", 0, pulses(0, 2_000_000), lambda: ended.append("second"))
    assert ended == ["first"]
    sim.pull("a", 0, 0)
    assert ended == ["first", "second"]
    assert sim.deadlines.next_deadline_ns() is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: pulses(0, 0),
        lambda: pulses(0, 1),
        lambda: pulses(0, -(10**9)),
        lambda: pulses(0, 10**7, 0),
        lambda: pulses(0, 10**7, 10**9),
        lambda: pulses(0, 10**7, 10**5, 10**12),
        lambda: pulses(0, 10**7, 2, 10**7),
        lambda: pulses(0, 10**30),
        lambda: bounce(1, 0),
        lambda: bounce(1, 10**6, 1),
        lambda: bounce(1, 10**6, 10**7),
        lambda: bounce(1, 3600 * 10**9, 10**4),
        lambda: bounce(1, 10**40),
    ],
)
def test_a_train_that_would_starve_others_or_never_end_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match="use "):
        make()


def test_an_unplugged_chip_has_no_lines_to_take_and_its_holders_are_told(sim: Simulator) -> None:
    told: list[tuple[int, bool]] = []

    def on_presence(offset: int, there: bool) -> None:
        told.append((offset, there))

    out = sim.chips["a"].request(
        [0, 2], [OUTPUT._replace(output_value=1)] * 2, program("out"), None, on_presence
    )
    sim.unplug("a")
    assert told == [(0, False), (2, False)]
    assert sim.level("a", 0) == 0
    with pytest.raises(ChipGoneError):
        out.get_values(1)
    with pytest.raises(ChipGoneError):
        out.set_values(1, 1)
    with pytest.raises(ChipGoneError):
        out.reconfigure({0: OUTPUT})
    out.release()
    with pytest.raises(ChipGoneError):
        sim.chips["a"].request([1], [INPUT], program("other"))
    sim.plug("a")
    assert sim.chips["a"].request([0], [INPUT], program("other")).get_values(1) == 0


def test_a_chip_that_is_back_is_as_new_but_hogs_hold_again(sim: Simulator) -> None:
    sim.hog("a", 1, "board", OUTPUT._replace(output_value=1))
    sim.unplug("a")
    assert sim.level("a", 1) == 0
    assert not sim.chips["a"].line_info(1).used
    sim.plug("a")
    assert sim.level("a", 1) == 1
    assert sim.chips["a"].line_info(1).consumer == "board"


def test_a_virtual_chip_stays_when_a_chip_of_its_lines_is_unplugged(sim: Simulator) -> None:
    chip = Aggregate("plc", [(sim.chips["a"], 0), (sim.chips["b"], 0)], FakeClock())
    told: list[tuple[int, bool]] = []
    chip.request([0], [OUTPUT._replace(output_value=1)], program("x"), None, lambda *what: told.append(what))
    sim.unplug("a")
    assert told == [(0, False)]
    assert sim.level("a", 0) == 0
    chip.request([1], [INPUT], program("y"))
    sim.plug("a")
    assert told == [(0, False), (0, True)]


def test_what_is_not_plugged_in_cannot_be_unplugged(sim: Simulator) -> None:
    sim.unplug("a")
    with pytest.raises(UsageError, match="the chip a is unplugged already"):
        sim.unplug("a")
    sim.plug("a")
    with pytest.raises(UsageError, match="the chip a is plugged in already"):
        sim.plug("a")
    with pytest.raises(NoSuchChipError, match=r"no simulated chip 'panel'"):
        sim.unplug("panel")


def test_the_nearest_names_are_offered(sim: Simulator) -> None:
    sim.add_chip("panel", ["DOOR", "LAMP"])
    with pytest.raises(NoSuchLineError, match=r"'DOR' \(did you mean DOOR\?\)"):
        sim.find_line("DOR")
    with pytest.raises(NoSuchLineError, match=r"'panel:LAMB' \(did you mean LAMP\?\)"):
        sim.find_line("panel:LAMB")
    with pytest.raises(NoSuchChipError, match=r"'panle' \(did you mean panel\?\)"):
        sim.find_line("panle:0")


def test_chips_of_one_label_are_told_apart(sim: Simulator) -> None:
    again = sim.add_chip("a", ["", ""])
    assert (again.info.label, again.key) == ("a", "a#2")
    sim.pull("a#2", 1, 1)
    assert (sim.level("a#2", 1), sim.level("a", 1)) == (1, 0)
    sim.remove_chip("a#2")
    assert "a#2" not in sim.chips
    assert sim.add_chip("a", [""]).key == "a#2"


def test_a_removed_chip_takes_its_holders_hogs_and_wires_along(sim: Simulator) -> None:
    sim.wire(("a", 0), ("b", 0))
    sim.hog("b", 1, "who", HOG_SETTINGS["output-high"])
    gone: list[bool] = []
    request = sim.chips["b"].request(
        [0], [OUTPUT._replace(output_value=1)], program("it"), None, lambda _offset, there: gone.append(there)
    )
    assert sim.level("a", 0) == 1
    sim.remove_chip("b")
    assert (sim.level("a", 0), gone, list(sim.chips)) == (0, [False], ["a"])
    with pytest.raises(ChipGoneError):
        request.get_values(1)
    with pytest.raises(NoSuchChipError):
        sim.remove_chip("b")
    sim.pull("a", 0, 1)  # which nobody else is wired to
    assert sim.level("a", 0) == 1


def test_lines_that_are_not_valid_show_as_used_and_are_refused(sim: Simulator) -> None:
    chip = sim.add_chip("n", [""] * 3, frozenset({1}))
    assert [chip.line_info(offset).used for offset in range(3)] == [False, True, False]
    with pytest.raises(InvalidError, match="not valid"):
        chip.request([0, 1], [INPUT, INPUT], program("it"))
    assert not chip.line_info(0).used
