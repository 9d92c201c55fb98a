# SPDX-License-Identifier: MIT
"""gpiovirt force: an operator overrides a line."""

from __future__ import annotations

import argparse

from gpiovirt.cli.log import duration_ns
from gpiovirt.control.client import Client
from gpiovirt.errors import UsageError
from gpiovirt.protocols.control.requests import Force

__all__ = ["configure", "main"]

EPILOG = """\
An output is driven to the level, whatever its consumer sets meanwhile: that counts when the force ends. An
input seems to have it: its consumer reads it, and gets an edge if it waits for one; rules see what the
input really is. A line that nobody holds is driven if it is an output, or has direction=output. No rule is
broken: what one forbids is refused, and a line that a rule makes safe is not forced any more. The force of an
output also ends when its consumer lets the line go. It takes root, or a member of the group gpiovirt.
`gpiovirt show NAME` says what is forced.

examples:
  gpiovirt force plc LAMP high --for 10m
  gpiovirt force plc --clear LAMP
  gpiovirt force plc --clear
  gpiovirt force --clear             (of all chips)
"""
_LONGEST_MS = 168 * 3_600_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", default="", help="a chip")
    parser.add_argument("line", metavar="LINE", nargs="?", default="", help="a line's offset or name")
    parser.add_argument("level", metavar="LEVEL", nargs="?", choices=["low", "high"], help="low or high")
    parser.add_argument(
        "--for", dest="time", metavar="TIME", help="for so long, e.g. 10m or 500ms (default: until cleared)"
    )
    parser.add_argument(
        "--clear",
        metavar="LINE",
        nargs="?",
        const="",
        help="end it, of LINE or of all lines, of NAME or of all chips",
    )


def main(options: argparse.Namespace) -> int:
    """Force a line, or end that."""
    if options.clear is not None:
        if options.level or options.time or (options.line and options.clear):
            raise UsageError("--clear ends a force, and takes no LEVEL and no --for")
        return _clear(options.name, options.line or options.clear)
    if not options.level:
        raise UsageError("write NAME, LINE and LEVEL to force a line, or --clear to end that")
    for_ms = _time_ms(options.time) if options.time else 0
    with Client() as client:
        client.ask(Force(options.name, options.line, options.level, for_ms))
    return 0


def _clear(name: str, line: str) -> int:
    if not name:
        name, line = line, ""  # --clear NAME
    with Client() as client:
        names = [name] if name else [chip.name for chip in client.chips() if chip.state == "live"]
        ended = sum(client.ask(Force(each, line)).lines for each in names)
    if not ended:
        print("nothing is forced there")
    return 0


def _time_ms(text: str) -> int:
    for_ms = duration_ns(text) // 1_000_000
    if not for_ms:
        raise UsageError(f"--for {text!r}: that is no time; without --for it lasts until cleared")
    if for_ms > _LONGEST_MS:
        raise UsageError(
            f"--for {text!r}: at most {_LONGEST_MS // 3_600_000}h; without --for it lasts until cleared"
        )
    return for_ms
