# SPDX-License-Identifier: MIT
"""A virtual chip as people describe it: one schema for configuration files and for the API.

Slow to import because of pydantic: never import it in gpiovirtd itself, workers, or what starts programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from gpiovirt.control.access import gid_of, group_name, parse_mode, uid_of, user_name
from gpiovirt.errors import UsageError
from gpiovirt.protocols.control.answers import ChipState
from gpiovirt.protocols.control.requests import New
from gpiovirt.virtual import grammar
from gpiovirt.virtual.definition import Definition
from gpiovirt.virtual.grammar import ChipLines, NamedLine
from gpiovirt.virtual.limits import LINES_MAX, OFFSET_MAX, POLL_US_MAX, check_name
from gpiovirt.virtual.options import format_options, parse_options
from gpiovirt.virtual.rules import line_options, parse_rules

__all__ = ["Chip", "InvalidChipError", "Line", "LineOf", "chip_of", "describe", "parse_chip", "problems"]


_NONE: Mapping[str, Any] = {}


class InvalidChipError(UsageError):
    """Not a description of a chip; `problems` has a text `KEY: what is wrong` for each problem."""

    def __init__(self, found: Sequence[str]) -> None:
        super().__init__("; ".join(found))
        self.problems = tuple(found)


class LineOf(NamedTuple):
    """One line of a chip: the key that describes it, and where to take it."""

    key: str
    source: tuple[str, int] | str
    """(chip, offset), or a line's name"""

    @property
    def item(self) -> grammar.Item:
        """As written to new_device."""
        if isinstance(self.source, str):
            return NamedLine(self.source)
        chip, offset = self.source
        return ChipLines(chip, (offset,))

    def __str__(self) -> str:
        return grammar.format_definition([self.item])

    def described(self) -> dict[str, Any]:
        """As the beginning of a line's table."""
        if isinstance(self.source, str):
            return {"name": self.source}
        chip, offset = self.source
        return {"chip": chip, "offset": offset}


def _value_error(error: UsageError) -> ValueError:
    return ValueError(str(error))


def _definition(text: str) -> str:
    try:
        grammar.parse(text)
    except UsageError as error:
        raise _value_error(error) from error
    return text


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Line(_Model):
    """A line, by chip and offset or by its name, and its options."""

    chip: str = ""
    """Label, device name or path of the chip that it is taken from."""
    offset: int | None = Field(None, ge=0, le=OFFSET_MAX)
    """Its offset there."""
    name: str = ""
    """Its name, in place of chip and offset."""
    options: str = ""
    """Its options for every consumer that does not ask for something else: pull-up, pull-down, bias-disabled,
    open-drain, open-source, active-low, debounce=TIME, safe=low|high|input|hold (when nobody holds it),
    name=NAME (in this chip), separated by commas."""

    @field_validator("options")
    @classmethod
    def _check_options(cls, text: str) -> str:
        try:
            return format_options(parse_options(text))
        except UsageError as error:
            raise ValueError(f'{error}; write for example "pull-up,debounce=5ms,safe=low"') from error

    @model_validator(mode="after")
    def _check_source(self) -> Line:
        by_place = bool(self.chip) and self.offset is not None and not self.name
        by_name = bool(self.name) and not self.chip and self.offset is None
        if not by_place and not by_name:
            raise ValueError("a line has chip and offset, or name; write one or the other")
        if '"' in self.chip + self.name:
            raise ValueError("a name with a double quote cannot be written; take the line by chip and offset")
        return self

    @property
    def item(self) -> grammar.Item:
        """As written to new_device."""
        return NamedLine(self.name) if self.offset is None else ChipLines(self.chip, (self.offset,))


def _kind_of_lines(value: object) -> str | None:
    if isinstance(value, str):
        return _TEXT
    return _LIST if isinstance(value, list) else None


def _kind_of_line(value: object) -> str | None:
    if isinstance(value, str):
        return _TEXT
    return _TABLE if isinstance(value, Line | Mapping) else None


_TEXT, _LIST, _TABLE = "<text>", "<list>", "<table>"  # tells alternatives apart; not shown to people
_Definition = Annotated[str, AfterValidator(_definition)]
_Entry = Annotated[
    Annotated[_Definition, Tag(_TEXT)] | Annotated[Line, Tag(_TABLE)],
    Discriminator(
        _kind_of_line,
        custom_error_type="line",
        custom_error_message='expected a line: "START", "gpiochip0 3", or a table: {name = "START", ...}',
    ),
]
_Lines = Annotated[
    Annotated[_Definition, Tag(_TEXT)] | Annotated[list[_Entry], Tag(_LIST)],
    Discriminator(
        _kind_of_lines,
        custom_error_type="lines",
        custom_error_message='expected a string as written to new_device, "gpiochip0 3-5, START", or a list',
    ),
]


