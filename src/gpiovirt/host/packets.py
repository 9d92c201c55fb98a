# SPDX-License-Identifier: MIT
"""Messages between processes: a JSON object per packet, over SOCK_SEQPACKET, with files where both agree.

Nothing here waits. A receiver that takes no files leaves no room for them: the kernel then drops those that
come, so that we never have to close a stranger's file, which may take for ever.
"""

import json
import os
import socket
from array import array
from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from typing import Any, NamedTuple

from gpiovirt.errors import PeerError
from gpiovirt.host.received import kind_of, name_of, send
from gpiovirt.host.terminal import terminal_index
from gpiovirt.host.unix_socket import refuse_files

__all__ = [
    "PACKET_MAX",
    "Channel",
    "Message",
    "close_files",
    "decode",
    "encode",
    "is_closable",
]

PACKET_MAX = 1 << 18
_FDS_PER_PACKET = 250  # unix(7): SCM_MAX_FD is 253
_MORE = b"+"
"""A packet that only carries fds of the message that follows."""
_ucred = Struct("iII")
_HARMLESS = ("pipe:[", "anon_inode:")  # their names in /proc; a path begins with /


class Message(NamedTuple):
    """A received message and its files. `pid` is the sender's, from the kernel (0: not asked)."""

    body: dict[str, Any]
    fds: list[int]
    pid: int


def encode(body: Mapping[str, Any]) -> bytes:
    """A packet."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="surrogatepass")


def decode(packet: bytes) -> dict[str, Any]:
    """The object in a packet; PeerError if there is none."""
    try:
        body = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise PeerError(f"not a message: {error}") from error
    if not isinstance(body, dict):
        raise PeerError("not a message: no object")
    return body


def is_closable(fd: int) -> bool:
    """Whether a received file can be closed without waiting."""
    return kind_of(fd) is not None or name_of(fd).startswith(_HARMLESS) or terminal_index(fd) >= 0


def close_files(fds: Iterable[int]) -> int:
    """Close received files; returns how many are left open, since closing them could hang."""
    left = 0
    for fd in fds:
        if is_closable(fd):
            os.close(fd)
        else:
            left += 1
    return left


class Channel:
    """One end of a SOCK_SEQPACKET connection; it takes at most `fds_max` files with a message."""

    def __init__(self, sock: socket.socket, fds_max: int = 0, tell_pid: bool = False) -> None:
        self.socket = sock
        self._fds_max = fds_max
        self._fds: list[int] = []
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PACKET_MAX)
        if tell_pid:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        if not fds_max:
            refuse_files(sock)

    def fileno(self) -> int:
        """Readable when receive() has something to do."""
        return self.socket.fileno()

    def take_at_most(self, fds_max: int) -> None:
        """Take at most this many from now on; an end that took none still takes none."""
        self._fds_max = min(self._fds_max, fds_max)

    def send(self, body: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """OSError if the other end is gone, or does not take its messages."""
        self.send_packet(encode(body), fds)

    def send_packet(self, packet: bytes, fds: Sequence[int] = ()) -> None:
        """Send a packet made by encode()."""
        first = len(fds) - len(fds) % _FDS_PER_PACKET
        for start in range(0, first, _FDS_PER_PACKET):
            send(self.socket, _MORE, fds[start : start + _FDS_PER_PACKET], socket.MSG_DONTWAIT)
        send(self.socket, packet, fds[first:], socket.MSG_DONTWAIT)

    def receive(self) -> Message | None:
        """The next message; None if there is none yet. EOFError at the end, PeerError if it is none."""
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
                body = decode(packet)
            except PeerError:
                self._drop()
                raise
            fds, self._fds = self._fds, []
            return Message(body, fds, pid)

    def _packet(self) -> tuple[bytes | None, list[int], int]:
        space = 0
        if self._fds_max:
            fds_max = min(self._fds_max, _FDS_PER_PACKET + 3)
            space = socket.CMSG_SPACE(4 * fds_max) + socket.CMSG_SPACE(_ucred.size)
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        try:
            packet, ancillary, got, _ = self.socket.recvmsg(PACKET_MAX, space, flags)
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
            close_files(fds)
            raise EOFError
        cut = socket.MSG_TRUNC | (socket.MSG_CTRUNC if self._fds_max else 0)
        if got & cut:
            close_files(fds)
            raise PeerError("a message that is too long, or files that there was no room for")
        return packet, list(fds), pid

    def _drop(self) -> None:
        fds, self._fds = self._fds, []
        close_files(fds)

    def close(self) -> None:
        """Close this end."""
        self._drop()
        self.socket.close()
