# SPDX-License-Identifier: MIT
"""The character device at the level of ioctl(2): the state machine in this process, or a real /dev node."""

from __future__ import annotations

import fcntl
import os
import select
import struct
from collections import deque
from typing import Protocol

from gpiovirt.protocols.gpiochip import ChipFile, FifoShape, File
from tests.conformance.rigs import CoreRig, GpiodRig, KernelRig, Rig
from tests.holders import OPENER


class QueueFifo:
    """A Fifo with the kernel's overflow rules."""

    def __init__(self, shape: FifoShape) -> None:
        self.records: deque[bytes] = deque()
        _, self._capacity, self._drop_oldest = shape

    def put(self, record: bytes) -> None:
        if len(self.records) == self._capacity:
            if not self._drop_oldest:
                return
            self.records.popleft()
        self.records.append(record)

    def hang_up(self) -> None:
        self.hung_up = True


class Device(Protocol):
    """An open file of the device."""

    def ioctl(self, cmd: int, arg: bytes) -> bytes: ...
    def opened(self, cmd: int, arg: bytes) -> Device: ...
    def read(self) -> list[bytes]: ...
    def close(self) -> None: ...


class MachineDevice:
    """An open file of the state machine."""

    def __init__(self, file: File, all_open: set[File]) -> None:
        self._file = file
        self._opened: File | None = None
        self._all_open = all_open
        all_open.add(file)

    def ioctl(self, cmd: int, arg: bytes) -> bytes:
        answer = self._file.ioctl(cmd, arg)
        if answer.errno:
            raise OSError(answer.errno, os.strerror(answer.errno))
        self._opened = answer.file
        return arg if answer.reply is None else answer.reply

    def opened(self, cmd: int, arg: bytes) -> Device:
        self.ioctl(cmd, arg)
        assert self._opened is not None
        return MachineDevice(self._opened, self._all_open)

    def read(self) -> list[bytes]:
        fifo = self._file.fifo
        assert isinstance(fifo, QueueFifo)
        records = list(fifo.records)
        fifo.records.clear()
        return records

    def close(self) -> None:
        self._all_open.remove(self._file)
        self._file.close()


class RealDevice:
    """An open file of a /dev/gpiochipN."""

    def __init__(self, fd: int, record_size: int, all_open: set[int]) -> None:
        self._fd = fd
        self._record_size = record_size
        self._all_open = all_open
        all_open.add(fd)

    def ioctl(self, cmd: int, arg: bytes) -> bytes:
        buffer = bytearray(arg)
        fcntl.ioctl(self._fd, cmd, buffer)
        return bytes(buffer)

    def opened(self, cmd: int, arg: bytes) -> Device:
        (fd,) = struct.unpack_from("i", self.ioctl(cmd, arg), len(arg) - 4)
        assert fd > 2
        return RealDevice(fd, 16 if cmd == 0xC030B404 else 48, self._all_open)

    def read(self) -> list[bytes]:
        records = []
        while select.select([self._fd], [], [], 0.02)[0]:
            record = os.read(self._fd, self._record_size)
            assert len(record) == self._record_size
            records.append(record)
        return records

    def close(self) -> None:
        self._all_open.remove(self._fd)
        os.close(self._fd)


class Devices:
    """Opens the device of a rig, and closes what is left open."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._open: set[int] = set()
        self._files: set[File] = set()

    def open(self, info_event_size: int = 288) -> Device:
        """A new open file of the chip; its info events have that size."""
        if isinstance(self._rig, CoreRig | KernelRig):
            return MachineDevice(ChipFile(self._rig.chip, "gpiochip0", QueueFifo, OPENER), self._files)
        assert isinstance(self._rig, GpiodRig)
        fd = os.open(self._rig.chip.path, os.O_RDWR)
        return RealDevice(fd, info_event_size, self._open)

    def close(self) -> None:
        for fd in self._open:
            os.close(fd)
        for file in self._files:
            file.close()
