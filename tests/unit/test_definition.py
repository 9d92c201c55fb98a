# SPDX-License-Identifier: MIT
"""What a chip's definition says of its lines, by whatever they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gpiovirt.errors import UsageError
from gpiovirt.virtual.definition import Definition
from gpiovirt.virtual.options import format_options


def settled(options: dict[str, str], *names: str, rules: Mapping[str, Any] | None = None) -> list[str]:
    definition = Definition.parse("plc", f"sim 0-{len(names) - 1}", options, rules or {})
    return [format_options(line) for line in definition.settled(names).by_offset()]


def test_options_are_of_a_line_by_the_name_that_it_is_given_too() -> None:
    found = settled({"1": "name=MOTOR", "MOTOR": "safe=low", "DOOR": "pull-up"}, "DOOR", "")
    assert found == ["pull-up", "safe=low,name=MOTOR"]


def test_rules_are_of_lines_by_the_names_that_they_are_given() -> None:
    rules = {"interlock": [{"never_both": ["FWD", "REV"]}]}
    assert settled({"0": "name=FWD", "FWD": "safe=low"}, "", "REV", rules=rules)[0] == "safe=low,name=FWD"


def test_a_name_that_no_line_has_or_gets_is_refused() -> None:
    with pytest.raises(UsageError, match="options of line MOTR: plc has no line 'MOTR'"):
        settled({"1": "name=MOTOR", "MOTR": "safe=low"}, "DOOR", "")


def test_a_name_that_two_lines_get_is_refused() -> None:
    with pytest.raises(UsageError):
        settled({"0": "name=M", "1": "name=M", "M": "safe=low"}, "", "")
