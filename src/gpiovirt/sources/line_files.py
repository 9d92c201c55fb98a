# SPDX-License-Identifier: MIT
"""A chip of lines that another process took and handed over, each as files.

That process keeps copies: a line stays held, and an output keeps its value, when this process
ends. A file is a line request of the kernel, or a line of another gpiovirt process; both answer uAPI v2.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

from gpiovirt.core.chip import Now, PresenceSink
from gpiovirt.core.gpiolib import GpioChip, PhysicalEdge, Picked, Values
from gpiovirt.core.holder import Holder
from gpiovirt.core.line import AS_IS, Direction, Edge, LineSettings
from gpiovirt.errors import ChipGoneError, GpiovirtError, HostError
from gpiovirt.protocols.gpiochip.caller import encode_config
from gpiovirt.uapi import gpio as u

if TYPE_CHECKING:
    from gpiovirt.host.device_socket import DeviceSocket
    from gpiovirt.host.reactor import Waits

__all__ = [
    "FDS_OF_LINE",
    "KernelLine",
    "LineFile",
    "LineFilesChip",
    "LineFilesDriver",
    "RemoteLine",
    "RequestAnew",
]

_EVENTS_READ = 1365  # as many as a pipe holds; a kernel request holds fewer
_UNKNOWN = -1  # where the numbers of a line's events begin
_FIRST = u.gpio_v2_line_values.pack(0, 1)
_SET = (u.gpio_v2_line_values.pack(0, 1), u.gpio_v2_line_values.pack(1, 1))


FDS_OF_LINE = {"kernel": 1, "lent": 2, "gone": 0}
"""Number of files by kind of line: a kernel request; a socket and a pipe; none"""


class LineFile(Protocol):
    """One line, as a file: opened by a GPIO_V2_GET_LINE for it alone."""

    fds: tuple[int, ...]
    """All that another process needs to have the line."""
    ioctl: Callable[[int, bytes], bytes]
    """(number, argument) -> the argument as it comes back; OSError."""

    @property
    def events(self) -> int:
        """Readable when it has edge events, and non-blocking."""

    def close(self) -> None:
        """This process's copy."""


class KernelLine:
    """A line of this machine's kernel, by its request's fd."""

    def __init__(self, fd: int) -> None:
        self.fds: tuple[int, ...] = (fd,)
        self.ioctl: Callable[[int, bytes], bytes] = partial(_ioctl, fd)

    @cached_property
    def events(self) -> int:
        os.set_blocking(self.fds[0], False)
        return self.fds[0]

    def close(self) -> None:
        os.close(self.fds[0])


class RemoteLine:
    """A line of another process: the socket of its file, and the pipe that its events come through.

    Its value is asked for once, where that process tells when it is another.
    """

    def __init__(self, file: DeviceSocket, events: int) -> None:
        self.events = events
        self.fds: tuple[int, ...] = (file.fileno(), events)
        self.file = file
        self.ioctl: Callable[[int, bytes], bytes] = self._ioctl
        self._value: bytes | None = None
        os.set_blocking(events, False)

    def _ioctl(self, cmd: int, argument: bytes) -> bytes:
        """As of LineFile; a value is asked for by _FIRST alone."""
        value, self._value = self._value, None
        if cmd != u.GPIO_V2_LINE_GET_VALUES_IOCTL:
            return self.file.do(cmd, argument)
        if value is None or not self.file.is_quiet():
            value, is_kept = self.file.value(argument)
            if not is_kept:
                return value
        self._value = value
        return value

    def close(self) -> None:
        self.file.close()
        os.close(self.events)


_ioctl: Callable[[int, int, bytes], bytes] = fcntl.ioctl


class _Gone:
    """Stands in for a line whose chip has vanished."""

    events = -1
    fds: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.ioctl: Callable[[int, bytes], bytes] = _fail

    def close(self) -> None:
        pass


def _fail(_cmd: int, _argument: bytes) -> bytes:
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


_GONE = _Gone()


RequestAnew = Callable[[int], "tuple[LineFile | None, bool]"]
"""Offset -> (its file from now on, or None; whether it is an output)"""


