# SPDX-License-Identifier: MIT
"""gpiovirt set: the levels of lines, or the line options of a chip."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from gpiovirt.cli.lines import LEVELS, Target, Targets, assignment, each_once
from gpiovirt.cli.log import duration_ns
from gpiovirt.cli.new import parse_lines
from gpiovirt.control.client import Client
from gpiovirt.control.held_lines import HeldLines
from gpiovirt.errors import GpiovirtError, UsageError
from gpiovirt.protocols.control.requests import SetOptions
from gpiovirt.protocols.gpiochip.caller import encode_output_request

__all__ = ["Outputs", "configure", "main"]

_LOOK_S = 0.1

USAGE = """gpiovirt set [-h] [--hold [TIME]] CHIP:LINE=LEVEL ...
       gpiovirt set [-h] [--replace] [-f] CHIP LINE=OPTIONS ..."""
EPILOG = f"""\
LEVEL is one of {", ".join(LEVELS)}. The line is held as an output, as by gpioset, for the time of --hold, or
until Ctrl-C; without --hold it is let go at once. Then it is as its options say, safe or as it was last.
Rules hold, and what somebody else holds is refused: then no line of that chip is touched. The exit status is
1 if a rule or an operator has undone a level meanwhile.

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
    for text in options.lines:
        line, _, word = text.partition("=")
        if word in LEVELS:
            raise UsageError(
                f"{text!r}: {word} is no option; for a level write {options.first}:{line}={word}"
            )
    wanted = parse_lines("", options.lines)
    with Client() as client:
        client.ask(SetOptions(options.first, wanted, options.replace, options.force))
    return 0


class Outputs:
    """Lines of one chip, held as outputs with these levels; GpiovirtError, which names the chip."""

    def __init__(self, targets: Sequence[Target], levels: Sequence[int], consumer: str) -> None:
        self.targets = targets
        self.levels = list(levels)
        self._undone: set[int] = set()
        request = encode_output_request(
            {target.line.offset: level for target, level in zip(targets, levels, strict=True)}, consumer
        )
        try:
            self.lines = HeldLines(targets[0].chip.chip.device, request)
        except GpiovirtError as error:
            named = str(targets[0]) if len(targets) == 1 else targets[0].chip.chip.name
            error.args = (f"{named}: {error}",)
            raise

    def look(self) -> bool:
        """Whether all have been as they were set; says once of each that is not."""
        list(self.lines.edges())  # none; but whether the lines are lost
        bits = self.lines.get((1 << len(self.targets)) - 1)
        for i, (target, level) in enumerate(zip(self.targets, self.levels, strict=True)):
            if bits >> i & 1 != level and i not in self._undone:
                self._undone.add(i)
                print(
                    f"{target} is {1 - level}: a rule, or an operator, has it so", file=sys.stderr, flush=True
                )
        return not self._undone


def _set_levels(texts: list[str], time_said: str | None) -> int:
    if time_said and (":" in time_said or "=" in time_said):
        raise UsageError(f"--hold {time_said!r}: that is no time; write --hold after the lines")
    lasts_ns = duration_ns(time_said) if time_said else None
    with Client() as client:
        targets = Targets(client)
        named = [assignment(targets, text) for text in texts]
    levels = {(target.chip.chip.name, target.line.offset): level for target, level in named}
    by_chip = each_once(target for target, _ in named)
    with ExitStack() as held:
        outputs = []
        for name, of_chip in by_chip.items():
            chosen = [levels[name, target.line.offset] for target in of_chip]
            outputs.append(Outputs(of_chip, chosen, "gpiovirt set"))
            held.callback(outputs[-1].lines.close)
        if time_said is not None:
            return _wait(outputs, lasts_ns)
    for target, level in named:
        _say_if_lost(target, level)
    return 0


def _wait(outputs: list[Outputs], lasts_ns: int | None) -> int:
    """The exit status; HostError if lines are lost meanwhile."""
    if lasts_ns is None:
        print("holding until Ctrl-C", file=sys.stderr, flush=True)
    until_ns = None if lasts_ns is None else time.monotonic_ns() + lasts_ns
    is_right = True
    try:
        while until_ns is None or time.monotonic_ns() < until_ns:
            left_s = _LOOK_S if until_ns is None else (until_ns - time.monotonic_ns()) / 1e9
            time.sleep(max(min(left_s, _LOOK_S), 0))
            for each in outputs:
                is_right = each.look() and is_right
    except KeyboardInterrupt:
        if until_ns is not None:
            raise
    return 0 if is_right else 1


def _say_if_lost(target: Target, level: int) -> None:
    """A level that a safe state has undone already would surprise."""
    safe = next((word[5:] for word in target.line.options.split(",") if word.startswith("safe=")), "hold")
    if safe != "hold" and LEVELS.get(safe) != level:
        print(f"{target} is {safe} again, its safe state: use --hold to keep it", file=sys.stderr)
