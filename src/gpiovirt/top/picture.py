# SPDX-License-Identifier: MIT
"""What `gpiovirt top` draws, as text: a row for each chip and each of its lines. It reads no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gpiovirt.waveform.thin import UNKNOWN, Piece

__all__ = ["Row", "View", "heading", "rows_of", "text_of", "wave_of"]

HIGH, LOW, DENSE, UNSEEN = "▔", "▁", "█", "·"
_NAME, _HOLDER = 16, 22

Chip = dict[str, Any]
Wave = Callable[[str, int, int], str]
"""Of a chip's key, a line's offset, and a width"""


class View(NamedTuple):
    """How it is looked at."""

    selected: int = 0
    span_ms: int = 10_000
    only_used: bool = False
    is_paused: bool = False

    def zoomed(self, factor: float) -> View:
        """More or less time."""
        return self._replace(span_ms=min(max(int(self.span_ms * factor), 10), 86_400_000))


class Row(NamedTuple):
    """A chip (`line` is None), or a line of it."""

    chip: Chip
    line: dict[str, Any] | None = None


def rows_of(chips: Sequence[Chip], view: View) -> list[Row]:
    """All that there are to be seen."""
    found = []
    for chip in chips:
        found.append(Row(chip))
        for line in chip["lines"]:
            if line["used"] or not view.only_used:
                found.append(Row(chip, line))
    return found


def _fit(text: str, width: int) -> str:
    return f"{text[: width - 1]}…" if len(text) > width else text.ljust(width)


def heading(view: View, trouble: str, width: int) -> str:
    """The first line: how much time is shown, and what is wrong."""
    span = f"{view.span_ms / 1000:g} s" if view.span_ms >= 1000 else f"{view.span_ms} ms"
    state = "paused" if view.is_paused else "live"
    return _fit(f"gpiovirt top  {state}, {span}  {trouble}".rstrip(), width)


def text_of(row: Row, wave: Wave, width: int) -> str:
    """A row in so many columns."""
    chip, line = row
    if line is None:
        state = "" if chip["state"] == "live" else f" {chip['state']} {chip['trouble']}".rstrip()
        tripped = [f" TRIPPED: {rule['text']}" for rule in chip["rules"] if rule["tripped"]]
        return _fit(f"{chip['name']}{state}  {chip['about']}{''.join(tripped)}", width)
    level = "?" if line["level"] is None else str(line["level"])
    faults = [
        *([] if line["stuck"] is None else ["stuck"]),
        *(["forced"] if line["forced"] else []),
        *([] if line["there"] else ["gone"]),
    ]
    arrow = {"output": ">", "input": "<"}[line["direction"]] if line["used"] else " "
    who = " ".join([*faults, line["consumer"], f"({line['holder']})" if line["holder"] else ""]).strip()
    name = line["name"] or f"line {line['offset']}"
    left = f"  {_fit(name, _NAME)} {level} {arrow}{_fit(who, _HOLDER)} "
    return _fit(left + wave(chip["key"], line["offset"], max(width - len(left), 0)), width)


def wave_of(pieces: Sequence[Piece], since_ns: int, until_ns: int, width: int) -> str:
    """A line of levels; where there is more than one change in a column, it is full."""
    if width <= 0:
        return ""
    column_ns = max((until_ns - since_ns) // width, 1)
    drawn, level, place = [], UNKNOWN, 0
    for column in range(width):
        end_ns = since_ns + (column + 1) * column_ns
        changes, is_dense = 0, False
        while place < len(pieces) and pieces[place].begin_ns < end_ns:
            piece = pieces[place]
            changes += level not in (UNKNOWN, piece.level)
            is_dense = is_dense or piece.end_ns > piece.begin_ns
            level = piece.level
            place += 1
        sign = {0: LOW, 1: HIGH}.get(level, UNSEEN)
        drawn.append(DENSE if is_dense or changes > 1 else sign)
    return "".join(drawn)
