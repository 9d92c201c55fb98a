# SPDX-License-Identifier: MIT
"""The memory of a virtual chip that outlives its worker: which lines have holders, and the state of a VM.

The custodian keeps the file and hands it to each worker, which can write anything there: whoever reads it
takes each value for what a peer says. Layout, native byte order:

    header     24 bytes    magic, version, number of lines; at 8 whether its watchdog has tripped (0 or 1); at
                           16 when its line last toggled, in ns on CLOCK_BOOTTIME
    lines      16 bytes a line    held (0 or 1), direction (0 unknown, 1 input, 2 output), level (0 not
                                  driven, 1 low, 2 high), what it is forced to (0 nothing, 1 low, 2 high),
                                  its holder's pid (4 bytes; 0: not known), until when it is forced (8
                                  bytes, ns on CLOCK_BOOTTIME; 0: for ever)
    times      16 bytes a line    when it last became high, and then when it last ceased to be, each for all
                                  lines, in ns on CLOCK_BOOTTIME; 0: never
    the rest                      what the VM export keeps
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from struct import Struct

from gpiovirt.errors import PeerError
from gpiovirt.host.mapping import map_shared, shared_memory

__all__ = [
    "KeptMemory",
    "copy_lines",
    "held_lines",
    "is_memory_of",
    "line_holders",
    "mend_memory",
    "new_memory",
]

_header = Struct("=4sHH16x")
_identity = Struct("=4sHH")
_TRIPPED = _identity.size
_BEAT = 16
_MAGIC, _VERSION = b"gpvc", 2
_LINE = 16
_pid = Struct("=I")
_PID_AT = 4
_force = Struct("=B4xQ")
_FORCE_AT = 3
_until = Struct("=Q")
_FORCED = {1: 0, 2: 1}
_TIMES = 16
_INPUT, _OUTPUT = 1, 2


def _size(num_lines: int, vm_bytes: int) -> int:
    return _vm_at(num_lines) + vm_bytes


def _vm_at(num_lines: int) -> int:
    return -(-(_header.size + num_lines * (_LINE + _TIMES)) // 64) * 64


def new_memory(name: str, num_lines: int, vm_bytes: int) -> int:
    """The fd of memory in which no line is held, sealed against shrinking."""
    fd = shared_memory(f"gpiovirt:{name}", _size(num_lines, vm_bytes))
    os.pwrite(fd, _identity.pack(_MAGIC, _VERSION, num_lines), 0)
    return fd


def is_memory_of(fd: int, num_lines: int, vm_bytes: int) -> bool:
    """Whether a file that was kept is as long as such memory: it may be of another version."""
    return os.fstat(fd).st_size == _size(num_lines, vm_bytes)


def mend_memory(fd: int, num_lines: int) -> bool:
    """Make memory that is no longer a chip's of so many lines new, in place; False if it is one."""
    identity = _identity.pack(_MAGIC, _VERSION, num_lines)
    if os.pread(fd, _identity.size, 0) == identity:
        return False
    os.pwrite(fd, identity.ljust(os.fstat(fd).st_size, b"\0"), 0)
    return True


class KeptMemory:
    """One process's view of it; the file stays the caller's. PeerError if it is not such a memory."""

    def __init__(self, fd: int, num_lines: int, vm_bytes: int) -> None:
        self._view = map_shared(fd, _size(num_lines, vm_bytes))
        identity = _identity.pack(_MAGIC, _VERSION, num_lines)
        if self._view[: _identity.size] != identity:
            raise PeerError("memory of another chip, or of another version")
        end = _header.size + num_lines * _LINE
        self.held: memoryview = self._view[_header.size : end : _LINE]
        """1 for each line that has a holder"""
        self._direction = self._view[_header.size + 1 : end : _LINE]
        self.levels = self._view[_header.size + 2 : end : _LINE]
        """What each line is driven to: 0 not driven, 1 low, 2 high"""
        times = self._view[end : end + num_lines * _TIMES].cast("Q")
        self.on_ns = times[:num_lines]
        """When each last became high, in ns on CLOCK_BOOTTIME; 0: never"""
        self.off_ns = times[num_lines:]
        """When each last ceased to be high"""
        self.tripped = self._view[_TRIPPED : _TRIPPED + 1]
        """1 while the chip's watchdog has tripped"""
        self.beat_ns = self._view[_BEAT : _BEAT + 8].cast("Q")
        """When the line that it watches last toggled"""
        self.vm: memoryview = self._view[_vm_at(num_lines) :]
        """What the VM export keeps"""

    def is_output(self, offset: int, otherwise: bool) -> bool:
        """The direction that the line was last given; `otherwise` if none."""
        known = self._direction[offset]
        return known == _OUTPUT if known else otherwise

    def set_holder(self, offset: int, pid: int) -> None:
        """The process that has the line from now on; 0: not known."""
        _pid.pack_into(self._view, _header.size + offset * _LINE + _PID_AT, pid)

    def force(self, offset: int) -> tuple[int | None, int]:
        """(level that the line is forced to, if it is; until when, ns on CLOCK_BOOTTIME; 0: for ever)."""
        level, until_ns = _force.unpack_from(self._view, _header.size + offset * _LINE + _FORCE_AT)
        return _FORCED.get(level), until_ns

    def set_force(self, offset: int, level: int | None, until_ns: int) -> None:
        """It is forced so from now on; None: not at all."""
        at = _header.size + offset * _LINE + _FORCE_AT
        self._view[at] = 0 if level is None else level + 1
        _until.pack_into(self._view, at + 5, until_ns)

    def set_output(self, offset: int, is_output: bool) -> None:
        """The direction that the line has from now on."""
        self._direction[offset] = _OUTPUT if is_output else _INPUT


def copy_lines(
    source: int, source_lines: int, target: int, target_lines: int, offsets: Iterable[int]
) -> None:
    """Copy the state of these lines from one memory to another, where they have the same offsets."""
    one = map_shared(source, _vm_at(source_lines))
    other = map_shared(target, _vm_at(target_lines))
    other[_TRIPPED : _header.size] = one[_TRIPPED : _header.size]
    for offset in offsets:
        at = _header.size + offset * _LINE
        other[at : at + _LINE] = one[at : at + _LINE]
        for past in (0, 1):  # high, and no longer high
            theirs, ours = (
                _header.size + num_lines * _LINE + (past * num_lines + offset) * 8
                for num_lines in (source_lines, target_lines)
            )
            other[ours : ours + 8] = one[theirs : theirs + 8]


def held_lines(fd: int, num_lines: int) -> list[int]:
    """Offsets of the lines that have a holder, as written by the worker."""
    return [offset for offset, _ in line_holders(fd, num_lines)]


def line_holders(fd: int, num_lines: int) -> list[tuple[int, int]]:
    """(offset, pid) of the lines that have a holder, as written by the worker; 0: a process not known."""
    view = map_shared(fd, _header.size + num_lines * _LINE)
    starts = ((offset, _header.size + offset * _LINE) for offset in range(num_lines))
    return [(offset, _pid.unpack_from(view, at + _PID_AT)[0]) for offset, at in starts if view[at]]
