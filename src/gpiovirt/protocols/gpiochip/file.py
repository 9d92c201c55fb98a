# SPDX-License-Identifier: MIT
"""What all files of the character device share: the answer to an ioctl, and where events go."""

import errno
from collections.abc import Callable
from typing import NamedTuple, Protocol

from gpiovirt.core.chip import LineRequest
from gpiovirt.core.text import printable
from gpiovirt.errors import GpiovirtError, OffsetError

__all__ = [
    "DONE",
    "GONE",
    "UNKNOWN",
    "Answer",
    "Fifo",
    "FifoFactory",
    "FifoShape",
    "File",
    "RequestFile",
    "invalid",
    "refusal",
    "rounded_capacity",
]


class Fifo(Protocol):
    """Where a file's events queue until its reader takes them.

    A full one drops its oldest record or refuses the new one, as it was made.
    """

    def put(self, record: bytes) -> None:
        """Queue one record."""

    def hang_up(self) -> None:
        """There will be no more: whoever waits for one is told so."""


class FifoShape(NamedTuple):
    """What a Fifo is made for: records of so many bytes, so many of them, and what a full one drops."""

    record_size: int
    capacity: int
    drop_oldest: bool


FifoFactory = Callable[[FifoShape], Fifo]


class File(Protocol):
    """An open file: a chip, or what a request on it opened."""

    @property
    def fifo(self) -> Fifo:
        """Where its events go."""

    def ioctl(self, cmd: int, arg: bytes, compat: bool = False) -> "Answer":
        """Answer an ioctl; `arg` is the argument's bytes, `compat` says the caller is i386."""

    def close(self) -> None:
        """The last copy of the file is closed."""


class Answer(NamedTuple):
    """What an ioctl returns: an errno (0: success), the argument to copy back (None: nothing).

    With `file`, a new file is to be opened and its number stored at `fd_at` in the argument. `why` is
    the reason of a refusal, for people: nobody copies it back.
    """

    errno: int
    reply: bytes | None = None
    file: File | None = None
    fd_at: int = 0
    why: str = ""


def refusal(error: GpiovirtError) -> Answer:
    """The answer that an error becomes; an offset past the end is EINVAL on the character device."""
    number = errno.EINVAL if isinstance(error, OffsetError) else error.errno
    return Answer(number, why=printable(str(error)))


def invalid(why: str) -> Answer:
    """EINVAL"""
    return Answer(errno.EINVAL, why=why)


DONE = Answer(0)
UNKNOWN = invalid("not an ioctl of this kind of file")
GONE = Answer(errno.ENODEV, why="the chip of its lines has vanished")


class RequestFile:
    """A file that holds lines until they vanish; then it hangs up, and can only be closed."""

    _request: LineRequest

    def __init__(self, fifo: Fifo) -> None:
        self.fifo = fifo
        self._gone = False

    def _on_presence(self, _offset: int, there: bool) -> None:
        if not there and not self._gone:
            self._gone = True
            self._request.release()
            self.fifo.hang_up()

    def close(self) -> None:
        self._request.release()


def rounded_capacity(records: int) -> int:
    """linux/kfifo.h: kfifo_alloc rounds its size up to a power of two."""
    return 1 << (records - 1).bit_length()
