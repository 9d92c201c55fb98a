# SPDX-License-Identifier: MIT
"""gpiovirt rearm: allow a chip's outputs again whose watchdog has tripped."""

from __future__ import annotations

import argparse

from gpiovirt.control.client import Client
from gpiovirt.protocols.control.requests import Rearm

__all__ = ["configure", "main"]

EPILOG = """\
Outputs stay in their safe states until their consumer sets them. It takes root, or a member of the group
gpiovirt. `gpiovirt rules NAME` says what has tripped.

example:
  gpiovirt rearm plc
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="a chip")


def main(options: argparse.Namespace) -> int:
    """Re-arm it."""
    with Client() as client:
        was_tripped = client.ask(Rearm(options.name)).was_tripped
    if not was_tripped:
        print(f"the watchdog of {options.name} has not tripped")
    return 0
