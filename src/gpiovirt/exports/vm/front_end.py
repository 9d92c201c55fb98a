# SPDX-License-Identifier: MIT
"""The socket of a VMM: its messages are looked at, and taken out of it when they have been dealt with.

So a message that was under way when its process died is there for the next one.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Sequence

from gpiovirt.host.received import receive, send
from gpiovirt.protocols import vhost_user as v
from gpiovirt.protocols.vhost_user.messages import FDS_MAX
from gpiovirt.protocols.vhost_user.messages import header as message_header

__all__ = ["GONE", "MUTE", "finish", "is_first", "peek"]

GONE = "is gone"
MUTE = "does not take its answers"

_SO_PEEK_OFF = 42  # asm-generic/socket.h
_NOW = socket.MSG_DONTWAIT
_LOOK = socket.MSG_DONTWAIT | socket.MSG_PEEK


def peek(sock: socket.socket) -> tuple[bytes, list[int], bool] | None:
    """The next message, copies of its files, and whether it had more; None if it is not all there yet.

    EOFError when no more can come, PeerError for what is no message.
    """
    try:
        header, _ = _first(sock, message_header.size)
        size = v.size_of(header) if len(header) == message_header.size else message_header.size
        message, has_files = _first(sock, size)
        if len(message) < size or len(header) < message_header.size:
            _check_incomplete(sock)
            return None
        if not has_files:
            return message, [], False
        _, fds, more = receive(sock, 1, FDS_MAX, _LOOK)
    except BlockingIOError:
        return None
    except OSError as error:
        raise EOFError from error
    return message, fds, more


def _first(sock: socket.socket, size: int) -> tuple[bytes, bool]:
    """As many of the first bytes as are there, and whether there are files beside the very first."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, -1)  # who was here before may have died below
    data, _, has_files = receive(sock, size, 0, _LOOK)
    if not data:
        raise EOFError
    if len(data) < size:  # a look goes no further than to where other files are
        try:
            while len(data) < size:
                sock.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, len(data))
                more, _, _ = receive(sock, size - len(data), 0, _LOOK)
                if not more:
                    break
                data += more
        except BlockingIOError:
            pass
        finally:
            sock.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, -1)
    return data, has_files


def _check_incomplete(sock: socket.socket) -> None:
    """EOFError if the rest of a message cannot come any more."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    if poll.poll(0):
        raise EOFError


def is_first(sock: socket.socket, message: bytes) -> bool:
    """Whether this is what would be looked at next."""
    try:
        return bool(message) and _first(sock, len(message))[0] == message
    except (OSError, EOFError):
        return False


def finish(sock: socket.socket, message: bytes, answers: Sequence[v.Outgoing]) -> str:
    """Take `message` out and send its answers; returns why the VMM cannot be served on, or nothing."""
    try:
        left = len(message)
        while left:
            left -= len(receive(sock, left, 0, _NOW)[0]) or left
        for answer in answers:
            if send(sock, answer.data, answer.fds, _NOW) != len(answer.data):
                return MUTE
    except OSError as error:
        return GONE if error.errno in (errno.EPIPE, errno.ECONNRESET) else f"{MUTE} ({error.strerror})"
    return ""
