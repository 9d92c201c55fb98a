# SPDX-License-Identifier: MIT
"""What a worker says of its chip, checked here, once: a worker is confined, and not believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from gpiovirt.errors import PeerError
from gpiovirt.protocols.control import NUMBER_MAX
from gpiovirt.protocols.control.answers import (
    Consumer,
    Direction,
    LineEvent,
    LineHolder,
    LossEvent,
    decode_answer,
)

__all__ = ["LineUse", "Status", "Use", "decode_status", "decode_told"]

_NAME_MAX = 64
_CONSUMERS_MAX = 256
_EVENTS: Mapping[object, Literal["line-requested", "line-released", "line-config"]] = {
    "requested": "line-requested",
    "released": "line-released",
    "config": "line-config",
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


class Status(NamedTuple):
    """Who has a chip open, and how its lines are used."""

    consumers: tuple[Consumer, ...]
    vm: Consumer | None
    lines: tuple[LineUse, ...]


def decode_told(body: Mapping[str, Any], chip: str, num_lines: int) -> Use | LossEvent | LineEvent:
    """What it says unasked; PeerError."""
    match body:
        case {"use": {"lines": int(lines), "vm": int(vm)}} if _are_numbers(lines, vm):
            return Use(lines, vm)
        case {"event": "lost", "count": int(number)} if _are_numbers(number):
            return LossEvent("lost", chip, number)
        case {
            "event": "requested" | "released" | "config" as what,
            "timestamp_ns": int(timestamp_ns),
            "offset": int(offset),
            "direction": "input" | "output" as direction,
            "consumer": str(consumer),
            "used": bool(used),
        } if 0 <= offset < num_lines and _are_numbers(timestamp_ns):
            return LineEvent(_EVENTS[what], chip, timestamp_ns, offset, direction, _name(consumer), used)
    raise PeerError("a malformed event")


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
    return status._replace(consumers=status.consumers[:_CONSUMERS_MAX], lines=lines)


def _are_numbers(*numbers: int) -> bool:
    """Of a size that those who are told can have."""
    return all(0 <= number <= NUMBER_MAX for number in numbers)


def _name(text: str) -> str:
    """What somebody is called: of a length that names have, and of characters."""
    return text[:_NAME_MAX].encode(errors="replace").decode()
