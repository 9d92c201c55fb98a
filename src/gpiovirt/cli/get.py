# SPDX-License-Identifier: MIT
"""gpiovirt get: levels of lines, whoever holds them."""

from __future__ import annotations

import argparse
import json

from gpiovirt.cli.lines import Target, Targets
from gpiovirt.control.client import Client
from gpiovirt.core.text import printable
from gpiovirt.errors import HostError
from gpiovirt.protocols.control.requests import Read

__all__ = ["configure", "main"]

EPILOG = """\
LINE is CHIP:NAME or CHIP:OFFSET of a chip of gpiovirtd; CHIP alone is all of its lines. The level of one
line is printed by itself, 0 or 1. Lines stay as they are: neither direction nor bias is changed, and a line
that a program or VM holds can be read, too. Levels are those of the chip, as its active-low options have it;
an input that an operator has forced seems so here, too.

examples:
  gpiovirt get plc:DOOR
  gpiovirt get plc --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("lines", metavar="LINE", nargs="+", help="CHIP:NAME, CHIP:OFFSET, or CHIP")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(options: argparse.Namespace) -> int:
    """Print them."""
    with Client() as client:
        targets = Targets(client)
        wanted: list[Target] = []
        for text in options.lines:
            if ":" in text:
                wanted.append(targets.line(text))
            else:
                chip = targets.chip(text)
                wanted += [Target(chip, line) for line in chip.lines]
        levels = _levels(client, wanted)
    if options.json:
        print(json.dumps([_raw(*each) for each in zip(wanted, levels, strict=True)], indent=2))
    elif len(wanted) == 1 and ":" in options.lines[0]:
        if levels[0] is None:
            raise HostError(f"{wanted[0]} cannot be read")
        print(levels[0])
    else:
        for target, level in zip(wanted, levels, strict=True):
            print(f"{printable(str(target))} {'?' if level is None else level}")
    return 0


def _levels(client: Client, wanted: list[Target]) -> list[int | None]:
    """A question for each chip."""
    found: dict[tuple[str, int], int | None] = {}
    for name in dict.fromkeys(target.chip.chip.name for target in wanted):
        offsets = [target.line.offset for target in wanted if target.chip.chip.name == name]
        told = client.ask(Read(name, tuple(map(str, offsets)))).levels
        found.update(((name, offset), level) for offset, level in zip(offsets, told, strict=False))
    return [found.get((target.chip.chip.name, target.line.offset)) for target in wanted]


def _raw(target: Target, level: int | None) -> dict[str, object]:
    line = target.line
    return {
        "chip": target.chip.chip.name,
        "offset": line.offset,
        "name": line.name,
        "direction": line.direction,
        "level": level,
    }
