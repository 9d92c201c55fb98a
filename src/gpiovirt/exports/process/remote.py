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
from gpiovirt.host.device_socket import DeviceSocket, OpenedFile
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
    file: _RemoteFile
    cmd: int
    arg: bytes
    compat: bool
    later: Later


class RemoteChip:
    """The chip served at `path`, and what of it is open here.

    It owns how long its connections are waited for: together, as one server answers for all.
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
        self._away: dict[_Connection, None] = {}
        self._late: dict[_Connection, None] = {}
        self._script: Generator[DeviceSocket, Answer, None] | None = None
        self._give_up: Cancel | None = None
        self._incarnation: bytes | None = None

    def open(self, name: str, open_fifo: Callable[[FifoShape], PipeFifo]) -> RemoteChipFile:
        """Open the chip as /dev/NAME; OSError if its server refuses that."""
        connection = _Connection(self, name)
        file = RemoteChipFile(connection, open_fifo(CHIP_FIFO))
        if self.is_slow:
            self.lost_server(connection)
            return file
        try:
            sock = self.connect(name)
        except _NOT_YET:
            self.lost_server(connection)
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
            self.lost_server(connection)
        elif answer.errno:
            sock.close()
            raise OSError(answer.errno, answer.why or os.strerror(answer.errno))
        else:
            self._check(answer)
            connection.resume(sock, {})
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

    def is_late(self, connection: _Connection) -> None:
        """The server has not answered in time."""
        self._late[connection] = None
        self._watch_over()

    def has_answered(self, connection: _Connection) -> None:
        """What was late has come."""
        self._late.pop(connection, None)
        self._heard()

    def lost_server(self, connection: _Connection) -> None:
        """The connection needs a server again."""
        self._late.pop(connection, None)
        self._away[connection] = None
        self._watch_over()
        if self._script is None:
            self.reactor.call_later(0, self._begin)

    def forget(self, connection: _Connection) -> None:
        """It is closed, or lost, or has a server again."""
        self._late.pop(connection, None)
        self._away.pop(connection, None)
        self._heard()

    def _watch_over(self) -> None:
        self.is_slow = True
        if self._give_up is None:
            self._give_up = self.reactor.call_later(self._patience_s, self._on_patience_at_end)

    def _heard(self) -> None:
        """The server is alive: the time for all begins anew, if any is waited for."""
        if self._give_up is not None:
            self._give_up()
            self._give_up = None
        self.is_slow = bool(self._away or self._late)
        if self.is_slow:
            self._watch_over()

    def _on_patience_at_end(self) -> None:
        self._give_up = None
        self._end_script()
        for connection in [*self._away, *self._late]:
            connection.lose(_GONE)

    # connecting again: one connection after the other, by a script that is gone on with as answers come

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
        """The connection whose turn it was is lost; the others may be had."""
        self._end_script()
        number = error.errno if isinstance(error, OSError | GpiovirtError) else None
        if self._away:
            # the path is gone with its chip, and then the device is
            number = errno.ENODEV if number in (None, errno.ENOENT) else number
            next(iter(self._away)).lose(Answer(number or errno.ENODEV, why=str(error)))
        self.reactor.call_later(0, self._begin)

    def _open_again(self) -> Generator[DeviceSocket, Answer, None]:
        while self._away:
            connection = next(iter(self._away))
            sock = self.connect(connection.name)
            opened: dict[_RemoteFile, OpenedFile] = {}
            is_used = False
            try:
                self._check(_succeed((yield sock)))
                for file in list(connection.files):
                    refusal = yield from _open_file_again(file, sock, opened)
                    if refusal.errno:  # its lines are another's by now, say; the rest may be had
                        file.lose(refusal)
                is_used = connection in self._away  # else all was closed meanwhile
                if is_used:
                    self.forget(connection)
                    connection.resume(sock, opened)
            finally:
                for taken in opened.values():  # of files that were closed meanwhile
                    taken.close()
                if not is_used:
                    self.reactor.remove_reader(sock.fileno())
                    sock.fifo.close()
                    sock.close()


def _succeed(answer: Answer) -> Answer:
    if answer.errno:
        raise OSError(answer.errno, answer.why or os.strerror(answer.errno))
    return answer


def _open_file_again(
    file: _RemoteFile, sock: DeviceSocket, opened: dict[_RemoteFile, OpenedFile]
) -> Generator[DeviceSocket, Answer, Answer]:
    """Have the file as it is, and in `opened` if it is one of lines; the last answer may be a refusal."""
    number = 0
    answer = Answer(0)
    for cmd, arg in file.again():
        sock.send(cmd, arg, file.compat, number)
        answer = yield sock
        if answer.errno:
            break
        if isinstance(answer.file, OpenedFile):
            opened[file] = answer.file
            number = answer.file.number
    return answer


class _Connection:
    """A connection to the chip's server, and the files that are open over it: one question at a time."""

    def __init__(self, chip: RemoteChip, name: str) -> None:
        self.chip = chip
        self.name = name
        self.files: dict[_RemoteFile, None] = {}
        """The chip's first, unless it is closed"""
        self.socket: DeviceSocket | None = None
        self.calls: deque[_Call] = deque()
        self._is_sent = False  # the first of them
        self._numbers: dict[int, _RemoteFile] = {}

    def add(self, file: _RemoteFile, number: int) -> None:
        """A file is open."""
        self.files[file] = None
        self._numbers[number] = file

    def remove(self, file: _RemoteFile, answer: Answer) -> None:
        """It is not any more; that is the answer to what it is being asked."""
        self.files.pop(file, None)
        if self._numbers.get(file.number) is file:
            del self._numbers[file.number]
        if self.calls:
            calls, self.calls = self.calls, deque()
            for place, call in enumerate(calls):
                if call.file is not file:
                    self.calls.append(call)
                else:
                    if not place and self._is_sent:  # its answer is still to come, for nobody
                        self.calls.append(call._replace(later=Later()))
                    call.later.answer(answer)
        if not self.files:
            self._drop_socket()
            self.calls.clear()
            self.chip.forget(self)

    def close_chip(self) -> None:
        """The chip's file is closed; if others are open, the server is to know."""
        if self.socket is not None:
            with suppress(OSError):
                self.socket.close_file(0)

    def resume(self, sock: DeviceSocket, opened: dict[_RemoteFile, OpenedFile]) -> None:
        """Here is a server, which has the files as they are; those taken are taken out of `opened`.

        The socket is ours from now on.
        """
        self.socket = sock
        self.chip.reactor.add_reader(sock.fileno(), self._on_readable)
        self._numbers.clear()
        for file in self.files:
            if isinstance(file, RemoteChipFile):
                file.resume(0, sock.fifo)
            else:
                taken = opened.pop(file)
                file.resume(taken.number, taken.fifo)
            self._numbers[file.number] = file
        if 0 not in self._numbers:
            sock.fifo.close()
            self.close_chip()
        self._send_next()

    def ask_later(self, call: _Call) -> Later:
        """Have the server asked when it can be."""
        self.calls.append(call)
        self._send_next()
        return call.later

    def is_late(self, call: _Call) -> Later:
        """It has been asked, and has not answered in time."""
        self._is_sent = True
        self.calls.append(call)
        self.chip.is_late(self)
        return call.later

    def _send_next(self) -> None:
        if self.socket is None or self._is_sent or not self.calls:
            return
        file, cmd, arg, compat, _ = self.calls[0]
        try:
            self.socket.send(cmd, arg, compat, file.number)
        except OSError:
            self.lose_server()
        else:
            self._is_sent = True
            self.chip.is_late(self)

    def _on_readable(self) -> None:
        """An answer has come late, a file has hung up, or the server is gone."""
        sock = self.socket
        if sock is None:
            return
        try:
            answer = sock.receive()
        except (OSError, PeerError):
            self.lose_server()
            return
        if answer is not None and self._is_sent:
            self._is_sent = False
            self.chip.has_answered(self)
            file, cmd, arg, compat, later = self.calls.popleft()
            if file in self.files:
                later.answer(file.done(cmd, arg, compat, answer))
            elif answer.file is not None:
                answer.file.close()
            self._send_next()
        if sock.hung_up:
            self.on_hang_ups(sock)

    def on_hang_ups(self, sock: DeviceSocket) -> None:
        """Files have hung up, and the server has closed them."""
        numbers = sorted(sock.hung_up)
        sock.hung_up.clear()
        for number in numbers:
            file = self._numbers.get(number)
            if file is not None:
                file.lose(_GONE)

    def _drop_socket(self) -> None:
        sock, self.socket = self.socket, None
        self._is_sent = False
        if sock is not None:
            self.chip.reactor.remove_reader(sock.fileno())
            sock.close()

    def lose_server(self) -> None:
        """It is gone, or makes no sense: there will be another."""
        if self.socket is not None and self.socket.hung_up:
            self.on_hang_ups(self.socket)
        self._drop_socket()
        while self.calls and self.calls[0].file not in self.files:
            self.calls.popleft()
        for file in self.files:
            file.end_forwarding()
        if self.files:
            self.chip.lost_server(self)

    def lose(self, answer: Answer) -> None:
        """All of its files are no more."""
        for file in list(self.files):
            file.lose(answer)


