# SPDX-License-Identifier: MIT
"""The grammar of `new_device`: which lines, of which chips, make a virtual chip.

    definition = item { separator item }        separator = white space, or one comma
    item       = chip offsets | line name
    offsets    = (number | number "-" number) { separator ... }

A word, or anything in double quotes, followed by offsets names a chip; followed by none it names
a line. Covers the 2019 proposal (`chip 0 3, chip 1`) and the kernel's form (`chip 0-3,5 name`).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from gpiovirt.core.chip import ChipInfo
from gpiovirt.core.line import LineInfo
from gpiovirt.core.text import nearest
from gpiovirt.errors import GrammarError, NoSuchChipError, NoSuchLineError, OffsetError, UsageError
from gpiovirt.virtual.limits import LINES_MAX, OFFSET_MAX

__all__ = ["ChipLines", "Item", "NamedLine", "format_definition", "parse", "resolve"]


class ChipLines(NamedTuple):
    """Offsets of a chip, in the order written."""

    chip: str
    offsets: tuple[int, ...]


class NamedLine(NamedTuple):
    """A line by its name."""

    name: str


Item = ChipLines | NamedLine


class HasLines(Protocol):
    """What this module asks of a chip."""

    @property
    def info(self) -> ChipInfo:
        """Name, label and number of lines."""

    def line_info(self, offset: int) -> LineInfo:
        """State of one line; OffsetError past the end."""


AChip = TypeVar("AChip", bound=HasLines)

_TOKEN = re.compile(r'\s*(?:(?P<comma>,)|"(?P<quoted>[^"]*)"|(?P<word>[^\s,"]+)|(?P<open>"))')
_OFFSETS = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_NOT_A_NAME = re.compile(r"[\d-]+|0[xX][0-9a-fA-F]+")
_SHOWN_MAX = 40
_DIGITS_MAX = 10  # more digits are past any offset, and slow to parse


def parse(text: str) -> list[Item]:
    """The items of a definition, of at most LINES_MAX lines; GrammarError names the wrong token."""
    items: list[Item] = []
    separated, end, count = True, 0, 0
    while match := _TOKEN.match(text, end):
        kind = match.lastgroup or ""
        token, column = match[kind], match.start(kind) + 1
        glued = match.start() == match.start(kind) - (kind == "quoted") and end > 0 and not separated
        end = match.end()
        if kind == "open":
            raise GrammarError("no closing quote", text, text[column - 1 :], column)
        if kind == "comma":
            if separated:
                raise GrammarError("nothing before this comma", text, token, column)
            separated = True
            continue
        if glued:
            raise GrammarError("a space or comma is missing before", text, token, column)
        separated = False
        if kind == "word" and (offsets := _OFFSETS.fullmatch(token)):
            count = _append_offsets(items, offsets, text, column, count)
        elif kind == "word" and _NOT_A_NAME.fullmatch(token):
            raise GrammarError(
                "not an offset (decimal, or a range like 0-3), and a name must be quoted", text, token, column
            )
        elif not token:
            raise GrammarError("an empty name", text, '""', column - 1)
        else:
            items.append(NamedLine(token))
            if len(items) > LINES_MAX:
                raise GrammarError(f"more than {LINES_MAX} names, the most a chip has", "", "", column)
    if not items:
        raise GrammarError("no lines given; write for example: gpiochip0 19 20, gpiochip2 1", text, "", 1)
    if separated:
        raise GrammarError("nothing follows the last comma", text, ",", text.rindex(",") + 1)
    return items


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


def _append_offsets(items: list[Item], match: re.Match[str], text: str, column: int, count: int) -> int:
    """Offsets belong to the item before them and make it a chip; `count` lines, and these."""
    first, last = (
        int(digits) if len(digits) <= _DIGITS_MAX else OFFSET_MAX + 1
        for digits in (match[1], match[2] or match[1])
    )
    if not items:
        raise GrammarError("offsets need a chip before them", text, match[0], column)
    if last < first:
        raise GrammarError("a range must ascend", text, match[0], column)
    if last > OFFSET_MAX:
        raise OffsetError(
            f"offset {_shown(match[0])} at column {column} is past {OFFSET_MAX}, the highest offset"
        )
    count += last - first + 1
    if count > LINES_MAX:
        raise GrammarError(f"more than {LINES_MAX} lines, the most a chip has", "", "", column)
    before = items[-1]
    chip, offsets = (before.name, ()) if isinstance(before, NamedLine) else before
    items[-1] = ChipLines(chip, (*offsets, *range(first, last + 1)))
    return count


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
        else " ".join([_quoted(item.chip), *_runs(item.offsets)])
        for item in items
    )


def _runs(offsets: Sequence[int]) -> Iterator[str]:
    """Consecutive offsets as a range."""
    first = last = offsets[0]
    for offset in (*offsets[1:], -1):
        if offset == last + 1:
            last = offset
            continue
        yield str(first) if first == last else f"{first}-{last}"
        first = last = offset


def resolve(
    items: Sequence[Item], find_chip: Callable[[str], AChip | None], all_chips: Callable[[], Sequence[AChip]]
) -> list[tuple[AChip, int]]:
    """The lines that the items mean.

    `find_chip` knows chips by name, `all_chips` are searched for line names. NoSuchChipError,
    NoSuchLineError, OffsetError past the end, UsageError for a line named twice; their `line` is the first
    line of the wrong item.
    """
    lines: list[tuple[AChip, int]] = []
    seen: set[tuple[int, int]] = set()
    try:
        for item in items:
            for chip, offset in _lines_of(item, find_chip, all_chips):
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
    item: Item, find_chip: Callable[[str], AChip | None], all_chips: Callable[[], Sequence[AChip]]
) -> list[tuple[AChip, int]]:
    if isinstance(item, ChipLines):
        chip = find_chip(item.chip)
        if chip is None:
            chips = all_chips()
            near = nearest(item.chip, (chip.info.label for chip in chips))
            raise NoSuchChipError(f"no chip {item.chip!r}{near}; the chips here are: {_labels(chips)}")
        for offset in item.offsets:
            chip.line_info(offset)
        return [(chip, offset) for offset in item.offsets]
    chips = all_chips()
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
        names = {chip.line_info(offset).name for chip in chips for offset in range(chip.info.num_lines)}
        near = nearest(item.name, names - {""})
        raise NoSuchLineError(
            f"no line is named {item.name!r}{near} on the chips here: {_labels(chips)}{hint}"
        )
    return found


def _labels(chips: Sequence[HasLines]) -> str:
    return ", ".join(chip.info.label for chip in chips) or "none"
