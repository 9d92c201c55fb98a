# SPDX-License-Identifier: MIT
"""gpiovirt set: options of lines of a chip that is there."""

from __future__ import annotations

import argparse

from gpiovirt.cli.new import parse_lines
from gpiovirt.control.client import Client
from gpiovirt.protocols.control.requests import SetOptions

__all__ = ["configure", "main"]

EPILOG = """\
OPTIONS is a list of: pull-up, pull-down, bias-disabled, open-drain, open-source, active-low, debounce=TIME,
safe=low|high|input|hold, name=NAME. What is not said stays as it is, unless --replace drops it. Options of
a line that somebody holds are changed with --force only, and then whoever holds it loses it.

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
    parser.add_argument("--replace", action="store_true", help="drop the options that these lines have")
    parser.add_argument("-f", "--force", action="store_true", help="also of lines that are in use")


def main(options: argparse.Namespace) -> int:
    """Set them."""
    wanted = parse_lines("", options.lines)
    with Client() as client:
        client.ask(SetOptions(options.name, wanted, options.replace, options.force))
    return 0
