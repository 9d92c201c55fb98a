# SPDX-License-Identifier: MIT
"""Fuzz the grammar of the kernel's gpio-aggregator."""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import harness
from gpiovirt.errors import GpiovirtError
from gpiovirt.virtual.aggregator_grammar import parse
from gpiovirt.virtual.grammar import ChipLines, format_definition
from gpiovirt.virtual.grammar import parse as parse_ours

INVARIANT = (
    "any text is refused with an error of ours, or has items that our own grammar takes or refuses likewise, "
    "with offsets that ascend"
)
PIECES = [
    *("chip0", "a", "DOOR", "0", "3", "0-3", "3-0", "0-3,5", "5,3,3", "511", "512", "0x1", "-1", "+2", "=x"),
    *(",", " ", '"', "-", "\n", "9" * 30, "0-511", "é", "\u0663"),
]


def once(choose: random.Random) -> None:
    text = "".join(
        choose.choice([*PIECES, " ", chr(choose.randrange(1, 0x2FF))]) for _ in range(choose.randrange(20))
    )
    try:
        items = parse(text)
    except GpiovirtError:
        return
    for item in items:
        if isinstance(item, ChipLines):
            assert list(item.offsets) == sorted(set(item.offsets)), text
    try:
        parse_ours(format_definition(items))
    except GpiovirtError:  # too many lines, or a name with a quote in it
        return


if __name__ == "__main__":
    sys.exit(harness.main(INVARIANT, once))
