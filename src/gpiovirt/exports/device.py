# SPDX-License-Identifier: MIT
"""A chip's character device at a Unix socket, for processes of this machine that may connect.

What a peer sends is checked by the protocol; one that breaks it is disconnected, and loses its lines.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import stat
from contextlib import suppress

from gpiovirt.core.chip import Chip
from gpiovirt.core.line import AS_IS, LineInfo
from gpiovirt.errors import GpiovirtError, HostError, PeerError
from gpiovirt.host.fifo import PipeFifo, reopen
from gpiovirt.host.gpio_device import EVENTS_KEPT
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Peer, SocketListener, peer_of
from gpiovirt.protocols.gpiochip import Answer, ChipFile, FifoShape, File, wire
from gpiovirt.protocols.gpiochip.holder import encode_request
from gpiovirt.protocols.gpiochip.v2 import get_line

__all__ = ["DeviceServer"]

_log = logging.getLogger(__name__)
_DONT_WAIT = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class DeviceServer:
    """Serves `chip` to whoever connects to `listener`, if there is one; each connection is an open file."""

    def __init__(self, chip: Chip, listener: SocketListener | None, reactor: Reactor) -> None:
        self.chip = chip
        self.reactor = reactor
        self.files: set[_Open] = set()
        self._lines: dict[int, _LinesConnection] = {}
        self._closed = select.epoll()
        self._listener = listener
        if listener is not None:
            reactor.add_reader(listener.socket.fileno(), self._accept)

    @property
    def consumers(self) -> list[Peer]:
        """Who has the chip open, or lines of it; one entry per process."""
        return sorted({file.peer for file in self.files if file.peer.pid != os.getpid()})

    def add_lines(self, fd: int, file: _LinesConnection) -> None:
        """A file of lines is open at the socket `fd`."""
        self._lines[fd] = file
        self._closed.register(fd, 0)

    def remove_lines(self, fd: int) -> None:
        """It is closed, or about to be."""
        del self._lines[fd]
        self._closed.unregister(fd)

    def close_closed(self) -> None:
        """Files that were closed by now free their lines before anybody asks about them."""
        for fd, _ in self._closed.poll(0):
            self._lines[fd].close()

    def lend(self, offset: int, consumer: str) -> tuple[LineInfo, tuple[int, int]]:
        """A line for another chip, as it is: its info, its socket and the pipe of its events.

        Both are the caller's. OSError with the errno that a request fails with, and the holder's name as
        that of its file.
        """
        fifos: list[PipeFifo] = []

        def open_fifo(shape: FifoShape) -> PipeFifo:
            fifos.append(PipeFifo.make(shape))
            return fifos[-1]

        argument = encode_request(offset, AS_IS, consumer, EVENTS_KEPT)
        answer = get_line(self.chip, argument, open_fifo)
        if answer.file is None:
            for fifo in fifos:
                fifo.close()
            holder = self.chip.line_info(offset).consumer if answer.errno == errno.EBUSY else None
            raise OSError(answer.errno, os.strerror(answer.errno), holder)
        (fifo,) = fifos
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            answer.file.close()
            fifo.close()
            raise
        _LinesConnection(self, ours, Peer(os.getpid(), os.getuid(), os.getgid(), consumer), answer.file, fifo)
        reader, fifo.reader = fifo.reader, -1
        return self.chip.line_info(offset), (theirs.detach(), reader)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock = self._listener.accept()
        except HostError as error:
            _log.error("%s: %s", self.chip.info.label, error)
            return
        if sock is not None:
            _Connecting(self, sock, peer_of(sock))

    def close(self) -> None:
        """Listen no more, and close all files: lines hang up, as when the chip vanishes."""
        if self._listener is not None:
            self.reactor.remove_reader(self._listener.socket.fileno())
        for file in list(self.files):
            if isinstance(file, _LinesConnection):
                file.hang_up()
            file.close()
        self._closed.close()


class _Open:
    """What all connections share: packets come in until the other end is closed."""

    def __init__(self, server: DeviceServer, sock: socket.socket, peer: Peer) -> None:
        self.peer = peer
        self._server = server
        self._socket = sock
        self._closed = False
        server.files.add(self)
        server.reactor.add_reader(sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        try:
            self._receive()
        except BlockingIOError:
            pass
        except PeerError as error:
            _log.warning("%s: %s: %s", self._server.chip.info.label, self.peer, error)
            self.close()
        except OSError:
            self.close()
        except Exception:
            _log.exception("a fault of ours in serving %s", self.peer)
            self.close()

    def _receive(self) -> None:
        raise NotImplementedError

    def _receive_with_pipe(self) -> tuple[bytes, int]:
        """A packet, and the end of a pipe for events that came with it (-1: none), ours to close."""
        packet, fds, _, _ = socket.recv_fds(
            self._socket, wire.PACKET_MAX, 1, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        )
        writer = -1
        if fds:
            try:
                writer = _private_end(fds[0])
            finally:
                os.close(fds[0])
        if not packet:
            if writer >= 0:
                os.close(writer)
            raise ConnectionResetError
        return packet, writer

    def _answer(self, tag: int, answer: Answer, file: int = -1) -> None:
        packet = wire.encode_answer(tag, answer)
        if file >= 0:
            socket.send_fds(self._socket, [packet], [file], _DONT_WAIT)
        else:
            self._socket.send(packet, _DONT_WAIT)

    def close(self) -> None:
        """The other end is closed, or is to be."""
        if not self._closed:
            self._closed = True
            self._server.files.discard(self)
            self._server.reactor.remove_reader(self._socket.fileno())
            self._socket.close()


class _Connecting(_Open):
    """A connection that has not said yet what it wants."""

    def _receive(self) -> None:
        packet, writer = self._receive_with_pipe()
        if writer < 0:
            raise PeerError("no pipe came with the first packet")
        try:
            name = wire.decode_open(packet)
        except PeerError:
            os.close(writer)
            raise
        self._closed = True  # the socket lives on in the chip's file
        self._server.files.discard(self)
        self._server.reactor.remove_reader(self._socket.fileno())
        _ChipConnection(self._server, self._socket, self.peer, name, writer)


class _ChipConnection(_Open):
    """An open chip."""

    def __init__(self, server: DeviceServer, sock: socket.socket, peer: Peer, name: str, writer: int) -> None:
        self._writer = writer
        self._fifo: PipeFifo | None = None
        self._file = ChipFile(server.chip, name or server.chip.info.name, self._open_fifo)
        self._chip_fifo, self._fifo = self._fifo, None
        super().__init__(server, sock, peer)
        with suppress(OSError):
            self._answer(wire.OPEN_TAG, Answer(0))

    def _open_fifo(self, shape: FifoShape) -> PipeFifo:
        if self._writer < 0:
            raise _NoPipeError("no pipe came for the events of the file to open")
        self._fifo = PipeFifo(shape, writer=self._writer)
        self._writer = -1
        return self._fifo

    def _receive(self) -> None:
        packet, self._writer = self._receive_with_pipe()
        try:
            tag, cmd, argument, compat = wire.decode_ioctl(packet)
            self._server.close_closed()
            answer = self._file.ioctl(cmd, argument, compat)
            fifo, self._fifo = self._fifo, None
            if answer.file is None:
                if fifo is not None:  # the request failed after its pipe was there
                    fifo.close()
                self._answer(tag, answer)
            else:
                assert fifo is not None
                self._open_lines(tag, answer, answer.file, fifo)
        finally:
            if self._writer >= 0:
                os.close(self._writer)
                self._writer = -1

    def _open_lines(self, tag: int, answer: Answer, file: File, fifo: PipeFifo) -> None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            file.close()
            fifo.close()
            self._answer(tag, Answer(error.errno or errno.EMFILE))
            return
        lines = _LinesConnection(self._server, ours, self.peer, file, fifo)
        with theirs:
            try:
                self._answer(tag, answer, theirs.fileno())
            except OSError:
                lines.close()
                raise

    def close(self) -> None:
        if not self._closed:
            super().close()
            self._file.close()
            if self._chip_fifo is not None:
                self._chip_fifo.close()


class _LinesConnection(_Open):
    """An open file of lines."""

    def __init__(
        self, server: DeviceServer, sock: socket.socket, peer: Peer, file: File, fifo: PipeFifo
    ) -> None:
        super().__init__(server, sock, peer)
        server.add_lines(sock.fileno(), self)
        self._file = file
        self._fifo = fifo
        fifo.on_hang_up = self.hang_up
        self._ioctl = file.ioctl

    def hang_up(self) -> None:
        """Tell the other end that the lines are gone."""
        with suppress(OSError):
            self._socket.send(wire.HANG_UP, _DONT_WAIT)
            self._socket.shutdown(socket.SHUT_RDWR)

    def _receive(self) -> None:
        # an fd that came along is dropped by the kernel: there is no room for one
        packet = self._socket.recv(wire.PACKET_MAX, socket.MSG_DONTWAIT)
        if not packet:
            raise ConnectionResetError
        tag, cmd, argument, compat = wire.decode_ioctl(packet)
        self._socket.send(wire.encode_answer(tag, self._ioctl(cmd, argument, compat)), _DONT_WAIT)

    def close(self) -> None:
        if not self._closed:
            self._server.remove_lines(self._socket.fileno())
            super().close()
            try:
                self._file.close()
            except GpiovirtError as error:
                _log.error("%s: %s", self._server.chip.info.label, error)
            self._fifo.close()


class _NoPipeError(GpiovirtError):
    errno = errno.EINVAL


def _private_end(fd: int) -> int:
    """The write end of the pipe that `fd` is, not shared with the peer: it cannot make our writes wait."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        raise PeerError("what came for events is not a pipe")
    try:
        return reopen(fd, os.O_WRONLY)
    except OSError as error:
        raise PeerError(f"a pipe for events that nobody reads ({error.strerror})") from error
