# SPDX-License-Identifier: MIT
"""gpio-aggregator's directory of configfs and its driver's files, without I/O: for FUSE, over a Platform.

Specification: Documentation/admin-guide/gpio/gpio-aggregator.rst and drivers/gpio/gpio-aggregator.c of Linux
7.3. A device that `new_device` made takes its lines as soon as they are there, one of configfs at once or
not.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from gpiovirt.core.task import Future
from gpiovirt.errors import GpiovirtError, NoSuchChipError, NoSuchLineError
from gpiovirt.protocols.attributes import FixedDirectory, ValueFile, integer, trimmed
from gpiovirt.protocols.configfs import Chosen, Ids, Items, LiveDevice, Platform, Room, line_offset
from gpiovirt.protocols.fuse import Attribute, Directory

__all__ = ["GpioAggregator", "Wanted"]

_OFFSET_MAX = 0xFFFF - 1
_S32 = 1 << 31
_U32 = 1 << 32
_PREFIX = "gpio-aggregator."
_BY_SYSFS = "_sysfs"
_NUMBER = re.compile(r"\+?0*([0-9]+)", re.ASCII)

Entries = Mapping[str, Directory | Attribute]
Wanted = tuple[str, int | None]
"""(a chip's label, offset), or (a line's name, None)"""


class _Line:
    def __init__(
        self, device: _Device, index: int, key: str | None = None, offset: int | None = None
    ) -> None:
        self.index = index
        self.key = key
        self.offset = offset
        self.name: str | None = None
        self._device = device
        self._files = {
            "key": ValueFile(0o644, lambda: self.key or "", self._set_key),
            "name": ValueFile(0o644, lambda: self.name or "", self._set_name),
            "offset": ValueFile(0o644, lambda: -1 if self.offset is None else self.offset, self._set_offset),
        }

    def entries(self) -> Entries:
        return self._files

    def _set_key(self, text: str) -> None:
        self._device.check_not_in_use()
        self.key = trimmed(text)

    def _set_name(self, text: str) -> None:
        self._device.check_not_in_use()
        self.name = trimmed(text)

    def _set_offset(self, text: str) -> None:
        offset = integer(text)
        if not -_S32 <= offset < _S32:
            raise OSError(errno.ERANGE, "too large a number")
        if not -1 <= offset <= _OFFSET_MAX:
            raise OSError(errno.EINVAL, "no offset")
        self._device.check_not_in_use()
        self.offset = None if offset < 0 else offset


class _Device(LiveDevice[_Line]):
    def __init__(self, platform: Platform, number: int, room: Room, is_by_sysfs: bool) -> None:
        super().__init__(f"{_PREFIX}{number}", room)
        self.number = number
        self.is_by_sysfs = is_by_sysfs
        self.waits = False
        """It was made by sysfs, and its lines were not to be had"""
        self.is_deferred = False
        """Because they were not there: it is tried again"""
        self._platform = platform
        self.lines = self.items

    def add_lines(self, lines: Iterable[Wanted]) -> None:
        """Have these, from the first on; OSError if there is no room."""
        for index, (key, offset) in enumerate(lines):
            self.lines.add(f"line{index}", _Line(self, index, key, offset))

    def drop_lines(self) -> None:
        """Have none."""
        for name in list(self.lines.by_name):
            self.lines.discard(name)

    def check_not_in_use(self) -> None:
        """OSError if what its lines say is in use."""
        if self.is_live or self.waits:
            raise OSError(errno.EBUSY, "the device is live, or waits for its lines")

    def make(self, name: str) -> None:
        self.lines.check_new(name, self.files)
        index = line_offset(name)
        if self.is_by_sysfs:
            raise OSError(errno.EPERM, "its lines are those that new_device was given")
        self.check_not_in_use()
        if any(line.index == index for line in self.lines.by_name.values()):
            raise OSError(errno.EINVAL, "there is that line")
        self.lines.add(name, _Line(self, index))

    def remove(self, name: str) -> None:
        self.lines.find(name, self.files)
        if self.is_by_sysfs:
            raise OSError(errno.EPERM, "its lines are those that new_device was given")
        self.check_not_in_use()
        self.lines.discard(name)

    def _can_become(self, live: bool) -> bool:
        return not self.waits and super()._can_become(live)

    def _chosen(self) -> list[Chosen]:
        """Its lines; OSError if they are not complete."""
        lines = sorted(self.lines.by_name.values(), key=lambda line: line.index)
        if not lines or any(line.key is None or line.index != at for at, line in enumerate(lines)):
            raise OSError(errno.EINVAL, "it has no lines, or not all, or one without a key")
        return [Chosen(line.key or "", line.offset, line.name or "") for line in lines]

    def _activate(self) -> Future[None]:
        chosen = self._chosen()
        outcome: Future[None] = Future()

        def fail(_error: Exception) -> None:
            outcome.fail(OSError(errno.ENXIO, "its lines are not to be had"))

        self._probe(chosen, lambda: outcome.set(None), fail)
        return outcome

    def _probe(
        self,
        chosen: list[Chosen],
        then: Callable[[], object],
        fail: Callable[[Exception], object],
    ) -> None:
        """Have the platform make it."""
        try:
            made = self._platform.aggregate(self.name, chosen)
        except (GpiovirtError, OSError) as error:
            fail(error)
            return
        self.is_live = True

        def settle() -> None:
            try:
                made.result()
            except (GpiovirtError, OSError) as error:
                self.is_live = False
                fail(error)
            else:
                then()

        made.then(settle)

    def try_to_begin(self) -> Future[None]:
        """As a driver's probe of a device that is there, whatever comes of it."""
        outcome: Future[None] = Future()
        self.waits = self.is_deferred = False

        def fail(error: Exception) -> None:
            self.waits = True
            self.is_deferred = isinstance(error, NoSuchChipError | NoSuchLineError)
            outcome.set(None)

        self._probe(self._chosen(), lambda: outcome.set(None), fail)
        return outcome

    def deactivate(self) -> Future[None]:
        """Take its chip away, if it has one."""
        self.waits = self.is_deferred = False
        if not self.is_live:
            gone: Future[None] = Future()
            gone.set(None)
            return gone
        self.is_live = False
        return self._platform.remove(self.name)


