# SPDX-License-Identifier: MIT
"""The pipe behind a file of the character device: the program has the read end, events are written here.

A pipe, since it is read-only, batches reads and shows at its write end when the last copy is closed.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from contextlib import suppress
from fcntl import F_SETPIPE_SZ, fcntl, ioctl
from termios import FIONREAD

from gpiovirt.protocols.gpiochip import FifoShape

__all__ = ["PipeFifo", "reopen"]

_FORWARDED = 64  # records of one turn
_PAGE = 4096
_directories = ["/proc/self/fd", "/fd"]  # what worked last is first: a worker's root is its own one of /proc


def reopen(fd: int, flags: int) -> int:
    """A new open file description of what `fd` refers to; it never blocks."""
    flags |= os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(f"{_directories[0]}/{fd}", flags)
    except FileNotFoundError:
        _directories.reverse()
        return os.open(f"{_directories[0]}/{fd}", flags)


class PipeFifo:
    """A Fifo of whole records with the kernel's capacity and overflow rule; it owns the ends given."""

    __slots__ = (
        "_at_most",
        "_capacity",
        "_drop_oldest",
        "on_hang_up",
        "reader",
        "record_size",
        "their_writer",
        "writer",
    )

    def __init__(self, shape: FifoShape, reader: int = -1, writer: int = -1) -> None:
        self.reader = reader
        self.writer = writer
        self.their_writer = -1
        self.record_size, self._capacity, self._drop_oldest = shape
        self.on_hang_up: Callable[[], None] | None = None  # called before the writer is closed
        self._at_most = 0  # records in the pipe, if nobody has read since the last look

    @classmethod
    def make(cls, shape: FifoShape) -> PipeFifo:
        """With a new pipe."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        return cls(shape, reader, writer)

    @classmethod
    def make_for_another(cls, shape: FifoShape) -> PipeFifo:
        """With a new pipe for another process: its ends are `reader` and `their_writer`.

        That process can write too, and so go on when this one has ended. It cannot make ours wait, since it
        writes through an open file of its own; and the pipe takes no more of this user's limit than it needs.
        """
        reader, their_writer = os.pipe()
        try:
            made = cls(shape, reader, reopen(their_writer, os.O_WRONLY))
        except OSError:
            os.close(reader)
            os.close(their_writer)
            raise
        made.their_writer = their_writer
        pages = -(-shape.capacity // (_PAGE // shape.record_size)) + 1  # one may have read records only
        with suppress(OSError):  # over the limit already, or a kernel or filter that refuses
            fcntl(made.writer, F_SETPIPE_SZ, pages * _PAGE)
        return made

    def put(self, record: bytes) -> None:
        if self.writer < 0:
            return
        if self._at_most >= self._capacity:
            self._at_most = self._unread()
            if self._at_most >= self._capacity and not (self._drop_oldest and self._skip()):
                return
        try:
            os.write(self.writer, record)
        except OSError:  # the reader is gone, or the user is over its pipe limit: the event is lost
            return
        self._at_most += 1

    def _unread(self) -> int:
        count = array("i", [0])
        ioctl(self.writer, FIONREAD, count)
        return count[0] // self.record_size

    def _skip(self) -> bool:
        """Take the oldest record out, through a read end of our own that lives no longer than this."""
        try:
            reader = reopen(self.writer, os.O_RDONLY)
        except PermissionError:  # the pipe is another user's
            return False
        try:
            os.read(reader, self.record_size)
        except BlockingIOError:  # it was read meanwhile
            pass
        finally:
            os.close(reader)
        self._at_most -= 1
        return True

    def forward(self, source: int, record_size: int) -> int:
        """Put in some of what another pipe has, given its read end; returns how much.

        0: nobody writes to it any more; BlockingIOError: it is empty.
        """
        records = os.read(source, record_size * _FORWARDED)
        for start in range(0, len(records), record_size):
            self.put(records[start : start + record_size])
        return len(records)

    def hang_up(self) -> None:
        if self.writer >= 0:
            if self.on_hang_up is not None:
                self.on_hang_up()
            os.close(self.writer)
            self.writer = -1

    @property
    def identity(self) -> tuple[int, int]:
        """(device, inode), as seen through any fd of the pipe."""
        status = os.fstat(self.writer)
        return status.st_dev, status.st_ino

    def close_reader(self) -> None:
        """The reader has its copy: from now on the last close of those shows at the write end."""
        os.close(self.reader)
        self.reader = -1
        if self.their_writer >= 0:
            os.close(self.their_writer)
            self.their_writer = -1

    def close(self) -> None:
        """Close whatever end is still open here."""
        reader, self.reader = self.reader, -1
        writer, self.writer = self.writer, -1
        their_writer, self.their_writer = self.their_writer, -1
        for end in (reader, writer, their_writer):
            if end >= 0:
                os.close(end)
