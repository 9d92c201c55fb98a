# SPDX-License-Identifier: MIT
"""A chip that another process serves, and files opened through it: calls go out and answers come back.

The packets are those of gpiovirt.protocols.gpiochip.wire. Files that come with an answer are examined by
means that ask no file system: the chip's server may be compromised.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from fcntl import F_GETPIPE_SZ, fcntl
from typing import NamedTuple

from gpiovirt.errors import PeerError
from gpiovirt.host.fifo import PipeFifo
from gpiovirt.host.received import receive
from gpiovirt.host.unix_socket import limit_waits
from gpiovirt.protocols.gpiochip import CHIP_FIFO, Answer, FifoShape, fifo_of, wire
from gpiovirt.uapi import gpio as u

__all__ = ["DeviceSocket", "OpenedFile"]

_PATIENCE_S = 10.0  # a process that has not answered by then is taken for dead
_OPENING = frozenset({u.GPIO_V2_GET_LINE_IOCTL, u.GPIO_GET_LINEHANDLE_IOCTL, u.GPIO_GET_LINEEVENT_IOCTL})
_FILES = 2  # of an open or a request: both ends of a pipe
_STRAY_MAX = 4  # answers to earlier questions before one
_PACKETS_OF_A_TURN = 64
_NOW = int(socket.MSG_DONTWAIT)
_DONT_WAIT = _NOW | int(socket.MSG_NOSIGNAL)
_NO_FIFO = PipeFifo(FifoShape(1, 1, False))


class DeviceSocket:
    """File 0 of a connection as a File of the character device, and its way to the others.

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
        self.hung_up: set[int] = set()
        """Files whose lines have vanished, for whoever reads it to take out"""
        self._socket = sock
        self._send = sock.send
        self._receive = sock.recv
        self._patience_s = patience_s
        self._tag = int.from_bytes(os.urandom(3), "little") if tag is None else tag
        self._shape: FifoShape | None = None  # of the fifo that is to come with the answer
        self._opens_file = False
        self._is_kept = False
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
        """Readable when an answer has come, a file has hung up, or the server is gone."""
        return self._socket.fileno()

    def send(self, cmd: int, arg: bytes, compat: bool, file: int = 0) -> None:
        """Send a question about a file; one at a time."""
        self._tag = tag = (self._tag + 1) & 0xFFFFFF or 2
        if cmd in _OPENING:
            self._opens_file = True
            self._shape = fifo_of(cmd, arg, compat)
        self._send(wire.encode_ioctl(tag, cmd, arg, compat, file), _DONT_WAIT)

    def close_file(self, file: int) -> None:
        """Tell that a file is closed while its pipe is not; OSError."""
        self._send(wire.encode_close(file), _DONT_WAIT)

    def wait(self) -> Answer | None:
        """The answer to the question; None if it does not come in time, but still may."""
        return self._answer(0)

    def receive(self) -> Answer | None:
        """The answer to the question if it has come."""
        return self._answer(_NOW)

    def ioctl(self, cmd: int, arg: bytes, compat: bool = False, file: int = 0) -> Answer:
        """The answer, waited for; TimeoutError if it does not come."""
        self.send(cmd, arg, compat, file)
        answer = self._answer(0)
        if answer is None:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return answer

    def do(self, cmd: int, arg: bytes) -> bytes:
        """The argument as it comes back; OSError with the errno with which the ioctl fails."""
        answer = self.ioctl(cmd, arg)
        return (self._must(answer) if answer.errno else answer).reply or b""

    def value(self, argument: bytes) -> tuple[bytes, bool]:
        """What GPIO_V2_LINE_GET_VALUES gives, and whether that is so until is_quiet() is false; OSError."""
        self._is_kept = False
        got = self.ioctl(u.GPIO_V2_LINE_GET_VALUES_IOCTL, argument, file=wire.KEPT)
        return self._must(got).reply or b"", self._is_kept

    def is_quiet(self) -> bool:
        """Whether nothing has come since the last answer; what has come is taken out."""
        try:
            self._receive(wire.PACKET_MAX, _NOW)
        except BlockingIOError:
            return True
        except OSError:  # who asks again will be told
            pass
        return False

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
            tag, answer, file = wire.decode_answer(packet)
            if tag == self._tag:
                self._is_kept = file == wire.KEPT
                return answer
            if tag == wire.HANG_UP_TAG:
                self.hung_up.add(file)
        return self._answer_after_others(flags)

    def _answer_after_others(self, flags: int) -> Answer | None:
        """The answer, when other packets may precede it; None, too, where those are many."""
        strays = 0
        for count in range(_PACKETS_OF_A_TURN):
            if count == _STRAY_MAX:
                flags |= _NOW  # each wait has its time, and they are not to add up
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
                tag, answer, number = wire.decode_answer(packet)
                if tag == self._tag:
                    self._is_kept = number == wire.KEPT
                    shape, self._shape = self._shape, None
                    opens, self._opens_file = self._opens_file, False
                    if shape is not None and not answer.errno:
                        answer = self._take(answer, shape, fds, number if opens else None)
                        fds = []
                    return answer
            finally:
                for fd in fds:
                    os.close(fd)
            if tag == wire.HANG_UP_TAG:
                self.hung_up.add(number)
            elif tag != wire.CHANGED_TAG and (strays := strays + 1) >= _STRAY_MAX:
                raise PeerError("answers to no request")
        return None

    def _take(self, answer: Answer, shape: FifoShape, fds: list[int], number: int | None) -> Answer:
        """The answer with its pipe, which is that of the file that was opened or, without one, of file 0.

        PeerError, and nothing is taken, if it is not what it should be.
        """
        if len(fds) != _FILES or number == 0:
            raise PeerError(f"an answer with {len(fds)} files, and a new one of number {number}")
        reader, writer = fds
        try:
            fcntl(reader, F_GETPIPE_SZ)
            fcntl(writer, F_GETPIPE_SZ)
        except OSError as error:
            raise PeerError("an answer with a file of the wrong kind") from error
        fifo = PipeFifo(shape, reader, writer)
        if number is None:
            self.fifo = fifo
            return answer
        return Answer(0, answer.reply, OpenedFile(self, number, fifo), answer.fd_at)

    def has_hung_up(self, file: int) -> bool:
        """To be called when readable: whether its lines have vanished; OSError if its server is gone."""
        if file not in self.hung_up:
            self.receive()
        return file in self.hung_up

    def close(self) -> None:
        """Close it and all files that were opened through it; pipes are closed by whoever has them."""
        self._socket.close()


class OpenedFile(NamedTuple):
    """A file of lines, as a File of the character device."""

    device: DeviceSocket
    number: int
    fifo: PipeFifo

    def ioctl(self, cmd: int, arg: bytes, compat: bool = False) -> Answer:
        """As DeviceSocket's."""
        return self.device.ioctl(cmd, arg, compat, self.number)

    def close(self) -> None:
        """Its server sees that its pipe is closed."""
        self.fifo.close()
