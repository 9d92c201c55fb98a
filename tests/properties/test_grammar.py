# SPDX-License-Identifier: MIT
"""The new_device grammar: whatever is written parses back, and bad text is refused cleanly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpiovirt.core.chip import Chip
from gpiovirt.errors import GpiovirtError, GrammarError, NoSuchLineError, OffsetError, UsageError
from gpiovirt.testing import FakeClock, Simulator
from gpiovirt.virtual.grammar import (
    ChipLines,
    Item,
    NamedLine,
    format_definition,
    parse,
    resolve,
)
from gpiovirt.virtual.limits import OFFSET_MAX

NAMES = st.text(st.characters(exclude_characters='"', exclude_categories=["Cs", "Cc"]), min_size=1)
OFFSETS = st.lists(st.integers(0, OFFSET_MAX), min_size=1, max_size=20).map(tuple)
ITEMS = st.lists(
    st.one_of(st.builds(ChipLines, NAMES, OFFSETS), st.builds(NamedLine, NAMES)), min_size=1, max_size=8
)


@given(ITEMS)
def test_what_is_formatted_parses_back(items: list[Item]) -> None:
    assert parse(format_definition(items)) == items


@given(ITEMS, st.data())
def test_a_truncated_definition_parses_or_says_where_it_is_wrong(
    items: list[Item], data: st.DataObject
) -> None:
    text = format_definition(items)
    cut = text[: data.draw(st.integers(0, len(text)))]
    try:
        parse(cut)
    except GrammarError as error:
        assert error.token in cut or error.token == '""'
        assert 1 <= error.column <= len(cut) + 1


@given(st.text())
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        items = parse(text)
    except GpiovirtError as error:
        assert str(error)
    else:
        assert parse(format_definition(items)) == items


@given(st.text(st.sampled_from('ab0129-,"x \t\n'), max_size=30))
def test_nearly_right_text_parses_or_is_refused(text: str) -> None:
    try:
        items = parse(text)
    except GpiovirtError:
        return
    assert parse(format_definition(items)) == items


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("gpiochip0 19 20, gpiochip2 1", [ChipLines("gpiochip0", (19, 20)), ChipLines("gpiochip2", (1,))]),
        ("gpiochip0 0-3,5", [ChipLines("gpiochip0", (0, 1, 2, 3, 5))]),
        ("gpiochip0 5,0-3", [ChipLines("gpiochip0", (5, 0, 1, 2, 3))]),
        ("START STOP e6050000.gpio 20-21", None),
        ('START "MOTOR A" fpga 1', [NamedLine("START"), NamedLine("MOTOR A"), ChipLines("fpga", (1,))]),
        ("fpga 1 DOOR", [ChipLines("fpga", (1,)), NamedLine("DOOR")]),
        ("/dev/gpiochip3 7", [ChipLines("/dev/gpiochip3", (7,))]),
        ('"21" 3', [ChipLines("21", (3,))]),
        ("3V3_EN", [NamedLine("3V3_EN")]),
        ("a\n0\tb,1", [ChipLines("a", (0,)), ChipLines("b", (1,))]),
    ],
)
def test_both_forms_are_one_grammar(text: str, items: list[Item] | None) -> None:
    expected = items or [NamedLine("START"), NamedLine("STOP"), ChipLines("e6050000.gpio", (20, 21))]
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "says", "token"),
    [
        ("", "no lines given", ""),
        ("  ", "no lines given", ""),
        (",", "nothing before this comma", ","),
        ("a 0,, b 1", "nothing before this comma", ","),
        ("a 0,", "nothing follows the last comma", ","),
        ("3 4", "offsets need a chip before them", "3"),
        ("a 3-0", "a range must ascend", "3-0"),
        ("a 0x10", "not an offset", "0x10"),
        ("a -3", "not an offset", "-3"),
        ("a 3-", "not an offset", "3-"),
        ("a 1-2-3", "not an offset", "1-2-3"),
        ('"a 0', "no closing quote", '"a 0'),
        ('"" 0', "an empty name", '""'),
        ('"a"0', "a space or comma is missing before", "0"),
        ('a"b" 0', "a space or comma is missing before", "b"),
    ],
)
def test_an_error_names_the_token(text: str, says: str, token: str) -> None:
    with pytest.raises(GrammarError, match=says) as caught:
        parse(text)
    assert caught.value.token == token


def test_an_offset_no_chip_has_is_out_of_range() -> None:
    with pytest.raises(OffsetError, match="offset 0-99999999999 at column 3"):
        parse("a 0-99999999999")


def chips() -> dict[str, Chip]:
    sim = Simulator(FakeClock())
    sim.add_chip("a", ["X", "Y", ""])
    sim.add_chip("b", ["X", "Z"])
    return dict(sim.chips)


def test_lines_resolve_in_the_order_written() -> None:
    there = chips()
    lines = resolve(parse("Z a 2 0, b 0"), there.get, lambda: list(there.values()))
    assert [(chip.info.label, offset) for chip, offset in lines] == [("b", 1), ("a", 2), ("a", 0), ("b", 0)]


def test_a_line_can_be_named_once_in_whatever_way() -> None:
    there = chips()
    for text in ("a 1 1", "a 0-2 1", "a 1 Y", "Y a 1"):
        with pytest.raises(UsageError, match="line a:1 is named twice"):
            resolve(parse(text), there.get, lambda: list(there.values()))


def test_a_name_of_two_lines_must_be_told_apart() -> None:
    there = chips()
    with pytest.raises(NoSuchLineError, match=r"not unique \(a:0, b:0\)"):
        resolve(parse("X"), there.get, lambda: list(there.values()))
