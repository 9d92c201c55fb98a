# SPDX-License-Identifier: MIT
"""Finding the kernel's chips, waiting for what happens on them, and looking for those that vanished."""

from __future__ import annotations

import os
import select
from collections.abc import Collection
from operator import itemgetter
from pathlib import Path

import gpiod

from gpiovirt.core.chip import Chip
from gpiovirt.core.deadline import Deadlines
from gpiovirt.core.line import Clock
from gpiovirt.errors import HostError, InvalidError
from gpiovirt.host.clock import now_ns
from gpiovirt.sources.kernel.chip import Event, KernelChip, Reader

__all__ = ["KernelChips"]

_LOOK_AGAIN_NS = 250_000_000


class KernelChips:
    """The chips of /dev that were asked for, and one file that is readable when one has an event."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._chips: list[KernelChip] = []
        self._ready = select.epoll()
        self._readers: dict[int, Reader] = {}
        self._looks = False

    def fileno(self) -> int:
        """Readable when on_readable has something to do."""
        return self._ready.fileno()

    def on_readable(self) -> None:
        """Deliver what has happened, over all lines in the order of its timestamps."""
        happened: list[Event] = []
        for fd, _ in self._ready.poll(0):
            if read := self._readers.get(fd):  # one that was ready may end others
                happened += read()
        for _, deliver in sorted(happened, key=itemgetter(0)):
            deliver()

    def add_reader(self, fd: int, read: Reader) -> None:
        """Let `read` get the events whenever `fd` is readable."""
        self._readers[fd] = read
        self._ready.register(fd, select.EPOLLIN)

    def remove_reader(self, fd: int) -> None:
        """To be called before the fd is closed; more than once is harmless."""
        if self._readers.pop(fd, None) is not None:
            self._ready.unregister(fd)

    def _look(self) -> None:
        """Look for the chips that have vanished."""
        self._looks = False
        missing = [chip for chip in self._chips if chip.is_incomplete]
        present = {chip.path for chip in self._chips if not chip.is_gone}
        for path in map(str, Path("/dev").glob("gpiochip*")):
            for chip in [chip for chip in missing if chip.is_gone]:
                if path not in present and chip.comes_back_as(path):
                    present.add(path)
        for chip in missing:
            chip.take_back()
        if any(chip.is_incomplete for chip in missing):
            self.look_soon()

    def look_soon(self) -> None:
        """A chip has vanished."""
        if not self._looks:
            self._looks = True
            self._deadlines.call_at(now_ns(Clock.MONOTONIC) + _LOOK_AGAIN_NS, self._look)

    def close_unused(self, keep: Collection[Chip] = ()) -> None:
        """Close the chips that were only looked at: while one is open the kernel keeps its number."""
        for chip in [chip for chip in self._chips if not chip.is_used and chip not in keep]:
            chip.close()
            self._chips.remove(chip)

    def all(self) -> list[KernelChip]:
        """Every chip that this user may open, by number; close_unused() when done with them."""
        paths = sorted(Path("/dev").glob("gpiochip*"), key=lambda path: (len(path.name), path.name))
        return [chip for path in paths if (chip := self._open(str(path))) is not None]

    def find(self, name: str) -> KernelChip | None:
        """The chip of that path, device name (gpiochipN) or label; HostError if it may not be opened.

        Looking for a label opens others, too.
        """
        path = name if name.startswith("/") else f"/dev/{name}"
        if Path(path).exists():
            return self._open(path, must=True)
        same = [chip for chip in self.all() if chip.info.label == name]
        if len(same) > 1:
            names = ", ".join(chip.info.name for chip in same)
            raise InvalidError(f"{len(same)} chips are labelled {name!r} ({names}); use one of these names")
        return same[0] if same else None

    def _open(self, path: str, must: bool = False) -> KernelChip | None:
        real = os.path.realpath(path)
        for chip in self._chips:
            if chip.path == real and chip.is_there():
                return chip
        try:
            if not gpiod.is_gpiochip_device(real):
                return None
            self._chips.append(KernelChip(gpiod.Chip(real), self, real))
        except OSError as error:
            if must:
                raise HostError.of(f"cannot open the chip {os.path.basename(path)}", error) from error
            return None
        return self._chips[-1]
