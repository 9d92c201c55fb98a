# SPDX-License-Identifier: MIT
"""gpiovirt top: chips in the terminal, live."""

from __future__ import annotations

import argparse
import sys

from gpiovirt.errors import HostError, UsageError
from gpiovirt.host.installation import how_to_install

__all__ = ["configure", "main"]

EPILOG = """\
Lines with their levels, holders (> drives, < reads) and waveforms, high above, low below, a block for more
than one change. Keys: up and down choose a line, space pulls a simulated one, + and - zoom, p pauses, u shows
only lines in use, q ends it. It needs 80 columns, and works over ssh.

examples:
  gpiovirt top
  gpiovirt top plc
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("chips", metavar="CHIP", nargs="*", help="only these chips")


def main(options: argparse.Namespace) -> int:
    """Show them until `q`."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "gpiovirt top needs a terminal; for scripts: gpiovirt list --json, gpiovirt watch --json"
        )
    try:
        from gpiovirt.top.app import TopApp
    except ImportError as error:
        raise HostError(f"gpiovirt top needs {error.name}; install: {how_to_install('top')}") from error
    TopApp(frozenset(options.chips)).run()
    return 0
