# SPDX-License-Identifier: MIT
"""What check, diff, apply and save share: the directory, and reports about its files."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gpiovirt.control import config_directory
from gpiovirt.control.client import Client
from gpiovirt.core.text import printable
from gpiovirt.errors import HostError, UsageError
from gpiovirt.host.installation import how_to_install

if TYPE_CHECKING:
    from gpiovirt.configuration.plan import Step

__all__ = ["add_directory", "directory_of", "need_libraries", "planned", "tell"]


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Declare --config."""
    parser.add_argument(
        "--config", metavar="DIR", help="the directory of the files (default: /etc/gpiovirt/chips.d)"
    )


def directory_of(options: argparse.Namespace) -> str:
    """The directory given, or that of the system's gpiovirtd if it runs, or that of this user's own."""
    uid = 0 if os.path.exists("/run/gpiovirt/control") else os.getuid()
    return os.path.abspath(options.config or config_directory(uid))


def need_libraries(*more: str) -> None:
    """HostError, with what to do, if a library needed to read files, or one of `more`, is missing or too
    old."""
    try:
        for module in ("gpiovirt.configuration.files", *more):
            importlib.import_module(module)
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        if name == "gpiovirt":
            raise
        raise HostError(
            f"{name} is missing or too old ({error}); install it with: {how_to_install('daemon')}"
        ) from error


@contextmanager
def planned(options: argparse.Namespace) -> Iterator[tuple[Client, list[Step]]]:
    """A connection, and the steps to take; UsageError, after reporting them, if files are wrong."""
    need_libraries()
    from gpiovirt.configuration.files import files_in, read
    from gpiovirt.configuration.plan import make_plan

    directory = directory_of(options)
    found = read(files_in(directory))
    if found.problems:
        tell(found.problems)
        raise UsageError(f"nothing is changed until all files in {directory} are right")
    with Client() as client:
        yield client, make_plan(client, found, directory)


def tell(problems: Iterable[str]) -> None:
    """Report problems on standard error, one per line."""
    for problem in problems:
        sys.stderr.write(f"gpiovirt: {printable(problem)}\n")
