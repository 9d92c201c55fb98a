# SPDX-License-Identifier: MIT
"""gpiovirt force: an operator overrides a line."""

from __future__ import annotations

import argparse

from gpiovirt.cli.lines import LEVELS, Targets, assignment, each_once
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
  gpiovirt force plc:LAMP=1 --for 10m
  gpiovirt force --clear plc:LAMP
  gpiovirt force --clear plc
  gpiovirt force --clear             (of all chips)
"""
USAGE = """gpiovirt force [-h] [--for TIME] CHIP:LINE=LEVEL ...
       gpiovirt force [-h] --clear [CHIP | CHIP:LINE] ..."""
_LONGEST_MS = 168 * 3_600_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "lines", metavar="CHIP:LINE=LEVEL", nargs="*", help=f"a line and its level, {', '.join(LEVELS)}"
    )
    parser.add_argument(
        "--for", dest="time", metavar="TIME", help="for so long, e.g. 10m or 500ms (default: until cleared)"
    )
    parser.add_argument(
        "--clear", action="store_true", help="end it, of these lines, of all lines of CHIP, or of all chips"
    )


def main(options: argparse.Namespace) -> int:
    """Force lines, or end that."""
    if options.clear:
        if options.time or any("=" in text for text in options.lines):
            raise UsageError("--clear ends a force, and takes no LEVEL and no --for")
        return _clear(options.lines)
    if not options.lines:
        raise UsageError("write CHIP:LINE=LEVEL to force a line, or --clear to end that")
    for_ms = _time_ms(options.time) if options.time else 0
    with Client() as client:
        targets = Targets(client)
        wanted = [assignment(targets, text) for text in options.lines]
        each_once(target for target, _ in wanted)
        for target, level in wanted:
            client.ask(
                Force(target.chip.chip.name, str(target.line.offset), "high" if level else "low", for_ms)
            )
    return 0


def _clear(texts: list[str]) -> int:
    with Client() as client:
        targets = Targets(client)
        places = [_place(targets, text) for text in texts]
        if not texts:
            places = [(chip.name, "") for chip in client.chips() if chip.state == "live"]
        ended = sum(client.ask(Force(*place)).lines for place in places)
    if not ended:
        print("nothing is forced there")
    return 0


def _place(targets: Targets, text: str) -> tuple[str, str]:
    """Chip and offset of CHIP:LINE; of CHIP, all lines."""
    if ":" not in text:
        return text, ""
    target = targets.line(text)
    return target.chip.chip.name, str(target.line.offset)


def _time_ms(text: str) -> int:
    for_ms = duration_ns(text) // 1_000_000
    if not for_ms:
        raise UsageError(f"--for {text!r}: that is no time; without --for it lasts until cleared")
    if for_ms > _LONGEST_MS:
        raise UsageError(
            f"--for {text!r}: at most {_LONGEST_MS // 3_600_000}h; without --for it lasts until cleared"
        )
    return for_ms
