# SPDX-License-Identifier: MIT
"""gpiovirt boards: what programs can be made to believe they run on."""

from __future__ import annotations

import argparse
import json

from gpiovirt.boards import Board, load, names
from gpiovirt.core.text import printable

EPILOG = """\
A program under `gpiovirt run --board BOARD` sees the chips of that board, simulated: their labels, names
of lines and numbers, and what /proc and /sys say about the board. BOARD is one of these, or the path of a
file of your own. `gpiovirt pinout BOARD` draws its header.

examples:
  gpiovirt boards
  gpiovirt boards ./my-board.toml --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("boards", metavar="BOARD", nargs="*", help="only these: names, or paths of files")
    parser.add_argument("--json", action="store_true", help="print all that is known of them as JSON")


def main(options: argparse.Namespace) -> int:
    """List boards."""
    boards = [load(name) for name in options.boards or names()]
    if options.json:
        print(json.dumps([_described(board) for board in boards], indent=2))
        return 0
    width = max(len(board.key) for board in boards)
    for board in boards:
        lines = ", ".join(f"{printable(chip.label)} ({len(chip.lines)})" for chip in board.chips[:3])
        more = f" and {len(board.chips) - 3} more" if len(board.chips) > 3 else ""
        print(f"{printable(board.key):{width}}  {board.name}: {lines}{more}")
    return 0


def _described(board: Board) -> dict[str, object]:
    return {
        "board": board.key,
        "name": board.name,
        "source": board.source,
        "chips": [
            {
                "device": f"gpiochip{chip.number}",
                "label": chip.label,
                "links": [f"gpiochip{link}" for link in chip.links],
                "lines": [{"offset": offset, "name": name} for offset, name in enumerate(chip.lines)],
            }
            for chip in board.chips
        ],
        "headers": [
            {
                "name": header.name,
                "pins": [
                    {
                        "pin": number,
                        "name": pin.name,
                        "chip": pin.chip and pin.chip.label,
                        "offset": pin.offset if pin.chip else None,
                    }
                    for number, pin in enumerate(header.pins, 1)
                ],
            }
            for header in board.headers
        ],
    }
