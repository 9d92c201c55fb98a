# SPDX-License-Identifier: MIT
"""Where the custodian takes lines: it requests those of kernel chips, and is lent those of its own chips.

Names and sizes of its own chips are known from their records. A process that may not answer is asked for
nothing but a line, and that has a deadline.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from gpiovirt.core.chip import ChipInfo
from gpiovirt.core.line import Direction, LineInfo
from gpiovirt.core.text import printable
from gpiovirt.daemon.worker_handle import WorkerHandle
from gpiovirt.errors import ChipGoneError, HostError, LineBusyError, NoSuchChipError, OffsetError, UsageError
from gpiovirt.host.device_socket import DeviceSocket
from gpiovirt.host.packets import close_files
from gpiovirt.host.received import Kind, kind_of, name_of
from gpiovirt.protocols.control.answers import SourceLine, SourceState
from gpiovirt.sources.finder import Finder, LineAddress
from gpiovirt.sources.line_files import LineFile, RemoteLine
from gpiovirt.virtual.custody import KernelSource, SourceChip

__all__ = ["DaemonSources", "OwnChip", "OwnChips", "are_lent_line", "is_kernel_line"]

_LEND_S = 0.5
_ERRNO_MAX = 4096
_HOLDER_MAX = 96  # a label, its pid and uid
_LEND_ALL_S = (
    3.0  # per look: a chip's lock is held meanwhile; of each line only what exceeds its share counts
)
_LEND_SHARE_S = 0.02  # what one line takes beyond this counts


class OwnChip:
    """A chip that one of our workers serves: simulated (one of several), or virtual."""

    def __init__(self, label: str, names: Sequence[str], handle: WorkerHandle, index: int = 0) -> None:
        self.info = ChipInfo(label, label, len(names))
        self._names = names
        self._handle = handle
        self._index = index
        self._is_output: dict[int, bool] = {}
        self._left_s = _LEND_ALL_S

    def anew(self) -> OwnChip:
        """A copy with its full time to lend lines."""
        return OwnChip(self.info.label, self._names, self._handle, self._index)

    def line_info(self, offset: int) -> LineInfo:
        """What is known without asking: the name and, of a lent line, the direction."""
        if not 0 <= offset < len(self._names):
            raise OffsetError(
                f"{self.info.label} has no line {offset}: its {len(self._names)} lines are "
                f"0 to {len(self._names) - 1}"
            )
        direction = Direction.OUTPUT if self._is_output.get(offset) else Direction.INPUT
        return LineInfo(offset, self._names[offset], "", False, direction)

    async def take(self, offset: int, consumer: str) -> LineFile:
        """Borrow a line; LineBusyError, ChipGoneError."""
        where = f"{self.info.label}:{offset}"
        if self._left_s <= 0:
            raise ChipGoneError(f"line {where} is not available: its worker takes too long to lend it")
        began_s = time.monotonic()
        try:
            body, fds = await self._handle.ask(
                _LEND_S, True, do="lend", chip=self._index, offset=offset, consumer=consumer
            )
        except HostError as error:
            raise ChipGoneError(f"line {where} is not available: {error}") from error
        finally:
            self._left_s -= max(time.monotonic() - began_s - _LEND_SHARE_S, 0)
        match body:
            case {"line": {"direction": direction}} if are_lent_line(fds):
                self._is_output[offset] = direction == "output"
                return RemoteLine(DeviceSocket(socket.socket(fileno=fds[0])), fds[1])
            case {"errno": int(number), "holder": str(holder)} if 0 < number < _ERRNO_MAX and holder:
                close_files(fds)
                holder = printable(holder[:_HOLDER_MAX])
                raise LineBusyError(f"line {where} is held by {holder}; release it or choose another")
            case {"errno": int(number)} if 0 < number < _ERRNO_MAX:
                close_files(fds)
                raise HostError.of(f"cannot request line {where}", OSError(number, os.strerror(number)))
        close_files(fds)
        raise HostError(f"cannot request line {where}: its worker breaks the protocol")


def are_lent_line(fds: Sequence[int]) -> bool:
    """Whether it is a Unix socket and a pipe, found out without touching the files, which may be anything."""
    return len(fds) == 2 and kind_of(fds[0]) is Kind.SOCKET and name_of(fds[1]).startswith("pipe:[")


def is_kernel_line(fd: int) -> bool:
    """A kernel's line request, likewise."""
    return name_of(fd).startswith("anon_inode:gpio")


class OwnChips(Protocol):
    """What the custodian knows of its own chips."""

    def simulated(self) -> Sequence[OwnChip]:
        """Those whose lines are also found by name."""

    def virtual(self, name: str) -> OwnChip | None:
        """The virtual chip of that name, once its lines are known."""


class DaemonSources:
    """One look; to be used as a context manager."""

    def __init__(self, finder: Finder, own: OwnChips) -> None:
        self._look = finder.look()
        self._own = own
        self._simulated = own.simulated()
        self._kernel: dict[str, KernelSource] = {}
        self._virtual: dict[str, OwnChip | None] = {}

    def __enter__(self) -> DaemonSources:
        return self

    def __exit__(self, *_: object) -> None:
        self._look.__exit__()

    def kernel(self) -> list[KernelSource]:
        """The kernel's chips, by number."""
        return [self._source(device) for device in self._look.all()]

    def states(self) -> list[SourceState]:
        """The kernel's chips and their lines, as they are now."""
        return [SourceState(*chip.info[:2], "kernel", tuple(_lines(chip))) for chip in self.kernel()]

    def all(self) -> list[SourceChip]:
        return [*self.kernel(), *self._simulated]

    def find(self, name: str) -> SourceChip | None:
        device = self._look.find(name)
        simulated = next((chip for chip in self._simulated if chip.info.label == name), None)
        if device is not None:
            if simulated is not None and device.info.label == name != device.info.name:
                raise UsageError(f"2 chips are labelled {name!r}; use the name {device.info.name}")
            return self._source(device)
        if simulated is not None:
            return simulated
        if name not in self._virtual:
            self._virtual[name] = self._own.virtual(name)
        return self._virtual[name]

    def _source(self, device: Any) -> KernelSource:
        return self._kernel.setdefault(device.path, KernelSource(device))

    def address(self, chip: SourceChip, offset: int) -> LineAddress:
        if isinstance(chip, KernelSource):
            return self._look.address(chip.device, offset)
        return LineAddress(*chip.info[1:], offset)

    def at(self, address: LineAddress) -> SourceChip:
        chip = self.find(address.name or address.label)
        if chip is None or chip.info[1:] != address[:2]:
            raise NoSuchChipError(f"no chip {address.label!r} with {address.num_lines} lines is there")
        return chip


def _lines(chip: KernelSource) -> Iterator[SourceLine]:
    for info in map(chip.line_info, range(chip.info.num_lines)):
        yield SourceLine(
            info.name, info.consumer, "output" if info.direction is Direction.OUTPUT else "input"
        )
