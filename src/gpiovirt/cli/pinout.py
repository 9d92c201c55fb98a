# SPDX-License-Identifier: MIT
"""gpiovirt pinout: a board's header in the terminal, with the levels of a running simulator."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import zip_longest
from typing import Any

from gpiovirt.boards import Board, Header, Pin, load
from gpiovirt.control.simulator import SimClient
from gpiovirt.core.text import printable
from gpiovirt.errors import HostError, NoSuchChipError, UsageError

EPILOG = """\
Each line of the board is shown by its name and CHIP:OFFSET, the chip by its number. While a program runs on
the board, its levels are shown, too: * is high, . is low, > an output and < an input that is held.

examples:
  gpiovirt pinout pi5
  gpiovirt pinout pi5 --watch
"""

_REDRAW_S = 0.1
_UP = "\033[{}F\033[J"

Lines = Mapping[tuple[str, int], Mapping[str, Any]]
"""What a simulator says of its lines, by chip and offset"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("board", metavar="BOARD", help="a board (`gpiovirt boards`), or the path of a file")
    parser.add_argument("-w", "--watch", action="store_true", help="draw again whenever something changes")
    parser.add_argument("--pid", type=int, help="process id of the program whose levels to show")


def main(options: argparse.Namespace) -> int:
    """Draw it."""
    board = load(options.board)
    if not board.headers:
        raise UsageError(f"the file of {board.key} has no header; write one as [[header]]")
    try:
        client = _connect(board, options.pid)
    except HostError:
        if options.watch or options.pid is not None:
            raise
        print("\n".join(_picture(board, {})))
        return 0
    with client:
        if options.watch:
            _watch(board, client)
        else:
            print("\n".join(_picture(board, _lines(client))))
    return 0


def _connect(board: Board, pid: int | None) -> SimClient:
    """The simulator of a program that runs on the board; HostError if there is none."""
    from gpiovirt.cli.sim import choose

    labels = {chip.label for chip in board.chips}

    def has(lines: list[dict[str, Any]]) -> bool:
        return labels <= {line["chip"] for line in lines}

    nothing = HostError(
        f"no program runs on the board {board.key}; start one with: "
        f"gpiovirt run --board {board.key} -- PROGRAM"
    )
    try:
        client = choose(pid, has, f"the chips of {board.key}")
    except NoSuchChipError:
        raise nothing from None
    if has(client.lines()):
        return client
    client.close()
    raise nothing


def _lines(client: SimClient) -> Lines:
    return {(line["chip"], line["offset"]): line for line in client.lines()}


def _watch(board: Board, client: SimClient) -> None:
    """Draw until the program ends; on a terminal over the last picture."""
    drawn: list[str] = []
    with suppress(HostError):
        while True:
            picture = _picture(board, _lines(client))
            if picture != drawn:
                if drawn and sys.stdout.isatty():
                    sys.stdout.write(_UP.format(len(drawn)))
                print("\n".join(picture), flush=True)
                drawn = picture
            time.sleep(_REDRAW_S)


def _picture(board: Board, lines: Lines) -> list[str]:
    rows = []
    for header in board.headers:
        rows += [f"{board.name}, {header.name}", *_rows(header, lines)]
    width = _width()
    return [row[:width] for row in rows]


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return 1000


def _rows(header: Header, lines: Lines) -> Iterator[str]:
    left, right = header.pins[::2], header.pins[1::2]
    texts = [_text(pin) for pin in left]
    notes = [_note(pin, lines) for pin in left]
    text_width, note_width = max(map(len, texts)), max(map(len, notes))
    for row, (text, note, other) in enumerate(zip_longest(texts, notes, right)):
        number = 2 * row + 1
        one = f"{note:>{note_width}} {text:>{text_width}} {_sign(left[row], lines)} {number:2}"
        if other is None:
            yield one
            continue
        after = f"{number + 1:<2} {_sign(other, lines)} {_text(other)} {_note(other, lines)}"
        yield f"{one} | {after}".rstrip()


def _text(pin: Pin) -> str:
    return f"{pin.name} {pin.chip.number}:{pin.offset}" if pin.chip else pin.name


def _sign(pin: Pin, lines: Lines) -> str:
    line = lines.get((pin.chip.label, pin.offset)) if pin.chip else None
    return " " if line is None else "*" if line["level"] else "."


def _note(pin: Pin, lines: Lines) -> str:
    line = lines.get((pin.chip.label, pin.offset)) if pin.chip else None
    if line is None or not line["consumer"]:
        return ""
    return f"{'>' if line['direction'] == 'output' else '<'}{printable(line['consumer'])}"