class LineRules(_Model):
    """What holds for one line, whoever its consumer is."""

    options: str = ""
    """As of a line's table, in lines."""
    direction: Literal["input", "output"] | None = None
    """It may not be turned; an input is never driven."""
    safe: Literal["low", "high", "input", "hold"] | None = None
    """What it is when nobody holds it, or a rule says so."""
    min_on_ms: float = Field(0, ge=0, le=3_600_000)
    """How long it stays 1 at least: if it is to be 0 sooner, that waits."""
    min_off_ms: float = Field(0, ge=0, le=3_600_000)
    """How long it stays 0 at least."""
    max_rate_hz: float = Field(0, ge=0, le=1000)
    """How often it may become 1 in a second; 0: as often as one likes."""

    @model_validator(mode="after")
    def _check(self) -> LineRules:
        try:
            _ = self.text
        except UsageError as error:
            raise _value_error(error) from error
        return self

    @property
    def text(self) -> str:
        """As options are written."""
        return line_options(self.model_dump(exclude_defaults=True))


_LineName = Annotated[str, BeforeValidator(lambda line: str(line) if type(line) is int else line)]
"""A line's name in the chip, or its offset, in quotes or not"""


class OnlyWhile(_Model):
    """A line that is 1 only while others are as they must be."""

    line: _LineName
    """Its name in the chip, or its offset."""
    levels: dict[str, Literal[0, 1]] = Field(alias="is", min_length=1, max_length=64)
    """The others, and the level that each must have."""


class Interlock(_Model):
    """Lines that depend on each other: either never_both or only_while."""

    never_both: list[_LineName] | None = Field(None, min_length=2, max_length=64)
    """Lines, by name or offset, of which one at most is 1."""
    policy: Literal["refuse", "break-before-make"] | None = None
    """What happens to a line that is to be 1 while another is: it is refused, or that is made 0 before."""
    dead_time_ms: float | None = Field(None, ge=0, le=60_000)
    """How long all are 0 in between."""
    only_while: OnlyWhile | None = None
    """A line that is 1 only while others are as they must be: else it goes to its safe state at once."""


class Watchdog(_Model):
    """A line that must toggle while outputs are held, else all that have a safe state go there."""

    line: _LineName
    """Its name in the chip, or its offset."""
    timeout_ms: float = Field(ge=10, le=3_600_000)
    """How long it may stay as it is."""
    rearm: Literal["consumer", "operator"] = "consumer"
    """Who allows outputs again: the consumer, by toggling it, or an operator (gpiovirt rearm)."""


