# SPDX-License-Identifier: MIT
"""What all files of the character device share: the answer to an ioctl, and where events go."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

__all__ = ["INVALID", "Answer", "Fifo", "FifoFactory", "File", "rounded_capacity"]


class Fifo(Protocol):
    """Where a file's events queue until its reader takes them.

    A full one drops its oldest record or refuses the new one, as it was made.
    """

    def put(self, record: bytes) -> None:
        """Queue one record."""


FifoFactory = Callable[[int, int, bool], Fifo]
"""(record size in bytes, capacity in records, drop the oldest when full) -> Fifo"""


class File(Protocol):
    """An open file: a chip, or what a request on it opened."""

    fifo: Fifo

    def ioctl(self, cmd: int, arg: bytes, compat: bool = False) -> Answer:
        """Answer an ioctl; `arg` is the argument's bytes, `compat` says the caller is i386."""

    def close(self) -> None:
        """The last copy of the file is closed."""


class Answer(NamedTuple):
    """What an ioctl returns: an errno (0: success), the argument to copy back (None: nothing).

    With `file`, a new file is to be opened and its number stored at `fd_at` in the argument.
    """

    errno: int
    reply: bytes | None = None
    file: File | None = None
    fd_at: int = 0


INVALID = Answer(22)


def rounded_capacity(records: int) -> int:
    """linux/kfifo.h: kfifo_alloc rounds its size up to a power of two."""
    return 1 << (records - 1).bit_length()
