# SPDX-License-Identifier: MIT
"""A chip's character device at a Unix socket, for processes of this machine that may connect.

What a peer sends is checked by the protocol; one that breaks it is disconnected, and loses its lines.
No file of a peer's is ever received: what one sends the kernel refuses, or drops.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import select
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress

from gpiovirt.core.chip import Chip
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import AS_IS, LineInfo
from gpiovirt.errors import GpiovirtError, HostError, PeerError
from gpiovirt.host.fifo import PipeFifo
from gpiovirt.host.gpio_device import EVENTS_KEPT
from gpiovirt.host.log import RateLimitedLog
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.received import send
from gpiovirt.host.unix_socket import Peer, SocketListener, peer_of, refuse_files
from gpiovirt.protocols.gpiochip import Answer, ChipFile, FifoShape, File, refusal, wire
from gpiovirt.protocols.gpiochip.caller import encode_output_request, encode_request
from gpiovirt.protocols.gpiochip.v2 import get_line
from gpiovirt.uapi import gpio as u

__all__ = ["DeviceServer"]

_log = logging.getLogger(__name__)
_DONT_WAIT = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_FDS_OF_FILE = 2  # an open chip: a connection, and the write end of its pipe; a file of lines has only that
_FDS_RESERVED = 64
_CLOSED = Answer(errno.ENODEV, why="the file is closed")
_TURNED_AWAY_MAX = 16  # connections over the limit that are kept until they can be told so


def _files_of_a_user() -> int:
    """Half of what a process whose limit is raised can have open, so that others have some too."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max((most - _FDS_RESERVED) // _FDS_OF_FILE // 2, 1)


_FILES_OF_A_USER = _files_of_a_user()  # a confined process cannot ask


