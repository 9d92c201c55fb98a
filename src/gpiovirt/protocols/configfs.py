# SPDX-License-Identifier: MIT
"""What the kernel's GPIO drivers share in configfs: devices of numbered lines that are made live.

A driver's directories are its objects; it has what the platform does with a device that is made live done by
a Platform. Specification: fs/configfs of Linux 7.3.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, NewType, Protocol, TypeVar

from gpiovirt.core.task import Future
from gpiovirt.protocols.attributes import ValueFile, boolean
from gpiovirt.protocols.fuse import Attribute, Directory

__all__ = [
    "Bank",
    "Chosen",
    "Device",
    "Hog",
    "Ids",
    "Items",
    "LiveDevice",
    "Platform",
    "Room",
    "line_offset",
]

_NAME_MAX = 255  # bytes, of a name in a directory
_ITEMS_MAX = 1 << 16  # of a driver in all; the kernel has no limit but its memory
_LINE = re.compile(r"line([0-9]+)", re.ASCII)
_U32 = 1 << 32

Device = NewType("Device", str)
"""As in /sys/devices/platform"""


class Hog(NamedTuple):
    """Who holds a line as long as its chip is there; `direction` is input, output-high or output-low."""

    offset: int
    consumer: str
    direction: str
    active_low: bool


class Bank(NamedTuple):
    """A chip of gpio-sim; offsets that are not valid are of lines that cannot be requested."""

    label: str
    names: Sequence[str]
    not_valid: frozenset[int] = frozenset()
    hogs: Sequence[Hog] = ()


class Chosen(NamedTuple):
    """A line of another chip: `key` is the chip's label, or without an offset the line's name."""

    key: str
    offset: int | None
    name: str


class Platform(Protocol):
    """Has devices, whose chips programs see. What takes a while gives a future."""

    def simulate(self, device: Device, banks: Sequence[Bank]) -> Future[list[str]]:
        """Make a device of gpio-sim; the names of its chips. OSError if it cannot be."""

    def aggregate(self, device: Device, lines: Sequence[Chosen]) -> Future[list[str]]:
        """Make a device of gpio-aggregator; the name of its chip, OSError if it cannot be.

        NoSuchChipError or NoSuchLineError where a line is not there yet.
        """

    def remove(self, device: Device) -> Future[None]:
        """Take one away, whoever uses its chips."""


AnItem = TypeVar("AnItem", bound=Directory | Attribute)


class Room:
    """How many directories a driver's may still have."""

    def __init__(self) -> None:
        self._left = _ITEMS_MAX

    def take(self) -> None:
        """One more; OSError if there are too many."""
        if not self._left:
            raise OSError(errno.ENOSPC, "too many directories")
        self._left -= 1

    def give_back(self) -> None:
        """One less."""
        self._left += 1


class Items(Generic[AnItem]):
    """The directories that were made in one, in the order they were."""

    def __init__(self, room: Room) -> None:
        self.by_name: dict[str, AnItem] = {}
        self._room = room

    def add(self, name: str, item: AnItem) -> None:
        """OSError if there are too many."""
        self._room.take()
        self.by_name[name] = item

    def discard(self, name: str) -> None:
        """It is removed."""
        del self.by_name[name]
        self._room.give_back()

    def find(self, name: str, files: Mapping[str, Directory | Attribute]) -> AnItem:
        """The directory to be removed; OSError if it is none."""
        if name in files:
            raise OSError(errno.ENOTDIR, "a file")
        if name not in self.by_name:
            raise OSError(errno.ENOENT, "no such directory")
        return self.by_name[name]

    def check_new(self, name: str, files: Mapping[str, Directory | Attribute]) -> None:
        """OSError if a directory of that name cannot be made."""
        if len(name.encode(errors="surrogateescape")) > _NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, "too long a name")
        if name in files or name in self.by_name:
            raise OSError(errno.EEXIST, "it is there")


class LiveDevice(Generic[AnItem]):
    """A device, which has its chips while it is live; `items` are the directories in it that say which."""

    def __init__(self, name: str, room: Room) -> None:
        self.name = Device(name)
        self.is_live = False
        self.items: Items[AnItem] = Items(room)
        self.files = {
            "dev_name": ValueFile(0o444, lambda: self.name),
            "live": ValueFile(0o644, lambda: int(self.is_live), self._set_live),
        }

    def entries(self) -> Mapping[str, Directory | Attribute]:
        """Its files, and its directories."""
        return {**self.files, **self.items.by_name}

    def _set_live(self, text: str) -> Future[None]:
        live = boolean(text)
        if not self._can_become(live):
            raise OSError(errno.EPERM, "it is so already")
        return self._activate() if live else self.deactivate()

    def _can_become(self, live: bool) -> bool:
        return live != self.is_live

    def _activate(self) -> Future[None]:
        raise NotImplementedError

    def deactivate(self) -> Future[None]:
        """Take its chips away, if it has some."""
        raise NotImplementedError


class Ids:
    """Numbers, the lowest that is free first; those `taken` never are."""

    def __init__(self, taken: Iterable[int] = ()) -> None:
        self._taken = set(taken)

    def take(self) -> int:
        """One that is free until now."""
        number = next(number for number in range(len(self._taken) + 1) if number not in self._taken)
        self._taken.add(number)
        return number

    def give_back(self, number: int) -> None:
        """It is free again."""
        self._taken.discard(number)


def line_offset(name: str) -> int:
    """Of a directory lineN; OSError if it is none."""
    match = _LINE.fullmatch(name)
    if match is None:
        raise OSError(errno.EINVAL, "no line")
    return int(match[1]) % _U32  # as sscanf() has it