class GpioAggregator:
    """The directory gpio-aggregator; `parse` is the grammar of new_device."""

    def __init__(self, platform: Platform, parse: Callable[[str], Iterable[Wanted]]) -> None:
        self._platform = platform
        self._parse = parse
        self._room = Room()
        self._devices: Items[_Device] = Items(self._room)
        self._ids = Ids()

    def entries(self) -> Entries:
        return self._devices.by_name

    def make(self, name: str) -> None:
        self._devices.check_new(name, {})
        if name.startswith(_BY_SYSFS):
            raise OSError(errno.EINVAL, "names of this kind are the driver's own")
        self._add(name, None)

    def _add(self, name: str, lines: Iterable[Wanted] | None) -> _Device:
        number = self._ids.take()
        device = _Device(self._platform, number, self._room, lines is not None)
        try:
            device.add_lines(lines or ())
            self._devices.add(name or f"{_BY_SYSFS}.{number}", device)
        except OSError:
            device.drop_lines()
            self._ids.give_back(number)
            raise
        return device

    def remove(self, name: str) -> None:
        device = self._devices.find(name, {})
        if device.is_by_sysfs:
            raise OSError(errno.EPERM, "it was made by new_device; delete_device removes it")
        if device.lines.by_name:
            raise OSError(errno.ENOTEMPTY, "it has lines")
        self._devices.discard(name)
        self._ids.give_back(device.number)

    def retry(self) -> None:
        """There is a new chip: devices that wait for their lines may have them now."""
        for device in list(self._devices.by_name.values()):
            if device.is_deferred:
                device.try_to_begin()

    def driver_files(self) -> Directory:
        """The directory of the driver in sysfs."""
        return FixedDirectory(
            {
                "delete_device": ValueFile(0o200, write=self._delete_device),
                "new_device": ValueFile(0o200, write=self._new_device),
            }
        )

    def _new_device(self, text: str) -> Future[None]:
        try:
            lines = list(self._parse(text))
        except GpiovirtError as error:
            raise OSError(error.errno, str(error)) from error
        return self._add("", lines).try_to_begin()

    def _delete_device(self, text: str) -> Future[None]:
        match = _NUMBER.fullmatch(text.removeprefix(_PREFIX))
        if not text.startswith(_PREFIX) or match is None:
            raise OSError(errno.EINVAL, "no device of this driver")
        if len(match[1]) > len(str(_U32)) or int(match[1]) >= _U32:
            raise OSError(errno.ERANGE, "too large a number")
        number = int(match[1])
        name = f"{_BY_SYSFS}.{number}"
        device = self._devices.by_name.get(name)
        if device is None:
            raise OSError(errno.ENOENT, "no device that new_device has made")
        self._devices.discard(name)
        device.drop_lines()
        gone = device.deactivate()
        gone.then(partial(self._ids.give_back, number))
        return gone
