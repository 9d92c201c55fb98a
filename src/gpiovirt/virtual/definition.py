# SPDX-License-Identifier: MIT
"""The definition of a virtual chip: every input is parsed into one, every output is written from one.

Custody finds out which physical lines it means; the daemon knows the state of the chip.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gpiovirt.core.line import PLAIN, LineOptions
from gpiovirt.errors import UsageError
from gpiovirt.virtual.grammar import ChipLines, Item, NamedLine, format_definition, parse
from gpiovirt.virtual.limits import check_name, check_poll_us
from gpiovirt.virtual.options import format_options, parse_options

__all__ = ["MODE", "Definition", "Source"]

_NONE: Mapping[str, str] = {}
_NO_OPTIONS: Mapping[str, LineOptions] = {}
MODE = 0o660

Source = tuple[str, int] | str
"""Where a line is taken: (chip, offset), or a line's name"""


class Definition(NamedTuple):
    """A virtual chip as requested; parse() and checked() make sure that it is possible."""

    name: str
    items: tuple[Item, ...]
    options: Mapping[str, LineOptions] = _NO_OPTIONS
    """By line: its offset in the chip, or its name there"""
    vm: bool = False
    """It has a socket for virtual machines, too"""
    poll_us: int = 0
    """How long its worker polls before it sleeps"""
    uid: int = 0
    gid: int = 0
    mode: int = MODE

    def checked(self) -> "Definition":
        """Itself; UsageError if no chip can be like this."""
        check_name(self.name)
        check_poll_us(self.poll_us)
        if not 0 <= self.mode <= 0o777:
            raise UsageError(f"{self.mode:o} is not a mode; use 0 to 0777")
        seen: set[Source] = set()
        for source in self.sources():
            if source in seen:
                raise UsageError(f"line {_shown(source)} is named twice; a line can be in a chip once")
            seen.add(source)
        for key in self.options:
            if key.isdecimal() and (len(key) > 5 or int(key) >= self.num_lines):
                raise UsageError(
                    f"options of line {key[:20]}: {self.name} has no such line; its offsets are "
                    f"0 to {self.num_lines - 1}"
                )
        return self

    @classmethod
    def parse(cls, name: str, lines: str, options: Mapping[str, str] = _NONE, **rest: Any) -> "Definition":
        """From texts: lines as written to new_device, options by line; UsageError."""
        parsed = {}
        for key, text in options.items():
            try:
                parsed[key] = parse_options(text)
            except UsageError as error:
                raise UsageError(f"options of line {key}: {error}") from error
        said = {key: options for key, options in parsed.items() if options != PLAIN}
        return cls(name, tuple(parse(lines)), said, **rest).checked()

    @property
    def lines(self) -> str:
        """Its lines as written to new_device."""
        return format_definition(self.items)

    @property
    def num_lines(self) -> int:
        """How many lines it has."""
        return sum(1 if isinstance(item, NamedLine) else len(item.offsets) for item in self.items)

    def sources(self) -> Iterator[Source]:
        """Where each line is to be taken, by its offset in the chip."""
        return _sources(self.items)

    def options_for(self, items: Sequence[Item]) -> dict[str, str]:
        """Its options, as written, for the same lines in a chip of other items."""
        texts = self.texts()
        offsets = {source: offset for offset, source in enumerate(self.sources())}
        carried = {}
        for offset, source in enumerate(_sources(items)):
            if text := texts.get(str(offsets.get(source, -1)), ""):
                carried[str(offset)] = text
        return carried

    def texts(self) -> dict[str, str]:
        """Its options as written, by line."""
        return {key: text for key, options in self.options.items() if (text := format_options(options))}

    def settled(self, names: Sequence[str]) -> "Definition":
        """With options by offset; `names` are those of its lines at their sources.

        UsageError for a line that does not exist, or an ambiguous name.
        """
        by_offset: dict[int, LineOptions] = {}
        for key, options in self.options.items():
            offset = self._offset(key, names)
            if offset in by_offset:
                raise UsageError(f"options of line {key}: line {offset} has options already")
            by_offset[offset] = options
        return self._replace(options={str(offset): by_offset[offset] for offset in sorted(by_offset)})

    def _offset(self, key: str, names: Sequence[str]) -> int:
        if key.isdecimal():
            return int(key)
        if key and names.count(key) == 1:
            return names.index(key)
        what = f"{names.count(key)} lines" if key in names else "no line"
        raise UsageError(
            f"options of line {key}: {self.name} has {what} of that name; its offsets are "
            f"0 to {self.num_lines - 1}"
        )

    def by_offset(self) -> list[LineOptions]:
        """The options of each line, once they are settled."""
        return [self.options.get(str(offset), PLAIN) for offset in range(self.num_lines)]

    def may_be(self, other: "Definition") -> bool:
        """Whether the other is the same chip, access aside."""
        return self.as_used() == other.as_used()

    def as_used(self) -> tuple[object, ...]:
        """Everything except access, equal for the same chip however it was written."""
        return (self.name, tuple(self.sources()), self.texts(), self.vm, self.poll_us)


def _sources(items: Sequence[Item]) -> Iterator[Source]:
    for item in items:
        if isinstance(item, ChipLines):
            for offset in item.offsets:
                yield item.chip, offset
        else:
            yield item.name


def _shown(source: Source) -> str:
    return source if isinstance(source, str) else f"{source[0]}:{source[1]}"
