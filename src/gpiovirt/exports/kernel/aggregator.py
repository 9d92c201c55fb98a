# SPDX-License-Identifier: MIT
"""The kernel's driver gpio-aggregator: make and delete its devices, by configfs or by sysfs.

Documentation/admin-guide/gpio/gpio-aggregator.rst. By sysfs the kernel says that it made a device also
where it took no line, and not which: who calls must verify.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from gpiovirt.errors import HostError, InvalidError

__all__ = [
    "Aggregator",
    "Configfs",
    "Device",
    "KernelLine",
    "Sysfs",
    "delete",
    "find_aggregator",
    "find_group",
    "how_to_delete",
    "new_device_text",
]

DRIVER = Path("/sys/bus/platform/drivers/gpio-aggregator")
DELETE_DEVICE = DRIVER / "delete_device"
CONFIGFS = Path("/sys/kernel/config/gpio-aggregator")  # Linux 6.16
DEVICES = Path("/sys/bus/platform/devices")

_MAX_OFFSET = 511  # drivers/gpio/gpio-aggregator.c: AGGREGATOR_MAX_GPIOS
_MAX_TEXT = 4095  # fs/sysfs: one page


class KernelLine(NamedTuple):
    """A line as the driver finds it, by its chip's label; `name` is for the new chip."""

    label: str
    offset: int
    name: str = ""


class Device(NamedTuple):
    """A device gpio-aggregator.N; its inode in sysfs tells it from others that have had its name."""

    name: str
    inode: int
    group: str = ""
    """Its directory in configfs."""

    @classmethod
    def named(cls, name: str, group: str = "") -> Device:
        """As it is in sysfs now; its inode is 0 if it is not."""
        with suppress(OSError):
            return cls(name, os.stat(DEVICES / name).st_ino, group)
        return cls(name, 0, group)

    @property
    def is_there(self) -> bool:
        """It is, and is the same."""
        return bool(self.inode) and Device.named(self.name).inode == self.inode

    @property
    def chip(self) -> str:
        """gpiochipN; empty if the driver did not take its lines."""
        return next((path.name for path in (DEVICES / self.name).glob("gpiochip*")), "")

    def describe(self) -> str:
        """With its chip, for messages."""
        return f"{self.name or self.group} (/dev/{self.chip})" if self.chip else self.name or self.group


class Aggregator(Protocol):
    """A way to the driver."""

    keeps_names: bool

    def make(self, lines: Sequence[KernelLine], group: str) -> list[Device]:
        """The devices of which one was made just now; HostError if the kernel refuses."""


def find_aggregator() -> Aggregator:
    """The best way that this kernel has; HostError if it has none for us."""
    if CONFIGFS.is_dir():
        found: Aggregator = Configfs()
        entry = CONFIGFS
    elif DRIVER.is_dir():
        found, entry = Sysfs(), DRIVER / "new_device"
    else:
        raise HostError(
            "this kernel has no gpio-aggregator; load it (modprobe gpio-aggregator), or use gpiovirt run"
        )
    if not os.access(entry, os.W_OK):
        raise HostError(f"only root may hand a chip over to the kernel: {entry} is not writable")
    return found


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())  # one write is one command
    finally:
        os.close(fd)


class Configfs:
    """A directory per device and, in it, per line."""

    keeps_names = True

    def make(self, lines: Sequence[KernelLine], group: str) -> list[Device]:
        folder = CONFIGFS / group
        try:
            folder.mkdir()
            for number, line in enumerate(lines):
                entry = folder / f"line{number}"
                entry.mkdir()
                _write(entry / "key", line.label)
                _write(entry / "offset", str(line.offset))
                if line.name:
                    _write(entry / "name", line.name)
            _write(folder / "live", "1")
            return [Device.named((folder / "dev_name").read_text().strip(), group)]
        except OSError as error:
            with suppress(OSError):
                _remove(folder)
            raise HostError.of(f"the kernel's gpio-aggregator refuses {group}", error) from error


def _remove(folder: Path) -> None:
    if not folder.is_dir():
        return
    if (folder / "live").read_text().strip() == "1":
        _write(folder / "live", "0")
    for entry in folder.glob("line*"):
        entry.rmdir()
    folder.rmdir()


class Sysfs:
    """new_device and delete_device."""

    keeps_names = False

    def make(self, lines: Sequence[KernelLine], group: str) -> list[Device]:  # noqa: ARG002
        text = new_device_text(lines)
        try:
            with _alone():
                before = self._names()
                _write(DRIVER / "new_device", text)
                made = sorted(self._names() - before)
        except OSError as error:
            raise HostError.of(f"the kernel's gpio-aggregator refuses {text!r}", error) from error
        return [Device.named(name) for name in made]

    @staticmethod
    def _names() -> set[str]:
        return {path.name for path in DEVICES.glob("gpio-aggregator.*")}


def delete(device: Device) -> None:
    """Delete the device, however it was made, if it is there; HostError if the kernel refuses."""
    try:
        if device.group:
            _remove(CONFIGFS / device.group)
        elif device.is_there:
            _write(DELETE_DEVICE, device.name)
    except FileNotFoundError:  # somebody was faster
        pass
    except OSError as error:
        raise HostError.of(f"cannot delete {device.describe()}", error) from error


def find_group(group: str) -> Device | None:
    """The device of a group in configfs, whatever its state; None if there is no such group."""
    with suppress(OSError):
        return Device.named((CONFIGFS / group / "dev_name").read_text().strip(), group)
    return None


def how_to_delete(name: str) -> str:
    """What the user may do about a device that somebody left."""
    for dev_name in CONFIGFS.glob("[!_]*/dev_name"):
        with suppress(OSError):
            if dev_name.read_text().strip() == name:
                return f"echo 0 > {dev_name.parent}/live; rmdir {dev_name.parent}/line* {dev_name.parent}"
    return f"echo {name} > {DELETE_DEVICE}"


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other gpiovirt processes from making devices."""
    fd = os.open(DRIVER, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def new_device_text(lines: Sequence[KernelLine]) -> str:
    """The lines in the form that every version of the driver reads as it is meant: `"label" 0-3 ...`.

    Order is kept: the driver sorts what one list of offsets names, so that each is one ascending run.
    """
    runs: list[tuple[str, int, int]] = []
    for label, offset, _ in lines:
        if "=" in label or '"' in label:
            raise InvalidError(f"the kernel's gpio-aggregator cannot take label {label!r}: it has = or \"")
        if offset > _MAX_OFFSET:
            raise InvalidError(
                f"line {label}:{offset}: the kernel's gpio-aggregator takes offsets up to {_MAX_OFFSET}"
            )
        if runs and runs[-1][0] == label and runs[-1][2] == offset - 1:
            runs[-1] = (label, runs[-1][1], offset)
        else:
            runs.append((label, offset, offset))
    text = " ".join(
        f'"{label}" {first}-{last}' if last > first else f'"{label}" {first}' for label, first, last in runs
    )
    if len(text.encode()) > _MAX_TEXT:
        raise InvalidError(
            f"{len(lines)} lines in {len(runs)} runs are too many for this kernel's new_device"
        )
    return text
