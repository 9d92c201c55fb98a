# SPDX-License-Identifier: MIT
"""An open file of a chip that another process serves: calls go out and wait for their answers.

The packets are those of gpiovirt.protocols.gpiochip.wire.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from gpiovirt.errors import HostError, PeerError
from gpiovirt.protocols.gpiochip import wire

__all__ = ["DeviceSocket", "Opened", "check_access"]

_timeval = Struct("ll")
_PATIENCE_S = 10  # a process that answers so late is taken for dead
_NO_FDS: Sequence[int] = ()


class Opened(NamedTuple):
    """The answer to an ioctl; `file` is what it opened, the caller's to close."""

    errno: int
    fd_at: int
    argument: bytes | None
    file: DeviceSocket | None


class DeviceSocket:
    """One file. OSError when the process that serves it is gone, PeerError when it makes no sense."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.has_hung_up = False
        self._tag = int.from_bytes(os.urandom(3), "little")
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval.pack(_PATIENCE_S, 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval.pack(_PATIENCE_S, 0))

    @classmethod
    def open(cls, path: str, name: str, events: int) -> DeviceSocket:
        """Open the chip served at `path`, as /dev/`name`; its events go to the pipe `events`."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(path)
            made = cls(sock)
            os.fchmod(events, 0o666)  # whoever serves the chip may be another user, and opens it anew
            answer = made._call(wire.OPEN_TAG, wire.encode_open(name), (events,))
            if answer.errno:
                raise OSError(answer.errno, os.strerror(answer.errno))
        except BaseException:
            sock.close()
            raise
        return made

    def fileno(self) -> int:
        """Readable when the file has hung up, or its server is gone."""
        return self._socket.fileno()

    def ioctl(self, cmd: int, argument: bytes) -> bytes:
        """The argument as it comes back; OSError with the errno that it fails with."""
        answer = self._ioctl(cmd, argument, False, _NO_FDS)
        if answer.errno:
            raise OSError(answer.errno, os.strerror(answer.errno))
        return answer.argument or b""

    def open_ioctl(self, cmd: int, argument: bytes, compat: bool, events: int) -> Opened:
        """An ioctl that may open a file, whose events go to the pipe `events`."""
        os.fchmod(events, 0o666)
        return self._ioctl(cmd, argument, compat, (events,))

    def plain_ioctl(self, cmd: int, argument: bytes, compat: bool) -> tuple[int, bytes | None]:
        """(errno, the argument as it comes back)"""
        answer = self._ioctl(cmd, argument, compat, _NO_FDS)
        return answer.errno, answer.argument

    def _ioctl(self, cmd: int, argument: bytes, compat: bool, fds: Sequence[int]) -> Opened:
        self._tag = tag = (self._tag + 1) & 0xFFFFFF or 2
        return self._call(tag, wire.encode_ioctl(tag, cmd, argument, compat), fds)

    def _call(self, tag: int, packet: bytes, fds: Sequence[int]) -> Opened:
        if fds:
            socket.send_fds(self._socket, [packet], fds, socket.MSG_NOSIGNAL)
        else:
            self._socket.send(packet, socket.MSG_NOSIGNAL)
        while True:
            reply, file = self._receive(bool(fds))
            if reply.tag == tag:
                return Opened(reply.errno, reply.fd_at, reply.argument, file)
            if file is not None:
                file.close()
            if reply.tag == wire.HANG_UP_TAG:
                self.has_hung_up = True

    def _receive(self, may_bring_file: bool) -> tuple[wire.Reply, DeviceSocket | None]:
        opened: list[int] = []
        if may_bring_file:
            packet, opened, _, _ = socket.recv_fds(self._socket, wire.PACKET_MAX, 1, socket.MSG_CMSG_CLOEXEC)
        else:
            packet = self._socket.recv(wire.PACKET_MAX)
        if not packet:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        file = DeviceSocket(socket.socket(fileno=opened[0])) if opened else None
        try:
            return wire.decode_reply(packet), file
        except PeerError:
            if file is not None:
                file.close()
            raise

    def look(self) -> bool:
        """To be called when readable: True if the file has hung up; OSError if its server is gone."""
        while not self.has_hung_up:
            try:
                packet = self._socket.recv(wire.PACKET_MAX, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            if not packet:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            self.has_hung_up = wire.decode_reply(packet).tag == wire.HANG_UP_TAG
        return True

    def detach(self) -> int:
        """The socket's fd, the caller's from now on."""
        return self._socket.detach()

    def close(self) -> None:
        """Close the file."""
        self._socket.close()


def check_access(path: str) -> None:
    """HostError, saying why, unless this user may open the chip served at `path`."""
    reader, writer = os.pipe()
    try:
        DeviceSocket.open(path, "", writer).close()
    except OSError as error:
        raise HostError.of(f"cannot open the chip at {path}", error) from error
    finally:
        os.close(reader)
        os.close(writer)
