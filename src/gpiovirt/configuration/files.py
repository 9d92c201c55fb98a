# SPDX-License-Identifier: MIT
"""Files that describe virtual chips, one each: read, checked as a whole, and written."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from gpiovirt.configuration.model import Chip, InvalidChipError, parse_chip
from gpiovirt.errors import HostError, UsageError
from gpiovirt.host.atomic_file import write_file

__all__ = [
    "SUFFIX",
    "Configuration",
    "Entry",
    "file_of",
    "files_in",
    "format_chip",
    "parse_file",
    "read",
    "write",
]

SUFFIX = ".toml"

_WHERE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class Entry(NamedTuple):
    """A chip, and the file that describes it."""

    path: str
    chip: Chip

    @property
    def file(self) -> str:
        """The beginning of messages about it."""
        return os.path.basename(self.path)


class Configuration(NamedTuple):
    """Chips by name, and all problems of their files, one per line: `FILE: KEY: what`."""

    entries: Mapping[str, Entry]
    problems: Sequence[str]


def files_in(directory: str) -> list[str]:
    """The files that describe chips, in order; HostError if the directory cannot be read."""
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise HostError.of(f"cannot read the configuration in {directory}", error) from error
    return [
        f"{directory}/{name}" for name in sorted(names) if name.endswith(SUFFIX) and not name.startswith(".")
    ]


def file_of(name: str, directory: str) -> str:
    """The file that describes the chip of that name, or would."""
    try:
        paths = files_in(directory)
    except HostError:
        paths = []
    for path in paths:
        with suppress(InvalidChipError):
            if parse_file(path).chip.name == name:
                return path
    return f"{directory}/{name}{SUFFIX}"


def read(paths: Iterable[str]) -> Configuration:
    """Read files, and check that they do not conflict."""
    entries: list[Entry] = []
    problems: list[str] = []
    for path in paths:
        try:
            entry = parse_file(path)
            entry.chip.wanted()
        except InvalidChipError as error:
            problems += [f"{os.path.basename(path)}: {problem}" for problem in error.problems]
        else:
            entries.append(entry)
    problems += _conflicts(entries)
    return Configuration({entry.chip.name: entry for entry in entries}, problems)


def parse_file(path: str) -> Entry:
    """The chip that a file describes; InvalidChipError, without the file's name, if it does not."""
    name = os.path.basename(path).removesuffix(SUFFIX)
    try:
        with open(path, "rb") as file:
            raw = tomllib.load(file)
    except OSError as error:
        raise InvalidChipError([f"cannot be read: {error.strerror}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidChipError([_syntax_error(str(error))]) from error
    except UnicodeDecodeError as error:
        raise InvalidChipError([f"not UTF-8 at byte {error.start}"]) from error
    except ValueError as error:
        raise InvalidChipError(["a number in it has too many digits"]) from error
    except RecursionError as error:
        raise InvalidChipError(["nested too deeply"]) from error
    return Entry(path, parse_chip(raw, name))


def _syntax_error(message: str) -> str:
    where = _WHERE.search(message)
    if where is None:
        return message
    text = message[: where.start()]
    return f"line {where[1]}, column {where[2]}: {text}" if where[1] else f"at its end: {text}"


def _conflicts(entries: Sequence[Entry]) -> Iterable[str]:
    """Problems of two files that conflict."""
    names: dict[str, Entry] = {}
    lines: dict[tuple[str, int] | str, Entry] = {}
    for entry in entries:
        first = names.setdefault(entry.chip.name, entry)
        if first is not entry:
            yield (
                f"{entry.file}: name: {first.file} describes the chip {entry.chip.name!r}, too; "
                "choose another name, or remove one of the files"
            )
            continue
        for line in entry.chip.lines_of():
            other = lines.setdefault(line.source, entry)
            if other is not entry:
                yield (
                    f"{entry.file}: {line.key}: the line {line} is in {other.file}, too; "
                    "a line can be in one chip"
                )


def format_chip(chip: Chip, name: str = "") -> str:
    """The TOML that describes it, for a file called `name`.

    UsageError if a string in it cannot be written.
    """
    import tomli_w  # not needed to read

    what = chip.model_dump(by_alias=True, exclude_defaults=True)
    if chip.name == name:
        del what["name"]
    return tomli_w.dumps(what)


def write(path: str, chip: Chip) -> None:
    """Describe a chip in a file; on HostError the old file is still there."""
    name = os.path.basename(path).removesuffix(SUFFIX)
    directory = os.path.dirname(path)
    try:
        content = format_chip(chip, name).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{chip.name} has a name that is not valid UTF-8") from error
    try:
        os.makedirs(directory, exist_ok=True)
        write_file(path, content, f"{directory}/.{os.path.basename(path)}.new")
    except OSError as error:
        raise HostError.of(f"cannot write {path}", error) from error
