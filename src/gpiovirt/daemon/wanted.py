# SPDX-License-Identifier: MIT
"""From what is asked for to the record that a chip is to have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from gpiovirt.core.line import PLAIN
from gpiovirt.daemon.chip import KeptChip
from gpiovirt.daemon.store import Record, new_incarnation
from gpiovirt.errors import UsageError
from gpiovirt.protocols.control.answers import Ownership
from gpiovirt.protocols.control.requests import DRIVERS, Change, New, SetOptions
from gpiovirt.virtual.definition import Definition
from gpiovirt.virtual.grammar import parse
from gpiovirt.virtual.options import format_options, parse_options

__all__ = ["changed", "line_of", "lines_of", "new_record", "with_options"]

_NUMBERED = re.compile(rf"({'|'.join(DRIVERS)})\.(0|[1-9][0-9]*)")
_DIGITS_MAX = 5
_SHOWN_MAX = 40
_T = TypeVar("_T")


def new_record(asked: New, default: Ownership, next_name: Callable[[str], str]) -> Record:
    """Of a new chip; `next_name` has those that the directories of the control files give."""
    name, driver = asked.name, asked.driver
    if numbered := _NUMBERED.fullmatch(name):
        if not asked.permanent:
            raise UsageError(f"{name!r}: names of this form are given by new_device")
        driver = numbered[1]
    if not name:
        driver = driver or DRIVERS[0]
        name = next_name(driver)
    definition = Definition.parse(
        name,
        asked.definition,
        asked.options,
        asked.rules,
        vm=asked.vm,
        poll_us=asked.poll_us,
        **_access(asked, default),
    )
    return Record(definition, driver, asked.permanent, asked.origin, incarnation=new_incarnation())


def changed(chip: KeptChip, asked: Change) -> Record:
    """The chip's record, with what is asked for otherwise."""
    record, former = chip.record, chip.record.definition
    lines = _or(asked.definition, former.lines)
    definition = Definition.parse(
        record.name,
        lines,
        former.options_for(parse(lines)) if asked.options is None else asked.options,
        former.rules_for(parse(lines)) if asked.rules is None else asked.rules,
        vm=_or(asked.vm, former.vm),
        poll_us=_or(asked.poll_us, former.poll_us),
        **_access(asked, former),
    )
    return record._replace(
        definition=definition,
        permanent=_or(asked.permanent, record.permanent),
        origin=_or(asked.origin, record.origin),
    )


def with_options(chip: KeptChip, asked: SetOptions) -> Record:
    """The chip's record, with what is asked for of some lines."""
    definition = chip.record.definition
    if not chip.lines:
        raise UsageError(f"{chip.name} waits for its lines; their options can be set when they are there")
    wanted = dict(definition.texts())
    names = chip.names()
    for key, text in asked.options.items():
        offset = _offset(chip.name, key, names)
        former = PLAIN if asked.replace else definition.by_offset()[offset]
        wanted[str(offset)] = format_options(parse_options(text, former))
    options = {key: parse_options(text) for key, text in wanted.items()}
    return chip.record._replace(definition=definition._replace(options=options).checked())


def line_of(chip: KeptChip, line: str) -> int:
    """The offset of a line that is called so; UsageError."""
    return _offset(chip.name, line, chip.names())


def lines_of(chip: KeptChip, lines: Sequence[str]) -> list[int]:
    """Of several, each once; UsageError."""
    names = chip.names()
    places = {name: offset for offset, name in enumerate(names)}
    count = Counter(names)
    found: dict[int, str] = {}
    for line in lines:
        by_name = not line.isdecimal() and count[line] == 1
        offset = places[line] if by_name else _offset(chip.name, line, names)
        if offset in found:
            raise UsageError(f"line {offset} of {chip.name} is asked for twice")
        found[offset] = line
    return list(found)


def _offset(chip: str, line: str, names: list[str]) -> int:
    if line.isdecimal():
        offset = int(line) if len(line) <= _DIGITS_MAX else len(names)
    elif names.count(line) == 1:
        offset = names.index(line)
    else:
        raise UsageError(f"{chip} has no line {line[:_SHOWN_MAX]!r}; use its offset or name")
    if offset >= len(names):
        raise UsageError(f"{chip} has no line {line[:_SHOWN_MAX]}; its offsets are 0 to {len(names) - 1}")
    return offset


def _access(asked: New | Change, former: Ownership | Definition) -> dict[str, int]:
    said = {"uid": asked.uid, "gid": asked.gid, "mode": asked.mode}
    return {key: getattr(former, key) if number < 0 else number for key, number in said.items()}


def _or(asked: _T | None, former: _T) -> _T:
    return former if asked is None else asked
