# SPDX-License-Identifier: MIT
"""The socket of the record: what is asked of it, and what it says. A stream, a JSON object a line.

A question is one line, Ask. Answers are {"records": [...]}, or {"spans": [...]} where `columns` asks for
those, and at the end {"end": ...}, an End, or {"error": TEXT, "errno": NUMBER}. With `follow` there is no
end.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from gpiovirt.core.record import What
from gpiovirt.errors import PeerError, UsageError
from gpiovirt.protocols.control import NUMBER_MAX
from gpiovirt.protocols.control.answers import decode_answer, encode_answer

__all__ = [
    "RECORDS_PER_LINE",
    "Ask",
    "Done",
    "End",
    "LogRecord",
    "Span",
    "Verdict",
    "decode_ask",
    "decode_records",
    "decode_spans",
    "encode_ask",
    "encode_end",
    "encode_records",
    "encode_spans",
]

RECORDS_PER_LINE = 128
_TEXT_MAX = 256
_NAMES_MAX = 64
_COLUMNS_MAX = 4096


class Done(StrEnum):
    """What happened, in the words of `gpiovirt log`."""

    REQUESTED = "requested"
    RELEASED = "released"
    CONFIGURED = "configured"
    SET = "set"
    EDGE = "edge"
    MISSED = "missed"
    GONE = "gone"
    BACK = "back"
    REFUSED = "refused"
    TRIPPED = "tripped"
    REARMED = "rearmed"
    FORCED = "forced"
    MADE = "made"
    DELETED = "deleted"
    CHANGED = "changed"
    LOST = "lost"

    @classmethod
    def of(cls, what: int) -> "Done":
        """Of a kind of entry; ValueError if there is none."""
        return cls(What(what).name.lower())


class Who(NamedTuple):
    """Who did it; uid and pid are the kernel's word (pid 0: not known), the rest is for people."""

    kind: str
    """program, vm, chip, hog, or manager: who made, changed or deleted a chip"""
    uid: int
    pid: int
    consumer: str
    command: str


class LogRecord(NamedTuple):
    """One thing that happened. `seq` orders what has the same time; offset -1 is the chip as a whole."""

    time_ns: int
    seq: int
    chip: str
    offset: int
    line: str
    what: str
    value: int
    """A level (of `configured`: an output's); of `refused` an errno; of `lost` and `missed` a number"""
    direction: str
    """Of `configured`: input or output"""
    text: str
    who: Who | None


class Ask(NamedTuple):
    """Records of a chip ("": of all that the asker may see) and of some of its lines (names or offsets)."""

    chip: str = ""
    lines: tuple[str, ...] = ()
    since_ns: int = 0
    until_ns: int = NUMBER_MAX
    follow: bool = False
    verify: bool = False
    last: bool = False
    """First of all, what is known of each line's level from before `since_ns`"""
    columns: int = 0
    """Not records, but in so many parts of the time what a picture of the levels can show"""


class Span(NamedTuple):
    """A line (-1: all of them) has `level` from `end_ns` on; changes before that begin at `begin_ns`."""

    offset: int
    begin_ns: int
    end_ns: int
    level: int | None
    """None: not known"""


class Verdict(NamedTuple):
    """What became of a sealed part of the record."""

    segment: str
    state: Literal["whole", "altered", "missing", "pruned", "open", "unknown"]
    digest: str


class End(NamedTuple):
    """`first_ns` is the time of the first record of all that the asker may see (0: there is none)."""

    number: int
    first_ns: int
    verdicts: tuple[Verdict, ...] = ()
    broken: str = ""
    """Where the chain itself is wrong"""


def encode_ask(ask: Ask) -> dict[str, Any]:
    """As JSON has it."""
    return {**ask._asdict(), "lines": list(ask.lines)}


def decode_ask(body: Mapping[str, object]) -> Ask:
    """UsageError for what is no question."""
    match body:
        case {"chip": str(chip), "lines": list(lines), "since_ns": int(since), "until_ns": int(until)}:
            pass
        case _:
            raise UsageError("not a question about the record")
    if len(chip) > _TEXT_MAX or len(lines) > _NAMES_MAX:
        raise UsageError("too long a question")
    if not all(isinstance(line, str) and len(line) <= _TEXT_MAX for line in lines):
        raise UsageError("lines: expected names or offsets")
    if not (0 <= since <= NUMBER_MAX and 0 <= until <= NUMBER_MAX):
        raise UsageError("times are in ns since 1970")
    columns = body.get("columns", 0)
    if type(columns) is not int or not 0 <= columns <= _COLUMNS_MAX:
        raise UsageError(f"columns: expected a number up to {_COLUMNS_MAX}")
    if columns and not (chip and since <= until < NUMBER_MAX):
        raise UsageError("columns are of one chip, from a time to another")
    follow, verify, last = (bool(body.get(key)) for key in ("follow", "verify", "last"))
    return Ask(chip, tuple(lines), since, until, follow, verify, last, columns)


def encode_records(records: list[LogRecord]) -> dict[str, Any]:
    """Some of them."""
    return {"records": [encode_answer(record) for record in records]}


def decode_records(told: object) -> tuple[LogRecord, ...]:
    """PeerError if there are none."""
    records = decode_answer(tuple[LogRecord, ...], told)
    if any(not -1 <= record.offset < 1 << 16 for record in records):
        raise PeerError("a record of no line")
    return records


def encode_spans(spans: list[Span]) -> dict[str, Any]:
    """Some of them."""
    return {"spans": [list(span) for span in spans]}


def decode_spans(told: list[object]) -> list[Span]:
    """PeerError if there are none."""
    found = []
    for each in told:
        match each:
            case [int(offset), int(begin), int(end), 0 | 1 | None as level] if -1 <= offset < 1 << 16:
                found.append(Span(offset, begin, end, level))
            case _:
                raise PeerError("a span of no line")
    return found


def encode_end(end: End) -> dict[str, Any]:
    """The last line."""
    return {"end": encode_answer(end)}