class DeviceServer:
    """Serves `chip` to whoever connects to `listener`, if there is one; each connection is an open file.

    A user other than root may have `files_max` of them. `incarnation` tells the chip from others that have
    had its name: who opens it is told.
    """

    def __init__(
        self,
        chip: Chip,
        listener: SocketListener | None,
        reactor: Reactor,
        files_max: int | None = None,
        incarnation: bytes = b"-",
    ) -> None:
        self.chip = chip
        self.incarnation = incarnation
        self.reactor = reactor
        self.log = RateLimitedLog(_log, chip.info.label)
        self.files_max = files_max or _FILES_OF_A_USER
        self._files_by_uid: Counter[int] = Counter()
        self.files: set[_Open | _Lines] = set()
        self._lines: dict[int, _Lines] = {}
        self._closed = select.epoll()
        reactor.add_reader(self._closed.fileno(), self.close_closed)
        self._listener = listener
        if listener is not None:
            refuse_files(listener.socket)
            reactor.add_reader(listener.socket.fileno(), self._accept)

    @property
    def consumers(self) -> list[Peer]:
        """Who has the chip open, or lines of it; one entry per process."""
        return sorted({file.peer for file in self.files if file.peer.pid != os.getpid()})

    def add(self, file: _Open | _Lines) -> None:
        """A connection is there, or a file that was opened through one."""
        self.files.add(file)
        self._files_by_uid[file.peer.uid] += 1

    def remove(self, file: _Open | _Lines) -> None:
        """It is not any more."""
        self.files.discard(file)
        self._files_by_uid[file.peer.uid] -= 1
        if not self._files_by_uid[file.peer.uid]:
            del self._files_by_uid[file.peer.uid]

    def room_for(self, peer: Peer) -> int:
        """How many more files its user may open."""
        return 1 if peer.uid == 0 else self.files_max - self._files_by_uid[peer.uid]

    def too_many(self, peer: Peer) -> Answer:
        """What it is told then."""
        return Answer(errno.EMFILE, why=f"uid {peer.uid} has {self.files_max} files open, the most it may")

    def add_lines(self, fd: int, file: _Lines) -> None:
        """A file of lines is open until `fd` hangs up."""
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

    def lend(self, offset: int, consumer: str, opener: Holder) -> tuple[LineInfo, tuple[int, int]]:
        """A line for another chip of `opener`'s, as it is: its info, its socket and the pipe of its events.

        Both are the caller's. OSError with the errno that a request fails with, and who holds the line as
        the name of its file.
        """
        argument = encode_request(offset, AS_IS, consumer, EVENTS_KEPT)
        answer, fds = self._open_for(argument, offset, opener, os.getuid())
        if fds is None:
            holder = self.chip.line_info(offset).holder if answer.errno == errno.EBUSY else None
            raise OSError(answer.errno, os.strerror(answer.errno), holder and str(holder))
        return self.chip.line_info(offset), fds

    def drive(
        self, levels: Mapping[int, int], consumer: str, opener: Holder
    ) -> tuple[Answer, tuple[int, int] | None]:
        """Lines as outputs for whom `opener` is, who cannot connect: the answer, and the files as of lend().

        They count as that user's own would. OSError.
        """
        peer = Peer(opener.pid, opener.uid, -1, consumer)
        if self.room_for(peer) <= 0:
            return self.too_many(peer), None
        argument = encode_output_request(levels, consumer)
        return self._open_for(argument, next(iter(levels)), opener, opener.uid)

    def _open_for(
        self, argument: bytes, offset: int, opener: Holder, uid: int
    ) -> tuple[Answer, tuple[int, int] | None]:
        """What a gpio_v2_line_request, whose first line is `offset`, asks for; the files are the caller's."""
        self.close_closed()
        fifos: list[PipeFifo] = []

        def open_fifo(shape: FifoShape) -> PipeFifo:
            fifos.append(PipeFifo.make(shape))
            return fifos[-1]

        answer = get_line(self.chip, argument, open_fifo, opener)
        if answer.file is None:
            for fifo in fifos:
                fifo.close()
            return answer, None
        (fifo,) = fifos
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            answer.file.close()
            fifo.close()
            raise
        _LentConnection(self, ours, offset, answer.file, fifo, uid)
        reader, fifo.reader = fifo.reader, -1
        return answer, (theirs.detach(), reader)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock = self._listener.accept()
        except HostError as error:
            self.log.complain(str(error))
            return
        if sock is None:
            return
        refuse_files(sock)
        peer = peer_of(sock)
        if self.room_for(peer) > -_TURNED_AWAY_MAX:
            _Connecting(self, sock, peer)
        else:
            self.log.complain(f"{peer}: {self.too_many(peer).why}")
            sock.close()

    def close(self) -> None:
        """Listen no more, and close all files: lines hang up, as when the chip vanishes."""
        if self._listener is not None:
            self.reactor.remove_reader(self._listener.socket.fileno())
        for file in list(self.files):
            if isinstance(file, _ChipConnection | _LentConnection):
                file.hang_up()
            file.close()
        self.reactor.remove_reader(self._closed.fileno())
        self._closed.close()


