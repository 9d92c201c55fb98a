# SPDX-License-Identifier: MIT
"""A board as its file describes it: chips with their lines, headers, and what the system says that it is.

docs/boards.md has the format. A file is checked whole: nothing of it is used unless all of it makes sense.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gpiovirt.core.line import LineSettings
from gpiovirt.core.text import nearest
from gpiovirt.errors import HostError, UsageError
from gpiovirt.sources.simulator import HOG_SETTINGS
from gpiovirt.virtual.limits import OFFSET_MAX, check_line_name

__all__ = ["Board", "BoardChip", "Header", "Hog", "Pin", "load", "names"]

_FOLDER = os.path.dirname(__file__)
_SIZE_MAX = 1 << 20
_CHIPS_MAX = 64
_NUMBER_MAX = 1 << 20
_PROCESSORS_MAX = 1024
_LABEL_MAX = 31  # linux/gpio.h: GPIO_MAX_NAME_SIZE, with its NUL


class Hog(NamedTuple):
    """A line that something of the board itself holds."""

    offset: int
    consumer: str
    settings: LineSettings


class BoardChip(NamedTuple):
    """A chip that is /dev/gpiochip<number>; `links` are numbers that are links to it."""

    number: int
    label: str
    lines: Sequence[str]
    compatible: bytes = b""
    links: Sequence[int] = ()
    hogs: Sequence[Hog] = ()


class Pin(NamedTuple):
    """A pin of a header: a line, or (`chip` is None) something else, as 5V."""

    name: str
    chip: BoardChip | None = None
    offset: int = 0


class Header(NamedTuple):
    """Two columns of pins, counted from side to side."""

    name: str
    pins: Sequence[Pin]


class Board(NamedTuple):
    """A board; files of `device_tree` and `dmi` by their paths there."""

    key: str
    name: str
    source: Sequence[str]
    chips: Sequence[BoardChip]
    headers: Sequence[Header] = ()
    device_tree: Mapping[str, bytes] = {}
    cpuinfo: bytes = b""
    dmi: Mapping[str, bytes] = {}


def names() -> list[str]:
    """What the boards that come with gpiovirt are called."""
    return sorted(name.removesuffix(".toml") for name in os.listdir(_FOLDER) if name.endswith(".toml"))


def load(board: str) -> Board:
    """The board of that name, or of the file at that path; UsageError, HostError."""
    if "/" in board or board.endswith(".toml"):
        key, path = os.path.basename(board).removesuffix(".toml"), board
    elif board in names():
        key, path = board, f"{_FOLDER}/{board}.toml"
    else:
        raise UsageError(
            f"no board {board!r}{nearest(board, names())}; the boards are: {', '.join(names())}; "
            "a file of your own is given by its path, as in ./my-board.toml"
        )
    try:
        with open(path, "rb") as file:
            text = file.read(_SIZE_MAX + 1)
    except OSError as error:
        raise HostError.of(f"cannot read the board {path}", error) from error
    if len(text) > _SIZE_MAX:
        raise UsageError(f"{path}: larger than {_SIZE_MAX} bytes")
    try:
        return _Reader(path).board(key, tomllib.loads(text.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from error


class _Reader:
    """Takes a file's tables apart; whatever is wrong is a UsageError that says where."""

    def __init__(self, path: str) -> None:
        self._path = path

    def board(self, key: str, table: dict[str, Any]) -> Board:
        self._keys("", table, Board._fields, "chip", "header", "device-tree")
        chips: list[BoardChip] = []
        for number, each in enumerate(self._get("", table, "chip", list)):
            chips.append(self._chip(f"chip[{number}].", each))
        if not 0 < len(chips) <= _CHIPS_MAX:
            raise self._fault("chip", f"a board has 1 to {_CHIPS_MAX} of them")
        self._check_unique("label", (chip.label for chip in chips))
        self._check_unique("number", (number for chip in chips for number in (chip.number, *chip.links)))
        return Board(
            key,
            self._text("", table, "name", key),
            self._texts("", table, "source", []),
            chips,
            [
                self._header(f"header[{number}].", each, chips)
                for number, each in enumerate(self._get("", table, "header", list, []))
            ],
            self._files("device-tree", table, _property),
            self._cpuinfo(self._get("", table, "cpuinfo", dict, {})),
            self._files("dmi", table, lambda value: f"{value}\n".encode()),
        )

    def _chip(self, where: str, table: Any) -> BoardChip:
        if not isinstance(table, dict):
            raise self._fault(where, "write it as [[chip]]")
        self._keys(where, table, BoardChip._fields)
        label = self._text(where, table, "label")
        if not 0 < len(label.encode()) <= _LABEL_MAX:
            raise self._fault(f"{where}label", f"use 1 to {_LABEL_MAX} bytes")
        lines = table.get("lines")
        if isinstance(lines, int) and not isinstance(lines, bool):
            lines = [""] * lines if 0 < lines <= OFFSET_MAX + 1 else []
        else:
            lines = self._texts(where, table, "lines")
        if not 0 < len(lines) <= OFFSET_MAX + 1:
            raise self._fault(f"{where}lines", f"a chip has 1 to {OFFSET_MAX + 1} lines")
        for line in lines:
            check_line_name(line)
        hogs = [
            self._hog(f"{where}hogs[{number}].", each, len(lines))
            for number, each in enumerate(self._get(where, table, "hogs", list, []))
        ]
        self._check_unique("line of a hog", (hog.offset for hog in hogs))
        return BoardChip(
            self._number(where, table, "number", _NUMBER_MAX),
            label,
            lines,
            _property(self._texts(where, table, "compatible", [])),
            [
                self._number(where, {"links": each}, "links", _NUMBER_MAX)
                for each in self._get(where, table, "links", list, [])
            ],
            hogs,
        )

    def _hog(self, where: str, table: Any, num_lines: int) -> Hog:
        if not isinstance(table, dict):
            raise self._fault(where, 'write it as { line = 2, consumer = "LED", as = "output-low" }')
        self._keys(where, table, ("line", "consumer", "as"))
        how = self._text(where, table, "as")
        if how not in HOG_SETTINGS:
            raise self._fault(f"{where}as", f"{how!r} is none of {', '.join(HOG_SETTINGS)}")
        line = self._number(where, table, "line", num_lines - 1)
        return Hog(line, self._text(where, table, "consumer"), HOG_SETTINGS[how])

    def _header(self, where: str, table: Any, chips: Sequence[BoardChip]) -> Header:
        if not isinstance(table, dict):
            raise self._fault(where, "write it as [[header]]")
        self._keys(where, table, Header._fields)
        by_name: dict[str, Pin] = {}
        for chip in chips:
            for offset, name in enumerate(chip.lines):
                by_name.setdefault(name, Pin(name, chip, offset))
        pins = [self._pin(f"{where}pins", text, by_name, chips) for text in self._texts(where, table, "pins")]
        return Header(self._text(where, table, "name"), pins)

    def _pin(self, where: str, text: str, by_name: Mapping[str, Pin], chips: Sequence[BoardChip]) -> Pin:
        """`NAME`, of a line or of something else, or `NAME=NUMBER:OFFSET` for a line without a name."""
        name, equals, line = text.partition("=")
        if not equals:
            return by_name.get(text, Pin(text))
        number, _, offset = line.partition(":")
        for chip in chips:
            if str(chip.number) == number and offset.isdecimal() and int(offset) < len(chip.lines):
                return Pin(name, chip, int(offset))
        raise self._fault(where, f"{text!r}: write NAME=CHIP:OFFSET, by the number of a chip above")

    def _cpuinfo(self, table: dict[str, Any]) -> bytes:
        if not table:
            return b""
        self._keys("cpuinfo.", table, ("processors", "each", "machine"))
        each, machine = self._strings("each", table), self._strings("machine", table)
        processors = self._number("cpuinfo.", table, "processors", _PROCESSORS_MAX)
        blocks = [{"processor": str(number)} | each for number in range(processors)]
        texts = ["".join(_cpuinfo_line(*item) for item in block.items()) for block in [*blocks, machine]]
        return "\n".join(texts).encode()

    def _files(self, name: str, table: dict[str, Any], encode: Any) -> dict[str, bytes]:
        files = {}
        for path, value in self._get("", table, name, dict, {}).items():
            if not all(part not in ("", ".", "..") for part in path.split("/")):
                raise self._fault(f"{name}.{path}", "not a path below that directory")
            try:
                files[path] = encode(value)
            except (TypeError, OverflowError):
                raise self._fault(f"{name}.{path}", "write a text, texts or a number of 32 bits") from None
        return files

    def _strings(self, name: str, table: dict[str, Any]) -> dict[str, str]:
        strings = self._get("", table, name, dict, {})
        return {key: self._text(f"{name}.", strings, key) for key in strings}

    def _texts(self, where: str, table: dict[str, Any], key: str, default: Any = None) -> list[str]:
        texts = self._get(where, table, key, list, default)
        return [self._text(where, {key: each}, key) for each in texts]

    def _text(self, where: str, table: dict[str, Any], key: str, default: str | None = None) -> str:
        text: str = self._get(where, table, key, str, default)
        if not text.isprintable():
            raise self._fault(f"{where}{key}", "not a printable text")
        return text

    def _number(self, where: str, table: dict[str, Any], key: str, most: int) -> int:
        number: int = self._get(where, table, key, int)
        if not 0 <= number <= most:
            raise self._fault(f"{where}{key}", f"{number} is not among 0 to {most}")
        return number

    def _get(self, where: str, table: dict[str, Any], key: str, kind: type, default: Any = None) -> Any:
        value = table.get(key, default)
        if value is None:
            raise self._fault(f"{where}{key}", "is missing")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._fault(f"{where}{key}", f"is not {_KINDS[kind]}")
        return value

    def _keys(self, where: str, table: dict[str, Any], known: Sequence[str], *more: str) -> None:
        known = [key for key in known if key not in ("key", "chips", "headers", "device_tree")] + list(more)
        for key in table:
            if key not in known:
                raise self._fault(f"{where}{key}", f"no such key{nearest(key, known)}")

    def _check_unique(self, what: str, values: Iterable[object]) -> None:
        seen: set[object] = set()
        for value in values:
            if value in seen:
                raise self._fault(what, f"{value} is there twice")
            seen.add(value)

    def _fault(self, where: str, what: str) -> UsageError:
        return UsageError(f"{self._path}: {where.rstrip('.')}: {what}")


_KINDS = {str: "a text", int: "a number", list: "an array", dict: "a table"}


def _property(value: object) -> bytes:
    """As the files of a device tree have it: texts end in NUL, numbers are big-endian."""
    if isinstance(value, str):
        return value.encode() + b"\0"
    if isinstance(value, int) and not isinstance(value, bool):
        return value.to_bytes(4, "big")
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return b"".join(map(_property, value))
    raise TypeError


def _cpuinfo_line(key: str, value: str) -> str:
    """The kernel aligns values at column 16, by tabs."""
    tabs = "\t" * max(-(-(16 - len(key)) // 8), 0)
    return f"{key}{tabs}: {value}\n"
