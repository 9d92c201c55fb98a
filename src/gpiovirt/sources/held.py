# SPDX-License-Identifier: MIT
"""A chip of lines that another process took and handed over, as files.

Whoever handed them over keeps copies: a line stays taken, and an output as it is, when this process
ends. A file is a kernel's line request, or a line of another gpiovirt process; both answer uAPI v2.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from gpiovirt.core.chip import Now, PresenceSink
from gpiovirt.core.gpiolib import GpioChip, PhysicalEdge, Values
from gpiovirt.core.line import AS_IS, Direction, Edge, LineSettings
from gpiovirt.errors import ChipGoneError, GpiovirtError, HostError
from gpiovirt.host.device_socket import DeviceSocket
from gpiovirt.host.reactor import Waits
from gpiovirt.protocols.gpiochip.holder import encode_config
from gpiovirt.uapi import gpio as u

__all__ = ["HeldChip", "KernelLine", "LineFile", "RemoteLine"]

_EVENTS_READ = 64
_FIRST = u.gpio_v2_line_values.pack(0, 1)
_SET = (u.gpio_v2_line_values.pack(0, 1), u.gpio_v2_line_values.pack(1, 1))


class LineFile(Protocol):
    """One line, as a file: what a GPIO_V2_GET_LINE for it alone opened."""

    events: int
    """Readable when it has edge events."""
    fds: tuple[int, ...]
    """All that is to be handed over for another process to have the line."""
    ioctl: Callable[[int, bytes], bytes]
    """(number, argument) -> the argument as it comes back; OSError."""

    def close(self) -> None:
        """This process's copy."""


class KernelLine:
    """A line of this machine's kernel, by its request's fd."""

    def __init__(self, fd: int) -> None:
        self.events = fd
        self.fds: tuple[int, ...] = (fd,)
        self.ioctl: Callable[[int, bytes], bytes] = partial(_ioctl, fd)
        os.set_blocking(fd, False)

    def close(self) -> None:
        os.close(self.events)


class RemoteLine:
    """A line of another process: the socket of its file, and the pipe that its events come through."""

    def __init__(self, file: DeviceSocket, events: int) -> None:
        self.events = events
        self.fds: tuple[int, ...] = (file.fileno(), events)
        self.file = file
        self.ioctl: Callable[[int, bytes], bytes] = file.ioctl
        os.set_blocking(events, False)

    def close(self) -> None:
        self.file.close()
        os.close(self.events)


_ioctl: Callable[[int, int, bytes], bytes] = fcntl.ioctl


class _Gone:
    """In place of a line whose chip has vanished."""

    events = -1
    fds: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.ioctl: Callable[[int, bytes], bytes] = _fail

    def close(self) -> None:
        pass


def _fail(_cmd: int, _argument: bytes) -> bytes:
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


_GONE = _Gone()


class _HeldLine:
    __slots__ = ("file", "is_output", "name", "settings", "watches")

    def __init__(self, name: str, file: LineFile | None, is_output: bool) -> None:
        self.name = name
        self.file: LineFile = file or _GONE
        self.is_output = is_output
        self.settings = AS_IS
        self.watches = False


class _HeldValues:
    __slots__ = ("_driver", "_lines")

    def __init__(self, driver: _HeldDriver, lines: Sequence[tuple[int, _HeldLine]]) -> None:
        self._driver = driver
        self._lines = [(1 << i, offset, line) for i, (offset, line) in enumerate(lines)]

    def get(self, mask: int) -> int:
        bits = 0
        for bit, offset, line in self._lines:
            if mask & bit:
                try:
                    value = line.file.ioctl(u.GPIO_V2_LINE_GET_VALUES_IOCTL, _FIRST)
                except OSError as error:
                    raise self._driver.failure("cannot read", offset, error) from error
                if value[0] & 1:
                    bits |= bit
        return bits

    def set(self, mask: int, bits: int) -> None:
        for bit, offset, line in self._lines:
            if mask & bit:
                try:
                    line.file.ioctl(u.GPIO_V2_LINE_SET_VALUES_IOCTL, _SET[bits & bit != 0])
                except OSError as error:
                    raise self._driver.failure("cannot set", offset, error) from error


