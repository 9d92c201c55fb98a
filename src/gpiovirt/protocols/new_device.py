# SPDX-License-Identifier: MIT
"""The grammar of `new_device`: which lines, of which chips, make a virtual chip.

    definition = item { separator item }        separator = white space, or one comma
    item       = chip offsets | line name
    offsets    = (number | number "-" number) { separator ... }

A word, or anything in double quotes, followed by offsets names a chip; followed by none it names
a line. Covers the 2019 proposal (`chip 0 3, chip 1`) and the kernel's form (`chip 0-3,5 name`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from gpiovirt.core.chip import ChipInfo
from gpiovirt.core.line import LineInfo
from gpiovirt.errors import GrammarError, NoSuchChipError, NoSuchLineError, OffsetError, UsageError

__all__ = ["ChipLines", "Item", "NamedLine", "format_definition", "parse", "resolve"]

MAX_OFFSET = 65534  # what the kernel's configfs interface takes


class ChipLines(NamedTuple):
    """Offsets of a chip, in the order written."""

    chip: str
    offsets: tuple[int, ...]


class NamedLine(NamedTuple):
    """A line by its name."""

    name: str


Item = ChipLines | NamedLine


class HasLines(Protocol):
    """What is asked of a chip here."""

    @property
    def info(self) -> ChipInfo:
        """Name, label and number of lines."""

    def line_info(self, offset: int) -> LineInfo:
        """State of one line; OffsetError past the end."""


AChip = TypeVar("AChip", bound=HasLines)

_TOKEN = re.compile(r'\s*(?:(?P<comma>,)|"(?P<quoted>[^"]*)"|(?P<word>[^\s,"]+)|(?P<open>"))')
_OFFSETS = re.compile(r"(\d+)(?:-(\d+))?")
_NOT_A_NAME = re.compile(r"[\d-]+|0[xX][0-9a-fA-F]+")


def parse(text: str) -> list[Item]:
    """The items of a definition; GrammarError names the token that is wrong."""
    items: list[Item] = []
    separated, end = True, 0
    while match := _TOKEN.match(text, end):
        kind = match.lastgroup or ""
        token, column = match[kind], match.start(kind) + 1
        glued = match.start() == match.start(kind) - (kind == "quoted") and end > 0 and not separated
        end = match.end()
        if kind == "open":
            raise GrammarError("no closing quote", text, text[column - 1 :], column)
        if kind == "comma":
            if separated:
                raise GrammarError("nothing stands before this comma", text, token, column)
            separated = True
            continue
        if glued:
            raise GrammarError("a space or comma is missing before", text, token, column)
        separated = False
        if kind == "word" and (offsets := _OFFSETS.fullmatch(token)):
            _append_offsets(items, offsets, text, column)
        elif kind == "word" and _NOT_A_NAME.fullmatch(token):
            raise GrammarError(
                "not an offset (decimal, or a range like 0-3), and a name must be quoted", text, token, column
            )
        elif not token:
            raise GrammarError("an empty name", text, '""', column - 1)
        else:
            items.append(NamedLine(token))
    if not items:
        raise GrammarError("no lines are named; write for example: gpiochip0 19 20, gpiochip2 1", text, "", 1)
    if separated:
        raise GrammarError("nothing follows the last comma", text, ",", text.rindex(",") + 1)
    return items


def _append_offsets(items: list[Item], match: re.Match[str], text: str, column: int) -> None:
    """Offsets belong to the item before them and make it a chip."""
    first = int(match[1])
    last = int(match[2] or match[1])
    if not items:
        raise GrammarError("offsets need a chip before them", text, match[0], column)
    if last < first:
        raise GrammarError("a range goes upwards", text, match[0], column)
    if last > MAX_OFFSET:
        raise OffsetError(
            f"offset {last} at column {column} of {text!r} is past {MAX_OFFSET}, the highest there is"
        )
    before = items[-1]
    chip, offsets = (before.name, ()) if isinstance(before, NamedLine) else before
    items[-1] = ChipLines(chip, (*offsets, *range(first, last + 1)))


def _quoted(name: str) -> str:
    plain = _TOKEN.fullmatch(name)
    if plain and plain["word"] == name and not _OFFSETS.fullmatch(name) and not _NOT_A_NAME.fullmatch(name):
        return name
    return f'"{name}"'


def format_definition(items: Sequence[Item]) -> str:
    """A definition that parses back to `items`."""
    return ", ".join(
        _quoted(item.name)
        if isinstance(item, NamedLine)
        else " ".join([_quoted(item.chip), *map(str, item.offsets)])
        for item in items
    )


def resolve(
    items: Sequence[Item], find_chip: Callable[[str], AChip | None], chips: Sequence[AChip]
) -> list[tuple[AChip, int]]:
    """The lines the items mean.

    `find_chip` knows chips by name, `chips` are searched for line names. NoSuchChipError,
    NoSuchLineError, OffsetError past the end, UsageError for a line named twice; their `line` is the first
    line of the item that is wrong.
    """
    lines: list[tuple[AChip, int]] = []
    seen: set[tuple[int, int]] = set()
    try:
        for item in items:
            for chip, offset in _lines_of(item, find_chip, chips):
                if (id(chip), offset) in seen:
                    raise UsageError(
                        f"line {chip.info.label}:{offset} is named twice; a line can be in a chip once"
                    )
                seen.add((id(chip), offset))
                lines.append((chip, offset))
    except UsageError as error:
        error.line = len(lines)
        raise
    return lines


def _lines_of(
    item: Item, find_chip: Callable[[str], AChip | None], chips: Sequence[AChip]
) -> list[tuple[AChip, int]]:
    there = ", ".join(chip.info.label for chip in chips) or "none"
    if isinstance(item, ChipLines):
        chip = find_chip(item.chip)
        if chip is None:
            raise NoSuchChipError(f"no chip {item.chip!r}; the chips here are: {there}")
        for offset in item.offsets:
            chip.line_info(offset)
        return [(chip, offset) for offset in item.offsets]
    found = [
        (chip, offset)
        for chip in chips
        for offset in range(chip.info.num_lines)
        if chip.line_info(offset).name == item.name
    ]
    if len(found) > 1:
        places = ", ".join(f"{chip.info.label}:{offset}" for chip, offset in found)
        raise NoSuchLineError(
            f"the line name {item.name!r} is not unique ({places}); name the line by chip and offset"
        )
    if not found:
        hint = f"; to take lines of a chip, add offsets: {item.name} 0-3" if find_chip(item.name) else ""
        raise NoSuchLineError(f"no line is named {item.name!r} on the chips here: {there}{hint}")
    return found
