# SPDX-License-Identifier: MIT
"""The memory of a virtual chip that outlives its worker: which lines have holders, and the state of a VM.

The custodian keeps the file and hands it to each worker. Layout, native byte order:

    header      8 bytes    magic, version, number of lines
    lines      16 bytes a line    held (0 or 1), direction (0 unknown, 1 input, 2 output), the rest reserved
    the rest                what the VM export keeps
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from gpiovirt.errors import PeerError
from gpiovirt.host.mapping import map_shared, shared_memory

__all__ = ["KeptMemory", "copy_lines", "held_lines", "new_memory"]

_header = Struct("=4sHH")
_MAGIC, _VERSION = b"gpvc", 1
_LINE = 16
_INPUT, _OUTPUT = 1, 2


def _size(num_lines: int, vm_bytes: int) -> int:
    return _vm_at(num_lines) + vm_bytes


def _vm_at(num_lines: int) -> int:
    return -(-(_header.size + num_lines * _LINE) // 64) * 64


def new_memory(name: str, num_lines: int, vm_bytes: int) -> int:
    """The fd of memory in which no line is held, sealed against shrinking."""
    return shared_memory(f"gpiovirt:{name}", _size(num_lines, vm_bytes))


class KeptMemory:
    """One process's view of it; the file stays the caller's. PeerError if it is not such a memory."""

    def __init__(self, fd: int, num_lines: int, vm_bytes: int) -> None:
        self._view = map_shared(fd, _size(num_lines, vm_bytes))
        header = _header.pack(_MAGIC, _VERSION, num_lines)
        found = bytes(self._view[: _header.size])
        if found == bytes(_header.size):
            self._view[: _header.size] = header
        elif found != header:
            raise PeerError("memory of another chip, or of another version")
        end = _header.size + num_lines * _LINE
        self.held: memoryview = self._view[_header.size : end : _LINE]
        """1 for each line that has a holder"""
        self._direction = self._view[_header.size + 1 : end : _LINE]
        self.vm: memoryview = self._view[_vm_at(num_lines) :]
        """What the VM export keeps"""

    def is_output(self, offset: int, otherwise: bool) -> bool:
        """The direction that the line was last given; `otherwise` if none."""
        known = self._direction[offset]
        return known == _OUTPUT if known else otherwise

    def set_output(self, offset: int, is_output: bool) -> None:
        """The direction that the line has from now on."""
        self._direction[offset] = _OUTPUT if is_output else _INPUT


def copy_lines(
    source: int, source_lines: int, target: int, target_lines: int, offsets: Iterable[int]
) -> None:
    """Copy the state of these lines from one memory to another, where they have the same offsets."""
    one = map_shared(source, _header.size + source_lines * _LINE)
    other = map_shared(target, _header.size + target_lines * _LINE)
    for offset in offsets:
        at = _header.size + offset * _LINE
        other[at : at + _LINE] = one[at : at + _LINE]


def held_lines(fd: int, num_lines: int) -> list[int]:
    """Offsets of the lines that have a holder, as written by the worker."""
    size = num_lines * _LINE
    view = map_shared(fd, _header.size + size)
    return [offset for offset in range(num_lines) if view[_header.size + offset * _LINE]]
