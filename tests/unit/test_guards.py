# SPDX-License-Identifier: MIT
"""Each rule of a virtual chip, over simulated lines: what it refuses, delays and makes safe, and for whom."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gpiovirt.core.chip import LineRequest
from gpiovirt.core.guards.driver import Happened
from gpiovirt.core.guards.lines import Lines, Unkept
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Bias, Direction, Drive, Edge, EdgeEvent, LineSettings
from gpiovirt.errors import HostError, LineBusyError, NotPermittedError, UsageError
from gpiovirt.testing import LevelChange
from gpiovirt.virtual.memory import KeptMemory, new_memory
from tests.holders import program
from tests.rules_rig import Rig

INPUT = LineSettings(Direction.INPUT)
LOW = LineSettings(Direction.OUTPUT)
HIGH = LineSettings(Direction.OUTPUT, output_value=1)
OTHER = Holder("other", HolderKind.VM, 77, 1001)

MOTOR = {"FWD": "safe=low", "REV": "safe=low", "DOOR": "", "LAMP": ""}
EXCLUSIVE = {"interlock": [{"never_both": ["FWD", "REV"]}]}
WITH_DEAD_TIME = {
    "interlock": [{"never_both": ["FWD", "REV"], "policy": "break-before-make", "dead_time_ms": 50}]
}
GUARDED = {"interlock": [{"only_while": {"line": "FWD", "is": {"DOOR": 0}}}]}
WATCHED = {"watchdog": {"line": "LAMP", "timeout_ms": 200}}


def outputs(rig: Rig, *names: str, who: Holder | None = None) -> LineRequest:
    return rig.chip.request(rig.offsets(names), [LOW] * len(names), who or program("me"))


# direction


@pytest.mark.parametrize(("option", "allowed", "refused"), [("output", LOW, INPUT), ("input", INPUT, LOW)])
def test_a_line_keeps_its_direction(option: str, allowed: LineSettings, refused: LineSettings) -> None:
    rig = Rig({"A": f"direction={option}"})
    with pytest.raises(NotPermittedError, match=rf"line plc:0 \(A\): .*A is an {option}"):
        rig.chip.request([0], [refused], program("me"))
    request = rig.chip.request([0], [allowed], program("me"))
    with pytest.raises(NotPermittedError):
        request.reconfigure({0: refused})
    assert rig.chip.line_info(0).direction is allowed.direction


# never_both


def test_of_two_lines_one_at_most_is_high() -> None:
    rig = Rig(MOTOR, EXCLUSIVE)
    request = outputs(rig, "FWD", "REV")
    request.set_values(0b11, 0b01)
    with pytest.raises(NotPermittedError, match=r"REV.*may not be 1 while FWD is: never both FWD and REV"):
        request.set_values(0b10, 0b10)
    assert rig.levels("FWD", "REV") == [1, 0]
    request.set_values(0b11, 0b10)  # one falls before the other rises
    assert rig.levels("FWD", "REV") == [0, 1]


def test_both_at_once_are_refused_in_every_way_of_asking() -> None:
    rig = Rig(MOTOR, EXCLUSIVE)
    with pytest.raises(NotPermittedError):
        rig.chip.request([3, 0, 1], [HIGH, HIGH, HIGH], program("me"))
    assert rig.levels("FWD", "REV", "LAMP") == [0, 0, 0], "nothing was touched"
    request = outputs(rig, "FWD", "REV")
    with pytest.raises(NotPermittedError):
        request.set_values(0b11, 0b11)
    with pytest.raises(NotPermittedError):
        request.reconfigure({0: HIGH, 1: HIGH})
    assert rig.levels("FWD", "REV") == [0, 0]
    assert [happening.what for happening in rig.happened] == [Happened.REFUSED] * 3


def test_a_request_of_a_line_that_is_held_touches_no_other() -> None:
    rig = Rig(MOTOR, EXCLUSIVE)
    outputs(rig, "LAMP", who=OTHER)
    seen: list[LevelChange] = []
    rig.simulator.observers.append(seen.append)
    with pytest.raises(LineBusyError):
        rig.chip.request([0, 3], [HIGH, LOW], program("me"))
    assert not seen


def test_a_consumers_own_polarity_changes_nothing() -> None:
    rig = Rig(MOTOR, EXCLUSIVE)
    rig.chip.request([0], [HIGH], program("me"))
    active_low = LOW._replace(active_low=True)
    with pytest.raises(NotPermittedError):
        rig.chip.request([1], [active_low], program("me"))  # its 0 is a level of 1
    rig.chip.request([1], [active_low._replace(output_value=1)], program("me"))
    assert rig.levels("FWD", "REV") == [1, 0]


def test_levels_in_rules_are_those_of_the_chips_own_lines() -> None:
    rig = Rig({"FWD": "active-low,safe=high", "REV": "active-low,safe=high"}, EXCLUSIVE)
    request = outputs(rig, "FWD", "REV")
    assert rig.levels("FWD", "REV") == [1, 1]
    request.set_values(0b01, 0b01)
    with pytest.raises(NotPermittedError):
        request.set_values(0b10, 0b10)
    assert rig.levels("FWD", "REV") == [0, 1]


def test_another_consumers_line_counts_too() -> None:
    rig = Rig(MOTOR, EXCLUSIVE)
    outputs(rig, "FWD", who=OTHER).set_values(1, 1)
    request = outputs(rig, "REV")
    with pytest.raises(NotPermittedError):
        request.set_values(1, 1)
    assert rig.happened[-1].holder == program("me")


def test_a_line_that_was_let_go_is_in_its_safe_state_and_the_other_free() -> None:
    rig = Rig(MOTOR, EXCLUSIVE)
    forward = outputs(rig, "FWD")
    forward.set_values(1, 1)
    forward.release()
    outputs(rig, "REV").set_values(1, 1)
    assert rig.levels("FWD", "REV") == [0, 1]


def test_a_line_without_a_safe_state_still_counts_when_it_was_let_go() -> None:
    rig = Rig({"FWD": "", "REV": ""}, EXCLUSIVE)
    forward = rig.chip.request([0], [HIGH], program("me"))
    forward.release()
    level = rig.level("FWD")
    reverse = outputs(rig, "REV")
    if level:
        with pytest.raises(NotPermittedError):
            reverse.set_values(1, 1)
    assert rig.levels("FWD", "REV") != [1, 1]


def test_break_before_make_waits_for_the_dead_time() -> None:
    rig = Rig(MOTOR, WITH_DEAD_TIME)
    request = outputs(rig, "FWD", "REV")
    request.set_values(0b01, 0b01)
    rig.advance(1)
    request.set_values(0b10, 0b10)
    assert rig.levels("FWD", "REV") == [0, 0]
    rig.advance(49)
    assert rig.levels("FWD", "REV") == [0, 0]
    rig.advance(1)
    assert rig.levels("FWD", "REV") == [0, 1]
    assert request.get_values(0b11) == 0b10


def test_the_last_word_counts_while_one_waits_for_the_other() -> None:
    rig = Rig(MOTOR, WITH_DEAD_TIME)
    request = outputs(rig, "FWD", "REV")
    request.set_values(0b01, 0b01)
    request.set_values(0b10, 0b10)
    rig.advance(10)
    request.set_values(0b10, 0)  # and now neither
    rig.advance(1000)
    assert rig.levels("FWD", "REV") == [0, 0]
    request.set_values(0b01, 0b01)
    request.set_values(0b10, 0b10)
    rig.advance(10)
    request.set_values(0b01, 0b01)  # back again: the other had never been on
    rig.advance(1000)
    assert rig.levels("FWD", "REV") == [1, 0]


def test_both_in_one_call_are_refused_with_a_dead_time_too() -> None:
    rig = Rig(MOTOR, WITH_DEAD_TIME)
    with pytest.raises(NotPermittedError):
        rig.chip.request([0, 1], [HIGH, HIGH], program("me"))
    request = outputs(rig, "FWD", "REV")
    for values in ({0: HIGH, 1: HIGH}, {1: HIGH, 0: HIGH}):
        with pytest.raises(NotPermittedError):
            request.reconfigure(values)
    request.set_values(0b10, 0b10)
    with pytest.raises(NotPermittedError):
        request.set_values(0b11, 0b11)
    assert rig.levels("FWD", "REV") == [0, 1]


def test_nobody_switches_off_what_another_holds() -> None:
    rig = Rig(MOTOR, WITH_DEAD_TIME)
    outputs(rig, "FWD", who=OTHER).set_values(1, 1)
    with pytest.raises(NotPermittedError):
        outputs(rig, "REV").set_values(1, 1)
    assert rig.levels("FWD", "REV") == [1, 0]


def test_the_dead_time_holds_over_a_restart() -> None:
    kept = Unkept(4)
    rig = Rig(MOTOR, WITH_DEAD_TIME, kept)
    request = outputs(rig, "FWD", "REV")
    request.set_values(0b01, 0b01)
    request.set_values(0b01, 0b00)
    rig.advance(20)
    rig.source.detach()  # the process has died, and another one serves the chip
    again = Rig(MOTOR, WITH_DEAD_TIME, kept, rig.simulator, rig.clock)
    other = outputs(again, "FWD", "REV")
    other.set_values(0b10, 0b10)
    again.advance(29)
    assert again.levels("FWD", "REV") == [0, 0]
    again.advance(1)
    assert again.levels("FWD", "REV") == [0, 1]


def test_a_holder_that_comes_back_finds_its_lines_as_they_are() -> None:
    memory = new_memory("plc", 4, 0)
    rules = {"interlock": [*EXCLUSIVE["interlock"], *GUARDED["interlock"]]}
    rig = Rig(MOTOR, rules, KeptMemory(memory, 4, 0))
    outputs(rig, "FWD", "REV").set_values(0b01, 0b01)
    rig.pull("DOOR", 1)
    rig.source.detach()  # the process has died, and the consumer believes that FWD is 1
    again = Rig(MOTOR, rules, KeptMemory(memory, 4, 0), rig.simulator, rig.clock)
    request = again.chip.request([0, 1], [HIGH, LOW], program("me"))
    assert again.levels("FWD", "REV") == [0, 0]
    request.set_values(0b10, 0b10)
    assert again.levels("FWD", "REV") == [0, 1]
    os.close(memory)


# only_while


def test_a_line_is_driven_only_while_its_conditions_hold() -> None:
    rig = Rig(MOTOR, GUARDED)
    request = outputs(rig, "FWD")
    request.set_values(1, 1)
    rig.pull("DOOR", 1)
    assert rig.level("FWD") == 0, "at once"
    with pytest.raises(NotPermittedError, match="while DOOR is 1: FWD only while DOOR is 0"):
        request.set_values(1, 1)
    rig.pull("DOOR", 0)
    rig.advance(1000)
    assert rig.level("FWD") == 0, "nothing starts by itself"
    request.set_values(1, 1)
    assert rig.level("FWD") == 1
    (tripped,) = [happening for happening in rig.happened if happening.what is Happened.TRIPPED]
    assert (tripped.offset, tripped.holder) == (0, program("me"))


def test_a_condition_cannot_be_driven_or_blinded_by_a_consumer() -> None:
    rig = Rig(MOTOR, GUARDED)
    with pytest.raises(NotPermittedError, match="DOOR is an input"):
        rig.chip.request([2], [LOW], program("me"))
    blind = INPUT._replace(bias=Bias.PULL_DOWN, debounce_period_us=4_000_000)
    rig.chip.request([2], [blind], program("me"))
    request = outputs(rig, "FWD")
    request.set_values(1, 1)
    rig.pull("DOOR", 1)
    assert rig.level("FWD") == 0


@pytest.mark.parametrize(
    ("edge", "expected"), [(Edge.NONE, []), (Edge.RISING, [True]), (Edge.BOTH, [True, False])]
)
def test_a_consumer_gets_those_edges_of_a_condition_that_it_asked_for(
    edge: Edge, expected: list[bool]
) -> None:
    rig = Rig(MOTOR, GUARDED)
    events: list[EdgeEvent] = []
    request = rig.chip.request([2], [INPUT._replace(edge=edge)], program("me"), events.append)
    rig.pull("DOOR", 1)
    rig.pull("DOOR", 0)
    assert [event.rising for event in events] == expected
    request.release()
    outputs(rig, "FWD").set_values(1, 1)
    rig.pull("DOOR", 1)
    assert rig.level("FWD") == 0, "it is watched without a holder as well"


def test_outputs_can_be_conditions() -> None:
    rules = {"interlock": [{"only_while": {"line": "FWD", "is": {"LAMP": 1}}}]}
    rig = Rig({**MOTOR, "LAMP": "direction=output"}, rules)
    request = outputs(rig, "FWD", "LAMP")
    with pytest.raises(NotPermittedError):
        request.set_values(0b01, 0b01)
    request.set_values(0b11, 0b11)
    request.set_values(0b10, 0)
    assert rig.levels("FWD", "LAMP") == [0, 0]


def test_a_safe_state_that_is_an_input_is_left_when_the_line_is_set_again() -> None:
    rig = Rig({**MOTOR, "FWD": "safe=input"}, GUARDED)
    request = outputs(rig, "FWD")
    request.set_values(1, 1)
    rig.pull("DOOR", 1)
    sim = rig.simulator.chips["sim"]
    assert sim.line_info(0).direction is Direction.INPUT
    rig.pull("DOOR", 0)
    request.set_values(1, 1)
    assert sim.line_info(0).direction is Direction.OUTPUT
    assert rig.level("FWD") == 1


# time


def test_a_line_stays_on_and_off_for_its_time() -> None:
    rig = Rig({"PUMP": "min-on=500ms,min-off=2s"})
    request = outputs(rig, "PUMP")
    request.set_values(1, 1)
    rig.advance(100)
    request.set_values(1, 0)
    rig.advance(399)
    assert rig.level("PUMP") == 1
    rig.advance(1)
    assert rig.level("PUMP") == 0
    request.set_values(1, 1)
    rig.advance(1999)
    assert rig.level("PUMP") == 0
    rig.advance(1)
    assert rig.level("PUMP") == 1


def test_a_line_that_was_not_driven_counts_as_off_only_when_it_is_driven_low() -> None:
    lines = Lines(Unkept(1), 1)
    lines.note(0, None, 1)
    lines.note(0, 0, 2)
    assert lines.off_ns[0] == 0, "it has never been on"
    for now_ns, level in ((3, 1), (4, None), (5, 0), (6, 0)):
        lines.note(0, level, now_ns)
    assert (lines.on_ns[0], lines.off_ns[0]) == (3, 5)


def test_a_safe_state_waits_for_nothing() -> None:
    rig = Rig({"PUMP": "min-on=500ms,safe=low"})
    request = outputs(rig, "PUMP")
    request.set_values(1, 1)
    request.release()
    assert rig.level("PUMP") == 0


def test_a_line_is_switched_on_only_so_often() -> None:
    rig = Rig({"RELAY": "max-rate=4"})
    request = outputs(rig, "RELAY")
    request.set_values(1, 1)
    request.set_values(1, 0)
    rig.advance(249)
    with pytest.raises(NotPermittedError, match=r"switched on 249 ms ago.*at most 4 times a second"):
        request.set_values(1, 1)
    rig.advance(1)
    request.set_values(1, 1)
    assert rig.level("RELAY") == 1


# watchdog


def test_outputs_are_made_safe_when_the_line_does_not_toggle() -> None:
    rig = Rig(MOTOR, WATCHED)
    request = outputs(rig, "FWD", "LAMP")
    request.set_values(0b01, 0b01)
    for beat in (1, 0, 1):
        rig.advance(199)
        request.set_values(0b10, beat << 1)
    assert rig.level("FWD") == 1
    rig.advance(199)
    assert rig.level("FWD") == 1
    rig.advance(1)
    assert rig.level("FWD") == 0
    with pytest.raises(NotPermittedError, match="the watchdog has tripped"):
        request.set_values(0b01, 0b01)
    assert rig.driver.states()[-1].tripped
    request.set_values(0b10, 0)  # it toggles again
    request.set_values(0b01, 0b01)
    assert rig.level("FWD") == 1
    assert [happening.what for happening in rig.happened] == [
        Happened.TRIPPED,
        Happened.REFUSED,
        Happened.REARMED,
    ]


def test_a_new_consumer_re_arms_with_its_first_toggle() -> None:
    rig = Rig(MOTOR, WATCHED)
    request = outputs(rig, "FWD", "LAMP")
    rig.advance(200)
    request.release()
    with pytest.raises(NotPermittedError):
        rig.chip.request([0], [HIGH], program("me"))
    rig.chip.request([0, 3], [HIGH, HIGH], program("me"))
    assert rig.level("FWD") == 1


def test_to_write_the_same_level_is_no_toggle() -> None:
    rig = Rig(MOTOR, WATCHED)
    request = outputs(rig, "FWD", "LAMP")
    request.set_values(0b01, 0b01)
    for _ in range(5):
        rig.advance(50)
        request.set_values(0b10, 0)
    assert rig.level("FWD") == 0


def test_an_operator_re_arms_what_a_consumer_may_not() -> None:
    kept = Unkept(4)
    rules = {"watchdog": {"line": "LAMP", "timeout_ms": 200, "rearm": "operator"}}
    rig = Rig(MOTOR, rules, kept)
    request = outputs(rig, "FWD", "LAMP")
    request.set_values(0b01, 0b01)
    rig.advance(200)
    request.set_values(0b10, 0b10)
    with pytest.raises(NotPermittedError, match="until an operator re-arms it"):
        request.set_values(0b01, 0b01)
    request.release()
    rig.source.detach()
    again = Rig(MOTOR, rules, kept, rig.simulator, rig.clock)  # neither a restart nor another consumer helps
    request = outputs(again, "FWD", "LAMP", who=OTHER)
    with pytest.raises(NotPermittedError):
        request.set_values(0b01, 0b01)
    assert again.driver.rearm()
    assert not again.driver.rearm()
    request.set_values(0b01, 0b01)
    assert again.level("FWD") == 1
    again.advance(200)
    assert again.level("FWD") == 0, "it watches again"


def test_a_watchdog_waits_for_nobody_while_no_outputs_are_held() -> None:
    rig = Rig(MOTOR, WATCHED)
    rig.chip.request([2], [INPUT], program("me"))
    rig.advance(10_000)
    assert not rig.happened
    outputs(rig, "FWD").set_values(1, 1)  # and toggles nothing
    rig.advance(200)
    assert rig.level("FWD") == 0


def test_the_line_that_toggles_can_be_an_input() -> None:
    rig = Rig({**MOTOR, "DOOR": "direction=input"}, {"watchdog": {"line": "DOOR", "timeout_ms": 200}})
    outputs(rig, "FWD").set_values(1, 1)
    for level in (1, 0, 1):
        rig.advance(150)
        rig.pull("DOOR", level)
    assert rig.level("FWD") == 1
    rig.advance(200)
    assert rig.level("FWD") == 0


# together


def test_rules_stack() -> None:
    """To switch over waits until the one may go off, and then for the dead time."""
    rig = Rig({**MOTOR, "FWD": "safe=low,min-on=500ms"}, WITH_DEAD_TIME)
    request = outputs(rig, "FWD", "REV")
    request.set_values(0b01, 0b01)
    rig.advance(100)
    request.set_values(0b10, 0b10)
    rig.advance(399)
    assert rig.levels("FWD", "REV") == [1, 0]
    rig.advance(1)
    assert rig.levels("FWD", "REV") == [0, 0]
    rig.advance(49)
    assert rig.levels("FWD", "REV") == [0, 0]
    rig.advance(1)
    assert rig.levels("FWD", "REV") == [0, 1]


def test_what_a_former_process_left_against_the_rules_is_made_safe() -> None:
    rig = Rig(MOTOR)
    outputs(rig, "FWD", "REV").set_values(0b11, 0b11)
    rig.source.detach()
    for offset in (0, 1):
        rig.simulator.pull("sim", offset, 1)
    again = Rig({"FWD": "", "REV": ""} | {"DOOR": "", "LAMP": ""}, EXCLUSIVE, None, rig.simulator, rig.clock)
    request = outputs(again, "FWD", "REV")
    assert again.levels("FWD", "REV") == [0, 0]
    request.set_values(0b01, 0b01)


def test_a_rule_counts_what_it_has_done() -> None:
    rig = Rig(MOTOR, {"interlock": [*EXCLUSIVE["interlock"], *GUARDED["interlock"]]})
    request = outputs(rig, "FWD", "REV")
    request.set_values(0b01, 0b01)
    for _ in range(3):
        with pytest.raises(NotPermittedError):
            request.set_values(0b10, 0b10)
    rig.pull("DOOR", 1)
    states = {state.text: state[1:] for state in rig.driver.states()}
    assert states["never both FWD and REV"] == (3, 0, False)
    assert states["FWD only while DOOR is 0"] == (0, 1, True)


def test_lines_without_a_rule_do_not_pass_by_any(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(MOTOR, EXCLUSIVE)
    request = outputs(rig, "LAMP")
    judged: list[Any] = []
    monkeypatch.setattr(rig.driver, "_judged", lambda *change: judged.append(change))
    request.set_values(1, 1)
    assert (rig.level("LAMP"), judged) == (1, [])


# what an attacker found


@pytest.mark.parametrize(
    "settings",
    [
        LOW._replace(drive=Drive.OPEN_SOURCE, bias=Bias.PULL_UP),
        INPUT._replace(bias=Bias.PULL_UP),
        LOW._replace(drive=Drive.OPEN_DRAIN),
    ],
)
def test_bias_and_drive_of_lines_with_rules_are_the_definitions(settings: LineSettings) -> None:
    """Else a line that is driven low, or not at all, would be high."""
    rig = Rig(MOTOR, EXCLUSIVE)
    outputs(rig, "FWD").set_values(1, 1)
    with pytest.raises(NotPermittedError, match="bias and drive"):
        rig.chip.request([1], [settings], program("me"))
    request = outputs(rig, "REV")
    with pytest.raises(NotPermittedError, match="bias and drive"):
        request.reconfigure({0: settings})
    assert rig.levels("FWD", "REV") == [1, 0]


def test_what_was_told_to_go_off_goes_off_though_its_holder_is_gone() -> None:
    rig = Rig({"PUMP": "min-on=500ms"})
    request = outputs(rig, "PUMP")
    request.set_values(1, 1)
    request.set_values(1, 0)
    request.release()
    rig.advance(500)
    assert rig.level("PUMP") == 0


def test_what_was_told_to_go_off_goes_off_though_its_process_died() -> None:
    memory = new_memory("plc", 1, 0)
    lines = {"PUMP": "min-on=500ms"}
    rig = Rig(lines, None, KeptMemory(memory, 1, 0))
    request = outputs(rig, "PUMP")
    request.set_values(1, 1)
    request.set_values(1, 0)
    rig.source.detach()
    again = Rig(lines, None, KeptMemory(memory, 1, 0), rig.simulator, rig.clock)
    again.chip.request([0], [LOW], program("me"))
    again.advance(500)
    assert again.level("PUMP") == 0
    os.close(memory)


def test_a_pending_fall_is_not_given_up_for_anothers_rise() -> None:
    rig = Rig({**MOTOR, "FWD": "safe=low,min-on=500ms"}, WITH_DEAD_TIME)
    request = outputs(rig, "FWD", "REV")
    request.set_values(0b01, 0b01)
    request.set_values(0b01, 0b00)
    request.set_values(0b10, 0b10)
    request.set_values(0b10, 0b00)
    rig.advance(1000)
    assert rig.levels("FWD", "REV") == [0, 0]


def test_anothers_change_that_waits_is_not_dropped() -> None:
    rig = Rig(MOTOR, WITH_DEAD_TIME)
    one, other = outputs(rig, "FWD"), outputs(rig, "REV", who=OTHER)
    other.set_values(1, 1)
    other.set_values(1, 0)
    one.set_values(1, 1)  # waits for the dead time
    with pytest.raises(NotPermittedError, match="is about to be"):
        other.set_values(1, 1)
    rig.advance(50)
    assert rig.levels("FWD", "REV") == [1, 0]


def test_borrowers_of_a_chip_are_not_one_holder() -> None:
    rig = Rig(MOTOR, WITH_DEAD_TIME)
    one, other = (Holder(f"gpiovirt:{name}", HolderKind.CHIP, 7, 0) for name in "xy")
    outputs(rig, "FWD", who=one).set_values(1, 1)
    with pytest.raises(NotPermittedError):
        outputs(rig, "REV", who=other).set_values(1, 1)
    assert rig.levels("FWD", "REV") == [1, 0]


def test_an_input_is_never_driven_though_its_source_left_it_an_output() -> None:
    before = Rig({"A": ""})
    before.chip.request([0], [LOW], program("me")).release()
    before.source.detach()
    rig = Rig({"A": "direction=input"}, None, None, before.simulator, before.clock)
    request = rig.chip.request([0], [LineSettings()], program("me"))
    with pytest.raises(NotPermittedError):
        request.set_values(1, 1)
    assert rig.level("A") == 0


def test_a_set_that_fails_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(MOTOR, EXCLUSIVE)
    request = outputs(rig, "FWD", "REV")
    bound = rig.driver._bound(0)

    def fails(_mask: int, _bits: int) -> None:
        raise HostError("the lender says no")

    with monkeypatch.context() as patch:
        patch.setattr(type(bound), "set", lambda _self, mask, bits: fails(mask, bits))
        with pytest.raises(HostError):
            request.set_values(0b01, 0b01)
    assert rig.levels("FWD", "REV") == [0, 0]
    request.set_values(0b10, 0b10)
    assert rig.levels("FWD", "REV") == [0, 1]


def test_what_depends_on_others_rises_last_and_falls_first() -> None:
    rules = {"interlock": [{"only_while": {"line": "FWD", "is": {"LAMP": 1}}}]}
    rig = Rig({**MOTOR, "LAMP": "direction=output"}, rules)
    request = outputs(rig, "FWD", "LAMP")
    seen: list[tuple[int, int]] = []
    rig.simulator.observers.append(lambda change: seen.append((change.offset, change.level)))
    request.set_values(0b11, 0b11)
    request.set_values(0b11, 0b00)
    request.set_values(0b11, 0b11)
    request.set_values(0b10, 0b00)
    assert seen == [(3, 1), (0, 1), (0, 0), (3, 0), (3, 1), (0, 1), (0, 0), (3, 0)]


def test_a_request_of_several_lines_is_refused_before_any_is_touched() -> None:
    rules = {"interlock": [{"only_while": {"line": "FWD", "is": {"LAMP": 1}}}]}
    rig = Rig({**MOTOR, "LAMP": "direction=output"}, rules)
    seen: list[LevelChange] = []
    rig.simulator.observers.append(seen.append)
    with pytest.raises(NotPermittedError):  # FWD would come first
        rig.chip.request([1, 0, 3], [HIGH, HIGH, HIGH], program("me"))
    assert not seen
    rig.chip.request([1, 3, 0], [HIGH, HIGH, HIGH], program("me"))
    assert rig.levels("FWD", "REV", "LAMP") == [1, 1, 1]


def test_a_watchdog_leaves_lines_that_hold() -> None:
    rig = Rig({**MOTOR, "DOOR": ""}, WATCHED)
    request = outputs(rig, "FWD", "DOOR", "LAMP")
    request.set_values(0b011, 0b011)
    rig.advance(200)
    assert rig.levels("FWD", "DOOR") == [0, 1]


def test_a_watchdog_is_not_begun_anew_by_a_restart() -> None:
    memory = new_memory("plc", 4, 0)
    rig = Rig(MOTOR, WATCHED, KeptMemory(memory, 4, 0))
    outputs(rig, "FWD", "LAMP").set_values(0b01, 0b01)
    rig.advance(150)
    rig.source.detach()
    again = Rig(MOTOR, WATCHED, KeptMemory(memory, 4, 0), rig.simulator, rig.clock)
    again.advance(50)
    assert [happening.what for happening in again.happened] == [Happened.TRIPPED]
    os.close(memory)


def test_a_holder_gets_the_edges_of_a_condition_that_was_away() -> None:
    rig = Rig(MOTOR, GUARDED)
    events: list[EdgeEvent] = []
    rig.chip.request([2], [INPUT._replace(edge=Edge.BOTH)], program("me"), events.append)
    rig.driver._on_presence(2, False)
    rig.driver._on_presence(2, True)
    rig.pull("DOOR", 1)
    assert [event.rising for event in events] == [True]


@pytest.mark.parametrize(
    ("lines", "rules", "why"),
    [
        (
            MOTOR,
            {"interlock": [GUARDED["interlock"][0], {"never_both": ["DOOR", "REV"]}]},
            "is read as an input",
        ),
        ({"A": "safe=high,max-rate=5"}, {}, "a safe state of 1"),
    ],
)
def test_rules_that_could_not_hold_are_refused(lines: Any, rules: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Rig(lines, rules)


def test_a_line_that_is_requested_twice_at_once_is_not_touched() -> None:
    rig = Rig(MOTOR, EXCLUSIVE)
    changes: list[LevelChange] = []
    rig.simulator.observers.append(changes.append)
    with pytest.raises(LineBusyError, match="twice"):
        rig.chip.request([0, 0], [HIGH, HIGH], program("me"))
    assert changes == []
