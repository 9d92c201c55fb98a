# SPDX-License-Identifier: MIT
"""gpiovirt set: change the line options of an existing chip."""

from __future__ import annotations

import argparse

from gpiovirt.cli.new import parse_lines
from gpiovirt.control.client import Client
from gpiovirt.protocols.control.requests import SetOptions

__all__ = ["configure", "main"]

EPILOG = """\
OPTIONS is a list of: pull-up, pull-down, bias-disabled, open-drain, open-source, active-low, debounce=TIME,
safe=low|high|input|hold, direction=input|output, min-on=TIME, min-off=TIME, max-rate=HZ, name=NAME. Options
that are not given stay as they are, unless --replace drops them. The options of a line in use are changed
only with --force, and its holder then loses the line.

examples:
  gpiovirt set gpio-virt-agg.0 0=safe=low 3=pull-up,debounce=5ms
  gpiovirt set plc DOOR=active-low
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="a chip")
    parser.add_argument(
        "lines", metavar="LINE=OPTIONS", nargs="+", help="a line's offset or name, and options"
    )
    parser.add_argument("--replace", action="store_true", help="drop the present options of these lines")
    parser.add_argument("-f", "--force", action="store_true", help="even if the lines are in use")


def main(options: argparse.Namespace) -> int:
    """Set them."""
    wanted = parse_lines("", options.lines)
    with Client() as client:
        client.ask(SetOptions(options.name, wanted, options.replace, options.force))
    return 0
