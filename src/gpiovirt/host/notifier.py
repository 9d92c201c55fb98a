# SPDX-License-Identifier: MIT
"""The two ends of a notification that others made: an eventfd or, for calls, also a socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from gpiovirt.errors import PeerError
from gpiovirt.host.received import Kind, kind_of, name_of

__all__ = ["Notifier", "check_eventfd"]

_EIGHT_BYTES = (1).to_bytes(8, "little")
_DONT_WAIT = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


def check_eventfd(fd: int) -> None:
    """PeerError unless it is an eventfd."""
    if kind_of(fd) is not Kind.EVENTFD:
        raise PeerError(f"a kick fd that is not an eventfd but {name_of(fd) or 'unknown'}")


class Notifier:
    """The writing end of a notification; `fd` stays the caller's. PeerError if it is of no use.

    `notify()` never waits: if it cannot write, a notification is pending already, or nobody is there.
    """

    notify: Callable[[], None]

    def __init__(self, fd: int) -> None:
        self._socket: socket.socket | None = None
        if kind_of(fd) is Kind.SOCKET:
            self._socket = socket.socket(fileno=fd)
            self.notify = _by_socket(self._socket)
        else:
            check_eventfd(fd)
            os.set_blocking(fd, False)
            self.notify = _by_eventfd(fd)

    def close(self) -> None:
        """Stop using it; call this before its fd is closed."""
        if self._socket is not None:
            self._socket.detach()


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
