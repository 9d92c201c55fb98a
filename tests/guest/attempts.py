# SPDX-License-Identifier: MIT
"""What a program that compares our files with the kernel's does to them; it runs in guests."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["tried", "write_at_once"]


def tried(what: Callable[[], object]) -> object:
    """What it gives, or the name of its errno."""
    try:
        return what()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def write_at_once(path: Path, text: str) -> int:
    """Write to a file that is there, by one write(2); how much of it was taken."""
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.write(fd, text.encode())
    finally:
        os.close(fd)
