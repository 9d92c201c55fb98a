# SPDX-License-Identifier: MIT
"""What is on disk for containers: directories that are laid over parts of /sys, and who has a chip.

A directory is known by what it shows, so it never changes while a container has it mounted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Mapping
from contextlib import suppress

from gpiovirt.control.access import Identity, group_name, user_name
from gpiovirt.errors import HostError, NotPermittedError

__all__ = ["ContainerDirectories"]

_ID_MAX = 512


class ContainerDirectories:
    """Those below a gpiovirtd's `run`; `sys` is where the kernel's are."""

    def __init__(self, run: str, sys: str = "/sys") -> None:
        self._chips = f"{run}/chips"
        self._nodes = f"{run}/containers/nodes"
        self._layers = f"{run}/containers/layers"
        self._claims = f"{run}/containers/claims"
        self._sys = sys

    def make(self) -> None:
        """HostError if they cannot be made."""
        if set(self._layers) & {",", ":", "\\"}:  # which separate the options of an overlay
            raise HostError(f"{self._layers} has a character that no overlay can have; choose another --run")
        try:
            for path, mode in ((self._layers, 0o755), (self._claims, 0o700)):
                os.makedirs(path, mode, exist_ok=True)
                os.chmod(path, mode)
        except OSError as error:
            raise HostError.of("cannot make the directories for containers", error) from error

    # chips

    def node(self, chip: str) -> str:
        """/dev/pts/N of a chip; HostError(ENODEV) if there is no such chip."""
        path = f"{self._nodes}/{chip}"
        try:
            if "/" in chip or "\0" in chip:
                raise FileNotFoundError
            return os.readlink(path)
        except OSError:
            error = HostError(f"there is no chip {chip}; gpiovirt list shows those that are")
            error.errno = errno.ENODEV
            raise error from None

    def check_access(self, chip: str, who: Identity) -> None:
        """NotPermittedError unless they may use the chip, as its socket says. Names may take long to find."""
        uid, gid, mode = self._access(chip)
        if not who.may_use(uid, gid, mode):
            refusal = NotPermittedError(
                f"the chip {chip} is {user_name(uid)}:{group_name(gid)}'s ({mode:04o}), "
                f"and {user_name(who.uid)} may not use it"
            )
            refusal.errno = errno.EACCES
            raise refusal

    def _access(self, chip: str) -> tuple[int, int, int]:
        try:
            status = os.lstat(self.socket(chip))
        except OSError as error:
            raise HostError.of(f"the chip {chip} is not served", error) from error
        return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)

    def socket(self, chip: str) -> str:
        """Where the chip is served."""
        return f"{self._chips}/{chip}"

    def may_use(self, chip: str, who: Identity) -> bool:
        """The same, in a word."""
        return who.may_use(*self._access(chip))

    # who has one

    def claim(self, chip: str, container: str) -> int:
        """Have a container have the chip for as long as a copy of the fd is open.

        HostError(EBUSY) if another container has it.
        """
        fd = os.open(f"{self._claims}/{chip}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if _lock(fd, fcntl.LOCK_EX):
                os.ftruncate(fd, 0)
                os.pwrite(fd, container.encode()[:_ID_MAX], 0)
                _lock(fd, fcntl.LOCK_SH)
            elif os.pread(fd, _ID_MAX, 0) != container.encode()[:_ID_MAX] or not _lock(fd, fcntl.LOCK_SH):
                raise _busy(chip, fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def check_free(self, chip: str) -> None:
        """HostError(EBUSY) if a container has the chip."""
        with suppress(FileNotFoundError):
            fd = os.open(f"{self._claims}/{chip}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if not _lock(fd, fcntl.LOCK_EX):
                    raise _busy(chip, fd)
            finally:
                os.close(fd)

    # views of /sys

    def layers(self, chips: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """Directories to lay over /sys/bus and /sys/dev/char for a container with these chips, by device.

        Of GPIO it then has only these.
        """
        bus, char = [], []
        for device, chip in chips.items():
            terminal = self.node(chip)
            number = os.stat(terminal).st_rdev
            home = f"{self._layers}/{os.major(number)}.{os.minor(number)}"
            bus.append(f"{home}/{device}")
            char.append(f"{home}/char")
            _make(bus[-1], char[-1], device, f"{os.major(number)}:{os.minor(number)}")
        if hidden := self._hide_real():
            bus.append(f"{hidden}/bus")
            char.append(f"{hidden}/char")
        return bus, char

    def _hide_real(self) -> str:
        """A whiteout for each chip of this machine's; none if it has none."""
        with suppress(FileNotFoundError):
            names = os.listdir(f"{self._sys}/bus/gpio/devices")
            links = [
                entry.name
                for entry in os.scandir(f"{self._sys}/dev/char")
                if entry.is_symlink() and "/gpiochip" in os.readlink(entry.path)
            ]
            if names or links:
                hidden = f"{self._layers}/hidden"
                _white_out(f"{hidden}/bus/gpio/devices", names)
                _white_out(f"{hidden}/char", links)
                return hidden
        return ""


def _make(bus: str, char: str, device: str, number: str) -> None:
    shown = f"{bus}/gpio/devices/{device}"
    os.makedirs(shown, exist_ok=True)
    with open(f"{shown}/dev", "w", encoding="ascii") as file:
        file.write(f"{number}\n")
    os.makedirs(f"{char}/{number}", exist_ok=True)
    with suppress(FileExistsError):
        os.symlink("../../../bus/gpio", f"{char}/{number}/subsystem")


def _white_out(directory: str, names: list[str]) -> None:
    os.makedirs(directory, exist_ok=True)
    for name in names:
        with suppress(FileExistsError):
            os.mknod(f"{directory}/{name}", stat.S_IFCHR, os.makedev(0, 0))


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _busy(chip: str, fd: int) -> HostError:
    _, _, container = os.pread(fd, _ID_MAX, 0).decode(errors="replace").partition(" ")
    error = HostError(f"the chip {chip} is in use by the container {container[:12]}; stop that one first")
    error.errno = errno.EBUSY
    return error
