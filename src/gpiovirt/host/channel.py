# SPDX-License-Identifier: MIT
"""Messages between processes of ours: a JSON object each, with any number of open files beside it."""

from __future__ import annotations

import json
import os
import socket
from array import array
from collections.abc import Sequence
from struct import Struct
from typing import Any, NamedTuple

from gpiovirt.errors import PeerError

__all__ = ["Channel", "Message"]

_FDS_PER_PACKET = 250  # unix(7): SCM_MAX_FD is 253
_PACKET_MAX = 1 << 20
_MORE = b"+"
"""A packet that only brings fds of the message that follows."""
_ucred = Struct("iII")
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Message(NamedTuple):
    """What came; its files are the receiver's. `pid` is the sender's, as the kernel says (0: not asked)."""

    body: dict[str, Any]
    fds: list[int]
    pid: int


class Channel:
    """One end of a SOCK_SEQPACKET connection; it never waits."""

    def __init__(self, sock: socket.socket, fds_max: int = 1 << 16, tell_pid: bool = False) -> None:
        self.socket = sock
        self._fds_max = fds_max
        self._fds: list[int] = []
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PACKET_MAX)
        if tell_pid:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def fileno(self) -> int:
        """Readable when receive() has something to do."""
        return self.socket.fileno()

    def send(self, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """OSError if the other end is gone, or does not take its messages."""
        first = len(fds) - len(fds) % _FDS_PER_PACKET
        for start in range(0, first, _FDS_PER_PACKET):
            socket.send_fds(self.socket, [_MORE], fds[start : start + _FDS_PER_PACKET], _FLAGS)
        socket.send_fds(self.socket, [json.dumps(body).encode()], fds[first:], _FLAGS)

    def receive(self) -> Message | None:
        """The next message; None if there is none yet. EOFError at the end, PeerError for what is none."""
        while True:
            packet, fds, pid = self._packet()
            if packet is None:
                return None
            self._fds += fds
            if len(self._fds) > self._fds_max:
                self._drop()
                raise PeerError(f"more than {self._fds_max} files in a message")
            if packet == _MORE:
                continue
            try:
                body = json.loads(packet)
            except (ValueError, RecursionError) as error:
                self._drop()
                raise PeerError(f"not a message: {error}") from error
            if not isinstance(body, dict):
                self._drop()
                raise PeerError("not a message: no object")
            fds, self._fds = self._fds, []
            return Message(body, fds, pid)

    def _packet(self) -> tuple[bytes | None, list[int], int]:
        space = socket.CMSG_SPACE(4 * (_FDS_PER_PACKET + 3)) + socket.CMSG_SPACE(_ucred.size)
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        try:
            packet, ancillary, got, _ = self.socket.recvmsg(_PACKET_MAX, space, flags)
        except BlockingIOError:
            return None, [], 0
        except OSError as error:
            raise EOFError from error
        fds = array("i")
        pid = 0
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % 4])
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = _ucred.unpack(data)[0]
        if not packet:
            raise EOFError
        if got & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            for fd in fds:
                os.close(fd)
            raise PeerError("a message that is too long, or files that there was no room for")
        return packet, list(fds), pid

    def _drop(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def close(self) -> None:
        """Close this end."""
        self._drop()
        self.socket.close()