class _Line:
    __slots__ = ("file", "is_output", "last_seqno", "name", "offset", "settings", "watches")

    def __init__(self, offset: int, name: str, file: LineFile | None, is_output: bool) -> None:
        self.offset = offset
        self.name = name
        self.file: LineFile = file or _GONE
        self.is_output = is_output
        self.settings = AS_IS
        self.watches = False
        self.last_seqno = _UNKNOWN


class _FileValues:
    __slots__ = ("_driver", "_pick")

    def __init__(self, driver: LineFilesDriver, lines: Sequence[_Line]) -> None:
        self._driver = driver
        self._pick = Picked(lines).pick

    def get(self, mask: int) -> int:
        bits = 0
        for bit, line in self._pick(mask):
            try:
                value = line.file.ioctl(u.GPIO_V2_LINE_GET_VALUES_IOCTL, _FIRST)
            except OSError as error:
                raise self._driver.failure("read", line.offset, error) from error
            if value[0] & 1:
                bits |= bit
        return bits

    def set(self, mask: int, bits: int) -> None:
        for bit, line in self._pick(mask):
            try:
                line.file.ioctl(u.GPIO_V2_LINE_SET_VALUES_IOCTL, _SET[bits & bit != 0])
            except OSError as error:
                raise self._driver.failure("set", line.offset, error) from error


_Happened = tuple[int, int, bool, int]
"""(timestamp in ns, offset, rising, events lost before it)"""


