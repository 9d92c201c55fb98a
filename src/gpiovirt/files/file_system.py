# SPDX-License-Identifier: MIT
"""Chips as files: new_device, delete_device and a directory for each chip, as a driver has them in sysfs.

    gpio-virt-agg/      the names and the grammar of the 2019 proposal, and the kernel's grammar besides
    gpio-aggregator/    the names and the grammar of the kernel's driver, to the letter

A write succeeds when the chip is live, and fails with the errno that says why not. The kernel decides who
may open what, by the owner, group and mode shown here.
"""

from __future__ import annotations

import errno
import logging
import re
import stat
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import mfusepy

from gpiovirt.control.access import GROUP, gid_of, group_name, user_name
from gpiovirt.control.client import Client
from gpiovirt.errors import GpiovirtError, UsageError
from gpiovirt.protocols.control.answers import ChipDetails, ChipState
from gpiovirt.protocols.control.requests import Delete, Look, New, Own, Request
from gpiovirt.virtual import aggregator_grammar, grammar

__all__ = ["DRIVERS", "ControlFileSystem"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_WRITE_MAX = 4096  # a page, as sysfs has it


def _proposals(text: str) -> str:
    """Both grammars are read by the daemon itself."""
    return text


def _mainline(text: str) -> str:
    return grammar.format_definition(aggregator_grammar.parse(text))


DRIVERS: Mapping[str, Callable[[str], str]] = {"gpio-virt-agg": _proposals, "gpio-aggregator": _mainline}
"""Directories, and how what is written to their new_device becomes a definition of ours"""

_ENTRY = ("new_device", "delete_device")


def _lines(told: ChipDetails) -> str:
    return "".join(f"{line.offset} {line.source}\n" for line in told.lines)


def _names(told: ChipDetails) -> str:
    return "".join(f"{line.name}\n" for line in told.lines)


def _owner(told: ChipDetails) -> str:
    chip = told.chip
    return f"{user_name(chip.uid)}:{group_name(chip.gid)} {chip.mode:04o}\n"


def _exports(told: ChipDetails) -> str:
    return f"device {told.chip.device}\n" + (f"vm {told.chip.vm}\n" if told.chip.vm else "")


_ATTRIBUTES: Mapping[str, Callable[[ChipDetails], str]] = {
    "label": lambda told: f"{told.chip.name}\n",
    "lines": _lines,
    "names": _names,
    "owner": _owner,
    "exports": _exports,
    "state": lambda told: f"{told.chip.state}\n",
}


class ControlFileSystem(mfusepy.Operations):  # type: ignore[misc]
    """The tree; each operation asks the daemon at `control` anew."""

    use_ns = True

    def __init__(self, control: str, on_mounted: Callable[[], None]) -> None:
        self._control = control
        self._on_mounted = on_mounted
        self._since_ns = time.time_ns()
        try:
            self._gid = gid_of(GROUP)
        except UsageError:
            self._gid = 0

    def init_with_config(self, _connection: Any, config: Any) -> None:
        """Ask every time: what is shown changes without our doing."""
        if config is not None:
            config.direct_io = 1
        self._on_mounted()

    # what there is

    def _client(self) -> Client:
        """For whoever called, who sees and may do what the daemon says."""
        uid, gid, pid = mfusepy.fuse_get_context()
        return Client(self._control, acting_for=(uid, [gid, *_groups_of(pid)]))

    def _with(self, ask: Callable[[Client], _T]) -> _T:
        try:
            with self._client() as client:
                return ask(client)
        except GpiovirtError as error:
            raise mfusepy.FuseOSError(error.errno) from error

    def _ask(self, request: Request[_T]) -> _T:
        return self._with(lambda client: client.ask(request))

    def _chips(self, driver: str) -> list[ChipState]:
        chips = self._with(lambda client: client.chips())
        return [chip for chip in chips if (chip.driver or "gpio-virt-agg") == driver]

    def _chip(self, driver: str, name: str) -> ChipState:
        chip = self._ask(Look(name))
        if (chip.driver or "gpio-virt-agg") != driver:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return chip

    @staticmethod
    def _split(path: str) -> list[str]:
        return [part for part in path.split("/") if part]

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Attributes of a file or directory."""
        match self._split(path):
            case []:
                return self._attributes(stat.S_IFDIR | 0o755)
            case [driver] if driver in DRIVERS:
                return self._attributes(stat.S_IFDIR | 0o755)
            case [driver, entry] if driver in DRIVERS and entry in _ENTRY:
                return self._attributes(stat.S_IFREG | (0o220 if self._gid else 0o200), gid=self._gid)
            case [driver, name] if driver in DRIVERS:
                chip = self._chip(driver, name)
                mode = chip.mode | chip.mode >> 2 & 0o111  # who may use it may look into it
                return self._attributes(stat.S_IFDIR | mode, chip.uid, chip.gid)
            case [driver, name, attribute] if driver in DRIVERS and attribute in _ATTRIBUTES:
                self._chip(driver, name)
                return self._attributes(stat.S_IFREG | 0o444)
        raise mfusepy.FuseOSError(errno.ENOENT)

    def _attributes(self, mode: int, uid: int = 0, gid: int = 0) -> dict[str, Any]:
        times = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), self._since_ns)
        size = _WRITE_MAX if stat.S_ISREG(mode) else 0  # as sysfs has it
        return {"st_mode": mode, "st_uid": uid, "st_gid": gid, "st_nlink": 1, "st_size": size, **times}

    def readdir(self, path: str, fh: int) -> list[str]:
        """Names in a directory."""
        match self._split(path):
            case []:
                return [".", "..", *DRIVERS]
            case [driver]:
                return [".", "..", *_ENTRY, *(chip.name for chip in self._chips(driver))]
        return [".", "..", *_ATTRIBUTES]

    # what can be done

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """An attribute of a chip."""
        match self._split(path):
            case [_, name, attribute]:
                text = _ATTRIBUTES[attribute](self._with(lambda client: client.show(name)))
                return text.encode()[offset : offset + size]
        raise mfusepy.FuseOSError(errno.EIO)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """As `>` of a shell does: nothing."""
        return 0

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """Make or delete a chip."""
        match self._split(path):
            case [driver, entry] if entry in _ENTRY:
                pass
            case _:  # root may open what nobody may write
                raise mfusepy.FuseOSError(errno.EACCES)
        try:
            if offset or len(data) > _WRITE_MAX:
                raise UsageError(f"more than {_WRITE_MAX} bytes in a write")
            text = data.decode(errors="surrogateescape").strip()
            with self._client() as client:
                if entry == "new_device":
                    client.ask(New(DRIVERS[driver](text), driver=driver))
                else:
                    self._delete(client, driver, text)
        except GpiovirtError as error:
            _log.warning("%s/%s: %s", driver, entry, error)
            raise mfusepy.FuseOSError(error.errno) from error
        except UnicodeError as error:
            raise mfusepy.FuseOSError(errno.EINVAL) from error
        return len(data)

    @staticmethod
    def _delete(client: Client, driver: str, name: str) -> None:
        if not re.fullmatch(rf"{re.escape(driver)}\.\d+", name):
            raise UsageError(f"{name!r} is not the name of a chip here; they are like {driver}.0")
        client.ask(Delete(name))

    def chmod(self, path: str, mode: int) -> int:
        """Of a chip: of its sockets."""
        self._ask(Own(self._own_name(path), mode=mode & 0o666))
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        """Of a chip: of its sockets."""
        self._ask(Own(self._own_name(path), _or_none(uid), _or_none(gid)))
        return 0

    def _own_name(self, path: str) -> str:
        match self._split(path):
            case [driver, name] if driver in DRIVERS and name not in _ENTRY:
                return name
        raise mfusepy.FuseOSError(errno.EPERM)

    def utimens(self, path: str, times: Any = None) -> int:
        """As `touch` does: nothing."""
        return 0


def _groups_of(pid: int) -> list[int]:
    """A process's supplementary groups; none of one that has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
            return next(list(map(int, row.split()[1:])) for row in status if row.startswith("Groups:"))
    except (OSError, StopIteration, ValueError):
        return []


def _or_none(number: int) -> int:
    """-1, which says to leave it, comes as an unsigned number."""
    return -1 if number in (-1, 0xFFFFFFFF) else number
