# SPDX-License-Identifier: MIT
"""Finding the kernel's chips: by label, by gpiochipN or by path; and news of when that may have changed.

Chips are open for as long as a look lasts: an open one keeps its number.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from gpiovirt.core.chip import ChipInfo
from gpiovirt.errors import GpiovirtError, HostError, NoSuchChipError, UsageError
from gpiovirt.host.gpio_device import ChipDevice
from gpiovirt.host.inotify import IN_ATTRIB, IN_CREATE, IN_DELETE, DirectoryWatch

if TYPE_CHECKING:
    from gpiovirt.host.reactor import Reactor, Waits

__all__ = ["Finder", "FollowedChip", "HotPlug", "LineAddress", "Look"]

_DEVICE = r"gpiochip(\d+)"  # compiled when first used: a start feels it
_LOOK_AGAIN_S = 0.25
_NOT_FOR_US = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTTY)


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

    def look(self) -> Look:
        """`with finder.look() as look:` for the duration of one look."""
        return Look(self.directory)


class Look:
    """The chips as they are now; the files opened for it are closed at its end."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._open: dict[str, ChipDevice | None] = {}
        self._all: list[ChipDevice] | None = None

    def __enter__(self) -> Look:
        return self

    def __exit__(self, *_: object) -> None:
        for chip in self._open.values():
            if chip is not None:
                chip.close()
        self._open.clear()

    def all(self) -> list[ChipDevice]:
        """Every chip that this user may open, by number; HostError if it cannot look (EMFILE)."""
        if self._all is None:
            found = filter(None, (re.fullmatch(_DEVICE, name) for name in os.listdir(self._directory)))
            numbers = sorted(int(match[1]) for match in found)
            paths = (f"{self._directory}/gpiochip{number}" for number in numbers)
            self._all = [chip for path in paths if (chip := self._chip(path)) is not None]
        return self._all

    def find(self, name: str) -> ChipDevice | None:
        """The chip of that path, device name or label, if any.

        UsageError if several chips have the label, HostError if the one named may not be opened.
        """
        path = name if name.startswith("/") else f"{self._directory}/{name}"
        if "/" in name or re.fullmatch(_DEVICE, name):
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


class FollowedChip:
    """A kernel chip of which no line is held here: `on_presence` is called when it goes and comes back."""

    def __init__(
        self, finder: Finder, address: LineAddress, reactor: Reactor, on_presence: Callable[[bool], object]
    ) -> None:
        """NoSuchChipError if it is not there now."""
        self.address = address
        self._finder = finder
        self._reactor = reactor
        self._on_presence = on_presence
        self._hot_plug = HotPlug(reactor, self._look)
        try:
            self.device: ChipDevice | None = self._open()
        except BaseException:
            self._hot_plug.close()
            raise

    def _open(self) -> ChipDevice:
        with self._finder.look() as look:
            device = ChipDevice(look.at(self.address).path)
        self._reactor.add_hangup(device.fileno(), self._look)
        return device

    def _look(self) -> None:
        if self.device is None:
            with suppress(GpiovirtError, OSError):
                self.device = self._open()
                self._on_presence(True)
        elif not self.device.is_there:
            self._close_device()
            self._on_presence(False)
            self._look_again()

    def _look_again(self) -> None:
        """Look even without news."""
        if self.device is None:
            self._look()
            self._reactor.call_later(_LOOK_AGAIN_S, self._look_again)

    def _close_device(self) -> None:
        if self.device is not None:
            self._reactor.remove_reader(self.device.fileno())
            self.device.close()
            self.device = None

    def close(self) -> None:
        """Stop following it."""
        self._hot_plug.close()
        self._close_device()


def _same(one: ChipInfo, other: ChipInfo) -> bool:
    return one[1:] == other[1:]


class HotPlug:
    """Calls back when GPIO devices come, go or change owners, as far as the kernel reports it."""

    def __init__(self, waits: Waits, on_change: Callable[[], object], directory: str = "/dev") -> None:
        self._waits = waits
        self._on_change = on_change
        self._watch: DirectoryWatch | None = None
        with suppress(OSError):
            self._watch = DirectoryWatch(directory, IN_CREATE | IN_DELETE | IN_ATTRIB)
            waits.add_reader(self._watch.fileno(), self._read)

    def _read(self) -> None:
        assert self._watch is not None
        if any(re.fullmatch(_DEVICE, name) for _, name in list(self._watch.read())):
            self._on_change()

    def close(self) -> None:
        """Stop calling back."""
        if self._watch is not None:
            self._waits.remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None
