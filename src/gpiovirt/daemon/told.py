# SPDX-License-Identifier: MIT
"""What a worker says of its chip, checked here, once: a worker is confined, and not believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from gpiovirt.errors import PeerError
from gpiovirt.protocols.control import NUMBER_MAX
from gpiovirt.protocols.control.answers import (
    Consumer,
    Direction,
    ForceEvent,
    Levels,
    LineEvent,
    LineHolder,
    LossEvent,
    RefusedError,
    RuleEvent,
    RuleState,
    decode_answer,
)

__all__ = ["LineUse", "Status", "Use", "check_refused", "decode_levels", "decode_status", "decode_told"]

_NAME_MAX = 64
_CONSUMERS_MAX = 256
_RULES_MAX = 4096
_WHY_MAX = 400
_ERRNO_MAX = 4096
_EVENTS: Mapping[object, Literal["line-requested", "line-released", "line-config"]] = {
    "requested": "line-requested",
    "released": "line-released",
    "config": "line-config",
}


_RULE_EVENTS: Mapping[object, Literal["rule-refused", "rule-tripped", "rule-rearmed"]] = {
    "refused": "rule-refused",
    "tripped": "rule-tripped",
    "rearmed": "rule-rearmed",
}


class Use(NamedTuple):
    """Who uses a chip, as its worker said last: number of lines held, and the VM's process (0: none)."""

    lines: int = 0
    vm: int = 0


class LineUse(NamedTuple):
    """A line as it is used now."""

    direction: Direction
    consumer: str
    used: bool
    holder: LineHolder | None
    forced: Literal["", "low", "high"]


class Status(NamedTuple):
    """Who has a chip open, and how its lines are used."""

    consumers: tuple[Consumer, ...]
    vm: Consumer | None
    lines: tuple[LineUse, ...]
    rules: tuple[RuleState, ...]


def decode_told(
    body: Mapping[str, Any], chip: str, num_lines: int, name_of: Callable[[int], str]
) -> Use | LossEvent | LineEvent | RuleEvent | ForceEvent:
    """What it says unasked; `name_of` knows the names of so many lines. PeerError."""
    match body:
        case {"use": {"lines": int(lines), "vm": int(vm)}} if _are_numbers(lines, vm):
            return Use(lines, vm)
        case {"event": "lost", "count": int(number)} if _are_numbers(number):
            return LossEvent("lost", chip, number)
        case {
            "event": "refused" | "tripped" | "rearmed" as what,
            "offset": int(offset),
            "pid": int(pid),
            "uid": int(uid),
            "why": str(why),
        } if 0 <= offset < num_lines and _are_numbers(pid, uid):
            return RuleEvent(
                _RULE_EVENTS[what], chip, offset, name_of(offset), pid, uid, _clean(why, _WHY_MAX)
            )
        case {"event": "unforced", "offset": int(offset)} if 0 <= offset < num_lines:
            return ForceEvent("line-unforced", chip, offset, name_of(offset), "", 0)
        case {
            "event": "requested" | "released" | "config" as what,
            "timestamp_ns": int(timestamp_ns),
            "offset": int(offset),
            "direction": "input" | "output" as direction,
            "consumer": str(consumer),
            "used": bool(used),
        } if 0 <= offset < num_lines and _are_numbers(timestamp_ns):
            name, consumer, holder = name_of(offset), _name(consumer), _holder(body.get("holder"))
            return LineEvent(
                _EVENTS[what], chip, timestamp_ns, offset, name, direction, consumer, used, holder
            )
    raise PeerError("a malformed event")


def _holder(told: object) -> LineHolder | None:
    """PeerError if there is something else."""
    if told is None:
        return None
    holder = decode_answer(LineHolder, told)
    if not _are_numbers(holder.pid, holder.uid):
        raise PeerError("a malformed holder")
    return holder


def decode_levels(told: object, count: int) -> Levels | None:
    """The levels of so many lines; None if that has not the form that it should."""
    try:
        levels = decode_answer(Levels, told)
    except PeerError:
        return None
    is_right = len(levels.levels) == count and all(level in (None, 0, 1) for level in levels.levels)
    return levels if is_right else None


def check_refused(told: Mapping[str, Any], what: str = "") -> None:
    """RefusedError, which begins with `what`, if it is told that something is refused."""
    match told:
        case {"errno": int(number), "why": str(why)} if 0 < number < _ERRNO_MAX:
            raise RefusedError(what + _clean(why, _WHY_MAX), number)


def decode_status(told: object, num_lines: int) -> Status | None:
    """What it answers when asked; None if that has not the form that it should."""
    try:
        status = decode_answer(Status, told)
    except PeerError:
        return None
    holders = [line.holder[1:] for line in status.lines if line.holder]
    peers = [*status.consumers, *([status.vm] if status.vm else []), *holders]
    if len(status.lines) != num_lines or not all(_are_numbers(*peer) for peer in peers):
        return None
    lines = tuple(line._replace(consumer=_name(line.consumer)) for line in status.lines)
    rules = tuple(rule._replace(text=_clean(rule.text, _WHY_MAX)) for rule in status.rules[:_RULES_MAX])
    if not all(_are_numbers(rule.refused, rule.trips) for rule in rules):
        return None
    return status._replace(consumers=status.consumers[:_CONSUMERS_MAX], lines=lines, rules=rules)


def _are_numbers(*numbers: int) -> bool:
    """Of a size that those who are told can have."""
    return all(0 <= number <= NUMBER_MAX for number in numbers)


def _name(text: str) -> str:
    """What somebody is called: of a length that names have, and of characters."""
    return _clean(text, _NAME_MAX)


def _clean(text: str, length: int) -> str:
    """Of that length at most, and of characters."""
    return text[:length].encode(errors="replace").decode()