class Chip(_Model):
    """A virtual chip."""

    name: str
    """Its name and label; default in a configuration file: the file's name without .toml."""
    lines: _Lines
    """Its lines, in order: a string as written to new_device, or a list of such strings and tables."""
    owner: str = ""
    """Its owner: a user's name or number; default: the daemon's user."""
    group: str = ""
    """Its group: a name or number; default: gpio, where there is one."""
    mode: str = Field("0660", pattern="^0?[0-7]{1,3}$")
    """Who may use it, as for a file, in octal."""
    vm: bool = False
    """Also make a socket for virtual machines."""
    poll_us: int = Field(0, ge=0, le=POLL_US_MAX)
    """How many microseconds to poll after each request, before sleeping."""
    line: dict[str, LineRules] = {}
    """What holds for single lines, by name in the chip, or by offset."""
    interlock: list[Interlock] = Field([], max_length=64)
    """What holds between lines."""
    watchdog: Watchdog | None = None
    """A line that must toggle."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        try:
            check_name(name)
        except UsageError as error:
            raise _value_error(error) from error
        return name

    @field_validator("mode")
    @classmethod
    def _format_mode(cls, text: str) -> str:
        return f"{int(text, 8):04o}"

    @field_validator("lines")
    @classmethod
    def _check_lines(cls, lines: _Lines) -> _Lines:
        found = _lines_of(lines)
        if not found:
            raise ValueError("a chip has at least one line")
        if len(found) > LINES_MAX:
            raise ValueError(f"{len(found)} lines; a chip has at most {LINES_MAX}")
        seen = set()
        for line in found:
            if line.source in seen:
                raise ValueError(f"{line} is named twice; a line can be in a chip once")
            seen.add(line.source)
        return lines

    @model_validator(mode="after")
    def _check_rules(self) -> Chip:
        try:
            definition = Definition.parse(self.name, self.definition, self.options(), self._rules())
            names = self._names()
            if all(name is not None for name in names):
                definition.settled([name or "" for name in names])
        except UsageError as error:
            raise _value_error(error) from error
        return self

    def _names(self) -> list[str | None]:
        """Of each line in the chip; None for one whose source knows it."""
        given = self._options_of_lines()
        return [
            parse_options(given.get(str(offset), "")).name
            or (line.source if isinstance(line.source, str) else None)
            for offset, line in enumerate(self.lines_of())
        ]

    def _rules(self) -> dict[str, Any]:
        raw: dict[str, Any] = {}
        if self.interlock:
            raw["interlock"] = [each.model_dump(by_alias=True, exclude_none=True) for each in self.interlock]
        if self.watchdog is not None:
            raw["watchdog"] = self.watchdog.model_dump()
        return raw

    def rules(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each table of a rule between lines, with its key."""
        raw = self._rules()
        for interlock in raw.get("interlock", []):
            yield "interlock", interlock
        if "watchdog" in raw:
            yield "watchdog", raw["watchdog"]

    def lines_of(self) -> list[LineOf]:
        """Each line, by its offset in the chip."""
        return _lines_of(self.lines)

    @property
    def definition(self) -> str:
        """Its lines as written to new_device."""
        if isinstance(self.lines, str):
            return self.lines
        items: list[grammar.Item] = []
        for entry in self.lines:
            items += grammar.parse(entry) if isinstance(entry, str) else [entry.item]
        return grammar.format_definition(items)

    def wanted(self) -> New:
        """The request that makes it; InvalidChipError for an unknown owner. One that is not given is -1."""
        found = []
        ids = {"uid": -1, "gid": -1}
        for key, text, id_of, name in (
            ("owner", self.owner, uid_of, "uid"),
            ("group", self.group, gid_of, "gid"),
        ):
            try:
                ids[name] = id_of(text)
            except UsageError as error:
                found.append(f"{key}: {error}")
        if found:
            raise InvalidChipError(found)
        return New(
            self.definition,
            self.name,
            self.options(),
            self._rules(),
            vm=self.vm,
            poll_us=self.poll_us,
            uid=ids["uid"],
            gid=ids["gid"],
            mode=parse_mode(self.mode),
        )

    def options(self) -> dict[str, str]:
        """The options of lines, by offset, or by name where only the line's source knows that."""
        found = self._options_of_lines()
        names = self._names() if self.line else []
        for key, said in self.line.items():
            place = str(names.index(key)) if names.count(key) == 1 else key
            found[place] = format_options(parse_options(said.text, parse_options(found.get(place, ""))))
        return {line: text for line, text in found.items() if text}

    def _options_of_lines(self) -> dict[str, str]:
        """Those in the lines' tables, by offset."""
        if isinstance(self.lines, str):
            return {}
        found: dict[str, str] = {}
        offset = 0
        for entry in self.lines:
            if isinstance(entry, str):
                offset += len(_lines_of(entry))
                continue
            if entry.options:
                found[str(offset)] = entry.options
            offset += 1
        return found


def _lines_of(lines: str | Sequence[str | Line]) -> list[LineOf]:
    if isinstance(lines, str):
        return list(_split("lines", grammar.parse(lines)))
    found: list[LineOf] = []
    for index, entry in enumerate(lines):
        items = grammar.parse(entry) if isinstance(entry, str) else [entry.item]
        found += _split(f"lines.{index}", items)
    return found


def _split(key: str, items: Iterable[grammar.Item]) -> Iterable[LineOf]:
    for item in items:
        if isinstance(item, NamedLine):
            yield LineOf(key, item.name)
        else:
            for offset in item.offsets:
                yield LineOf(key, (item.chip, offset))


def parse_chip(raw: Mapping[str, Any], name: str = "") -> Chip:
    """The chip described; `name` is its name if the description has none.

    InvalidChipError if it is not a description.
    """
    try:
        return Chip.model_validate({"name": name, **raw} if name else raw)
    except ValidationError as error:
        raise InvalidChipError(problems(error)) from error


