# SPDX-License-Identifier: MIT
"""System calls besides ioctl that are answered for the program: mounts of configfs, and the kernel's release.

What is not ours goes on to the kernel as it was. A caller with another uid than the supervisor's is left to
the kernel, too: the usher may mount more than it.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable, Sequence
from struct import Struct
from typing import NamedTuple

from gpiovirt.core.task import Future
from gpiovirt.exports.process.session import Trap
from gpiovirt.exports.process.usher import Usher
from gpiovirt.host.task import Task
from gpiovirt.uapi.unistd import numbers_by_architecture

__all__ = ["MOUNTS", "UNAME", "MountTraps", "by_number", "uname_trap"]

MOUNTS = ("mount", "umount2")
UNAME = ("uname",)

_PATH_MAX = 4096
_PAGE = 4096
_TYPE_MAX = 32
_MOUNTS_MAX = 256
_FLAGS = 0xFFFFFFFF
# linux/mount.h: MS_REMOUNT, MS_BIND, MS_MOVE, MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED: no new mount
_NOT_NEW = 32 | 4096 | 8192 | 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20
_new_utsname = Struct("65s65s65s65s65s65s")  # linux/utsname.h
_RELEASE_MAX = 64


def by_number(traps: dict[str, Trap]) -> dict[tuple[int, int], Trap]:
    """Traps by architecture and number, as a session has them."""
    return {
        (arch, number): trap
        for call, trap in traps.items()
        for arch, numbers in numbers_by_architecture(call).items()
        for number in numbers
    }


def uname_trap(release: str) -> Trap:
    """uname(2) of a kernel of that release."""

    def trap(task: Task, _tid: int, arguments: Sequence[int]) -> int:
        real = os.uname()
        fields = (real.sysname, real.nodename, release, real.version, real.machine, "(none)")
        told = _new_utsname.pack(*(field.encode()[:_RELEASE_MAX] for field in fields))
        try:
            return 0 if task.write(arguments[0], told) == len(told) else errno.EFAULT
        except (OSError, OverflowError):
            return errno.EFAULT

    return trap


class _Path(NamedTuple):
    """What it is called, whoever calls it so, and how the usher reaches it."""

    named: str
    reached: str


class MountTraps:
    """mount(2) of configfs, and umount2(2) of what it has mounted."""

    def __init__(self, usher: Usher) -> None:
        self._usher = usher
        self._mounted: set[str] = set()

    def mount(self, task: Task, tid: int, arguments: Sequence[int]) -> int | Future[int] | None:
        """See Trap."""
        _, target, fstype, flags, *_ = arguments
        if flags & _NOT_NEW or _string(task, fstype, _TYPE_MAX) != b"configfs":
            return None
        path = self._path(task, tid, target)
        if path is None or len(self._mounted) >= _MOUNTS_MAX:
            return None
        return self._done(self._usher.mount(path.reached), lambda: self._mounted.add(path.named))

    def umount(self, task: Task, tid: int, arguments: Sequence[int]) -> int | Future[int] | None:
        """See Trap."""
        target, flags, *_ = arguments
        path = self._path(task, tid, target)
        if path is None or path.named not in self._mounted:
            return None
        asked = self._usher.umount(path.reached, flags & _FLAGS)
        return self._done(asked, lambda: self._mounted.discard(path.named))

    @staticmethod
    def _done(asked: Future[int], then: Callable[[], object]) -> Future[int]:
        """The errno of what was asked."""
        outcome: Future[int] = Future()

        def settle() -> None:
            try:
                asked.result()
            except OSError as error:
                outcome.set(error.errno or errno.EIO)
            else:
                then()
                outcome.set(0)

        asked.then(settle)
        return outcome

    @staticmethod
    def _path(task: Task, tid: int, address: int) -> _Path | None:
        """A path of the caller's; None if that is for the kernel to refuse."""
        text = _string(task, address, _PATH_MAX)
        if not text or task.process()[1] != os.geteuid():
            return None
        path = posixpath.normpath(os.fsdecode(text))
        if path.startswith("/"):
            return _Path(path, f"/proc/{tid}/root{path}")
        return _Path(f"{os.readlink(f'/proc/{tid}/cwd')}/{path}", f"/proc/{tid}/cwd/{path}")


def _string(task: Task, address: int, most: int) -> bytes | None:
    """A string of the caller's; None if there is none of at most so many bytes."""
    found = b""
    while len(found) < most:
        length = min(most - len(found), _PAGE - (address + len(found)) % _PAGE)
        try:
            part = task.read(address + len(found), length)
        except (OSError, OverflowError):
            return None
        text, end, _ = part.partition(b"\0")
        found += text
        if end:
            return found
        if len(part) < length:
            return None
    return None
