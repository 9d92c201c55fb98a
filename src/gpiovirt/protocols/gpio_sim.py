# SPDX-License-Identifier: MIT
"""gpio-sim's directory of configfs and its files in sysfs, without I/O: a tree for FUSE over a Platform.

Specification: Documentation/admin-guide/gpio/gpio-sim.rst and drivers/gpio/gpio-sim.c of Linux 7.3. The names
of classes are those of the directories' levels: device, bank, line, hog.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Protocol

from gpiovirt.core.task import Future
from gpiovirt.protocols.attributes import FixedDirectory, ValueFile, boolean, trimmed, unsigned
from gpiovirt.protocols.configfs import Bank, Hog, Ids, Items, LiveDevice, Platform, Room, line_offset
from gpiovirt.protocols.fuse import Attribute, Directory

__all__ = ["GpioSim", "SimulatedLine", "chip_files"]

_LINES_MAX = 1024  # GPIO_SIM_NGPIO_MAX
_DIRECTIONS = ("input", "output-high", "output-low")
_PULLS = ("pull-down", "pull-up")
_UNNAMED = "?"

Entries = Mapping[str, Directory | Attribute]


def _busy() -> OSError:
    return OSError(errno.EBUSY, "the device is live")


class _Hog:
    """Its own directory has no others."""

    def __init__(self, device: _Device) -> None:
        self.name: str | None = None
        self.direction = "input"
        self.active_low = False
        self._device = device
        self._files = {
            "active_low": ValueFile(0o644, lambda: int(self.active_low), self._set_active_low),
            "direction": ValueFile(0o644, lambda: self.direction, self._set_direction),
            "name": ValueFile(0o644, lambda: self.name or "", self._set_name),
        }

    def entries(self) -> Entries:
        return self._files

    def _set_name(self, text: str) -> None:
        self._device.check_not_live()
        self.name = trimmed(text)

    def _set_direction(self, text: str) -> None:
        self._device.check_not_live()
        if text not in _DIRECTIONS:
            raise OSError(errno.EINVAL, "no direction")
        self.direction = text

    def _set_active_low(self, text: str) -> None:
        self._device.check_not_live()
        self.active_low = boolean(text)


class _Line:
    def __init__(self, device: _Device, offset: int) -> None:
        self.offset = offset
        self.name: str | None = None
        self.is_valid = True
        self.hog: _Hog | None = None
        self._device = device
        self._files = {
            "name": ValueFile(0o644, lambda: self.name or "", self._set_name),
            "valid": ValueFile(0o644, lambda: int(self.is_valid), self._set_valid),
        }

    def entries(self) -> Entries:
        return {**self._files, "hog": self.hog} if self.hog else self._files

    def make(self, name: str) -> None:
        if name in self.entries():
            raise OSError(errno.EEXIST, "it is there")
        if name != "hog":
            raise OSError(errno.EINVAL, "a line has a hog, and no other directory")
        self._device.check_not_live()  # the kernel forgets to, and comes to grief later
        self.hog = _Hog(self._device)

    def remove(self, name: str) -> None:
        if name in self._files:
            raise OSError(errno.ENOTDIR, "a file")
        if name != "hog" or self.hog is None:
            raise OSError(errno.ENOENT, "no such directory")
        self._device.check_not_live()
        self.hog = None

    def _set_name(self, text: str) -> None:
        self._device.check_not_live()
        self.name = trimmed(text)

    def _set_valid(self, text: str) -> None:
        self.is_valid = boolean(text)  # of a live device, too; it is for the next time


class _Bank:
    def __init__(self, device: _Device) -> None:
        self.label: str | None = None
        self.num_lines = 1
        self.chip_name = ""
        self._device = device
        self._lines: Items[_Line] = Items(device.room)
        self._files = {
            "chip_name": ValueFile(0o444, lambda: self.chip_name if device.is_live else "none"),
            "label": ValueFile(0o644, lambda: self.label or "", self._set_label),
            "num_lines": ValueFile(0o644, lambda: self.num_lines, self._set_num_lines),
        }

    def entries(self) -> Entries:
        return {**self._files, **self._lines.by_name}

    @property
    def is_empty(self) -> bool:
        return not self._lines.by_name

    def make(self, name: str) -> None:
        self._lines.check_new(name, self._files)
        offset = line_offset(name)
        self._device.check_not_live()
        self._lines.add(name, _Line(self._device, offset))

    def remove(self, name: str) -> None:
        line = self._lines.find(name, self._files)
        if line.hog is not None:
            raise OSError(errno.ENOTEMPTY, "it has a hog")
        self._device.check_not_live()
        self._lines.discard(name)

    def _set_label(self, text: str) -> None:
        self._device.check_not_live()
        self.label = trimmed(text)

    def _set_num_lines(self, text: str) -> None:
        count = unsigned(text)
        if not count:
            raise OSError(errno.EINVAL, "a chip has a line")
        self._device.check_not_live()
        self.num_lines = count

    def describe(self, default_label: str) -> Bank:
        """What the driver is told; OSError if it fails."""
        if self.num_lines > _LINES_MAX:
            raise OSError(errno.ENXIO, "too many lines")
        names = [""] * self.num_lines
        not_valid: set[int] = set()
        hogs: list[Hog] = []
        for line in self._lines.by_name.values():
            if line.offset < self.num_lines:
                names[line.offset] = names[line.offset] if line.name is None else line.name
                if not line.is_valid:
                    not_valid.add(line.offset)
            elif line.hog is not None:
                raise OSError(errno.ENXIO, "a hog of a line that there is not")
            if line.hog is not None and line.offset not in [hog.offset for hog in hogs]:
                hog = line.hog
                consumer = _UNNAMED if hog.name is None else hog.name
                hogs.append(Hog(line.offset, consumer, hog.direction, hog.active_low))
        if any(each.offset in not_valid for each in hogs):
            raise OSError(errno.ENXIO, "a hog of a line that is not valid")
        return Bank(self.label or default_label, names, frozenset(not_valid), hogs)


class _Device(LiveDevice[_Bank]):
    def __init__(self, platform: Platform, number: int, room: Room) -> None:
        super().__init__(f"gpio-sim.{number}", room)
        self.number = number
        self.room = room
        self._platform = platform
        self.banks = self.items

    def check_not_live(self) -> None:
        """OSError if its configuration is in use."""
        if self.is_live:
            raise _busy()

    def make(self, name: str) -> None:
        self.banks.check_new(name, self.files)
        self.check_not_live()
        self.banks.add(name, _Bank(self))

    def remove(self, name: str) -> None:
        if not self.banks.find(name, self.files).is_empty:
            raise OSError(errno.ENOTEMPTY, "it has lines")
        self.banks.discard(name)  # its chip stays

    def _activate(self) -> Future[None]:
        banks = list(self.banks.by_name.values())
        if not banks:
            raise OSError(errno.ENODATA, "there is no bank")
        labels = [bank.label for bank in banks if bank.label is not None]
        if len(set(labels)) < len(labels):
            raise OSError(errno.EINVAL, "two banks have one label")
        told = [bank.describe(f"{self.name}:node{index}") for index, bank in enumerate(banks)]
        outcome: Future[None] = Future()
        made = self._platform.simulate(self.name, told)
        self.is_live = True

        def settle() -> None:
            try:
                for bank, chip in zip(banks, made.result(), strict=True):
                    bank.chip_name = chip
            except OSError as error:
                self.is_live = False
                outcome.fail(error)
            else:
                outcome.set(None)

        made.then(settle)
        return outcome

    def deactivate(self) -> Future[None]:
        """Take its chips away."""
        self.is_live = False
        return self._platform.remove(self.name)


class GpioSim:
    """The directory gpio-sim."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._room = Room()
        self._devices: Items[_Device] = Items(self._room)
        self._ids = Ids()

    def entries(self) -> Entries:
        return self._devices.by_name

    def make(self, name: str) -> None:
        self._devices.check_new(name, {})
        device = _Device(self._platform, self._ids.take(), self._room)
        try:
            self._devices.add(name, device)
        except OSError:
            self._ids.give_back(device.number)
            raise

    def remove(self, name: str) -> Future[None] | None:
        device = self._devices.find(name, {})
        if device.banks.by_name:
            raise OSError(errno.ENOTEMPTY, "it has banks")
        self._devices.discard(name)
        if not device.is_live:
            self._ids.give_back(device.number)
            return None
        gone = device.deactivate()
        gone.then(partial(self._ids.give_back, device.number))
        return gone


