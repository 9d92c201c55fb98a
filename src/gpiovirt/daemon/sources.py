# SPDX-License-Identifier: MIT
"""Where the custodian takes lines from: the kernel's chips, simulated ones, and chips of its own.

Chips are open for as long as they are asked for something, not longer: an open one keeps its number.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from gpiovirt.core.chip import ChipInfo
from gpiovirt.core.line import AS_IS, Direction, LineInfo
from gpiovirt.errors import (
    ChipGoneError,
    GpiovirtError,
    HostError,
    LineBusyError,
    NoSuchChipError,
    OffsetError,
    UsageError,
)
from gpiovirt.host.device_socket import DeviceSocket
from gpiovirt.protocols.gpiochip import holder
from gpiovirt.sources.held import KernelLine, LineFile, RemoteLine
from gpiovirt.uapi import gpio as u

__all__ = ["Place", "SourceChip", "Sources"]

_EVENTS_KEPT = 256
_NUMBER = re.compile(r"gpiochip(\d+)")


class Place(NamedTuple):
    """A line for good: its chip's label and size, and its offset; also the device's name where that is
    what tells the chip from another of the same label and size."""

    label: str
    num_lines: int
    offset: int
    name: str = ""

    def __str__(self) -> str:
        return f"{self.label}:{self.offset}"


class SourceChip:
    """A chip that is open."""

    kind = "kernel"

    def __init__(self, ioctl: Callable[[int, bytes], bytes], close: Callable[[], None]) -> None:
        self._ioctl = ioctl
        self.close = close
        self.info: ChipInfo = holder.decode_chip_info(
            ioctl(u.GPIO_GET_CHIPINFO_IOCTL, bytes(u.gpiochip_info.size))
        )

    def line_info(self, offset: int) -> LineInfo:
        """State of one line; OffsetError past the end."""
        if not 0 <= offset < self.info.num_lines:
            raise OffsetError(
                f"{self.info.label} has no line {offset}: its {self.info.num_lines} lines are "
                f"0 to {self.info.num_lines - 1}"
            )
        try:
            raw = self._ioctl(u.GPIO_V2_GET_LINEINFO_IOCTL, holder.encode_info_query(offset))
        except OSError as error:
            raise ChipGoneError(f"the chip {self.info.label} has vanished") from error
        return holder.decode_line_info(raw)

    def take(self, offset: int, consumer: str) -> LineFile:
        """Hold a line, as it is; LineBusyError if somebody has it."""
        argument = holder.encode_request(offset, AS_IS, consumer, _EVENTS_KEPT)
        try:
            return self._open_line(argument)
        except OSError as error:
            if error.errno == errno.EBUSY:
                who = self.line_info(offset).consumer or "the kernel"
                raise LineBusyError(
                    f'line {self.info.label}:{offset} is held by "{who}"; release it or choose another'
                ) from error
            if error.errno == errno.ENODEV:
                raise ChipGoneError(f"the chip {self.info.label} has vanished") from error
            raise HostError.of(f"cannot take line {self.info.label}:{offset}", error) from error

    def _open_line(self, argument: bytes) -> LineFile:
        answer = self._ioctl(u.GPIO_V2_GET_LINE_IOCTL, argument)
        fd: int = u.gpio_v2_line_request.unpack(answer)[-1]
        os.set_inheritable(fd, False)
        return KernelLine(fd)

    def is_output(self, offset: int) -> bool:
        """The direction a line has now."""
        return self.line_info(offset).direction is Direction.OUTPUT


class _RemoteSource(SourceChip):
    """A chip of another process of gpiovirt."""

    kind = "remote"

    def __init__(self, path: str) -> None:
        reader, writer = os.pipe()
        try:
            self._file = DeviceSocket.open(path, "", writer)
        finally:
            os.close(reader)
            os.close(writer)
        super().__init__(self._file.ioctl, self._file.close)

    def _open_line(self, argument: bytes) -> LineFile:
        reader, writer = os.pipe()
        try:
            opened = self._file.open_ioctl(u.GPIO_V2_GET_LINE_IOCTL, argument, False, writer)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        if opened.file is None:
            os.close(reader)
            raise OSError(opened.errno, os.strerror(opened.errno))
        return RemoteLine(opened.file, reader)


class Sources:
    """A look at the chips there are; what it opened is closed at its end.

    `directories` have the sockets of chips that are served by processes of ours: of the first, all are
    looked through for names of lines.
    """

    def __init__(self, simulated: str, virtual: str) -> None:
        self._simulated = simulated
        self._virtual = virtual
        self._open: dict[str, SourceChip | None] = {}
        self._all: list[SourceChip] | None = None

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        for chip in self._open.values():
            if chip is not None:
                chip.close()
        self._open.clear()

    def all(self) -> list[SourceChip]:
        """The kernel's chips by number, and the simulated ones; as they were at the first look."""
        if self._all is None:
            self._all = self._look()
        return self._all

    def _look(self) -> list[SourceChip]:
        numbers = sorted(int(match[1]) for name in os.listdir("/dev") if (match := _NUMBER.fullmatch(name)))
        paths = [f"/dev/gpiochip{number}" for number in numbers]
        with suppress(FileNotFoundError):
            paths += sorted(f"{self._simulated}/{name}" for name in os.listdir(self._simulated))
        return [chip for path in paths if (chip := self._chip(path)) is not None]

    def find(self, name: str) -> SourceChip | None:
        """The chip of that path, device name or label, simulated, or one of ours."""
        if name.startswith("/"):
            path = os.path.realpath(name)
            return self._chip(path) if _is_gpio_device(path) else None
        if _NUMBER.fullmatch(name) and os.path.exists(f"/dev/{name}"):
            return self._chip(f"/dev/{name}")
        same = [chip for chip in self.all() if chip.info.label == name]
        if len(same) > 1:
            names = ", ".join(chip.info.name for chip in same)
            raise UsageError(f"{len(same)} chips are labelled {name!r} ({names}); use one of these names")
        if same or "/" in name:
            return same[0] if same else None
        return self._chip(f"{self._virtual}/{name}")

    def place(self, chip: SourceChip, offset: int) -> Place:
        """Where a line is to be found again."""
        twins = [other for other in self.all() if other.info[1:] == chip.info[1:]]
        return Place(*chip.info[1:], offset, chip.info.name if len(twins) > 1 else "")

    def at(self, place: Place) -> SourceChip:
        """The chip that has the line; NoSuchChipError if it is not there now, or cannot be told."""
        chip = self.find(place.name or place.label)
        if chip is None or chip.info[1:] != place[:2]:
            raise NoSuchChipError(f"no chip {place.label!r} with {place.num_lines} lines is there")
        return chip

    def _chip(self, path: str) -> SourceChip | None:
        if path not in self._open:
            try:
                self._open[path] = _open(path)
            except (OSError, GpiovirtError):
                self._open[path] = None
        return self._open[path]


def _is_gpio_device(path: str) -> bool:
    """Known without opening it: to open some devices is to do something."""
    try:
        status = os.stat(path)
        if not stat.S_ISCHR(status.st_mode):
            return False
        device = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        return os.path.realpath(f"/sys/dev/char/{device}/subsystem") == "/sys/bus/gpio"
    except OSError:
        return False


def _open(path: str) -> SourceChip | None:
    if stat.S_ISSOCK(os.stat(path).st_mode):
        return _RemoteSource(path)
    if not _is_gpio_device(path):
        return None
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)

    def ioctl(cmd: int, argument: bytes) -> bytes:
        return fcntl.ioctl(fd, cmd, argument)

    def close() -> None:
        os.close(fd)

    try:
        return SourceChip(ioctl, close)
    except OSError:
        close()
        raise
