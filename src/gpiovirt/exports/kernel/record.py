# SPDX-License-Identifier: MIT
"""What of the kernel's devices is ours: a file per chip in /run, locked while its process lives.

A file that nobody has locked is of a process that was killed, and the device it names is left over.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gpiovirt.errors import HostError, LineBusyError
from gpiovirt.exports.kernel.aggregator import Device

__all__ = ["Record", "chips_of_devices", "left_over"]

FOLDER = Path("/run/gpiovirt/kernel")
_PATIENCE_S = 0.1


def file_name(chip: str) -> str:
    """A name for files, of any chip's name, that no other chip's name gives."""
    return "chip-" + re.sub(r"[^\w-]", lambda match: f"%{ord(match[0]):02x}", chip, flags=re.ASCII)


class Record:
    """The lock on a chip's name; `before` is the device that a killed process had for it."""

    def __init__(self, chip: str) -> None:
        self._path = FOLDER / file_name(chip)
        self._chip = chip
        try:
            FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._fd = self._locked()
        except OSError as error:
            raise HostError.of(f"cannot write {self._path}", error) from error
        _, self.before = _read(self._fd)

    def _locked(self) -> int:
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                if time.monotonic() < give_up:  # it may be one who only looks
                    time.sleep(0.01)
                    continue
                raise LineBusyError(
                    f"another gpiovirt has made a kernel chip of {self._chip!r}; choose another name"
                ) from None
            with suppress(FileNotFoundError):  # its holder removed it meanwhile
                if os.stat(self._path).st_ino == os.fstat(fd).st_ino:
                    return fd
            os.close(fd)

    def write(self, device: Device) -> None:
        """This is the chip's device from now on."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps([self._chip, *device]).encode(), 0)

    def close(self) -> None:
        """There is no device any more."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        os.close(self._fd)

    def leave(self) -> None:
        """The device is left over."""
        os.close(self._fd)


def _read(fd: int) -> tuple[str, Device | None]:
    match _decoded(os.pread(fd, 4096, 0)):
        case [str(chip), str(name), int(inode), str(group)]:
            return chip, Device(name, inode, group)
    return "", None


def _decoded(text: bytes) -> object:
    with suppress(ValueError):
        return json.loads(text)
    return None


def _all(of_the_dead: bool) -> Iterator[tuple[str, Device]]:
    for path in FOLDER.glob("chip-*"):
        with suppress(OSError), open(path, "rb") as file:
            if of_the_dead:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
            chip, device = _read(file.fileno())
            if device is not None and device.is_there:
                yield chip, device


def left_over() -> Iterator[tuple[str, Device]]:
    """(chip, device) of processes that were killed, those that are still there."""
    return _all(of_the_dead=True)


def chips_of_devices() -> dict[str, str]:
    """The chips handed over, left over ones too, by the name of their device: gpio-aggregator.N."""
    return {device.name: chip for chip, device in _all(of_the_dead=False)}
