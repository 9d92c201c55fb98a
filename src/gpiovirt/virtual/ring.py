# SPDX-License-Identifier: MIT
"""The memory of a chip's record: the custodian keeps it, a worker writes, and others may only read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from gpiovirt.core.record import RING_START, RingReader, RingWriter, is_ring, ring_size
from gpiovirt.errors import HostError, PeerError
from gpiovirt.host.mapping import can_shrink, map_shared, map_to_read, shared_memory

__all__ = ["mend_ring", "new_ring", "readable_copy", "reader_of", "writer_to"]


def new_ring(name: str, num_lines: int) -> int:
    """The fd of an empty one."""
    fd = shared_memory(f"gpiovirt:{name}:record", ring_size(num_lines))
    try:
        os.fchmod(fd, 0o600)  # whoever has a copy to read from cannot open it to write
    except OSError as error:
        os.close(fd)
        raise HostError.of("cannot keep others from writing to a record", error) from error
    return fd


def mend_ring(fd: int, num_lines: int) -> bool:
    """Make a ring new, in place, that no worker can write to any more; False if one can."""
    if is_ring(os.pread(fd, RING_START, 0).ljust(RING_START, b"\0"), num_lines):
        return False
    os.pwrite(fd, bytes(RING_START), 0)
    return True


def readable_copy(fd: int) -> int:
    """Another fd of it, by which nobody can write; HostError."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError.of("cannot open a record to read it", error) from error


def writer_to(fd: int, num_lines: int, wake: Callable[[], object]) -> RingWriter:
    """PeerError if it is not such a memory."""
    memory = map_shared(fd, ring_size(num_lines))
    return RingWriter(memory, num_lines, time.time_ns, time.monotonic_ns, wake)


def reader_of(fd: int, num_lines: int, next_seq: int = 0) -> RingReader:
    """PeerError if it is not such a memory, or can be truncated."""
    if can_shrink(fd):
        raise PeerError("memory that can be truncated")
    return RingReader(map_to_read(fd, ring_size(num_lines)), num_lines, next_seq)
