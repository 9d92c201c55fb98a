# SPDX-License-Identifier: MIT
"""Fuzz the new_device grammar."""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import harness
from gpiovirt.errors import GpiovirtError
from gpiovirt.virtual.grammar import format_definition, parse

INVARIANT = (
    "any text is refused with an error of ours, or parses to items that format to a text of the same items"
)
PIECES = [
    "gpiochip0",
    "a",
    "DOOR",
    "0",
    "3",
    "0-3",
    "3-0",
    "65534",
    "99999999999",
    ",",
    " ",
    '"',
    "-",
    "0x1",
    "\n",
    "é",
]


def once(choose: random.Random) -> None:
    text = "".join(
        choose.choice([*PIECES, " ", chr(choose.randrange(1, 0x2FF))]) for _ in range(choose.randrange(25))
    )
    try:
        items = parse(text)
    except GpiovirtError:
        return
    assert parse(format_definition(items)) == items, text


if __name__ == "__main__":
    sys.exit(harness.main(INVARIANT, once))