def chip_of(
    told: ChipState,
    options: Mapping[str, str],
    rules: Mapping[str, Any] = _NONE,
    names: Sequence[str] = (),
) -> Chip:
    """The description of a chip, from the answer to the control protocol's `describe`.

    UsageError if it waits for a line that has options, InvalidChipError if it has names that a
    description cannot have.
    """
    for line in options:
        if not line.isdecimal():
            raise UsageError(f"{told.name} waits for its lines: which one is {line!r} cannot be told")
    return parse_chip(
        {
            "name": told.name,
            "lines": _described(told.definition, {int(line): text for line, text in options.items()}),
            "owner": user_name(told.uid),
            "group": group_name(told.gid),
            "mode": f"{told.mode:04o}",
            "vm": told.vm is not None,
            "poll_us": told.poll_us,
            **_named(rules, options, names),
        }
    )


def _named(rules: Mapping[str, Any], options: Mapping[str, str], names: Sequence[str]) -> Mapping[str, Any]:
    """Rules with the names of lines in place of offsets, where a name tells them apart."""
    here = [parse_options(options.get(str(offset), "")).name or name for offset, name in enumerate(names)]

    def name(line: str) -> str:
        found = here[int(line)] if line.isdecimal() and int(line) < len(here) else ""
        return line if not found or found.isdecimal() or here.count(found) > 1 else found

    return parse_rules(rules).located(name).raw()


def _described(definition: str, options: Mapping[int, str]) -> str | list[Any]:
    """`definition` itself, or a list with a table for each line that has options."""
    if not any(options.values()):
        return definition
    entries: list[Any] = []
    plain: list[grammar.Item] = []

    def end_plain() -> None:
        if plain:
            entries.append(grammar.format_definition(plain))
            plain.clear()

    for offset, line in enumerate(_lines_of(definition)):
        if offset in options:
            end_plain()
            entries.append({**line.described(), "options": options[offset]})
            continue
        item = line.item
        last = plain[-1] if plain else None
        if isinstance(item, ChipLines) and isinstance(last, ChipLines) and last.chip == item.chip:
            plain.pop()
            item = ChipLines(last.chip, (*last.offsets, *item.offsets))
        plain.append(item)
    end_plain()
    return entries


_FORMER = {"as": "name=NAME", "how": "pull-up,debounce=5ms", "safe": "safe=low"}
"""Keys that a line had before `options` replaced them"""

_MESSAGES = {
    "missing": "missing",
    "string_type": "expected a string, in quotes",
    "bool_type": "expected true or false",
    "int_type": "expected an integer",
    "greater_than_equal": "expected 0 or more",
    "less_than_equal": "expected at most {le}",
    "string_pattern_mismatch": 'expected an octal mode, in quotes: "0660"',
    "model_type": "expected a table of keys",
    "literal_error": "expected {expected}",
    "float_type": "expected a number",
}


def problems(error: ValidationError) -> list[str]:
    """The problems of a description, one per line: `KEY: what`, where the key is e.g. `lines.2.options`."""
    found = map(describe, error.errors(include_url=False))
    return [f"{key}: {what}" if key else what for key, what in found]


def _model_at(location: Sequence[str]) -> type[_Model]:
    """The table that a key is in."""
    tables: Mapping[str, type[_Model]] = {"lines": Line, "line": LineRules, "watchdog": Watchdog}
    if len(location) == 1:
        return Chip
    if location[0] == "interlock":
        return OnlyWhile if "only_while" in location[:-1] else Interlock
    return tables.get(location[0], Chip)


def describe(details: ErrorDetails) -> tuple[str, str]:
    """One problem: the key, empty for the whole description, and what is wrong."""
    location = [str(part) for part in details["loc"] if part not in (_TEXT, _LIST, _TABLE)]
    kind = details["type"]
    if kind == "extra_forbidden":
        model = _model_at(location)
        keys = [field.alias or name for name, field in model.model_fields.items()]
        message = f"unknown key; the keys are: {', '.join(keys)}"
        if model is Line and location[-1] in _FORMER:
            message = f'write options = "{_FORMER[location[-1]]}" instead'
    elif kind == "value_error":
        message = str(details["ctx"]["error"])
    elif kind == "string_type" and location[-1] == "mode":
        message = _MESSAGES["string_pattern_mismatch"]
    else:
        message = details["msg"]
        if kind in _MESSAGES:
            message = _MESSAGES[kind].format_map(details.get("ctx", {}))
    return ".".join(location), message
