# SPDX-License-Identifier: MIT
"""Files beside bytes: how they come and go, and what those of a peer are, without asking their file system.

A file of a hostile FUSE never answers who stats, maps or closes it, and that wait cannot be killed. So a
file whose kind is not known here must be left alone: open, for as long as the process lives.
(send_fds() and recv_fds() of Python 3.11 ignore their flags.)
"""

from __future__ import annotations

import fcntl
import os
import socket
from array import array
from collections.abc import Iterable, Sequence
from enum import Enum

__all__ = ["Kind", "kind_of", "name_of", "receive", "send", "untouchable"]

_EVENTFD = "anon_inode:[eventfd]"
_SOCKET = "socket:["
_STREAMS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
_fd_size = array("i").itemsize
# as numbers: each | of the enumerations takes a microsecond
_CLOEXEC, _CTRUNC = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)
_NOSIGNAL = int(socket.MSG_NOSIGNAL)


class Kind(Enum):
    """What can be closed, and asked what it is, without a wait."""

    MEMORY = 1
    """A memfd, or a file of tmpfs or hugetlbfs"""
    EVENTFD = 2
    SOCKET = 3
    """A connected kind of Unix socket; a TCP socket can linger when it is closed"""


def kind_of(fd: int) -> Kind | None:
    """What a file is; None for one that must not be touched."""
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # which only files in memory have
        return Kind.MEMORY
    except OSError:
        name = name_of(fd)
    if name == _EVENTFD:
        return Kind.EVENTFD
    return Kind.SOCKET if name.startswith(_SOCKET) and _is_unix(fd) else None


def name_of(fd: int) -> str:
    """What /proc calls a file; a path, and nothing else, begins with a slash. "" if it cannot be told."""
    for directory in ("/proc/self/fd", "/fd"):  # the latter where the root is our own directory of /proc
        try:
            return os.readlink(f"{directory}/{fd}")
        except OSError:
            continue
    return ""


def _is_unix(fd: int) -> bool:
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return False
    try:
        return sock.family == socket.AF_UNIX and sock.type in _STREAMS
    finally:
        sock.detach()


def receive(sock: socket.socket, size: int, fds_max: int, flags: int = 0) -> tuple[bytes, list[int], bool]:
    """Bytes, the files beside them, and whether there were more: those never get here.

    OSError as recvmsg(2).
    """
    space = socket.CMSG_LEN(fds_max * _fd_size) if fds_max else 0  # CMSG_SPACE may have room for one more
    data, ancillary, got, _ = sock.recvmsg(size, space, flags | _CLOEXEC)
    fds = array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % _fd_size])
    return data, fds.tolist(), got & _CTRUNC != 0


def send(sock: socket.socket, data: bytes, fds: Sequence[int], flags: int = 0) -> int:
    """Send bytes with files beside them; the number of bytes sent. OSError as sendmsg(2)."""
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    return sock.sendmsg([data], beside, flags | _NOSIGNAL)


def untouchable(fds: Iterable[int]) -> list[int]:
    """Those of `fds` that must not be touched."""
    return [fd for fd in fds if kind_of(fd) is None]
