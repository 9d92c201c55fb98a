# SPDX-License-Identifier: MIT
"""gpiovirt pulse: switch an output on for a time."""

from __future__ import annotations

import argparse
import re
import sys
import time

from gpiovirt.cli.lines import Targets
from gpiovirt.cli.log import duration_ns
from gpiovirt.cli.set import Outputs
from gpiovirt.control.client import Client
from gpiovirt.control.held_lines import HeldLines
from gpiovirt.errors import UsageError

__all__ = ["configure", "main"]

EPILOG = """\
LINE is CHIP:NAME or CHIP:OFFSET of a chip of gpiovirtd. It is held as an output meanwhile, begins and ends at
0, and rules hold: a time that is shorter than its min-on is made longer by that. Afterwards it is as its
options say, safe or as it was last. The exit status is 1 if a rule or an operator has undone a level.

examples:
  gpiovirt pulse plc:LAMP 100ms
  gpiovirt pulse plc:LAMP 100ms x3 --gap 1s
"""
_MOST = 1_000_000
_PATIENCE_S = 1.0
_LOOK_S = 0.005


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("line", metavar="LINE", help="CHIP:NAME or CHIP:OFFSET")
    parser.add_argument("width", metavar="TIME", help="how long it is 1, e.g. 100ms")
    parser.add_argument("count", metavar="xN", nargs="?", default="x1", help="so many pulses")
    parser.add_argument("--gap", metavar="TIME", help="how long it is 0 between them (default: TIME)")
    parser.add_argument("--low", action="store_true", help="begin and end at 1, and be 0 for TIME")


def main(options: argparse.Namespace) -> int:
    """Make them."""
    match = re.fullmatch(r"x?([0-9]{1,7})", options.count)
    count = int(match[1]) if match else 0
    if not 0 < count <= _MOST:
        raise UsageError(f"{options.count!r}: write how many as xN, with N from 1 to {_MOST}")
    width_ns = duration_ns(options.width)
    gap_ns = duration_ns(options.gap) if options.gap else width_ns
    with Client() as client:
        target = Targets(client).line(options.line)
    rest = int(options.low)
    output = Outputs([target], [rest], "gpiovirt pulse")
    is_right = True
    try:
        for number in range(count):
            for level, lasts_ns in ((1 - rest, width_ns), (rest, gap_ns if number + 1 < count else 0)):
                output.lines.set(level)
                output.levels = [level]
                _await(output.lines, level, options.line)
                time.sleep(lasts_ns / 1e9)  # never less than was asked for
                is_right = output.look() and is_right
    finally:
        output.lines.close()
    return 0 if is_right else 1


def _await(lines: HeldLines, level: int, name: str) -> None:
    """A rule may have the level wait; who lets the line go before would have it safe at once."""
    said_at = time.monotonic() + _PATIENCE_S
    while lines.get() != level:
        if time.monotonic() > said_at:
            said_at = float("inf")
            print(f"{name} stays {1 - level} for now: a rule, or an operator, keeps it", file=sys.stderr)
        time.sleep(_LOOK_S)
