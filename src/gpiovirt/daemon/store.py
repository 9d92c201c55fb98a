# SPDX-License-Identifier: MIT
"""The records of chips, a file each, which survive a crash whole."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from gpiovirt.errors import HostError, UsageError
from gpiovirt.host.atomic_file import remove_file, write_file
from gpiovirt.sources.finder import LineAddress
from gpiovirt.virtual.definition import Definition
from gpiovirt.virtual.limits import LINES_MAX

__all__ = ["Record", "Store", "decode_record", "encode_record", "new_incarnation"]

_log = logging.getLogger(__name__)
_SUFFIX = ".json"
_SIZE_MAX = 1 << 20


class Record(NamedTuple):
    """The definition of a chip, and the part of its state that outlives gpiovirtd."""

    definition: Definition
    driver: str = ""
    """The directory of the control file system that it was made in"""
    permanent: bool = False
    origin: str = ""
    """The configuration file that describes it"""
    creator: tuple[int, int] | None = None
    """The process that it ends with: pid and start time"""
    addresses: tuple[LineAddress, ...] = ()
    """Where its lines were found"""
    incarnation: str = ""
    """Tells it from other chips that had its name; changes when holders lose lines. 8 bytes, hexadecimal"""

    @property
    def name(self) -> str:
        return self.definition.name


def encode_record(record: Record, boot_id: str) -> dict[str, Any]:
    """As JSON."""
    definition = record.definition
    return {
        "name": definition.name,
        "lines": definition.lines,
        "options": definition.texts(),
        "rules": definition.rules.raw(),
        **{key: getattr(definition, key) for key in _REST},
        "driver": record.driver,
        "permanent": record.permanent,
        "origin": record.origin,
        "boot_id": boot_id,
        "creator": record.creator,
        "addresses": record.addresses,
        "incarnation": record.incarnation,
    }


_REST = {"vm": bool, "poll_us": int, "uid": int, "gid": int, "mode": int}


def decode_record(raw: object) -> tuple[Record, str]:
    """(record, boot that it belongs to); ValueError if it is not a record."""
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    raw = _modern(raw)
    options = _typed(raw, "options", dict)
    if not all(isinstance(text, str) for text in options.values()):
        raise ValueError(f"options is {options!r}")
    creator = _typed(raw, "creator", (list, type(None)))
    addresses = _typed(raw, "addresses", list)
    if len(addresses) > LINES_MAX:
        raise ValueError(f"{len(addresses)} addresses")
    try:
        definition = Definition.parse(
            _typed(raw, "name", str),
            _typed(raw, "lines", str),
            options,
            raw.get("rules", {}),
            **{key: _typed(raw, key, kind) for key, kind in _REST.items()},
        )
    except UsageError as error:
        raise ValueError(str(error)) from error
    record = Record(
        definition,
        _typed(raw, "driver", str),
        _typed(raw, "permanent", bool),
        _typed(raw, "origin", str),
        None if creator is None else _creator(creator),
        tuple(map(_address, addresses)),
        _incarnation(raw.get("incarnation", "")),
    )
    return record, _typed(raw, "boot_id", str)


def _modern(raw: dict[str, Any]) -> dict[str, Any]:
    """Records from before 0.5 have the line options in three keys."""
    if "definition" not in raw:
        return raw
    options: dict[str, list[str]] = {}
    for key, form in (("settings", "{}"), ("safe", "safe={}"), ("names", "name={}")):
        texts = raw.get(key, {})
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError(f"{key} is {texts!r}")
        for line, text in texts.items():
            options.setdefault(line, []).append(form.format(text))
    return {
        **raw,
        "lines": raw["definition"],
        "options": {line: ",".join(texts) for line, texts in options.items()},
        "addresses": raw.get("places", []),
    }


def _typed(raw: dict[str, Any], key: str, kind: Any) -> Any:
    if key not in raw:
        raise ValueError(f"{key} is missing")
    value = raw[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{key} is {value!r}")
    return value


def new_incarnation() -> str:
    """One that no chip has ever had."""
    return os.urandom(8).hex()


def _incarnation(raw: object) -> str:
    if not isinstance(raw, str) or not re.fullmatch(r"([0-9a-f]{16})?", raw):
        raise ValueError(f"incarnation is {raw!r}")
    return raw or new_incarnation()


def _creator(raw: list[Any]) -> tuple[int, int]:
    match raw:
        case [int(pid), int(started)]:
            return pid, started
    raise ValueError(f"creator is {raw!r}")


def _address(raw: object) -> LineAddress:
    match raw:
        case [str(label), int(num_lines), int(offset)]:
            return LineAddress(label, num_lines, offset)
        case [str(label), int(num_lines), int(offset), str(name)]:
            return LineAddress(label, num_lines, offset, name)
    raise ValueError(f"an address is {raw!r}")


class Store:
    """Records of permanent chips in a directory, and of others in one that ends with this boot.

    Who waits for a chip need not wait for a disk, then, unless the chip is to be there after a power cut. On
    HostError, if a record cannot be written, the old one is still there.
    """

    def __init__(self, directory: str, passing: str) -> None:
        self._directory = directory
        self._passing = passing
        self._boot_id = _boot_id()
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
            os.chmod(directory, 0o700)
        except OSError as error:
            if not os.path.isdir(directory):
                raise HostError.of(f"cannot keep state in {directory}", error) from error
            _log.warning("cannot close %s to others: %s", directory, error.strerror)

    def load(self) -> list[Record]:
        """All records of chips to restore, by name; files that cannot be read are logged and left alone."""
        records: dict[str, Record] = {}
        for directory in (self._directory, self._passing):
            for record in self._load(directory):  # what a change left in both is no longer permanent
                records[record.name] = record
        return [records[name] for name in sorted(records)]

    def _load(self, directory: str) -> Iterator[Record]:
        for name in sorted(os.listdir(directory)):
            if not name.endswith(_SUFFIX):
                continue
            path = f"{directory}/{name}"
            try:
                with open(path, encoding="utf-8") as file:
                    record, boot_id = decode_record(json.loads(file.read(_SIZE_MAX)))
            except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
                _log.error("%s is not the state of a chip, and is left alone: %s", path, error)
                continue
            if record.permanent or boot_id == self._boot_id:
                yield record
                continue
            try:
                self.remove(record.name)
            except HostError as error:
                _log.error("%s", error)

    def save(self, record: Record) -> None:
        """Write a record, replacing an older one of that name."""
        name, content = record.name, json.dumps(encode_record(record, self._boot_id)).encode()
        path = self._path(name) if record.permanent else self._passing_path(name)
        try:
            write_file(path, content, durably=record.permanent)
        except OSError as error:
            raise HostError.of(f"cannot write {path}", error) from error
        try:
            self._unlink(self._passing_path(name) if record.permanent else self._path(name))
        except HostError:
            self._unlink(path)
            raise

    def remove(self, name: str) -> None:
        """Remove the record of a chip."""
        self._unlink(self._path(name))
        self._unlink(self._passing_path(name))

    def _unlink(self, path: str) -> None:
        if not os.path.lexists(path):
            return
        try:
            remove_file(path)
        except OSError as error:
            raise HostError.of(f"cannot remove {path}", error) from error

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}{_SUFFIX}"

    def _passing_path(self, name: str) -> str:
        return f"{self._passing}/{name}{_SUFFIX}"


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
