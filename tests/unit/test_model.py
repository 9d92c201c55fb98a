# SPDX-License-Identifier: MIT
"""The schema of a virtual chip: what it takes, what it makes of that, and what it says of the rest."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gpiovirt.configuration.model import InvalidChipError, chip_of, parse_chip
from gpiovirt.errors import UsageError
from gpiovirt.protocols.control.answers import ChipState
from gpiovirt.protocols.control.requests import New

FULL: dict[str, Any] = {
    "lines": [
        "START",
        "sim-a 0-2",
        {"chip": "sim-b", "offset": 1, "options": "active-low, debounce=5ms, safe=low, name=LAMP"},
        {"name": "DOOR", "options": "pull-up"},
    ],
    "owner": "0",
    "group": "12",
    "mode": "640",
    "vm": True,
    "poll_us": 200,
}


def test_tables_of_lines_become_what_the_daemon_keeps_by_offset() -> None:
    assert parse_chip(FULL, "plc").wanted() == New(
        "START, sim-a 0-2, sim-b 1, DOOR",
        "plc",
        {"4": "active-low,debounce=5ms,safe=low,name=LAMP", "5": "pull-up"},
        vm=True,
        poll_us=200,
        uid=0,
        gid=12,
        mode=0o640,
    )


def test_lines_can_be_one_text_as_for_new_device() -> None:
    wanted = parse_chip({"lines": "sim-a 0 3, sim-b 0-1"}, "plc").wanted()
    assert wanted == New("sim-a 0 3, sim-b 0-1", "plc", mode=0o660)


def test_a_name_of_its_own_comes_before_the_given_one() -> None:
    assert parse_chip({"name": "own", "lines": "a 0"}, "plc").name == "own"


def test_each_line_knows_the_key_that_describes_it() -> None:
    keys = [line.key for line in parse_chip(FULL, "plc").lines_of()]
    assert keys == ["lines.0", "lines.1", "lines.1", "lines.1", "lines.2", "lines.3"]


@pytest.mark.parametrize(
    ("raw", "wrong"),
    [
        ({}, "lines: missing"),
        ({"lines": "a 0-"}, "lines: not an offset"),
        ({"lines": "a 0 0"}, "lines: a 0 is named twice"),
        ({"lines": []}, "lines: a chip has at least one line"),
        ({"lines": "a 0-1024"}, "lines: more than 1024 lines"),
        ({"lines": 3}, "lines: expected a string as written to new_device"),
        ({"lines": [3]}, "lines.0: expected a line"),
        ({"lines": ["a", "3"]}, "lines.1: offsets need a chip before them"),
        ({"lines": [{"chip": "a"}]}, "lines.0: a line has chip and offset, or name"),
        ({"lines": [{"chip": "a", "name": "b"}]}, "lines.0: a line has chip and offset, or name"),
        ({"lines": [{"name": 'b"'}]}, "lines.0: a name with a double quote cannot be written"),
        ({"lines": [{"name": "b", "hwo": ""}]}, "lines.0.hwo: unknown key; the keys are: chip, "),
        ({"lines": [{"name": "b", "options": "pullup"}]}, "lines.0.options: 'pullup' is not one of pull-up"),
        ({"lines": [{"name": "b", "options": "safe=off"}]}, "lines.0.options: 'off' is not a safe state; "),
        ({"lines": [{"name": "b", "options": "name=" + "x" * 32}]}, "lines.0.options: "),
        ({"lines": [{"name": "b", "how": "pull-up"}]}, 'lines.0.how: write options = "pull-up,'),
        ({"lines": [{"name": "b", "safe": "low"}]}, 'lines.0.safe: write options = "safe=low" instead'),
        ({"lines": [{"chip": "a", "offset": -1}]}, "lines.0.offset: expected 0 or more"),
        ({"lines": [{"chip": "a", "offset": 70000}]}, "lines.0.offset: expected at most 65534"),
        ({"lines": [{"chip": "a", "offset": "3"}]}, "lines.0.offset: expected an integer"),
        ({"lines": "a", "mode": 432}, "mode: expected an octal mode, in quotes"),
        ({"lines": "a", "mode": "0680"}, "mode: expected an octal mode, in quotes"),
        ({"lines": "a", "vm": 1}, "vm: expected true or false"),
        ({"lines": "a", "poll_us": 10_001}, "poll_us: expected at most 10000"),
        ({"lines": "a", "poll_us": -1}, "poll_us: expected 0 or more"),
        ({"lines": "a", "owner": 3}, "owner: expected a string, in quotes"),
        ({"lines": "a", "nmae": "b"}, "nmae: unknown key; the keys are: name, lines, owner, "),
        ({"lines": "a", "name": "a/b"}, "name: 'a/b' cannot name a chip"),
    ],
)
def test_what_is_no_chip_is_told_by_its_key_in_a_line(raw: dict[str, Any], wrong: str) -> None:
    with pytest.raises(InvalidChipError) as raised:
        parse_chip(raw, "plc")
    (problem,) = raised.value.problems
    assert problem.startswith(wrong)
    assert "\n" not in problem


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidChipError) as raised:
        parse_chip({"lines": ["a 0-", {"name": "b", "options": "x"}], "vm": 1, "mode": "9"}, "plc")
    keys = {problem.partition(":")[0] for problem in raised.value.problems}
    assert keys == {"lines.0", "lines.1.options", "vm", "mode"}


def test_owner_and_group_must_be_there() -> None:
    chip = parse_chip({"lines": "a", "owner": "nobody-of-this-name", "group": "no-such-group"}, "plc")
    with pytest.raises(InvalidChipError) as raised:
        chip.wanted()
    assert raised.value.problems == (
        "owner: there is no user 'nobody-of-this-name'",
        "group: there is no group 'no-such-group'",
    )


def told(vm: str | None = None, poll_us: int = 0) -> ChipState:
    return ChipState(
        name="plc",
        definition="START sim-a 0-1 3, sim-b 7",
        num_lines=5,
        uid=os.getuid(),
        gid=54321,
        mode=0o600,
        state="live",
        trouble="",
        permanent=False,
        origin="",
        driver="",
        vm=vm,
        poll_us=poll_us,
        device="/some/chip",
        worker=1,
        restarts=0,
        creator=None,
    )


def test_a_chip_of_the_daemon_with_plain_lines_keeps_its_definition() -> None:
    chip = chip_of(told(), {})
    assert chip.lines == "START sim-a 0-1 3, sim-b 7"
    assert (chip.group, chip.mode, chip.vm) == ("54321", "0600", False)


def test_a_chip_of_the_daemon_is_described_by_what_makes_the_same_again() -> None:
    options = {"2": "name=MOTOR", "4": "active-low,safe=low"}
    chip = chip_of(told("/some/socket", 50), options)
    assert chip.wanted() == New(
        chip.definition, "plc", options, vm=True, poll_us=50, uid=os.getuid(), gid=54321, mode=0o600
    )
    assert [str(line) for line in chip.lines_of()] == ["START", "sim-a 0", "sim-a 1", "sim-a 3", "sim-b 7"]


def test_a_line_by_name_of_a_chip_that_waits_cannot_be_described() -> None:
    with pytest.raises(UsageError, match="waits for its lines"):
        chip_of(told(), {"LAMP": "active-low"})
