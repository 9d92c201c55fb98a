# SPDX-License-Identifier: MIT
"""News of the kernel's chips: that some came or went, and whether one is there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from gpiovirt.errors import GpiovirtError
from gpiovirt.host.gpio_device import ChipDevice
from gpiovirt.host.inotify import IN_ATTRIB, IN_CREATE, IN_DELETE, DirectoryWatch
from gpiovirt.sources.finder import Finder, LineAddress, device_number

if TYPE_CHECKING:
    from gpiovirt.host.reactor import Reactor, Waits

__all__ = ["FollowedChip", "HotPlug"]

_LOOK_AGAIN_S = 0.25


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
        if any(device_number(name) is not None for _, name in list(self._watch.read())):
            self._on_change()

    def close(self) -> None:
        """Stop calling back."""
        if self._watch is not None:
            self._waits.remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None
