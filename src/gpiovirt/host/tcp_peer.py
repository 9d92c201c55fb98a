# SPDX-License-Identifier: MIT
"""Whose the other end of a TCP connection within this machine is: the kernel knows each socket's user."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from struct import Struct

from gpiovirt.errors import HostError

__all__ = ["uid_of_peer"]

_NETLINK_SOCK_DIAG = 4  # linux/netlink.h
_SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_header = Struct("=IHHII")  # linux/netlink.h: nlmsghdr
_request = Struct("=BBBxI2s2s16s16sIII")  # linux/inet_diag.h: inet_diag_req_v2
_answer = Struct("=4x48x12xII")  # linux/inet_diag.h: inet_diag_msg, its uid and inode
_error = Struct("=i")
_NO_COOKIE = 0xFFFFFFFF
_ALL_STATES = 0xFFFFFFFF
_ANSWER_S = 1.0


def uid_of_peer(connection: socket.socket) -> int:
    """The user of the socket at the other end; HostError if it is not of this machine, or gone."""
    ours, theirs = connection.getsockname(), connection.getpeername()
    family = connection.family
    request = _request.pack(
        family,
        socket.IPPROTO_TCP,
        0,
        _ALL_STATES,
        theirs[1].to_bytes(2, "big"),
        ours[1].to_bytes(2, "big"),
        socket.inet_pton(family, theirs[0]).ljust(16, b"\0"),
        socket.inet_pton(family, ours[0]).ljust(16, b"\0"),
        0,
        _NO_COOKIE,
        _NO_COOKIE,
    )
    try:
        told = _ask(request)
    except OSError as error:
        raise HostError.of("the kernel does not say whose a connection is", error) from error
    size, kind, *_ = _header.unpack_from(told)
    if kind == _SOCK_DIAG_BY_FAMILY and size >= _header.size + _answer.size:
        uid, inode = _answer.unpack_from(told, _header.size)
        if not inode:  # its process has closed it: the uid is then 0, whoever that was
            raise HostError("nobody has that connection any more")
        return int(uid)
    number = -_error.unpack_from(told, _header.size)[0] if kind == _NLMSG_ERROR else errno.EPROTO
    raise HostError(f"the kernel knows no such connection of this machine: {os.strerror(number)}")


def _ask(request: bytes) -> bytes:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as sock:
        sock.settimeout(_ANSWER_S)
        size = _header.size + len(request)
        sock.sendto(_header.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + request, (0, 0))
        told = b""
        with suppress(InterruptedError):
            told = sock.recv(8192)
        if len(told) < _header.size + _error.size:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        return told
