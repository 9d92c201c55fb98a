# SPDX-License-Identifier: MIT
"""gpiovirt save: write gpiovirtd's chips to configuration files."""

from __future__ import annotations

import argparse
import os

from gpiovirt.cli.configuration import add_directory, directory_of, need_libraries, tell
from gpiovirt.control.client import Client
from gpiovirt.errors import GpiovirtError, UsageError
from gpiovirt.protocols.control.requests import Describe, Save

__all__ = ["configure", "main"]

EPILOG = """\
The chip becomes permanent: it is restored after a reboot, and from now on its file defines it. When the file
is removed, the next `gpiovirt apply` deletes the chip. A file that differs is overwritten only with --force.

examples:
  gpiovirt save plc
  gpiovirt save --all
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("names", metavar="NAME", nargs="*", help="a chip")
    parser.add_argument(
        "-a", "--all", action="store_true", help="all chips without a file, except those of a process"
    )
    parser.add_argument("-f", "--force", action="store_true", help="overwrite a file that differs")
    add_directory(parser)


def main(options: argparse.Namespace) -> int:
    """Save them."""
    if bool(options.names) == options.all:
        raise UsageError("name the chips to save, or say --all")
    need_libraries("tomli_w")
    directory = directory_of(options)
    failed = False
    with Client() as client:
        names = options.names or [
            chip.name for chip in client.chips() if not chip.origin and not chip.creator
        ]
        for name in names:
            try:
                print(f"{name}: {_save(client, name, directory, options.force)}")
            except GpiovirtError as error:
                tell([str(error)])
                failed = True
    return 1 if failed else 0


def _save(client: Client, name: str, directory: str, force: bool) -> str:
    """Save one; the file that describes it."""
    from gpiovirt.configuration.files import file_of, write
    from gpiovirt.configuration.model import chip_of
    from gpiovirt.configuration.plan import is_described, origin_of

    told = client.ask(Describe(name))
    if told.chip.creator:
        raise UsageError(f"{name} ends with process {told.chip.creator}, so it cannot be saved")
    chip = chip_of(*told)
    path = file_of(name, directory)
    if not is_described(client, path, told):
        if os.path.lexists(path) and not force:
            raise UsageError(f"{path} exists and differs; --force overwrites it")
        write(path, chip)
    client.ask(Save(name, origin=origin_of(path)))
    return path
