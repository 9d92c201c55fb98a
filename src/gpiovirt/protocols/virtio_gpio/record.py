# SPDX-License-Identifier: MIT
"""A guest's state of its lines, as bytes that can outlive the process, and the bytes of the line names.

A record in shared memory, or in a file, lets a restarted back-end go on where the previous one ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import NamedTuple

from gpiovirt.errors import UsageError

__all__ = ["LineRecord", "Record", "names_block"]

_header = Struct("<4sHH8x")  # magic, version, number of lines
_MAGIC = b"gpvm"
_VERSION = 1
_line = Struct("<BBBB")  # direction, interrupt type and latch, value, last level seen
_LATCH = 0x80


class LineRecord(NamedTuple):
    """VIRTIO_GPIO_DIRECTION_*, VIRTIO_GPIO_IRQ_TYPE_*, whether an edge is latched, value, last level seen."""

    direction: int
    irq_type: int
    latched: bool
    value: int
    level: int


class Record:
    """The record of `num_lines` lines, in our own memory until bind()."""

    def __init__(self, num_lines: int) -> None:
        self._num_lines = num_lines
        self.size = _header.size + _line.size * num_lines
        self._view = memoryview(bytearray(self.size))
        self.clear()

    def bind(self, view: memoryview) -> None:
        """Use `view` from now on, with the record in it if it has a valid one.

        UsageError if it is not `size` bytes.
        """
        if len(view) != self.size:
            raise UsageError(f"a record of {len(view)} bytes; it has {self.size}")
        former, self._view = self._view, view
        if not self.is_ours():
            view[:] = former

    def unbind(self) -> None:
        """Use our own memory from now on, with what was in the view."""
        self._view = memoryview(bytearray(self._view))

    def clear(self) -> None:
        """Whether no line has any state."""
        _header.pack_into(self._view, 0, _MAGIC, _VERSION, self._num_lines)
        self._view[_header.size :] = bytes(_line.size * self._num_lines)

    def is_ours(self) -> bool:
        """Whether the view has a record of this version and number of lines."""
        return _header.unpack_from(self._view) == (_MAGIC, _VERSION, self._num_lines)

    def load(self, offset: int) -> LineRecord:
        """The record of one line; do not trust anything in it."""
        direction, irq, value, level = _line.unpack_from(self._view, _header.size + _line.size * offset)
        return LineRecord(direction, irq & ~_LATCH, bool(irq & _LATCH), value & 1, level & 1)

    def save(self, offset: int, direction: int, irq_type: int, latched: bool, value: int) -> None:
        """Store everything about a line but its level."""
        at = _header.size + _line.size * offset
        self._view[at : at + 3] = bytes((direction, irq_type | _LATCH if latched else irq_type, value))

    def save_value(self, offset: int, value: int) -> None:
        """Store the value of an output, or of what will be one."""
        self._view[_header.size + _line.size * offset + 2] = value

    def save_level(self, offset: int, level: int) -> None:
        """Store the last level seen of an input."""
        self._view[_header.size + _line.size * offset + 3] = level


def names_block(names: Iterable[str]) -> bytes:
    """The line names as the device reports them; empty if there are none.

    A name that is not 7-bit ASCII, or a duplicate, is left out: the device
    cannot report it. virtio-v1.2 5.18.6.1
    """
    said: set[str] = set()
    block = bytearray()
    for name in names:
        if name.isascii() and "\0" not in name and name not in said:
            said.add(name)
            block += name.encode()
        block.append(0)
    return bytes(block) if any(block) else b""