class SimulatedLine(Protocol):
    """The world's side of a line."""

    def level(self) -> int:
        """Where it is."""

    def pulled(self) -> int:
        """Where it is pulled."""

    def pull(self, level: int) -> None:
        """Pull it there."""


class _LineDirectories(Mapping[str, Directory | Attribute]):
    """Each is made when it is looked at: chips have many lines, and there are many chips."""

    def __init__(self, count: int, line: Callable[[int], SimulatedLine]) -> None:
        self._offsets = {f"sim_gpio{offset}": offset for offset in range(count)}
        self._line = line

    def __getitem__(self, name: str) -> Directory:
        return _line_files(self._line(self._offsets[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)


def chip_files(count: int, line: Callable[[int], SimulatedLine]) -> Directory:
    """The directory of a chip in /sys/devices/platform/gpio-sim.N."""
    return FixedDirectory(_LineDirectories(count, line))


def _line_files(line: SimulatedLine) -> Directory:
    def set_pull(text: str) -> None:
        if text not in _PULLS:
            raise OSError(errno.EINVAL, "no pull")
        line.pull(_PULLS.index(text))

    return FixedDirectory(
        {
            "pull": ValueFile(0o644, lambda: _PULLS[line.pulled()], set_pull),
            "value": ValueFile(0o644, line.level, _refuse),
        }
    )


def _refuse(_text: str) -> None:
    raise OSError(errno.EPERM, "a level is not set, it is pulled")
