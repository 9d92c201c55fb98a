# SPDX-License-Identifier: MIT
"""The file beside a socket: what the guest has of the lines, for who serves it after we were killed.

It is also the lock on the socket's name: the kernel takes that back whichever way we end.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from typing import Protocol

from gpiovirt.errors import HostError, PeerError
from gpiovirt.host.mapping import map_shared
from gpiovirt.protocols import vhost_user as v
from gpiovirt.protocols.virtio_gpio import GpioDevice
from gpiovirt.protocols.virtio_gpio.record import Record

__all__ = ["QUEUE_SIZE_MAX", "KeptState", "State", "StateFile", "Tracked", "state_size", "vm_bytes"]

QUEUE_SIZE_MAX = 1024

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def state_size(num_lines: int) -> int:
    """Bytes of the state of a device of so many lines."""
    return v.inflight_size(GpioDevice.num_queues, QUEUE_SIZE_MAX, Record(num_lines).size)


def vm_bytes(vm: bool, num_lines: int) -> int:
    """What the VM export of a chip keeps in the chip's memory; nothing of one without a socket for VMs."""
    return state_size(num_lines) if vm else 0


class State(Protocol):
    """Where a server keeps what its guest has of the lines: memory that outlives the process."""

    view: memoryview

    def close(self, keep: bool) -> None:
        """No longer ours; removed, unless a guest is to go on with it."""


class Tracked:
    """Where in-flight buffers and the record are kept: our state file, or memory the VMM keeps for us."""

    def __init__(self, view: memoryview, num_queues: int, queue_size: int) -> None:
        self.view = view
        self.num_queues = num_queues
        self.queue_size = queue_size

    def record(self, size: int) -> memoryview:
        return v.record_area(self.view, self.num_queues, self.queue_size, size)

    def log(self, index: int, ring_size: int) -> v.SplitRingLog:
        if index >= self.num_queues or ring_size > self.queue_size:
            raise PeerError(f"inflight memory for {self.num_queues} queues of {self.queue_size}")
        return v.SplitRingLog(v.log_area(self.view, index, self.queue_size), ring_size)


class KeptState:
    """State in memory that another process keeps, too."""

    def __init__(self, view: memoryview) -> None:
        self.view = view

    def close(self, keep: bool) -> None:
        """Zero it, unless a guest is to go on with it."""
        if not keep:
            self.view[:] = bytes(len(self.view))


class StateFile:
    """`PATH.state`, of `size` bytes, zero at first; HostError if another server has it."""

    def __init__(self, path: str, size: int) -> None:
        self._path = path + ".state"
        try:
            self._fd = self._locked()
        except BlockingIOError:
            raise HostError(
                f"the socket {path} is in use by a running gpiovirt; choose another, or stop that one first"
            ) from None
        except OSError as error:
            raise HostError.of(f"cannot keep state in {self._path}", error) from error
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise HostError(f"{self._path} is not a state file of gpiovirt; remove it")
            if status.st_size != size:
                os.ftruncate(self._fd, 0)
                os.ftruncate(self._fd, size)
            self.view = map_shared(self._fd, size)
        except BaseException:
            os.close(self._fd)
            raise

    def _locked(self) -> int:
        """Who removes the file holds its lock too: so it must be there still when we have that."""
        while True:
            fd = os.open(self._path, _FLAGS, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), os.lstat(self._path)):
                        return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def close(self, keep: bool) -> None:
        """Unlock the file; removed, unless a guest is to go on with it."""
        if not keep:
            with suppress(OSError):
                os.unlink(self._path)
        os.close(self._fd)
