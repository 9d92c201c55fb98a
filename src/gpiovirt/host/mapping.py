# SPDX-License-Identifier: MIT
"""Others' memory, through fds that they gave us, and our own shared memory to give away."""

from __future__ import annotations

import fcntl
import mmap
import os
import stat

from gpiovirt.errors import HostError, PeerError

__all__ = ["can_shrink", "map_shared", "map_to_read", "shared_memory"]


def map_shared(fd: int, size: int, offset: int = 0) -> memoryview:
    """`size` bytes of a file at `offset`, to read and write; `fd` stays the caller's.

    PeerError if the file is shorter: touching memory past its end would end the process. The
    memory is unmapped when its last view is gone.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise PeerError("a file to be mapped is not in memory")
    if not size or offset + size > status.st_size:
        raise PeerError(f"{size:#x} bytes at {offset:#x} of a file of {status.st_size:#x} bytes")
    # a huge page is the file system's block size, and mappings are aligned to it
    granularity = max(mmap.ALLOCATIONGRANULARITY, status.st_blksize)
    start = offset - offset % granularity
    length = min(-(-(offset + size - start) // granularity) * granularity, status.st_size - start)
    try:
        mapped = memoryview(mmap.mmap(fd, length, offset=start))
    except (OSError, ValueError, OverflowError) as error:
        raise PeerError(f"cannot map {size:#x} bytes at {offset:#x}: {error}") from error
    return mapped[offset - start : offset - start + size]


def map_to_read(fd: int, size: int) -> memoryview:
    """The first `size` bytes of a file, to read; PeerError if it is shorter, or no file in memory."""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or size > status.st_size:
            raise PeerError(f"{size:#x} bytes of a file of {status.st_size:#x} bytes")
        return memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ))
    except (OSError, ValueError) as error:
        raise PeerError(f"cannot map {size:#x} bytes: {error}") from error


def can_shrink(fd: int) -> bool:
    """Whether the file can be truncated, which ends a process that touches the lost part (SIGBUS)."""
    try:
        return not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    except OSError:  # a file system whose files cannot be sealed
        return True


def shared_memory(name: str, size: int) -> int:
    """The fd of so many zero bytes, to be given away: nobody can truncate it."""
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError as error:
        raise HostError.of(f"cannot make {size} bytes of shared memory", error) from error
    return fd