class _RemoteFile:
    """What chip and line files share: what is asked over the connection, and where events go."""

    compat = False

    def __init__(self, connection: _Connection, number: int, fifo: PipeFifo, record_size: int) -> None:
        self.fifo = fifo
        self.number = number
        self._connection = connection
        self._reactor = connection.chip.reactor
        self._record_size = record_size
        self._events = -1  # of the server, to be forwarded
        self._lost: Answer | None = None
        connection.add(self, number)

    def ioctl(self, cmd: int, arg: bytes, compat: bool = False) -> Answer | Later:
        connection = self._connection
        sock = connection.socket
        if sock is None or connection.calls or connection.chip.is_slow or self._lost is not None:
            return self._ask_later(cmd, arg, compat)
        try:
            sock.send(cmd, arg, compat, self.number)
            answer = sock.wait()
        except (OSError, PeerError):
            connection.lose_server()
            return self._ask_later(cmd, arg, compat)
        if answer is None:
            return connection.is_late(_Call(self, cmd, arg, compat, Later()))
        if sock.hung_up:
            connection.on_hang_ups(sock)
        return self.done(cmd, arg, compat, answer)

    def _ask_later(self, cmd: int, arg: bytes, compat: bool) -> Answer | Later:
        return self._lost or self._connection.ask_later(_Call(self, cmd, arg, compat, Later()))

    def done(self, cmd: int, arg: bytes, compat: bool, answer: Answer) -> Answer:
        """Take note of what was done."""
        raise NotImplementedError

    def again(self) -> list[tuple[int, bytes]]:
        """What is to be asked of a server to have the file as it is."""
        raise NotImplementedError

    def resume(self, number: int, fifo: PipeFifo) -> None:
        """A server has it, by that number, and tells events through that pipe: they are forwarded."""
        self.number = number
        events, fifo.reader = fifo.reader, -1
        fifo.close()
        self.end_forwarding()
        self._events = events
        os.set_blocking(events, False)
        os.set_blocking(self.fifo.writer, False)
        self._reactor.add_reader(events, self._forward)

    def _forward(self) -> None:
        try:
            if not self.fifo.forward(self._events, self._record_size):
                self.end_forwarding()
        except BlockingIOError:
            pass

    def end_forwarding(self) -> None:
        """What has been told comes through still."""
        events, self._events = self._events, -1
        if events >= 0:
            self._reactor.remove_reader(events)
            with suppress(BlockingIOError):
                while self.fifo.forward(events, self._record_size):
                    pass
            os.close(events)

    def lose(self, answer: Answer) -> None:
        """The file is no more: that is the answer to whatever it is asked."""
        self._lost = answer
        self.end_forwarding()
        self._connection.remove(self, answer)
        self.fifo.hang_up()

    def close(self) -> None:
        """Its server sees that when its pipe is closed."""
        self._lost = _GONE
        self.end_forwarding()
        self._connection.remove(self, _GONE)


