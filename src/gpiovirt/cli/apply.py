# SPDX-License-Identifier: MIT
"""gpiovirt apply: make gpiovirtd's chips match the configuration files."""

from __future__ import annotations

import argparse

from gpiovirt.cli.configuration import add_directory, need_libraries, planned, tell

__all__ = ["configure", "main"]

EPILOG = """\
All files are checked before anything changes. Then chips are made, changed and, if their file is gone,
deleted; chips made by other means are left alone. Each chip is changed as a whole or not at all, and lines
that stay in it are not touched. A line in use is swapped for another only with --force, and its holder then
loses it. A failure is reported with its file and key, the remaining chips are still applied, and the exit
status is 1. Chips that files describe are restored after a reboot, and then wait for lines that are not
there yet; with --wait, new chips do so at once.

gpiovirtd does this when it starts, with --wait.

examples:
  gpiovirt apply --dry-run
  gpiovirt apply
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("-n", "--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument(
        "--wait", action="store_true", help="have new chips wait for lines that are not there yet"
    )
    parser.add_argument(
        "-f", "--force", action="store_true", help="change and delete chips even if their lines are in use"
    )
    add_directory(parser)


def main(options: argparse.Namespace) -> int:
    """Do it."""
    need_libraries()
    from gpiovirt.configuration.plan import execute

    failed = False
    with planned(options) as (client, steps):
        if options.dry_run:
            for step in steps:
                print(f"{step.name}: would be {step.done}")
            return 0
        for result in execute(client, steps, options.wait, options.force):
            if result.problem:
                failed = True
                tell([result.problem])
            else:
                waits = f", waits: {result.waits_for}" if result.waits_for else ""
                print(f"{result.step.name}: {result.step.done}{waits}", flush=True)
    return 1 if failed else 0
