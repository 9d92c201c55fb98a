# SPDX-License-Identifier: MIT
"""gpiovirt diff: what `gpiovirt apply` would do."""

from __future__ import annotations

import argparse

from gpiovirt.cli.configuration import add_directory, planned

__all__ = ["configure", "main"]

EPILOG = """\
Lines with - show a chip as gpiovirtd has it, lines with + as its file describes it. The exit status is 0 if
nothing differs, 1 if something does, 2 if the files are wrong.

example:
  gpiovirt diff
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_directory(parser)


def main(options: argparse.Namespace) -> int:
    """Print it."""
    with planned(options) as (_, steps):
        for step in steps:
            print(step.diff(), end="")
        return 1 if steps else 0
