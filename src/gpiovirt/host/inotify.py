# SPDX-License-Identifier: MIT
"""Changes of the files of a directory; inotify(7)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from struct import Struct

from gpiovirt.host import libc

__all__ = ["IN_ATTRIB", "IN_CREATE", "IN_DELETE", "IN_MODIFY", "DirectoryWatch"]

IN_ATTRIB = 0x004
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_MODIFY = 0x002
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_event = Struct("iIII")  # wd, mask, cookie, len


class DirectoryWatch:
    """Reports the changes in `mask` to files in a directory; OSError if that is not possible."""

    def __init__(self, directory: str, mask: int) -> None:
        self._fd = libc.inotify_init1(_NONBLOCK_CLOEXEC)
        try:
            libc.inotify_add_watch(self._fd, directory, mask)
        except OSError:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """Readable when read() has something."""
        return self._fd

    def read(self) -> Iterator[tuple[int, str]]:
        """(mask, name of the file) of each change."""
        try:
            raw = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        at = 0
        while at < len(raw):
            _, mask, _, length = _event.unpack_from(raw, at)
            at += _event.size
            yield mask, os.fsdecode(raw[at : at + length].rstrip(b"\0"))
            at += length

    def close(self) -> None:
        """Stop watching."""
        os.close(self._fd)
