# SPDX-License-Identifier: MIT
"""The records of the chips there are to be, a file each, that a crash leaves whole."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from gpiovirt.control.limits import check_name
from gpiovirt.daemon.sources import Place
from gpiovirt.errors import HostError, UsageError
from gpiovirt.host.atomic_file import remove_file, write_file

__all__ = ["Record", "Store"]

_log = logging.getLogger(__name__)
_SUFFIX = ".json"


@dataclass(slots=True)
class Record:
    """A chip as it is to be."""

    name: str
    definition: str
    """As written to new_device"""
    names: dict[str, str] = field(default_factory=dict)
    """Names of lines, by offset, that are not to be their sources'"""
    settings: dict[str, str] = field(default_factory=dict)
    """By line: what a VM cannot ask for, `pull-up,debounce=5ms`"""
    safe: dict[str, str] = field(default_factory=dict)
    """By line: the state it takes when nobody holds it, `low`"""
    vm: bool = False
    poll_us: int = 0
    """How long its worker looks for more before it sleeps"""
    uid: int = 0
    gid: int = 0
    mode: int = 0o660
    driver: str = ""
    """The directory of the control file system that it was made in"""
    permanent: bool = False
    origin: str = ""
    """The configuration file that describes it"""
    boot_id: str = ""
    """Of the boot that it belongs to, unless permanent"""
    creator: list[int] | None = None
    """Process that it ends with: pid, and the time it started"""
    places: list[list[Any]] = field(default_factory=list)
    """Where its lines were found"""

    def lines(self) -> list[Place]:
        """Where its lines were found."""
        return [Place(*place) for place in self.places]


_TYPES = {
    "name": str,
    "definition": str,
    "names": dict,
    "settings": dict,
    "safe": dict,
    "vm": bool,
    "poll_us": int,
    "uid": int,
    "gid": int,
    "mode": int,
    "driver": str,
    "permanent": bool,
    "origin": str,
    "boot_id": str,
    "creator": (list, type(None)),
    "places": list,
}


class Store:
    """Records in a directory. HostError if one cannot be written, and then the former one is there still."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._boot_id = _boot_id()
        try:
            os.makedirs(directory, 0o755, exist_ok=True)
        except OSError as error:
            raise HostError.of(f"cannot keep state in {directory}", error) from error

    def load(self) -> list[Record]:
        """All records of chips that are to be there, by name; what cannot be read is told and left alone."""
        records = []
        for name in sorted(os.listdir(self._directory)):
            if not name.endswith(_SUFFIX):
                continue
            path = f"{self._directory}/{name}"
            try:
                with open(path, encoding="utf-8") as file:
                    record = _decode(json.load(file))
            except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
                _log.error("%s is not the state of a chip, and is left alone: %s", path, error)
                continue
            if record.permanent or record.boot_id == self._boot_id:
                records.append(record)
            else:
                self.remove(record.name)
        return records

    def save(self, record: Record) -> None:
        """Write a record, over a former one of that name."""
        record.boot_id = self._boot_id
        path = self._path(record.name)
        try:
            write_file(path, json.dumps(asdict(record), indent=1).encode())
        except OSError as error:
            raise HostError.of(f"cannot write {path}", error) from error

    def remove(self, name: str) -> None:
        """The chip is to be no more."""
        try:
            with suppress(FileNotFoundError):
                remove_file(self._path(name))
        except OSError as error:
            raise HostError.of(f"cannot remove {self._path(name)}", error) from error

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}{_SUFFIX}"


def _decode(raw: Any) -> Record:
    if not isinstance(raw, dict):
        raise ValueError("no object")
    known = {item.name for item in fields(Record)}
    for key, value in raw.items():
        if key not in known:
            raise ValueError(f"an unknown key {key!r}")
        if not isinstance(value, _TYPES[key]):  # type: ignore[arg-type]
            raise ValueError(f"{key} is {value!r}")
    record = Record(**raw)
    try:
        check_name(record.name)
    except UsageError as error:
        raise ValueError(str(error)) from error
    return record


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
