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
from gpiovirt.virtual.rules import NO_RULES, Rules, parse_rules

__all__ = ["MODE", "Definition", "Source"]

_NONE: Mapping[str, Any] = {}
_NO_OPTIONS: Mapping[str, LineOptions] = {}
MODE = 0o660
_DIGITS_MAX = 5
_SHOWN_MAX = 40

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
    rules: Rules = NO_RULES
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
    def parse(
        cls,
        name: str,
        lines: str,
        options: Mapping[str, str] = _NONE,
        rules: Mapping[str, Any] = _NONE,
        **rest: Any,
    ) -> "Definition":
        """From texts: lines as written to new_device, options by line, rules as tables; UsageError."""
        parsed = {}
        for key, text in options.items():
            try:
                parsed[key] = parse_options(text)
            except UsageError as error:
                raise UsageError(f"options of line {key}: {error}") from error
        said = {key: options for key, options in parsed.items() if options != PLAIN}
        return cls(name, tuple(parse(lines)), said, rules=parse_rules(rules), **rest).checked()

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

    def rules_for(self, items: Sequence[Item]) -> dict[str, Any]:
        """Its rules, as tables, for the same lines in a chip of other items; UsageError if one is gone."""
        here = list(self.sources())
        there = {source: offset for offset, source in enumerate(_sources(items))}

        def moved(line: str) -> str:
            offset = there.get(here[int(line)]) if line.isdecimal() else None
            if line.isdecimal() and offset is None:
                raise UsageError(f"line {_shown(here[int(line)])} has a rule; change the chip's rules, too")
            return line if offset is None else str(offset)

        return self.rules.located(moved).raw()

    def texts(self) -> dict[str, str]:
        """Its options as written, by line."""
        return {key: text for key, options in self.options.items() if (text := format_options(options))}

    def settled(self, names: Sequence[str]) -> "Definition":
        """With options by offset; `names` are those of its lines at their sources.

        An option that gives a line a name may be said beside others of that name. UsageError for a line that
        does not exist, or an ambiguous name.
        """
        by_offset: dict[int, LineOptions] = {}
        by_new_name: dict[str, LineOptions] = {}
        for key, options in self.options.items():
            if not key.isdecimal() and names.count(key) != 1:
                by_new_name[key] = options
                continue
            offset = self._offset(key, names)
            if offset in by_offset:
                raise UsageError(f"options of line {key}: line {offset} has options already")
            by_offset[offset] = options
        here = [by_offset.get(offset, PLAIN).name or name for offset, name in enumerate(names)]
        for key, options in by_new_name.items():
            offset = self._offset(key, here)
            by_offset[offset] = parse_options(format_options(options), by_offset.get(offset, PLAIN))
        settled = self._replace(options={str(offset): by_offset[offset] for offset in sorted(by_offset)})
        if not self.rules.interlocks and self.rules.watchdog is None:
            return settled
        its_options = settled.by_offset()
        here = [options.name or name for options, name in zip(its_options, names, strict=True)]
        rules = self.rules.located(lambda line: str(self._located(line, here)))
        rules.check(its_options, [name or f"line {offset}" for offset, name in enumerate(here)])
        return settled._replace(rules=rules)

    def _offset(self, key: str, names: Sequence[str]) -> int:
        try:
            return self._located(key, names)
        except UsageError as error:
            raise UsageError(f"options of line {key}: {error}") from None

    def _located(self, line: str, names: Sequence[str]) -> int:
        """Offset of a line, by that or by a name."""
        if line.isdecimal():
            offset = int(line) if len(line) <= _DIGITS_MAX else self.num_lines
            if offset < self.num_lines:
                return offset
        elif line and names.count(line) == 1:
            return names.index(line)
        what = f"{names.count(line)} lines called" if line in names else "no line"
        raise UsageError(
            f"{self.name} has {what} {line[:_SHOWN_MAX]!r}; its offsets are 0 to {self.num_lines - 1}"
        )

    def by_offset(self) -> list[LineOptions]:
        """The options of each line, once they are settled."""
        return [self.options_of(offset) for offset in range(self.num_lines)]

    def options_of(self, offset: int) -> LineOptions:
        """The options of one, once they are settled."""
        return self.options.get(str(offset), PLAIN)

    def may_be(self, other: "Definition") -> bool:
        """Whether the other is the same chip, access aside."""
        return self.as_used() == other.as_used()

    def as_used(self) -> tuple[object, ...]:
        """Everything except access, equal for the same chip however it was written."""
        return (self.name, tuple(self.sources()), self.texts(), self.vm, self.poll_us, self.rules)


def _sources(items: Sequence[Item]) -> Iterator[Source]:
    for item in items:
        if isinstance(item, ChipLines):
            for offset in item.offsets:
                yield item.chip, offset
        else:
            yield item.name


def _shown(source: Source) -> str:
    return source if isinstance(source, str) else f"{source[0]}:{source[1]}"
