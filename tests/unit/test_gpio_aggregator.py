# SPDX-License-Identifier: MIT
"""What the kernel's gpio-aggregator makes of what is written to it, as its own functions do."""

from __future__ import annotations

import pytest

from gpiovirt.errors import GrammarError, OffsetError
from gpiovirt.virtual.aggregator_grammar import parse
from gpiovirt.virtual.grammar import ChipLines, NamedLine


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("chip0 19", [ChipLines("chip0", (19,))]),
        ("chip0 0-3,5", [ChipLines("chip0", (0, 1, 2, 3, 5))]),
        ("chip0 5,3,3,4-5", [ChipLines("chip0", (3, 4, 5))]),
        ("chip0 19 chip1 20-21\n", [ChipLines("chip0", (19,)), ChipLines("chip1", (20, 21))]),
        ("chip0 19 20", [ChipLines("chip0", (19,))]),
        (
            "chip0 21, chip1 20 21 22",
            [ChipLines("chip0", (21,)), ChipLines("chip1", (20,)), ChipLines("21", (22,))],
        ),
        ("chip0 ,21 x", [NamedLine("chip0"), NamedLine(",21")]),
        ("chip0 21,,22 x", [NamedLine("chip0"), NamedLine("21,,22")]),
        ("DOOR chip0 3", [NamedLine("DOOR"), ChipLines("chip0", (3,))]),
        ("DOOR LAMP", [NamedLine("DOOR")]),
        ('"MY LINE" chip0 3', [NamedLine("MY LINE"), ChipLines("chip0", (3,))]),
        ("chip0 3-0 x", [NamedLine("chip0"), NamedLine("3-0")]),
        ("chip0 all x", [NamedLine("chip0"), NamedLine("all")]),
        ("chip0=x 3", [ChipLines("chip0", (3,))]),
    ],
)
def test_definitions_mean_what_they_mean_to_the_kernel(text: str, items: list[object]) -> None:
    assert parse(text) == items


@pytest.mark.parametrize("text", ["", " \n", "chip0", "chip0 0x3", "chip0 -3", "chip0 +3"])
def test_what_the_kernel_calls_invalid_is(text: str) -> None:
    with pytest.raises(GrammarError):
        parse(text)


def test_an_offset_past_its_bitmap_is_out_of_range() -> None:
    parse("chip0 511")
    with pytest.raises(OffsetError):
        parse("chip0 512")
