# SPDX-License-Identifier: MIT
"""An open file of a chip that another process serves: calls go out and answers come back.

The packets are those of gpiovirt.protocols.gpiochip.wire. Files that come with an answer are examined by
means that ask no file system: the chip's server may be compromised.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from fcntl import F_GETPIPE_SZ, fcntl

from gpiovirt.errors import HostError, PeerError
from gpiovirt.host.fifo import PipeFifo
from gpiovirt.host.received import receive
from gpiovirt.host.unix_socket import limit_waits
from gpiovirt.protocols.gpiochip import CHIP_FIFO, Answer, FifoShape, fifo_of, wire
from gpiovirt.uapi import gpio as u

__all__ = ["DeviceSocket", "check_access"]

_PATIENCE_S = 10.0  # a process that has not answered by then is taken for dead
_OPENING = frozenset({u.GPIO_V2_GET_LINE_IOCTL, u.GPIO_GET_LINEHANDLE_IOCTL, u.GPIO_GET_LINEEVENT_IOCTL})
_FILES = 3  # of an open: both ends of a pipe; of a request: the new file's socket before them
_STRAY_MAX = 4  # packets before an answer: to an earlier question, and a hang-up
_NOW = int(socket.MSG_DONTWAIT)
_DONT_WAIT = _NOW | int(socket.MSG_NOSIGNAL)
_NO_FIFO = PipeFifo(FifoShape(1, 1, False))


class DeviceSocket:
    """One file, as a File of the character device.

    OSError when the process that serves it is gone, PeerError when it breaks the protocol. `fifo` has what
    came with the file: the read end of its events, and a write end for the process that keeps the pipe alive.
    """

    def __init__(
        self,
        sock: socket.socket,
        fifo: PipeFifo | None = None,
        patience_s: float = _PATIENCE_S,
        tag: int | None = None,
    ) -> None:
        """`tag` is that of the answer to come first; who asked before us may have any."""
        self.fifo = fifo or _NO_FIFO
        self.has_hung_up = False
        self._socket = sock
        self._send = sock.send
        self._receive = sock.recv
        self._patience_s = patience_s
        self._tag = int.from_bytes(os.urandom(3), "little") if tag is None else tag
        self._shape: FifoShape | None = None  # of the fifo that is to come with the answer
        self._opens_file = False
        limit_waits(sock, patience_s, socket.SO_RCVTIMEO)

    @classmethod
    def connect(
        cls, path: str, name: str, patience_s: float = _PATIENCE_S, container: str = ""
    ) -> DeviceSocket:
        """Ask to open the chip served at `path`, as /dev/NAME: the first packet is the answer.

        It does not wait; BlockingIOError if others must be served first.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            sock.connect(path)
            sock.setblocking(True)
            made = cls(sock, None, patience_s, wire.OPEN_TAG)
            made._shape = CHIP_FIFO
            made._send(wire.encode_open(name, container), _DONT_WAIT)
        except BaseException:
            sock.close()
            raise
        return made

    @classmethod
    def open(cls, path: str, name: str) -> DeviceSocket:
        """Open the chip served at `path`, as /dev/NAME."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                made = cls.connect(path, name)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        try:
            made._must(made.wait())
        except BaseException:
            made.close()
            raise
        return made

    def fileno(self) -> int:
        """Readable when an answer has come, the file has hung up, or its server is gone."""
        return self._socket.fileno()

    def send(self, cmd: int, arg: bytes, compat: bool) -> None:
        """Send a question; one at a time."""
        self._tag = tag = (self._tag + 1) & 0xFFFFFF or 2
        if cmd in _OPENING:
            self._opens_file = True
            self._shape = fifo_of(cmd, arg, compat)
        self._send(wire.encode_ioctl(tag, cmd, arg, compat), _DONT_WAIT)

    def wait(self) -> Answer | None:
        """The answer to the question; None if it does not come in time, but still may."""
        return self._answer(0)

    def receive(self) -> Answer | None:
        """The answer to the question if it has come."""
        return self._answer(_NOW)

    def ioctl(self, cmd: int, arg: bytes, compat: bool = False) -> Answer:
        """The answer, waited for; TimeoutError if it does not come."""
        self.send(cmd, arg, compat)
        answer = self._answer(0)
        if answer is None:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return answer

    def do(self, cmd: int, arg: bytes) -> bytes:
        """The argument as it comes back; OSError with the errno with which the ioctl fails."""
        answer = self.ioctl(cmd, arg)
        return (self._must(answer) if answer.errno else answer).reply or b""

    @staticmethod
    def _must(answer: Answer | None) -> Answer:
        number = errno.ETIMEDOUT if answer is None else answer.errno
        if answer is None or number:
            raise OSError(number, answer.why if answer and answer.why else os.strerror(number))
        return answer

    def _answer(self, flags: int) -> Answer | None:
        if self._shape is None:
            try:
                packet = self._receive(wire.PACKET_MAX, flags)
            except BlockingIOError:
                return None
            if not packet:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            tag, answer = wire.decode_answer(packet)
            if tag == self._tag:
                return answer
            self.has_hung_up |= tag == wire.HANG_UP_TAG
        return self._answer_after_others(flags)

    def _answer_after_others(self, flags: int) -> Answer | None:
        """The answer, when other packets may precede it."""
        for _ in range(_STRAY_MAX):
            try:
                if self._shape is None:
                    packet = self._receive(wire.PACKET_MAX, flags)
                    fds: list[int] = []
                else:
                    packet, fds, _ = receive(self._socket, wire.PACKET_MAX, _FILES, flags)
            except BlockingIOError:
                return None
            if not packet:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            try:
                tag, answer = wire.decode_answer(packet)
                if tag == self._tag:
                    shape, self._shape = self._shape, None
                    if shape is not None and not answer.errno:
                        answer = self._take(answer, shape, fds)
                        fds = []
                    return answer
            finally:
                for fd in fds:
                    os.close(fd)
            self.has_hung_up |= tag == wire.HANG_UP_TAG
        raise PeerError("answers to no request")

    def _take(self, answer: Answer, shape: FifoShape, fds: list[int]) -> Answer:
        """The answer with its files; PeerError, and nothing is taken, if they are not what they should be."""
        if len(fds) != 2 + self._opens_file:
            raise PeerError(f"an answer with {len(fds)} files")
        *sockets, reader, writer = fds
        try:
            fcntl(reader, F_GETPIPE_SZ)
            fcntl(writer, F_GETPIPE_SZ)
            file = self._opened(sockets[0]) if sockets else self
        except OSError as error:
            raise PeerError("an answer with a file of the wrong kind") from error
        file.fifo = PipeFifo(shape, reader, writer)
        return Answer(0, answer.reply, file, answer.fd_at) if sockets else answer

    def _opened(self, fd: int) -> DeviceSocket:
        """The file at a received socket; OSError if it is none, and then the fd is the caller's still."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
        try:
            return DeviceSocket(sock, None, self._patience_s, wire.OPEN_TAG)
        except OSError:
            sock.detach()
            raise

    def look(self) -> bool:
        """To be called when readable: True if the file has hung up; OSError if its server is gone."""
        if not self.has_hung_up:
            self.receive()
        return self.has_hung_up

    def detach(self) -> int:
        """The socket's fd, the caller's from now on."""
        return self._socket.detach()

    def close(self) -> None:
        """Close the file; its pipe is closed by whoever has `fifo`."""
        self._socket.close()


def check_access(path: str) -> None:
    """HostError, saying why, unless this user may open the chip served at `path`."""
    try:
        made = DeviceSocket.open(path, "")
    except OSError as error:
        raise HostError.of(f"cannot open the chip at {path}", error) from error
    made.fifo.close()
    made.close()
