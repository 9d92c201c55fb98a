# SPDX-License-Identifier: MIT
"""Files that are always whole: either the old or the new one exists, whatever happens meanwhile."""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["remove_file", "write_file"]


def write_file(path: str, content: bytes, temporary: str = "", durably: bool = True) -> None:
    """Write a file, replacing an older one, which is still there on OSError. Made in `temporary`.

    Unless `durably`, a power cut may undo it.
    """
    temporary = temporary or path + ".new"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            if durably:
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    if durably:
        _sync(os.path.dirname(path))


def remove_file(path: str) -> None:
    """Remove a file for good."""
    os.unlink(path)
    _sync(os.path.dirname(path))


def _sync(directory: str) -> None:
    fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
