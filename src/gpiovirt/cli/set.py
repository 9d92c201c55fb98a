# SPDX-License-Identifier: MIT
"""gpiovirt set: the levels of lines, or the line options of a chip."""

from __future__ import annotations

import argparse
import select
import sys
import time
from contextlib import ExitStack, closing

from gpiovirt.cli.lines import LEVELS, Target, Targets, level_of
from gpiovirt.cli.log import duration_ns
from gpiovirt.cli.new import parse_lines
from gpiovirt.control.client import Client
from gpiovirt.control.held_line import HeldLine
from gpiovirt.core.line import Direction, LineSettings
from gpiovirt.errors import GpiovirtError, UsageError
from gpiovirt.protocols.control.requests import SetOptions

__all__ = ["configure", "hold", "main"]

USAGE = """gpiovirt set [-h] [--hold [TIME]] CHIP:LINE=LEVEL ...
       gpiovirt set [-h] [--replace] [-f] CHIP LINE=OPTIONS ..."""
EPILOG = f"""\
LEVEL is one of {", ".join(LEVELS)}. The line is held as an output, as by gpioset, for the time of --hold, or
until Ctrl-C; without --hold it is let go at once. Then it is as its options say, safe or as it was last.
Rules hold, and what somebody else holds is refused.

OPTIONS is a list of: pull-up, pull-down, bias-disabled, open-drain, open-source, active-low, debounce=TIME,
safe=low|high|input|hold, direction=input|output, min-on=TIME, min-off=TIME, max-rate=HZ, name=NAME. Options
that are not given stay as they are, unless --replace drops them. The options of a line in use are changed
only with --force, and its holder then loses the line.

examples:
  gpiovirt set plc:LAMP=1 --hold 5s
  gpiovirt set plc DOOR=active-low
  gpiovirt set gpio-virt-agg.0 0=safe=low 3=pull-up,debounce=5ms
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("first", metavar="CHIP:LINE=LEVEL", help="a line and its level; or CHIP")
    parser.add_argument("lines", metavar="LINE=OPTIONS", nargs="*", help="more of that; or lines and options")
    parser.add_argument(
        "--hold", metavar="TIME", nargs="?", const="", help="hold the lines for TIME (default: until Ctrl-C)"
    )
    parser.add_argument("--replace", action="store_true", help="drop the present options of these lines")
    parser.add_argument("-f", "--force", action="store_true", help="even if the lines are in use")


def main(options: argparse.Namespace) -> int:
    """Set them."""
    if ":" in options.first.partition("=")[0]:
        if options.replace or options.force:
            raise UsageError("--replace and --force are for options of lines: gpiovirt set CHIP LINE=OPTIONS")
        return _set_levels([options.first, *options.lines], options.hold)
    if options.hold is not None:
        raise UsageError("--hold is for levels: gpiovirt set CHIP:LINE=LEVEL --hold TIME")
    if not options.lines:
        raise UsageError("write CHIP:LINE=LEVEL, or CHIP LINE=OPTIONS; see: gpiovirt set --help")
    wanted = parse_lines("", options.lines)
    with Client() as client:
        client.ask(SetOptions(options.first, wanted, options.replace, options.force))
    return 0


def hold(target: Target, level: int) -> HeldLine:
    """The line as an output; GpiovirtError, with its name."""
    settings = LineSettings(Direction.OUTPUT, output_value=level)
    try:
        return HeldLine(target.chip.chip.device, target.line.offset, settings, "gpiovirt set")
    except GpiovirtError as error:
        error.args = (f"{target}: {error}",)
        raise


def _set_levels(texts: list[str], time_said: str | None) -> int:
    lasts_ns = duration_ns(time_said) if time_said else None
    with Client() as client:
        targets = Targets(client)
        wanted = []
        for text in texts:
            line, equals, word = text.rpartition("=")
            if not equals:
                raise UsageError(f"{text!r}: write CHIP:LINE=LEVEL, as in plc:LAMP=1")
            wanted.append((targets.line(line), level_of(word)))
    with ExitStack() as held:
        lines = [held.enter_context(closing(hold(target, level))) for target, level in wanted]
        if time_said is not None:
            _wait(lines, lasts_ns)
    if time_said is None:
        for target, level in wanted:
            _say_if_lost(target, level)
    return 0


def _wait(lines: list[HeldLine], lasts_ns: int | None) -> None:
    """HostError if a line is lost meanwhile."""
    if lasts_ns is None:
        print("holding until Ctrl-C", file=sys.stderr, flush=True)
    poller = select.poll()
    for line in lines:
        poller.register(line.fileno(), select.POLLIN)
    until_ns = None if lasts_ns is None else time.monotonic_ns() + lasts_ns
    try:
        while until_ns is None or time.monotonic_ns() < until_ns:
            left_ms = None if until_ns is None else max((until_ns - time.monotonic_ns()) // 1_000_000, 0) + 1
            if poller.poll(left_ms):
                for line in lines:
                    list(line.edges())
    except KeyboardInterrupt:
        if until_ns is not None:
            raise


def _say_if_lost(target: Target, level: int) -> None:
    """A level that a safe state has undone already would surprise."""
    safe = next((word[5:] for word in target.line.options.split(",") if word.startswith("safe=")), "hold")
    if safe != "hold" and LEVELS.get(safe) != level:
        print(f"{target} is {safe} again, its safe state: use --hold to keep it", file=sys.stderr)
