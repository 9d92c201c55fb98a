# SPDX-License-Identifier: MIT
"""Trees of files as a program uses them, without a kernel: a path and what to do to it, an errno and bytes.

What the kernel's file system layer decides (a name that is there, a file in the middle of a path) is here.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from gpiovirt.core.task import Future
from gpiovirt.errors import GpiovirtError, NoSuchChipError
from gpiovirt.protocols.attributes import ValueFile
from gpiovirt.protocols.configfs import Bank, Chosen, Device
from gpiovirt.protocols.fuse import Attribute, Directory, Group

__all__ = ["Board", "Files"]


class Files:
    """The tree below `root`."""

    def __init__(self, root: Directory) -> None:
        self._root = root

    def do(self, path: str, operation: str, content: bytes = b"") -> tuple[str, bytes]:
        """The errno's name, "" if it is done, and what was read."""
        try:
            return "", self._do(path, operation, content)
        except (OSError, GpiovirtError) as error:
            return errno.errorcode[error.errno or errno.EIO], b""

    def begin(self, path: str, content: bytes) -> Future[None]:
        """Write what is done only later."""
        found = self._find(path)
        assert isinstance(found, ValueFile)
        future = found.write(content)
        assert future is not None
        return future

    def _find(self, path: str) -> Directory | Attribute:
        found: Directory | Attribute = self._root
        for name in filter(None, path.split("/")):
            if not hasattr(found, "entries"):
                raise OSError(errno.ENOTDIR, path)
            entries = found.entries()
            if name not in entries:
                raise OSError(errno.ENOENT, path)
            found = entries[name]
        return found

    def _do(self, path: str, operation: str, content: bytes) -> bytes:
        if operation in ("mkdir", "rmdir"):
            parent, _, name = path.rpartition("/")
            return self._change(self._find(parent), name, operation)
        found = self._find(path)
        if operation == "list":
            if not hasattr(found, "entries"):
                raise OSError(errno.ENOTDIR, path)
            return " ".join(sorted(found.entries())).encode()
        if hasattr(found, "entries"):
            raise OSError(errno.EISDIR, path)
        if operation == "read":
            if not found.mode & 0o400:
                raise OSError(errno.EACCES, path)
            return found.read()
        if not found.mode & 0o200:
            raise OSError(errno.EACCES, path)
        self._wait(found.write(content))
        return b""

    def _change(self, parent: Directory | Attribute, name: str, operation: str) -> bytes:
        if not hasattr(parent, "entries"):
            raise OSError(errno.ENOTDIR, name)
        there = parent.entries().get(name)
        if operation == "mkdir" and there is not None:
            raise OSError(errno.EEXIST, name)
        if operation == "rmdir":
            if there is None:
                raise OSError(errno.ENOENT, name)
            if not hasattr(there, "entries"):
                raise OSError(errno.ENOTDIR, name)
        if not isinstance(parent, Group):
            raise OSError(errno.EPERM, name)
        if operation == "mkdir":
            parent.make(name)
        else:
            self._wait(parent.remove(name))
        return b""

    @staticmethod
    def _wait(future: Future[None] | None) -> None:
        if future is not None:
            assert future.is_done
            future.result()


class Board:
    """A Platform on which everything works at once; it has what was made."""

    def __init__(self) -> None:
        self.simulated: dict[Device, Sequence[Bank]] = {}
        self.aggregated: dict[Device, Sequence[Chosen]] = {}
        self.chips: dict[Device, list[str]] = {}

    def simulate(self, device: Device, banks: Sequence[Bank]) -> Future[list[str]]:
        self.simulated[device] = banks
        return self._add(device, len(banks))

    def aggregate(self, device: Device, lines: Sequence[Chosen]) -> Future[list[str]]:
        labels = {bank.label: len(bank.names) for banks in self.simulated.values() for bank in banks}
        for line in lines:
            if line.key not in labels:
                raise NoSuchChipError(line.key)
            if line.offset is not None and line.offset >= labels[line.key]:
                raise OSError(errno.ENXIO, "no such line")
        self.aggregated[device] = lines
        return self._add(device, 1)

    def remove(self, device: Device) -> Future[None]:
        del self.chips[device]
        self.simulated.pop(device, None)
        self.aggregated.pop(device, None)
        gone: Future[None] = Future()
        gone.set(None)
        return gone

    def _add(self, device: Device, count: int) -> Future[list[str]]:
        assert device not in self.chips
        taken = {name for names in self.chips.values() for name in names}
        free = (name for number in range(10**6) if (name := f"gpiochip{number}") not in taken)
        self.chips[device] = [next(free) for _ in range(count)]
        made: Future[list[str]] = Future()
        made.set(self.chips[device])
        return made
