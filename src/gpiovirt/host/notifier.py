# SPDX-License-Identifier: MIT
"""The two ends of a notification that others made: an eventfd, or for calls also a socket."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress

from gpiovirt.errors import PeerError

__all__ = ["Notifier", "check_eventfd"]

_EIGHT_BYTES = (1).to_bytes(8, "little")
_DONT_WAIT = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


def check_eventfd(fd: int) -> None:
    """PeerError if it is something else, as far as that can be seen."""
    with suppress(FileNotFoundError):  # no /proc
        what = os.readlink(f"/proc/self/fd/{fd}")
        if what != "anon_inode:[eventfd]":
            raise PeerError(f"a kick fd that is no eventfd but {what}")


class Notifier:
    """The writing end of a notification; it owns `fd`, also when PeerError says that it is of no use.

    `notify()` never waits: what cannot be said is known already, or nobody is there.
    """

    notify: Callable[[], None]

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._socket: socket.socket | None = None
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                self._socket = socket.socket(fileno=fd)
                self.notify = _by_socket(self._socket)
            else:
                check_eventfd(fd)
                os.set_blocking(fd, False)
                self.notify = _by_eventfd(fd)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the fd."""
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._fd)


def _by_eventfd(fd: int) -> Callable[[], None]:
    write = os.write

    def notify() -> None:
        try:  # which costs nothing; suppress() does
            write(fd, _EIGHT_BYTES)
        except OSError:
            return

    return notify


def _by_socket(sock: socket.socket) -> Callable[[], None]:
    send = sock.send

    def notify() -> None:
        try:
            send(_EIGHT_BYTES, _DONT_WAIT)
        except OSError:
            return

    return notify
