# SPDX-License-Identifier: MIT
"""Finding the kernel's chips: by label, by gpiochipN or by path.

Chips are open for as long as a look lasts: an open one keeps its number.
"""

import errno
import os
from typing import NamedTuple

from gpiovirt.core.chip import ChipInfo
from gpiovirt.errors import HostError, NoSuchChipError, UsageError
from gpiovirt.host.gpio_device import ChipDevice

__all__ = ["Finder", "LineAddress", "Look", "device_number"]

_DEVICE = "gpiochip"
_NOT_FOR_US = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTTY)


def device_number(name: str) -> int | None:
    """N of gpiochipN; None if it is not such a name."""
    digits = name.removeprefix(_DEVICE)
    return int(digits) if digits != name and digits.isascii() and digits.isdecimal() else None


class LineAddress(NamedTuple):
    """A line, permanently: its chip's label and size, and its offset; also the device's name if only that
    tells the chip from another of the same label and size."""

    label: str
    num_lines: int
    offset: int
    name: str = ""

    def __str__(self) -> str:
        return f"{self.label}:{self.offset}"


class Finder:
    """The kernel's chips in `directory`."""

    def __init__(self, directory: str = "/dev") -> None:
        self.directory = directory

    def look(self) -> "Look":
        """`with finder.look() as look:` for the duration of one look."""
        return Look(self.directory)


class Look:
    """The chips as they are now; the files opened for it are closed at its end."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._open: dict[str, ChipDevice | None] = {}
        self._all: list[ChipDevice] | None = None

    def __enter__(self) -> "Look":
        return self

    def __exit__(self, *_: object) -> None:
        for chip in self._open.values():
            if chip is not None:
                chip.close()
        self._open.clear()

    def all(self) -> list[ChipDevice]:
        """Every chip that this user may open, by number; HostError if it cannot look (EMFILE)."""
        if self._all is None:
            found = map(device_number, os.listdir(self._directory))
            numbers = sorted(number for number in found if number is not None)
            paths = (f"{self._directory}/{_DEVICE}{number}" for number in numbers)
            self._all = [chip for path in paths if (chip := self._chip(path)) is not None]
        return self._all

    def find(self, name: str) -> ChipDevice | None:
        """The chip of that path, device name or label, if any.

        UsageError if several chips have the label, HostError if the one named may not be opened.
        """
        path = name if name.startswith("/") else f"{self._directory}/{name}"
        if "/" in name or device_number(name) is not None:
            if os.path.exists(path):
                return self._chip(os.path.realpath(path), must=True)
            if "/" in name:
                return None
        same = [chip for chip in self.all() if chip.info.label == name]
        if len(same) > 1:
            names = ", ".join(chip.info.name for chip in same)
            raise UsageError(f"{len(same)} chips are labelled {name!r} ({names}); use one of these names")
        return same[0] if same else None

    def address(self, chip: ChipDevice, offset: int) -> LineAddress:
        """Where to find a line again."""
        twins = [other for other in self.all() if _same(other.info, chip.info)]
        return LineAddress(*chip.info[1:], offset, chip.info.name if len(twins) > 1 else "")

    def at(self, address: LineAddress) -> ChipDevice:
        """The chip that has the line; NoSuchChipError if it is not there now, or ambiguous."""
        chip = self.find(address.name or address.label)
        if chip is None or chip.info[1:] != address[:2]:
            raise NoSuchChipError(f"no chip {address.label!r} with {address.num_lines} lines is there")
        return chip

    def _chip(self, path: str, must: bool = False) -> ChipDevice | None:
        if path not in self._open:
            try:
                self._open[path] = ChipDevice(path)
            except OSError as error:
                may_not = error.errno in (errno.EACCES, errno.EPERM)
                if error.errno not in _NOT_FOR_US or (must and may_not):
                    raise HostError.of(f"cannot open the chip {os.path.basename(path)}", error) from error
                if must:
                    return None
                self._open[path] = None
        return self._open[path]


def _same(one: ChipInfo, other: ChipInfo) -> bool:
    return one[1:] == other[1:]
