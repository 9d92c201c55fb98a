# SPDX-License-Identifier: MIT
"""gpiovirtd's chips as a page shows them: lines, levels, holders, rules, and what may be done."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from gpiovirt.control.access import user_name
from gpiovirt.control.async_client import AsyncClient
from gpiovirt.core.text import printable
from gpiovirt.protocols.control.answers import ChipDetails, LineHolder, LineState, RefusedError
from gpiovirt.protocols.control.requests import Read

__all__ = ["CHIPS_MAX", "key_of", "name_of", "told"]

CHIPS_MAX = 256
"""That a page shows"""
_PREFIX = "chip:"


def key_of(name: str) -> str:
    """What a page calls a chip."""
    return _PREFIX + name


def name_of(key: str) -> str | None:
    """The chip that it calls so; None if it is none of gpiovirtd's."""
    return key.removeprefix(_PREFIX) if key.startswith(_PREFIX) else None


async def told(client: AsyncClient, may_drive: bool, held: Mapping[str, Set[int]]) -> list[dict[str, Any]]:
    """All chips that may be seen; `held` are the offsets, by chip, that the page itself holds."""
    found = []
    for chip in (await client.chips())[:CHIPS_MAX]:
        try:
            details = await client.show(chip.name)
            levels = (await client.ask(Read(chip.name))).levels if details.lines else ()
        except RefusedError:  # it was deleted meanwhile, or cannot be read now
            continue
        found.append(_chip(details, levels, may_drive, held.get(chip.name, set())))
    return found


def _chip(
    details: ChipDetails, levels: tuple[int | None, ...], may_drive: bool, held: Set[int]
) -> dict[str, Any]:
    chip = details.chip
    lines = []
    for line in details.lines:
        level = levels[line.offset] if line.offset < len(levels) else None
        lines.append(_line(line, level, may_drive and chip.state == "live", held))
    return {
        "key": key_of(chip.name),
        "kind": "virtual",
        "name": printable(chip.name),
        "state": chip.state,
        "trouble": printable(chip.trouble),
        "about": printable(chip.definition),
        "lines": lines,
        "rules": [{**rule._asdict(), "text": printable(rule.text)} for rule in details.rule_states],
        "headers": [],
    }


def _line(line: LineState, level: int | None, may_drive: bool, held: Set[int]) -> dict[str, Any]:
    is_ours = line.offset in held and line.used
    return {
        "offset": line.offset,
        "name": printable(line.name),
        "direction": line.direction,
        "level": level,
        "consumer": printable(line.consumer),
        "holder": _holder(line.holder),
        "used": line.used,
        "can": _possible(line, is_ours) if may_drive else [],
        "stuck": None,
        "options": printable(line.options),
        "forced": line.forced,
        "there": line.there,
    }


def _possible(line: LineState, is_ours: bool) -> list[str]:
    """What a page may try: what then is refused, is refused in words."""
    if is_ours:
        return ["drive", "release"]
    return ["drive"] if line.there else []


def _holder(holder: LineHolder | None) -> str:
    """Who it is, by the kernel's word."""
    if holder is None or not holder.pid:
        return ""
    return f"{holder.kind}, pid {holder.pid}, {user_name(holder.uid)}"
