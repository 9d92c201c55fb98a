# SPDX-License-Identifier: MIT
"""gpiovirt new: create a virtual chip."""

from __future__ import annotations

import argparse
import os

from gpiovirt.cli.main import add_poll_us
from gpiovirt.control.access import gid_of, parse_mode, uid_of
from gpiovirt.control.client import Client
from gpiovirt.errors import HostError, UsageError
from gpiovirt.host.child import process_start
from gpiovirt.protocols.control.requests import New
from gpiovirt.virtual.options import add_options, parse_options
from gpiovirt.virtual.rules import read_rules, rules_of

__all__ = ["configure", "main", "parse_lines"]

EPILOG = """\
LINES as written to new_device, in quotes or not: lines by chip and offset, or by name. The chip is live when
this command ends, for `gpiovirt run --chip NAME`, and lasts until it is deleted or the machine reboots;
`gpiovirt save` makes it permanent.

OPTIONS is a list of: pull-up, pull-down, bias-disabled, open-drain, open-source, active-low, debounce=TIME,
safe=low|high|input|hold, direction=input|output, min-on=TIME, min-off=TIME, max-rate=HZ, name=NAME. They hold
for every consumer of the chip; another bias, drive or debounce it may ask for. A line with a safe state takes
it whenever nobody holds the line; any other line stays as it is.

examples:
  gpiovirt new plc START STOP e6050000.gpio 20-21 --owner alice --group plc --vm
  gpiovirt new test 'sim-a 0-3' --line 0=safe=low --line 1=pull-up,debounce=5ms,name=DOOR --while-me
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the chip's name and label")
    parser.add_argument(
        "lines", metavar="LINES", nargs="+", help="lines of other chips, e.g. 'sim-a 0 3, sim-b 0-1'"
    )
    parser.add_argument("--owner", metavar="USER", default="", help="the chip's owner (default: root)")
    parser.add_argument(
        "--group", metavar="GROUP", default="", help="its group (default: gpio, where there is one)"
    )
    parser.add_argument("--mode", metavar="MODE", default="", help="who may use it (default: 0660)")
    parser.add_argument("--vm", action="store_true", help="also make a socket for virtual machines")
    add_poll_us(parser)
    parser.add_argument(
        "--line",
        metavar="LINE=OPTIONS",
        action="append",
        default=[],
        help="options of a line, by its offset or name (may be repeated)",
    )
    parser.add_argument(
        "--rules",
        metavar="FILE",
        help="a TOML file of rules (line, interlock, watchdog) for the chip's lines",
    )
    lifetime = parser.add_mutually_exclusive_group()
    lifetime.add_argument(
        "--while", dest="creator", metavar="PID", type=int, help="delete the chip when process PID ends"
    )
    lifetime.add_argument(
        "--while-me", action="store_true", help="delete it when the process that called gpiovirt ends"
    )


def main(options: argparse.Namespace) -> int:
    """Make it."""
    said, rules = read_rules(options.rules) if options.rules else ({}, {})
    for line, words in parse_lines("--line", options.line).items():
        add_options(said, line, words)
    wanted = New(
        " ".join(options.lines),
        options.name,
        said,
        rules,
        vm=options.vm,
        poll_us=options.poll_us,
        uid=uid_of(options.owner),
        gid=gid_of(options.group),
        mode=parse_mode(options.mode),
    )
    creator = os.getppid() if options.while_me else options.creator
    with Client() as client:
        if creator is not None:
            started = process_start(creator)
            if not started:
                raise HostError(f"--while {creator}: there is no such process")
            wanted = wanted._replace(lifetime="process", pid=creator, started=started)
        with rules_of(options.rules or ""):
            chip = client.ask(wanted)
    print(f"{chip.name} {chip.device} {chip.num_lines} lines")
    if chip.vm:
        print(f"{chip.name} for VMs: {chip.vm} (gpiovirt vm-args qemu {chip.name})")
    return 0


def parse_lines(option: str, texts: list[str]) -> dict[str, str]:
    """Options by line, from LINE=OPTIONS; those of one line may be given one by one."""
    found: dict[str, str] = {}
    for text in texts:
        line, equals, options = text.partition("=")
        said = f"{option} {text!r}".lstrip()
        if not equals or not line or not options:
            raise UsageError(f"{said}: write LINE=OPTIONS, as in DOOR=pull-up,debounce=5ms")
        try:
            parse_options(options)
        except UsageError as error:
            raise UsageError(f"{said}: {error}") from error
        add_options(found, line, options)
    return found
