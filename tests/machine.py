# SPDX-License-Identifier: MIT
"""What tests that run side by side share of a machine, or do not: network, mounts, users, packages."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from gpiovirt.host import libc

__all__ = ["outside", "part_from_others", "the_only_one"]

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000  # linux/sched.h
_MS_PRIVATE, _MS_REC = 1 << 18, 1 << 14  # linux/mount.h
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1  # linux/sockios.h, linux/if.h

_outside: list[str] = []


def part_from_others() -> None:
    """Have mounts and a network, with a loopback, that no other process sees: abstract sockets, too."""
    _outside[:] = ["nsenter", f"--net=/proc/{os.getppid()}/ns/net"]
    libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET)
    libc.mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


def outside() -> list[str]:
    """What a command begins with that is to reach the world's network, from whichever namespace."""
    return _outside


@contextmanager
def the_only_one() -> Iterator[None]:
    """Nobody else who asks for this on this machine has it meanwhile: for users, packages, /run/gpiovirt."""
    folder = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
