# SPDX-License-Identifier: MIT
"""gpiovirt delete: delete virtual chips of gpiovirtd."""

from __future__ import annotations

import argparse
import sys

from gpiovirt.control.client import Client
from gpiovirt.core.text import printable
from gpiovirt.errors import UsageError
from gpiovirt.protocols.control.answers import RefusedError
from gpiovirt.protocols.control.requests import Delete, Look

__all__ = ["configure", "main"]

EPILOG = """\
Lines with a safe state are put into it, and all lines are released. A chip whose lines are in use is not
deleted unless forced: its programs then see it vanish, as when a USB device is unplugged.

example:
  gpiovirt delete plc
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("names", metavar="NAME", nargs="*", help="a chip")
    parser.add_argument("--all", action="store_true", help="every chip")
    parser.add_argument("-f", "--force", action="store_true", help="even if its lines are in use")


def main(options: argparse.Namespace) -> int:
    """Delete them."""
    if bool(options.names) == options.all:
        raise UsageError("name the chips to delete, or say --all")
    with Client() as client:
        for name in options.names or [chip.name for chip in client.chips()]:
            origin = _origin(client, name)
            client.ask(Delete(name, options.force))
            if origin:
                sys.stderr.write(
                    f"{printable(name)}: {printable(origin)} describes it, and brings it back with the next "
                    "`gpiovirt apply` or start of gpiovirtd; remove that file, too\n"
                )
    return 0


def _origin(client: Client, name: str) -> str:
    """The file that describes it, if one does; who is asked to delete it says why that cannot be."""
    try:
        return client.ask(Look(name)).origin
    except RefusedError:
        return ""