class RemoteChipFile(_RemoteFile):
    """An open chip; its events come over the supervisor at all times, as they are few."""

    def __init__(self, connection: _Connection, fifo: PipeFifo) -> None:
        super().__init__(connection, 0, fifo, CHIP_FIFO.record_size)
        self._watched: dict[int, tuple[int, bytes]] = {}

    def done(self, cmd: int, arg: bytes, compat: bool, answer: Answer) -> Answer:
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
            assert isinstance(answer.file, OpenedFile)
            lines = _RemoteLines(self._connection, answer.file, (cmd, arg, compat))
            return Answer(0, answer.reply, lines, answer.fd_at)  # type: ignore[arg-type]
        return answer

    def again(self) -> list[tuple[int, bytes]]:
        return list(self._watched.values())

    def close(self) -> None:
        super().close()
        self._connection.close_chip()


class _RemoteLines(_RemoteFile):
    """An open file of lines, and all that it takes to request them again as they are.

    Its server writes into the program's pipe itself. A successor has a pipe of its own: what comes through
    that is forwarded.
    """

    def __init__(self, connection: _Connection, opened: OpenedFile, request: tuple[int, bytes, bool]) -> None:
        super().__init__(connection, opened.number, opened.fifo, opened.fifo.record_size)
        cmd, arg, self.compat = request
        self._memory = memory_of(cmd, arg)

    def done(self, cmd: int, arg: bytes, _compat: bool, answer: Answer) -> Answer:
        if cmd != u.GPIO_V2_LINE_GET_VALUES_IOCTL and not answer.errno:
            self._memory.remember(cmd, arg)
        return answer

    def again(self) -> list[tuple[int, bytes]]:
        return self._memory.again()