class LineFilesDriver:
    """Driver over files of lines: `lines[i]` is line i's (name, file, whether it is an output now).

    The file is None for a line whose chip is not there now. With `request_anew`, a line that is freed
    is closed and replaced by the file that this returns, requested as is: what becomes of a line without
    a holder is then up to its hardware. Without, it stays as it is.
    """

    def __init__(
        self,
        label: str,
        lines: Sequence[tuple[str, LineFile | None, bool]],
        waits: Waits,
        request_anew: RequestAnew | None = None,
    ) -> None:
        self._request_anew = request_anew
        self.label = label
        self._lines = [_Line(offset, *line) for offset, line in enumerate(lines)]
        self.names: Sequence[str] = [line.name for line in self._lines]
        self._waits = waits
        self._watched: dict[int, _Line] = {}
        self._ready = select.epoll()
        waits.add_reader(self._ready.fileno(), self._deliver_edges)

    def attach(self, edge: PhysicalEdge, presence: PresenceSink) -> None:
        self._edge = edge
        self._presence = presence
        for line in self._lines:
            if line.file is _GONE:
                presence(line.offset, False)

    def is_output(self, offset: int) -> bool:
        return self._lines[offset].is_output

    def request(self, offset: int, holder: Holder) -> None:
        """Nothing to do."""

    def configure(self, offset: int, settings: LineSettings) -> None:
        line = self._lines[offset]
        if line.watches:
            self._deliver_edges()  # events so far belong to the old configuration
        elif settings.edge:
            self._discard_events(line)  # of a former holder
        try:
            line.file.ioctl(u.GPIO_V2_LINE_SET_CONFIG_IOCTL, encode_config(settings))
        except OSError as error:
            raise self.failure("configure", offset, error) from error
        if line.watches:
            self._deliver_edges()  # and so is one that this caused
        line.settings = settings
        line.is_output = settings.direction is Direction.OUTPUT
        if bool(settings.edge) != line.watches:
            self._watch(line, not line.watches)

    def free(self, offset: int) -> None:
        """Nobody watches it any more; otherwise it stays as it was, or is requested anew."""
        line = self._lines[offset]
        if self._request_anew is not None and line.file is not _GONE:
            if line.watches:
                self._watch(line, False)
            line.file.close()
            line.file = _GONE
            file, line.is_output = self._request_anew(offset)
            line.settings, line.last_seqno = AS_IS, _UNKNOWN
            if file is not None:
                line.file = file
            else:
                self._presence(offset, False)
            return
        if line.settings.edge or line.settings.debounce_period_us:
            with suppress(GpiovirtError):  # gone, or soon to be
                self.configure(offset, line.settings._replace(edge=Edge.NONE, debounce_period_us=0))
        line.settings = AS_IS

    def catch_up(self) -> None:
        if self._watched and self._ready.poll(0, 1):
            self._deliver_edges()

    def bind(self, offsets: Sequence[int]) -> Values:
        return _FileValues(self, [self._lines[offset] for offset in offsets])

    def failure(self, what: str, offset: int, error: OSError) -> GpiovirtError:
        """What went wrong with a line: its chip is gone, or the kernel refused."""
        if isinstance(error, ConnectionError) or error.errno == errno.ENODEV:
            return ChipGoneError(f"the chip providing line {self.label}:{offset} is gone")
        return HostError.of(f"cannot {what} line {self.label}:{offset}", error)

    def replace(self, offset: int, file: LineFile | None, is_output: bool = False) -> None:
        """Line `offset` has vanished (no file), or is another file from now on."""
        line = self._lines[offset]
        if line.watches:
            self._watch(line, False)
        if line.file is not _GONE:
            line.file.close()
            line.file = _GONE
            self._presence(offset, False)
        if file is not None:
            line.file = file
            line.is_output = is_output
            line.settings = AS_IS
            self._presence(offset, True)

    def close(self) -> None:
        """Close this process's copies."""
        self._waits.remove_reader(self._ready.fileno())
        self._ready.close()
        for line in self._lines:
            line.file.close()
            line.file = _GONE

    # edges

    def _watch(self, line: _Line, on: bool) -> None:
        line.watches = on
        fd = line.file.events
        if on:
            self._watched[fd] = line
            self._ready.register(fd, select.EPOLLIN)
        else:
            del self._watched[fd]
            self._ready.unregister(fd)

    def _deliver_edges(self) -> None:
        """All events so far, of all lines, in the order of their timestamps."""
        watched = self._watched
        if len(watched) == 1:
            (line,) = watched.values()
            for timestamp_ns, offset, rising, lost in self._read_edges(line):
                self._edge(offset, rising, timestamp_ns, lost)
            return
        ready = [watched[fd] for fd, _ in self._ready.poll(0)]
        happened: list[_Happened] = []
        for line in ready:
            happened += self._read_edges(line)
        if len(ready) > 1:
            happened.sort()
        for timestamp_ns, offset, rising, lost in happened:
            self._edge(offset, rising, timestamp_ns, lost)

    def _read_edges(self, line: _Line) -> Iterator[_Happened]:
        try:
            records = os.read(line.file.events, u.gpio_v2_line_event.size * _EVENTS_READ)
        except BlockingIOError:
            return
        except OSError:
            records = b""
        if not records:  # gone; whoever keeps the lines will say so
            self._watch(line, False)
            return
        for timestamp_ns, kind, _, _, seqno in u.gpio_v2_line_event.iter_unpack(records):
            lost = 0 if line.last_seqno == _UNKNOWN else max(seqno - line.last_seqno - 1, 0)
            line.last_seqno = seqno
            yield timestamp_ns, line.offset, kind == u.GPIO_V2_LINE_EVENT_RISING_EDGE, lost

    @staticmethod
    def _discard_events(line: _Line) -> None:
        """A bounded read: nothing comes while the line is not watched for edges."""
        line.last_seqno = _UNKNOWN
        with suppress(OSError):
            os.read(line.file.events, u.gpio_v2_line_event.size * _EVENTS_READ)


class LineFilesChip(GpioChip):
    """A chip made only of files of lines."""

    def __init__(
        self,
        label: str,
        lines: Sequence[tuple[str, LineFile | None, bool]],
        now: Now,
        waits: Waits,
        request_anew: RequestAnew | None = None,
    ) -> None:
        self._files = LineFilesDriver(label, lines, waits, request_anew)
        super().__init__(self._files, now)

    def replace(self, offset: int, file: LineFile | None, is_output: bool = False) -> None:
        """Line `offset` has vanished (no file), or is another file from now on."""
        self._files.replace(offset, file, is_output)

    def close(self) -> None:
        """Close this process's copies."""
        self._files.close()