class _Open:
    """What all connections share: packets come in until the other end is closed."""

    def __init__(self, server: DeviceServer, sock: socket.socket, peer: Peer) -> None:
        self.peer = peer
        self.server = server
        self._socket = sock
        self._closed = False
        server.add(self)
        server.reactor.add_reader(sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        try:
            packet = self._socket.recv(wire.PACKET_MAX, _DONT_WAIT)  # with no room for files
            if not packet:
                raise ConnectionResetError
            self._receive(packet)
        except BlockingIOError:
            pass
        except PeerError as error:
            self.server.log.complain(f"{self.peer}: {error}")
            self.close()
        except OSError:
            self.close()
        except Exception:
            self.server.log.exception("internal error serving %s", self.peer)
            self.close()

    def _receive(self, packet: bytes) -> None:
        raise NotImplementedError

    def _answer(self, tag: int, answer: Answer, fds: Sequence[int] = (), file: int = 0) -> None:
        packet = wire.encode_answer(tag, answer, file)
        if fds:
            send(self._socket, packet, fds, _DONT_WAIT)
        else:
            self._socket.send(packet, _DONT_WAIT)

    def _tell_refusal(self, cmd: int, answer: Answer) -> None:
        self.server.log.debug("%s: ioctl %#x: %s: %s", self.peer, cmd, os.strerror(answer.errno), answer.why)

    def tell_hang_up(self, file: int) -> None:
        """Tell the other end that the file is gone."""
        with suppress(OSError):
            self._socket.send(wire.encode_hang_up(file), _DONT_WAIT)

    def _forget(self) -> None:
        self._closed = True
        self.server.remove(self)
        self.server.reactor.remove_reader(self._socket.fileno())

    def close(self) -> None:
        """The other end is closed, or is to be."""
        if not self._closed:
            self._forget()
            self._socket.close()


class _Connecting(_Open):
    """A connection that has not said yet what it wants."""

    def _receive(self, packet: bytes) -> None:
        try:
            name, container = wire.decode_open(packet)
        except wire.VersionError as error:
            self._answer(wire.OPEN_TAG, refusal(error))
            raise
        if self.server.room_for(self.peer) < 0:
            answer = self.server.too_many(self.peer)
            self.server.log.complain(f"{self.peer}: {answer.why}")
            self._answer(wire.OPEN_TAG, answer)
            self.close()
            return
        self._forget()  # the socket lives on in the chip's file
        kind = HolderKind.CONTAINER if container else HolderKind.PROGRAM
        opener = Holder("", kind, self.peer.pid, self.peer.uid, container)
        _ChipConnection(self.server, self._socket, self.peer, name, opener)


class _ChipConnection(_Open):
    """An open chip, and the files of lines that were opened through it; it may be closed before they are."""

    def __init__(
        self, server: DeviceServer, sock: socket.socket, peer: Peer, name: str, opener: Holder
    ) -> None:
        self._fifo: PipeFifo | None = None  # of the file that is being opened
        super().__init__(server, sock, peer)
        self._lines: dict[int, _Lines] = {}
        self._last = 0
        self._file: ChipFile | None = None
        try:
            self._file = ChipFile(server.chip, name or server.chip.info.name, self._open_fifo, opener)
            self._chip_fifo = self._take_fifo()
            ends = self._chip_fifo.reader, self._chip_fifo.their_writer
            self._answer(wire.OPEN_TAG, Answer(0, server.incarnation), ends)
            self._chip_fifo.close_reader()
        except HostError as error:
            with suppress(OSError):
                self._answer(wire.OPEN_TAG, refusal(error))
            self.close()
        except OSError:  # it has gone already
            self.close()

    def _open_fifo(self, shape: FifoShape) -> PipeFifo:
        try:
            self._fifo = PipeFifo.make_for_another(shape)
        except OSError as error:
            raise HostError.of("no pipe for the events of the file", error) from error
        return self._fifo

    def _take_fifo(self) -> PipeFifo:
        fifo, self._fifo = self._fifo, None
        assert fifo is not None
        return fifo

    def _receive(self, packet: bytes) -> None:
        tag, cmd, argument, compat, number = wire.decode_ioctl(packet)
        if number:
            lines = self._lines.get(number)
            if not cmd:
                if lines is not None:
                    lines.close()
                return
            answer = _CLOSED if lines is None else lines.ioctl(cmd, argument, compat)
        elif not cmd:
            self._close_chip()
            return
        else:
            self.server.close_closed()
            answer = self._ask_chip(tag, cmd, argument, compat)
            if answer.file is not None:
                return
        if answer.errno:
            self._tell_refusal(cmd, answer)
        self._socket.send(wire.encode_answer(tag, answer), _DONT_WAIT)

    def _ask_chip(self, tag: int, cmd: int, argument: bytes, compat: bool) -> Answer:
        """Its answer, which has been given already if it opens a file."""
        if self._file is None:
            return _CLOSED
        try:
            answer = self._file.ioctl(cmd, argument, compat)
            return answer if answer.file is None else self._open_lines(tag, answer, answer.file)
        finally:
            if self._fifo is not None:  # the request failed after its pipe was there
                self._take_fifo().close()

    def _open_lines(self, tag: int, answer: Answer, file: File) -> Answer:
        if self.server.room_for(self.peer) <= 0 or len(self._lines) == wire.FILES_MAX:
            file.close()
            return self.server.too_many(self.peer)
        number = self._last % wire.FILES_MAX + 1
        while number in self._lines:
            number = number % wire.FILES_MAX + 1
        self._last = number
        fifo = self._take_fifo()
        self._lines[number] = lines = _Lines(self, number, file, fifo, fifo.writer)
        try:
            self._answer(tag, answer, (fifo.reader, fifo.their_writer), number)
        except OSError:
            lines.close()
            raise
        fifo.close_reader()
        return answer

    def forget_lines(self, lines: _Lines) -> None:
        """A file of lines is closed."""
        self._lines.pop(lines.number, None)

    def _close_chip(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            finally:
                self._chip_fifo.close()

    def hang_up(self) -> None:
        """The chip vanishes: tell the other end of each file of lines."""
        for lines in list(self._lines.values()):
            lines.hang_up()

    def close(self) -> None:
        if not self._closed:
            super().close()
            for lines in list(self._lines.values()):
                lines.close()
            self._close_chip()


class _Lines:
    """An open file of lines, closed with its connection or, before that, when `closed` hangs up.

    That is the pipe of a file whose read end another process has: when a program has closed it, or died,
    its lines are free even if its supervisor does not get to say so.
    """

    def __init__(
        self,
        connection: _ChipConnection | _LentConnection,
        number: int,
        file: File,
        fifo: PipeFifo,
        closed: int,
    ) -> None:
        self.number = number
        self.peer = connection.peer
        self.ioctl = file.ioctl
        self._connection = connection
        self._server = connection.server
        self._server.add(self)
        self._server.add_lines(closed, self)
        self._until = closed
        self._file: File | None = file
        self._fifo = fifo
        fifo.on_hang_up = self.hang_up

    def _unwatch(self) -> None:
        until, self._until = self._until, -1
        if until >= 0:
            self._server.remove_lines(until)

    def hang_up(self) -> None:
        """Tell the other end that the lines are gone."""
        if self._until >= 0:
            self._unwatch()  # the pipe is about to be closed
            self._connection.tell_hang_up(self.number)
            self._server.reactor.soon(self.close)

    def close(self) -> None:
        """It is closed, or about to be."""
        file, self._file = self._file, None
        if file is None:
            return
        self._unwatch()
        self._server.remove(self)
        self._connection.forget_lines(self)
        try:
            file.close()
        except GpiovirtError as error:
            self._server.log.error("%s", error)
        finally:
            self._fifo.close()


class _LentConnection(_Open):
    """A line that another chip has borrowed, or lines that are driven for a user who cannot connect."""

    def __init__(
        self, server: DeviceServer, sock: socket.socket, offset: int, file: File, fifo: PipeFifo, uid: int
    ) -> None:
        refuse_files(sock)
        self._offset = offset
        super().__init__(server, sock, Peer(os.getpid(), uid, os.getgid(), ""))
        self._lines = _Lines(self, 0, file, fifo, sock.fileno())

    def _receive(self, packet: bytes) -> None:
        tag, cmd, argument, compat, number = wire.decode_ioctl(packet)
        answer = self._lines.ioctl(cmd, argument, compat)
        if answer.errno:
            self._tell_refusal(cmd, answer)
        is_kept = (
            number == wire.KEPT
            and cmd == u.GPIO_V2_LINE_GET_VALUES_IOCTL
            and not answer.errno
            and self.server.chip.tell_once(self._offset, self._tell_changed)
        )
        self._socket.send(wire.encode_answer(tag, answer, wire.KEPT if is_kept else 0), _DONT_WAIT)

    def _tell_changed(self) -> None:
        with suppress(OSError):
            self._socket.send(wire.CHANGED, _DONT_WAIT)

    def forget_lines(self, _lines: _Lines) -> None:
        """They are closed."""
        self.close()

    def hang_up(self) -> None:
        """The chip vanishes."""
        self._lines.hang_up()

    def close(self) -> None:
        if not self._closed:
            super().close()
            self._lines.close()
