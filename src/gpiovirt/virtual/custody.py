# SPDX-License-Identifier: MIT
"""Custody: turns a definition into held lines, and looks after them until they are released.

The same for `run`, `serve` and gpiovirtd: which chips exist, and how a line of one is taken, is up to
their Sources.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol, runtime_checkable

from gpiovirt.core.aggregate import SourceLine
from gpiovirt.core.chip import ChipInfo
from gpiovirt.core.line import Direction, LineInfo, LineOptions
from gpiovirt.errors import GpiovirtError
from gpiovirt.host.gpio_device import ChipDevice
from gpiovirt.protocols.gpiochip.caller import encode_config
from gpiovirt.sources.finder import LineAddress
from gpiovirt.sources.line_files import KernelLine, LineFile
from gpiovirt.uapi import gpio as u
from gpiovirt.virtual.definition import Definition
from gpiovirt.virtual.grammar import resolve

__all__ = [
    "Custody",
    "HeldLine",
    "KernelSource",
    "SourceChip",
    "Sources",
    "duplicate",
    "make_safe",
    "release",
    "take",
]


class HeldLine:
    """A held line; `file` is None while its chip is not there, and for a line of this process."""

    __slots__ = ("address", "file", "is_output", "local", "name")

    def __init__(
        self,
        address: LineAddress,
        name: str,
        file: LineFile | None,
        is_output: bool,
        local: SourceLine | None = None,
    ) -> None:
        self.address = address
        self.name = name
        self.file = file
        self.is_output = is_output
        self.local = local

    @property
    def kind(self) -> str:
        """kernel, lent (by another gpiovirt process), or gone."""
        if self.file is None:
            return "gone"
        return "kernel" if isinstance(self.file, KernelLine) else "lent"

    def drop(self) -> None:
        """Its chip has vanished, or the line is released."""
        file, self.file = self.file, None
        if file is not None:
            file.close()


@runtime_checkable
class SourceChip(Protocol):
    """A chip that lines can be taken from."""

    @property
    def info(self) -> ChipInfo:
        """Name, label and number of lines."""

    def line_info(self, offset: int) -> LineInfo:
        """What is known without asking a process that may not answer; OffsetError past the end."""

    async def take(self, offset: int, consumer: str) -> LineFile | SourceLine:
        """Hold a line as is; LineBusyError, ChipGoneError, HostError."""


class Sources(Protocol):
    """The chips that exist, for the duration of one look."""

    def find(self, name: str) -> SourceChip | None:
        """The chip of that label, device name or path."""

    def all(self) -> Sequence[SourceChip]:
        """The chips to search for line names."""

    def address(self, chip: SourceChip, offset: int) -> LineAddress:
        """Where to find the line again."""

    def at(self, address: LineAddress) -> SourceChip:
        """The chip that has the line; NoSuchChipError if it is not there now."""


class KernelSource:
    """A kernel chip."""

    def __init__(self, device: ChipDevice) -> None:
        self.device = device
        self.info = device.info

    def line_info(self, offset: int) -> LineInfo:
        return self.device.line_info(offset)

    async def take(self, offset: int, consumer: str) -> LineFile:
        return KernelLine(self.device.request(offset, consumer))


async def take(
    definition: Definition, sources: Sources, kept: Mapping[LineAddress, HeldLine]
) -> list[HeldLine]:
    """Hold all lines of a definition, or none; those in `kept` are held already.

    NoSuchChipError, NoSuchLineError, OffsetError, LineBusyError and others; their `line` is the offset,
    in the chip to be made, of the line at fault.
    """
    found = resolve(definition.items, sources.find, sources.all)
    lines: list[HeldLine] = []
    try:
        for chip, offset in found:
            address = sources.address(chip, offset)
            lines.append(kept.get(address) or await hold(chip, address, definition.name))
    except BaseException as error:
        if isinstance(error, GpiovirtError):
            error.line = len(lines)
        release(line for line in lines if line.address not in kept)
        raise
    return lines


async def hold(chip: SourceChip, address: LineAddress, name: str) -> HeldLine:
    """Take one line for the virtual chip `name`."""
    taken = await chip.take(address.offset, f"gpiovirt:{name}")
    if isinstance(taken, tuple):
        info = chip.line_info(address.offset)
        return HeldLine(address, info.name, None, info.direction is Direction.OUTPUT, taken)
    try:
        info = chip.line_info(address.offset)
    except BaseException:
        taken.close()
        raise
    return HeldLine(address, info.name, taken, info.direction is Direction.OUTPUT)


def make_safe(lines: Sequence[HeldLine], options: Sequence[LineOptions], offsets: Iterable[int]) -> list[str]:
    """Put kernel lines that have a safe state into it: for when there is no worker to do it.

    Returns a message for each that failed.
    """
    failures = []
    for offset in offsets:
        line, safe = lines[offset], options[offset].safe
        if safe is not None and isinstance(line.file, KernelLine):
            try:
                line.file.ioctl(u.GPIO_V2_LINE_SET_CONFIG_IOCTL, encode_config(safe))
                line.is_output = safe.direction is Direction.OUTPUT
            except (OSError, GpiovirtError) as error:
                failures.append(f"line {line.address} is not in its safe state: {error}")
    return failures


def release(lines: Iterable[HeldLine]) -> None:
    """Release lines."""
    for line in lines:
        line.drop()


class HangUps(Protocol):
    """What calls back when a file hangs up."""

    def add_hangup(self, fd: int, callback: Callable[[], object]) -> None:
        """Call back when the other end of `fd` is closed."""

    def remove_reader(self, fd: int) -> None:
        """Stop calling back."""


class Custody:
    """The watched lines of one virtual chip: `on_gone` and `on_back` are called with offsets."""

    def __init__(
        self,
        name: str,
        waits: HangUps,
        on_gone: Callable[[int], object],
        on_back: Callable[[int], object],
    ) -> None:
        self._name = name
        self._waits = waits
        self._on_gone = on_gone
        self._on_back = on_back
        self.lines: list[HeldLine] = []
        self._watched: set[int] = set()

    def use(self, lines: list[HeldLine]) -> list[HeldLine]:
        """These are its lines from now on; returns those that no longer are, for the caller to release."""
        left = [line for line in self.lines if line not in lines]
        for line in left:
            self._unwatch(line)
        for line in lines:
            self._watch(line)
        self.lines = lines
        return left

    def look_away(self) -> None:
        """Watch none of its lines until use(): another chip may have them by then."""
        for line in self.lines:
            self._unwatch(line)

    @property
    def is_complete(self) -> bool:
        """No line is missing."""
        return all(line.file is not None or line.local is not None for line in self.lines)

    def by_address(self) -> dict[LineAddress, HeldLine]:
        """The lines it holds now, by address."""
        return {line.address: line for line in self.lines if line.file is not None}

    async def retake(self, sources: Sources) -> None:
        """Look for lines that are gone; a line that is not there, or held by another, stays gone."""
        for offset, line in enumerate(list(self.lines)):
            if line.file is not None or line.local is not None:
                continue
            with suppress(OSError, GpiovirtError):
                again = await hold(sources.at(line.address), line.address, self._name)
                if line not in self.lines or line.file is not None:  # it has changed meanwhile
                    again.drop()
                    continue
                line.file, line.is_output = again.file, again.is_output
                self._watch(line)
                self._on_back(offset)

    async def request_anew(self, offset: int, sources: Sources) -> HeldLine:
        """Release a line and take it again, as is; it is gone if somebody was faster."""
        line = self.lines[offset]
        self._unwatch(line)
        line.drop()
        with suppress(OSError, GpiovirtError):
            again = await hold(sources.at(line.address), line.address, self._name)
            line.file, line.is_output = again.file, again.is_output
            self._watch(line)
        return line

    def look(self) -> None:
        """Notice that lines have vanished: Linux before 6.6 wakes nobody who waits for their files."""
        for line in list(self.lines):
            if (file := line.file) is not None and file.fds[0] in self._watched and _has_hung_up(file.fds[0]):
                self._lose(line, file)

    def _watch(self, line: HeldLine) -> None:
        file = line.file
        if file is not None and file.fds[0] not in self._watched:
            self._watched.add(file.fds[0])
            self._waits.add_hangup(file.fds[0], lambda: self._lose(line, file))

    def _unwatch(self, line: HeldLine) -> None:
        if line.file is not None and line.file.fds[0] in self._watched:
            self._watched.remove(line.file.fds[0])
            self._waits.remove_reader(line.file.fds[0])

    def _lose(self, line: HeldLine, file: LineFile) -> None:
        """The line's chip has vanished."""
        if line.file is not file or line not in self.lines:
            return
        self._unwatch(line)
        line.drop()
        self._on_gone(self.lines.index(line))

    def close(self) -> None:
        """Release everything."""
        release(self.use([]))


def _has_hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def duplicate(line: HeldLine) -> LineFile | None:
    """A copy of a kernel line's file, for a chip in the process that keeps the line."""
    return KernelLine(os.dup(line.file.fds[0])) if isinstance(line.file, KernelLine) else None
