# SPDX-License-Identifier: MIT
"""gpiovirt check: whether files describe chips, and do not conflict."""

from __future__ import annotations

import argparse

from gpiovirt.cli.configuration import add_directory, directory_of, need_libraries, tell

__all__ = ["configure", "main"]

EPILOG = """\
Reports every problem, one per line, as FILE: KEY: what. gpiovirtd need not run, and the lines
need not be there. The exit status is 1 if something is wrong.

examples:
  gpiovirt check
  gpiovirt check plc.toml
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("files", metavar="FILE", nargs="*", help="a file, instead of all in the directory")
    add_directory(parser)


def main(options: argparse.Namespace) -> int:
    """Check them."""
    need_libraries()
    from gpiovirt.configuration.files import files_in, read

    found = read(options.files or files_in(directory_of(options)))
    tell(found.problems)
    return 1 if found.problems else 0
