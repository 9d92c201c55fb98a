# SPDX-License-Identifier: MIT
"""Levels over time as text, a row for each line: what a message can show."""

from __future__ import annotations

from collections.abc import Mapping

from gpiovirt.core.text import printable
from gpiovirt.waveform.compare import level_at
from gpiovirt.waveform.vcd import Changes

__all__ = ["draw"]

_LEVELS = {0: "_", 1: "‾", None: "."}
_EDGES = {0: "\\", 1: "/", None: "."}
_NAME_MAX = 24


def draw(lines: Mapping[str, Changes], from_ns: int, until_ns: int, width: int = 64) -> str:
    r"""The lines by name, from one time to another in `width` columns.

    `_` is low, `‾` high, `.` unknown, `/` and `\` an edge, and # more of them than a column can show.
    """
    span_ns = max(until_ns - from_ns, 1)
    names = {name: printable(name)[:_NAME_MAX] for name in lines}
    margin = max(map(len, names.values()), default=0)
    rows = [
        f"{names[name]:>{margin}} {_row(changes, from_ns, span_ns, width)}" for name, changes in lines.items()
    ]
    before = f"-{_duration(span_ns)}"
    rows.append(f"{'':{margin}} {before}{'now':>{max(width - len(before), 4)}}")
    return "\n".join(rows)


def _row(changes: Changes, from_ns: int, span_ns: int, width: int) -> str:
    level = level_at(changes, from_ns)
    edges: dict[int, list[int | None]] = {}
    for time_ns, to in changes:
        column = (time_ns - from_ns) * width // span_ns
        if time_ns > from_ns and column <= width:
            edges.setdefault(min(column, width - 1), []).append(to)
    row = []
    for column in range(width):
        here = edges.get(column)
        if here is None:
            row.append(_LEVELS[level])
            continue
        row.append("#" if len(here) > 1 else _EDGES[here[0]])
        level = here[-1]
    return "".join(row)


def _duration(time_ns: int) -> str:
    for unit, size in (("s", 10**9), ("ms", 10**6)):
        if time_ns >= size:
            return f"{time_ns / size:.4g} {unit}"
    return f"{time_ns / 1000:.4g} us"
