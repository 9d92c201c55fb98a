# SPDX-License-Identifier: MIT
"""Reading the record: who did what to which line, when; and whether it is all there."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from heapq import merge
from itertools import pairwise
from typing import NamedTuple

from gpiovirt.core.record import What
from gpiovirt.errors import UsageError
from gpiovirt.protocols.control import NUMBER_MAX
from gpiovirt.protocols.log import Ask, Done, LogRecord, Span, Verdict, Who
from gpiovirt.recorder.segments import chain_lines, digest_of, link, segments_in

__all__ = ["Query", "Seen", "verdicts"]

_OUTPUT = 1 << 1
_LATE_NS = 60_000_000_000
"""What is added to the record later than it happened is not older than this, when it is followed"""

_LAST_OF = (
    "SELECT time, seq, what, value, text, NULL, 0, 0, '', '' FROM entry WHERE line = ? AND time >= ? "
    "AND time < ? AND what IN ({}) ORDER BY time DESC, seq DESC LIMIT 1"
)
_LAST = (
    _LAST_OF.format(f"{What.RELEASED:d}, {What.CONFIGURED:d}, {What.GONE:d}"),
    _LAST_OF.format(f"{What.SET:d}, {What.EDGE:d}"),
)
_OF_LEVELS = ", ".join(
    f"{what:d}"
    for what in (What.RELEASED, What.CONFIGURED, What.SET, What.EDGE, What.MISSED, What.GONE, What.LOST)
)
_CHANGE = "SELECT time, what, value FROM entry WHERE line = ? AND time >= ? AND time <= ? AND what IN ({}) "
_FIRST_CHANGE = _CHANGE.format(_OF_LEVELS) + "ORDER BY time, seq LIMIT 2"
_LAST_CHANGE = _CHANGE.format(_OF_LEVELS) + "ORDER BY time DESC, seq DESC LIMIT 1"
_DIRECTION = _LAST_OF.format(f"{What.CONFIGURED:d}")


class Seen(NamedTuple):
    """Up to where a question has been answered, for the next part of the answer."""

    time_ns: int
    seq: int


class Query:
    """Answers `ask` from the segments in a directory, of chips since when `since` says (None: of all chips).

    UsageError for a line that the record does not know.
    """

    def __init__(self, directory: str, ask: Ask, since: dict[str, int] | None) -> None:
        self._directory = directory
        self._ask = ask
        self._since = since
        self._unknown = set(ask.lines)
        self._with_lines: set[str] | None = None
        """Chips with a line that is asked for, once it is known which"""
        self.chips: set[str] = set()
        """Those that the record knows, of those that are asked for and may be seen"""
        self.first_ns = 0
        """The time of the first record of all that may be seen"""

    def records(self, seen: Seen | None = None) -> Iterator[LogRecord]:
        """In the order of time; those that came after `seen`, or all."""
        names = segments_in(self._directory)
        for number, name in enumerate(names):
            if seen is not None and number < len(names) - 2:
                continue
            with closing(self._open(name, is_last=number == len(names) - 1)) as connection:
                yield from self._of_segment(connection, seen)
        if seen is None and (self._unknown and self._ask.lines):
            line = sorted(self._unknown)[0]
            raise UsageError(f"the record knows no line {line!r} of {self._ask.chip or 'any chip'}")

    def _open(self, name: str, is_last: bool) -> sqlite3.Connection:
        path = os.path.abspath(f"{self._directory}/{name}")
        sealed = not is_last and not os.path.exists(f"{path}-wal")
        return sqlite3.connect(f"file:{path}?mode=ro" + "&immutable=1" * sealed, uri=True, timeout=5.0)

    def _of_segment(self, connection: sqlite3.Connection, seen: Seen | None) -> Iterator[LogRecord]:
        lines = self._lines(connection)
        since_ns = self._ask.since_ns
        if seen is not None:
            since_ns = max(since_ns, seen.time_ns - _LATE_NS)
        parts = []
        for number, (chip, offset, name) in lines.items():
            begins_ns = since_ns if self._since is None else max(since_ns, self._since.get(chip, NUMBER_MAX))
            parts.append(self._of_line(connection, number, chip, offset, name, begins_ns, seen))
        yield from merge(*parts)

    def _of_line(
        self,
        connection: sqlite3.Connection,
        number: int,
        chip: str,
        offset: int,
        name: str,
        begins_ns: int,
        seen: Seen | None,
    ) -> Iterator[LogRecord]:
        rows = connection.execute(
            "SELECT time, seq, what, value, text, kind, uid, pid, label, command FROM entry "
            "LEFT JOIN holder ON holder.id = entry.holder "
            "WHERE line = ? AND time >= ? AND time <= ? AND seq > ? ORDER BY time, seq",
            [number, begins_ns, self._ask.until_ns, 0 if seen is None else seen.seq],
        )
        for row in rows:
            if (record := _record(chip, offset, name, row)) is not None:
                yield record

    def _lines(self, connection: sqlite3.Connection) -> dict[int, tuple[str, int, str]]:
        """Those that are asked for and may be seen."""
        ask, found = self._ask, {}
        if ask.lines and self._with_lines is None:
            self._with_lines = self._chips_with_lines()
        for number, chip, offset, name in connection.execute("SELECT id, chip, offset, name FROM line"):
            if ask.chip and chip not in (ask.chip, ""):
                continue
            if self._since is not None and chip not in self._since:
                continue
            self.chips.add(chip)
            self._note_first(connection, number, 0 if self._since is None else self._since[chip])
            asked = {name, str(offset)} & set(ask.lines) if offset >= 0 else set()
            self._unknown -= asked
            # what is about the whole chip, or all of them, is about its lines, too
            is_about = offset < 0 and (not chip or chip in (self._with_lines or ()))
            if asked or not ask.lines or is_about:
                found[number] = (chip, offset, name)
        return found

    def _chips_with_lines(self) -> set[str]:
        asked, found = set(self._ask.lines), set()
        names = segments_in(self._directory)
        for number, name in enumerate(names):
            with closing(self._open(name, is_last=number == len(names) - 1)) as connection:
                for chip, offset, line in connection.execute("SELECT chip, offset, name FROM line"):
                    if offset >= 0 and {line, str(offset)} & asked:
                        found.add(chip)
        return found

    def _note_first(self, connection: sqlite3.Connection, line: int, since_ns: int) -> None:
        ((first,),) = connection.execute(
            "SELECT min(time) FROM entry WHERE line = ? AND time >= ?", [line, since_ns]
        )
        if first is not None:
            self.first_ns = min(self.first_ns or first, first)

    def last_levels(self) -> list[LogRecord]:
        """What was last known of each line before `since_ns`: its direction, and its level."""
        found: dict[tuple[str, int, int], LogRecord] = {}
        names = segments_in(self._directory)
        for number, name in enumerate(names):
            with closing(self._open(name, is_last=number == len(names) - 1)) as connection:
                for line, (chip, offset, text) in self._lines(connection).items():
                    begins_ns = 0 if self._since is None else self._since.get(chip, NUMBER_MAX)
                    for part, query in enumerate(_LAST):
                        row = connection.execute(query, [line, begins_ns, self._ask.since_ns]).fetchone()
                        if row and (record := _record(chip, offset, text, row)) is not None:
                            found[chip, offset, part] = record
        return sorted(found.values())

    def spans(self) -> Iterator[Span]:
        """What a picture of `columns` shows; those of a line in the order of time. No column costs more than
        two look-ups, however much happened in it."""
        names = segments_in(self._directory)
        for number, name in enumerate(names):
            with closing(self._open(name, is_last=number == len(names) - 1)) as connection:
                for line, (chip, offset, _) in self._lines(connection).items():
                    seen_ns = 0 if self._since is None else self._since.get(chip, NUMBER_MAX)
                    yield from self._spans_of(connection, line, offset, max(self._ask.since_ns, seen_ns))

    def _spans_of(
        self, connection: sqlite3.Connection, line: int, offset: int, since_ns: int
    ) -> Iterator[Span]:
        until_ns = self._ask.until_ns
        width_ns = max((until_ns - self._ask.since_ns) // self._ask.columns, 1)
        at_ns = since_ns
        while rows := connection.execute(_FIRST_CHANGE, [line, at_ns, until_ns]).fetchall():
            first = last = rows[0]
            done = (first[0] - self._ask.since_ns) // width_ns + 1
            at_ns = self._ask.since_ns + done * width_ns  # where the next column begins
            if rows[1:] and rows[1][0] < at_ns:
                end_ns = min(at_ns - 1, until_ns)
                last = connection.execute(_LAST_CHANGE, [line, first[0], end_ns]).fetchone() or first
            yield Span(offset, int(first[0]), int(last[0]), self._level_after(connection, line, *last))

    @staticmethod
    def _level_after(
        connection: sqlite3.Connection, line: int, time_ns: int, what: int, value: int
    ) -> int | None:
        if what in (What.SET, What.EDGE):
            return value & 1
        if what == What.RELEASED:  # what an output was it stays
            row = connection.execute(_DIRECTION, [line, 0, time_ns + 1]).fetchone()
            value = int(row[3]) if row else 0
        elif what != What.CONFIGURED:
            return None
        if not value & _OUTPUT:
            return None
        if what == What.RELEASED:
            row = connection.execute(_LAST[1], [line, 0, time_ns + 1]).fetchone()
            return int(row[3]) & 1 if row else value & 1
        return value & 1

    def made_ns(self, chips: Iterable[str]) -> dict[str, int]:
        """When the present chips of these names were made; 0 if the record does not go back so far."""
        found = dict.fromkeys(chips, 0)
        names = segments_in(self._directory)
        for number, name in enumerate(names):
            with closing(self._open(name, is_last=number == len(names) - 1)) as connection:
                for line, chip in connection.execute("SELECT id, chip FROM line WHERE offset = -1"):
                    if chip in found:
                        ((time_ns,),) = connection.execute(
                            "SELECT max(time) FROM entry WHERE line = ? AND what = ?", [line, What.MADE]
                        )
                        found[chip] = max(found[chip], time_ns or 0)
        return found


def _record(chip: str, offset: int, name: str, row: Sequence[object]) -> LogRecord | None:
    """None for what a newer version has written."""
    time_ns, seq, what, value, text, kind, uid, pid, label, command = row
    try:
        done = Done.of(int(what))  # type: ignore[call-overload]
    except ValueError:
        return None
    number = int(value)  # type: ignore[call-overload]
    direction = ""
    if done is Done.CONFIGURED:
        direction = "output" if number & _OUTPUT else "input"
        number &= 1
    who = None
    if kind is not None:
        who = Who(str(kind), int(uid), int(pid), str(label), str(command))  # type: ignore[call-overload]
    return LogRecord(
        int(time_ns),  # type: ignore[call-overload]
        int(seq),  # type: ignore[call-overload]
        chip,
        offset,
        name,
        done.value,
        number,
        direction,
        str(text or ""),
        who,
    )


def verdicts(directory: str) -> tuple[list[Verdict], str]:
    """What became of each segment, and where the chain is wrong ("" if it is not)."""
    broken, before = "", ""
    sealed: dict[str, str] = {}
    pruned: set[str] = set()
    for number, line in enumerate(chain_lines(directory), 1):
        if line.what not in ("seal", "prune") or line.link != link(before, *line[:3]):
            broken = broken or f"line {number} of the chain does not follow from those before it"
        before = line.link
        if line.what == "seal":
            sealed[line.segment] = line.digest
        elif line.what == "prune":
            pruned.add(line.segment)
    there = segments_in(directory)
    found = []
    for name in sorted({*sealed, *there}):
        digest = sealed.get(name, "")
        if name in pruned:
            found.append(Verdict(name, "pruned", digest))
        elif name not in there:
            found.append(Verdict(name, "missing", digest))
        elif not digest:
            found.append(Verdict(name, "open" if name == there[-1] else "unknown", ""))
        else:
            is_whole = digest_of(f"{directory}/{name}") == digest
            found.append(Verdict(name, "whole" if is_whole else "altered", digest))
    numbers = [int(verdict.segment[7:15]) for verdict in found]
    for one, other in pairwise(numbers):
        if other != one + 1 and not broken:
            broken = f"segments {one + 1} to {other - 1} are missing, and the chain does not know them"
    return found, broken