class _HeldDriver:
    """Driver over files of lines."""

    def __init__(
        self,
        label: str,
        lines: Sequence[_HeldLine],
        safe: Mapping[int, LineSettings],
        waits: Waits,
    ) -> None:
        self.label = label
        self.names: Sequence[str] = [line.name for line in lines]
        self.lines = lines
        self._safe = safe
        self._waits = waits

    def attach(self, edge: PhysicalEdge, presence: PresenceSink) -> None:
        self._edge = edge
        self.presence = presence

    def is_output(self, offset: int) -> bool:
        return self.lines[offset].is_output

    def request(self, offset: int) -> None:
        """Nothing is to be done."""

    def configure(self, offset: int, settings: LineSettings) -> None:
        line = self.lines[offset]
        file = line.file
        if line.watches:
            self._read_edges(offset)
        elif settings.edge:
            self._discard_events(file)  # of a former holder
        try:
            file.ioctl(u.GPIO_V2_LINE_SET_CONFIG_IOCTL, encode_config(settings))
        except OSError as error:
            raise self.failure("cannot configure", offset, error) from error
        if line.watches:
            self._read_edges(offset)  # that this caused
        line.settings = settings
        line.is_output = settings.direction is Direction.OUTPUT
        if bool(settings.edge) != line.watches:
            line.watches = not line.watches
            if line.watches:
                self._waits.add_reader(file.events, partial(self._read_edges, offset))
            else:
                self._waits.remove_reader(file.events)

    def free(self, offset: int) -> None:
        """It goes to its safe state; without one it stays as it is, only that nobody watches it."""
        line = self.lines[offset]
        wanted = self._safe.get(offset)
        if wanted is None and (line.settings.edge or line.settings.debounce_period_us):
            wanted = line.settings._replace(edge=Edge.NONE, debounce_period_us=0)
        if wanted is not None:
            with suppress(GpiovirtError):  # gone, or soon to be
                self.configure(offset, wanted)
        line.settings = AS_IS

    def bind(self, offsets: Sequence[int]) -> Values:
        return _HeldValues(self, [(offset, self.lines[offset]) for offset in offsets])

    def failure(self, what: str, offset: int, error: OSError) -> GpiovirtError:
        """What went wrong with a line: its chip is gone, or the kernel refused."""
        if isinstance(error, ConnectionError) or error.errno == errno.ENODEV:
            return ChipGoneError(f"the chip that line {self.label}:{offset} is of has vanished")
        return HostError.of(f"{what} line {self.label}:{offset}", error)

    def _read_edges(self, offset: int) -> None:
        line = self.lines[offset]
        try:
            records = os.read(line.file.events, u.gpio_v2_line_event.size * _EVENTS_READ)
        except BlockingIOError:
            return
        except OSError:
            records = b""
        if not records:  # gone; whoever keeps the lines will say so
            line.watches = False
            self._waits.remove_reader(line.file.events)
            return
        for timestamp_ns, kind, _, _, _ in u.gpio_v2_line_event.iter_unpack(records):
            self._edge(offset, kind == u.GPIO_V2_LINE_EVENT_RISING_EDGE, timestamp_ns)

    @staticmethod
    def _discard_events(file: LineFile) -> None:
        with suppress(OSError):
            while os.read(file.events, u.gpio_v2_line_event.size * _EVENTS_READ):
                pass

    def replace(self, offset: int, file: LineFile | None, is_output: bool) -> None:
        """Another file for a line, or none: its chip has vanished, or is back."""
        line = self.lines[offset]
        if line.watches:
            self._waits.remove_reader(line.file.events)
        if line.file is not _GONE:
            line.file.close()
            self.presence(offset, False)
        line.watches = False
        line.file = file or _GONE
        if file is not None:
            line.is_output = is_output
            self.presence(offset, True)


class HeldChip(GpioChip):
    """A chip of files of lines; None stands for a line whose chip is not there now.

    `lines[i]` is line i's (name, file, whether it is an output now). A line that its consumer releases
    takes the settings that `safe` has for it.
    """

    def __init__(
        self,
        label: str,
        lines: Sequence[tuple[str, LineFile | None, bool]],
        now: Now,
        waits: Waits,
        safe: Mapping[int, LineSettings],
    ) -> None:
        self._held = _HeldDriver(label, [_HeldLine(*line) for line in lines], safe, waits)
        super().__init__(self._held, now)
        for offset, (_, file, _) in enumerate(lines):
            if file is None:
                self._held.presence(offset, False)

    def replace(self, offset: int, file: LineFile | None, is_output: bool = False) -> None:
        """Line `offset` has vanished (no file), or is another file from now on."""
        self._held.replace(offset, file, is_output)
