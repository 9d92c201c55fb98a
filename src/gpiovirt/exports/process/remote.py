# SPDX-License-Identifier: MIT
"""Files of a chip that another process serves, for the supervisor: what it is asked it passes on.

Nobody is waited for longer than a healthy server takes: what it does not answer by then is answered when
it does, while others are served. It may die and be replaced: then the files are opened again there, the
lines requested as they were last, and what was being asked is asked again. The program notices nothing.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from struct import Struct
from typing import NamedTuple

from gpiovirt.core.deadline import Cancel
from gpiovirt.errors import GpiovirtError, PeerError
from gpiovirt.exports.process.openable import Later
from gpiovirt.host.device_socket import DeviceSocket
from gpiovirt.host.fifo import PipeFifo
from gpiovirt.host.reactor import Reactor
from gpiovirt.protocols.gpiochip import CHIP_FIFO, Answer, FifoShape
from gpiovirt.protocols.gpiochip.memory import memory_of
from gpiovirt.uapi import gpio as u

__all__ = ["RemoteChip"]

_BUDGET_S = 0.01  # that the loop waits for one answer
_PATIENCE_S = 10.0  # with a server that says nothing, or that is being started again with gpiovirtd
_RETRY_S = 0.02
_WATCHING = frozenset({u.GPIO_V2_GET_LINEINFO_WATCH_IOCTL, u.GPIO_GET_LINEINFO_WATCH_IOCTL})
_GONE = Answer(errno.ENODEV, why="the chip's worker is gone")
_NOT_YET = (ConnectionError, BlockingIOError)
_u32 = Struct("=I")


class _Call(NamedTuple):
    cmd: int
    arg: bytes
    compat: bool
    later: Later


class RemoteChip:
    """The chip served at `path`, and what of it is open here.

    It owns how long its files are waited for: together, as one server answers for all.
    """

    def __init__(
        self, path: str, reactor: Reactor, patience_s: float = _PATIENCE_S, container: str = ""
    ) -> None:
        self.reactor = reactor
        self._patience_s = patience_s
        self._path = path
        self._container = container
        self.is_slow = False
        """Its server has not answered in time, or is away: it is not to be waited for"""
        self._away: dict[_RemoteFile, None] = {}
        self._late: dict[_RemoteFile, None] = {}
        self._script: Generator[DeviceSocket, Answer, None] | None = None
        self._give_up: Cancel | None = None
        self._incarnation: bytes | None = None

    def open(self, name: str, open_fifo: Callable[[FifoShape], PipeFifo]) -> RemoteChipFile:
        """Open the chip as /dev/NAME; OSError if its server refuses that."""
        file = RemoteChipFile(self, name, open_fifo(CHIP_FIFO))
        if self.is_slow:
            self.lost_server(file)
            return file
        try:
            sock = self.connect(name)
        except _NOT_YET:
            self.lost_server(file)
            return file
        except FileNotFoundError as error:
            raise OSError(errno.ENODEV, "the chip no longer exists") from error
        try:
            answer = sock.wait()
        except _NOT_YET:
            answer = None
        except BaseException:
            sock.close()
            raise
        if answer is None:
            sock.close()
            self.lost_server(file)
        elif answer.errno:
            sock.close()
            raise OSError(answer.errno, answer.why or os.strerror(answer.errno))
        else:
            self._check(answer)
            file.resume(sock)
        return file

    def _check(self, answer: Answer) -> Answer:
        """That it is the chip which it was: another of its name is not for files of the former one."""
        if self._incarnation is None:
            self._incarnation = answer.reply
        elif self._incarnation != answer.reply:
            raise OSError(errno.ENODEV, "another chip has that name now")
        return answer

    def connect(self, name: str) -> DeviceSocket:
        """A connection that has asked to open the chip."""
        return DeviceSocket.connect(self._path, name, _BUDGET_S, self._container)

    def is_late(self, file: _RemoteFile) -> None:
        """The server has not answered in time."""
        self._late[file] = None
        self._watch_over()

    def has_answered(self, file: _RemoteFile) -> None:
        """What was late has come."""
        self._late.pop(file, None)
        self._heard()

    def lost_server(self, file: _RemoteFile) -> None:
        """The file needs a server again."""
        self._late.pop(file, None)
        self._away[file] = None
        self._watch_over()
        if self._script is None:
            self.reactor.call_later(0, self._begin)

    def forget(self, file: _RemoteFile) -> None:
        """The file is closed, or lost, or has a server again."""
        self._late.pop(file, None)
        self._away.pop(file, None)
        self._heard()

    def _watch_over(self) -> None:
        self.is_slow = True
        if self._give_up is None:
            self._give_up = self.reactor.call_later(self._patience_s, self._on_patience_at_end)

    def _heard(self) -> None:
        """The server is alive: the time for all files begins anew, if any is waited for."""
        if self._give_up is not None:
            self._give_up()
            self._give_up = None
        self.is_slow = bool(self._away or self._late)
        if self.is_slow:
            self._watch_over()

    def _on_patience_at_end(self) -> None:
        self._give_up = None
        self._end_script()
        for file in [*self._away, *self._late]:
            file.lose(_GONE)

    # opening files again: one after the other, by a script that is gone on with as answers come

    def _begin(self) -> None:
        if self._script is None and self._away:
            self._script = self._open_again()
            self._go_on(None)

    def _end_script(self) -> None:
        script, self._script = self._script, None
        if script is not None:
            script.close()

    def _go_on(self, answer: Answer | None) -> None:
        script = self._script
        assert script is not None
        try:
            sock = next(script) if answer is None else script.send(answer)
        except StopIteration:
            self._script = None
        except _NOT_YET:
            self._try_later()
        except (OSError, GpiovirtError) as error:
            self._refused(error)
        else:
            self.reactor.add_reader(sock.fileno(), lambda: self._on_answer(script, sock))

    def _on_answer(self, script: Generator[DeviceSocket, Answer, None], sock: DeviceSocket) -> None:
        if script is not self._script:  # given up, and the socket closed
            return
        try:
            answer = sock.receive()
        except _NOT_YET:
            self._try_later()
        except (OSError, PeerError) as error:
            self._refused(error)
        else:
            if answer is not None:
                self.reactor.remove_reader(sock.fileno())
                self._go_on(answer)

    def _try_later(self) -> None:
        self._end_script()
        self.reactor.call_later(_RETRY_S, self._begin)

    def _refused(self, error: Exception) -> None:
        """The file whose turn it was is lost; the others may be had."""
        self._end_script()
        number = error.errno if isinstance(error, OSError | GpiovirtError) else None
        if self._away:
            # the path is gone with its chip, and then the device is
            number = errno.ENODEV if number in (None, errno.ENOENT) else number
            next(iter(self._away)).lose(Answer(number or errno.ENODEV, why=str(error)))
        self.reactor.call_later(0, self._begin)

    def _open_again(self) -> Generator[DeviceSocket, Answer, None]:
        asks: DeviceSocket | None = None  # for the files of lines
        opened: DeviceSocket | None = None
        try:
            while self._away:
                file = next(iter(self._away))
                again = file.again()
                if isinstance(file, RemoteChipFile):
                    opened = self.connect(file.name)
                    self._check(_succeed((yield opened)))
                else:
                    if asks is None:
                        asks = self.connect(file.name)
                        self._check(_succeed((yield asks)))
                    asks.send(*again.pop(0), file.compat)
                    answer = _succeed((yield asks))
                    assert isinstance(answer.file, DeviceSocket)
                    opened = answer.file
                for cmd, arg in again:
                    opened.send(cmd, arg, False)
                    _succeed((yield opened))
                if file in self._away:
                    self.forget(file)
                    file.resume(opened)
                else:  # it was closed meanwhile
                    self._discard(opened)
                opened = None
        finally:
            for sock in (asks, opened):
                if sock is not None:
                    self._discard(sock)

    def _discard(self, sock: DeviceSocket) -> None:
        self.reactor.remove_reader(sock.fileno())
        sock.fifo.close()
        sock.close()


def _succeed(answer: Answer) -> Answer:
    if answer.errno:
        raise OSError(answer.errno, answer.why or os.strerror(answer.errno))
    return answer


class _RemoteFile:
    """What chip and line files share: the socket, what is asked over it, and where its events go."""

    compat = False

    def __init__(self, chip: RemoteChip, name: str, fifo: PipeFifo, record_size: int) -> None:
        self.fifo = fifo
        self.name = name
        self._chip = chip
        self._reactor = chip.reactor
        self._record_size = record_size
        self._socket: DeviceSocket | None = None
        self._events = -1  # of the server, to be forwarded
        self._calls: deque[_Call] = deque()
        self._is_sent = False  # the first of them
        self._lost: Answer | None = None

    def ioctl(self, cmd: int, arg: bytes, compat: bool = False) -> Answer | Later:
        sock = self._socket
        if sock is None or self._calls or self._chip.is_slow:
            return self._answer_later(cmd, arg, compat)
        try:
            sock.send(cmd, arg, compat)
            answer = sock.wait()
        except (OSError, PeerError):
            self._lose_server()
            return self._answer_later(cmd, arg, compat)
        if answer is not None:
            return self._done(cmd, arg, compat, answer)
        self._is_sent = True
        self._chip.is_late(self)
        return self._answer_later(cmd, arg, compat)

    def _answer_later(self, cmd: int, arg: bytes, compat: bool) -> Answer | Later:
        if self._lost is not None:
            return self._lost
        later = Later()
        self._calls.append(_Call(cmd, arg, compat, later))
        self._send_next()
        return later

    def _send_next(self) -> None:
        if self._socket is None or self._is_sent or not self._calls:
            return
        cmd, arg, compat, _ = self._calls[0]
        try:
            self._socket.send(cmd, arg, compat)
        except OSError:
            self._lose_server()
        else:
            self._is_sent = True
            self._chip.is_late(self)

    def _on_readable(self) -> None:
        """An answer has come late, the file has hung up, or its server is gone."""
        sock = self._socket
        if sock is None:
            return
        try:
            answer = sock.receive()
        except (OSError, PeerError):
            self._lose_server()
            return
        if answer is not None and self._is_sent:
            self._is_sent = False
            self._chip.has_answered(self)
            cmd, arg, compat, later = self._calls.popleft()
            later.answer(self._done(cmd, arg, compat, answer))
            self._send_next()
        if sock.has_hung_up and self._socket is sock:
            self.lose(_GONE)

    def _done(self, cmd: int, arg: bytes, compat: bool, answer: Answer) -> Answer:
        """Take note of what was done."""
        raise NotImplementedError

    def again(self) -> list[tuple[int, bytes]]:
        """What is to be asked of a server to have the file as it is."""
        raise NotImplementedError

    def resume(self, sock: DeviceSocket) -> None:
        """Here is a server, by a socket that is ours from now on; what it has to tell is forwarded."""
        events, sock.fifo.reader = sock.fifo.reader, -1
        sock.fifo.close()
        self._use(sock)
        self._end_forwarding()
        self._events = events
        os.set_blocking(events, False)
        os.set_blocking(self.fifo.writer, False)
        self._reactor.add_reader(events, self._forward)
        self._send_next()

    def _use(self, sock: DeviceSocket) -> None:
        self._socket = sock
        self._reactor.add_reader(sock.fileno(), self._on_readable)

    def _forward(self) -> None:
        try:
            if not self.fifo.forward(self._events, self._record_size):
                self._end_forwarding()
        except BlockingIOError:
            pass

    def _end_forwarding(self) -> None:
        """What has been told comes through still."""
        events, self._events = self._events, -1
        if events >= 0:
            self._reactor.remove_reader(events)
            with suppress(BlockingIOError):
                while self.fifo.forward(events, self._record_size):
                    pass
            os.close(events)

    def _drop_socket(self) -> None:
        sock, self._socket = self._socket, None
        self._is_sent = False
        if sock is not None:
            self._reactor.remove_reader(sock.fileno())
            sock.close()

    def _lose_server(self) -> None:
        if self._socket is not None and self._socket.has_hung_up:
            self.lose(_GONE)
            return
        self._drop_socket()
        self._end_forwarding()
        self._chip.lost_server(self)

    def _end(self, answer: Answer) -> None:
        self._lost = answer
        self._drop_socket()
        self._end_forwarding()
        self._chip.forget(self)
        while self._calls:
            self._calls.popleft().later.answer(answer)

    def lose(self, answer: Answer) -> None:
        """The file is no more: that is the answer to whatever it is asked."""
        self._end(answer)
        self.fifo.hang_up()

    def close(self) -> None:
        self._end(_GONE)


class RemoteChipFile(_RemoteFile):
    """An open chip; its events come over the supervisor at all times, as they are few."""

    def __init__(self, chip: RemoteChip, name: str, fifo: PipeFifo) -> None:
        super().__init__(chip, name, fifo, CHIP_FIFO.record_size)
        self._watched: dict[int, tuple[int, bytes]] = {}

    def _done(self, cmd: int, arg: bytes, compat: bool, answer: Answer) -> Answer:
        if answer.errno:
            return answer
        if cmd in _WATCHING:
            is_v2 = cmd == u.GPIO_V2_GET_LINEINFO_WATCH_IOCTL
            (offset,) = _u32.unpack_from(arg, 64 if is_v2 else 0)
            self._watched[offset] = (cmd, arg)
            changed = u.gpio_v2_line_info_changed if is_v2 else u.gpioline_info_changed
            self._record_size = changed.size
        elif cmd == u.GPIO_GET_LINEINFO_UNWATCH_IOCTL:
            self._watched.pop(_u32.unpack(arg)[0], None)
        elif answer.file is not None:
            assert isinstance(answer.file, DeviceSocket)
            lines = _RemoteLines(self._chip, self.name, answer.file, (cmd, arg, compat))
            return answer._replace(file=lines)  # type: ignore[arg-type]
        return answer

    def again(self) -> list[tuple[int, bytes]]:
        return list(self._watched.values())


class _RemoteLines(_RemoteFile):
    """An open file of lines, and all that it takes to request them again as they are.

    Its server writes into the program's pipe itself. A successor has a pipe of its own: what comes through
    that is forwarded.
    """

    def __init__(
        self, chip: RemoteChip, name: str, sock: DeviceSocket, request: tuple[int, bytes, bool]
    ) -> None:
        super().__init__(chip, name, sock.fifo, sock.fifo.record_size)
        cmd, arg, self.compat = request
        self._memory = memory_of(cmd, arg)
        self._use(sock)

    def _done(self, cmd: int, arg: bytes, _compat: bool, answer: Answer) -> Answer:
        if cmd != u.GPIO_V2_LINE_GET_VALUES_IOCTL and not answer.errno:
            self._memory.remember(cmd, arg)
        return answer

    def again(self) -> list[tuple[int, bytes]]:
        return self._memory.again()
