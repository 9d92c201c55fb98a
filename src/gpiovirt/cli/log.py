# SPDX-License-Identifier: MIT
"""gpiovirt log: who requested, set, released, was refused what, and when."""

from __future__ import annotations

import argparse
import datetime
import errno
import json
import os
import re
import sys
import time
from collections.abc import Callable
from functools import cache

from gpiovirt.control.access import user_name
from gpiovirt.control.log import LogClient
from gpiovirt.core.text import printable
from gpiovirt.errors import HostError, UsageError
from gpiovirt.protocols.control import NUMBER_MAX
from gpiovirt.protocols.control.answers import encode_answer
from gpiovirt.protocols.log import Ask, End, LogRecord

__all__ = ["configure", "duration_ns", "main", "moment_ns"]

EPILOG = """\
A TIME is how long ago (90s, 10m, 1h, 7d), a time of today (14:30), or a date and time (2026-11-30,
2026-11-30 14:30:05), in local time. What happened: requested, released, configured, set (when the level
changed), edge, missed (edges that were lost), gone and back (its source), refused, tripped, rearmed,
forced; of a chip: made, changed, deleted, lost (so many entries are not in the record).

Root and members of the group gpiovirt see all; others the records of chips that they may use, since those
were made.

examples:
  gpiovirt log plc --since 1h
  gpiovirt log plc --line 'MOTOR FWD' --json
  gpiovirt log --follow
  gpiovirt log --verify
"""

_UNITS = {"us": 1000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_FORMS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("chip", metavar="CHIP", nargs="?", default="", help="this chip only")
    parser.add_argument(
        "--line", metavar="NAME", action="append", default=[], help="this line only, by name or offset"
    )
    parser.add_argument("--since", metavar="TIME", help="not what happened before")
    parser.add_argument("--until", metavar="TIME", help="not what happened after")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what happens from now on")
    parser.add_argument("--json", action="store_true", help="print JSON, an object per line")
    parser.add_argument(
        "--verify", action="store_true", help="say whether a sealed part of the record was altered or removed"
    )


def main(options: argparse.Namespace) -> int:
    """Print it."""
    now_ns = time.time_ns()
    since_ns = moment_ns(options.since, now_ns) if options.since else 0
    until_ns = moment_ns(options.until, now_ns) if options.until else NUMBER_MAX
    if until_ns < since_ns:
        raise UsageError("--until is before --since")
    if options.follow and options.until:
        raise UsageError("--follow and --until do not go together")
    ask = Ask(options.chip, tuple(options.line), since_ns, until_ns, options.follow, options.verify)
    show = _json if options.json else _text
    with LogClient(ask) as client:
        if options.verify:
            list(client.parts())
            return _verdict(client.end or End(0, 0), options.json)
        for part in client.parts():
            for record in part:
                print(show(record))
            if options.follow:
                sys.stdout.flush()
        if options.follow:
            raise HostError("gpiovirtd has ended")
        end = client.end
    if end is not None and not end.number:
        sys.stderr.write(f"gpiovirt: {_nothing(end, since_ns, until_ns)}\n")
    return 0


def _nothing(end: End, since_ns: int, until_ns: int) -> str:
    """Why there is nothing to show."""
    if not end.first_ns:
        return "there are no records yet"
    if until_ns < end.first_ns:
        return f"there are no records from then: the first one is of {_when(end.first_ns)}"
    if since_ns:
        return f"there are no records from then (there are others, from {_when(end.first_ns)} on)"
    return "there are no records of that"


def duration_ns(text: str) -> int:
    """Of `10s`, `1h`; UsageError."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(us|ms|s|m|h|d)", text)
    if match is None:
        raise UsageError(f"{text!r} is not a duration; use e.g. 10ms, 10s, 5m or 1h")
    return int(float(match[1]) * _UNITS[match[2]])


def moment_ns(text: str, now_ns: int) -> int:
    """The time that is meant, in ns since 1970; UsageError."""
    if re.fullmatch(r"[0-9.]+(ms|s|m|h|d)", text):
        return max(now_ns - duration_ns(text), 0)
    today = datetime.datetime.fromtimestamp(now_ns / 1e9).astimezone()
    if match := re.fullmatch(r"([0-2]?[0-9]):([0-5][0-9])(?::([0-5][0-9]))?", text):
        hour, minute, second = (int(part or 0) for part in match.groups())
        if hour < 24:
            return (
                int(today.replace(hour=hour, minute=minute, second=second, microsecond=0).timestamp()) * 10**9
            )
    for form in _FORMS:
        try:
            found = datetime.datetime.strptime(text, form).astimezone()
        except ValueError:
            continue
        return max(int(found.timestamp()), 0) * 10**9
    raise UsageError(f"{text!r} is not a time; use e.g. 1h (ago), 14:30, or 2026-11-30 14:30")


def _when(time_ns: int) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(time_ns // 10**9)
    except (OverflowError, ValueError, OSError):
        return f"{time_ns} ns"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ns % 10**9 // 1000:06}"


@cache
def _user(uid: int) -> str:
    return printable(user_name(uid))


def _json(record: LogRecord) -> str:
    told = encode_answer(record)
    if record.who is not None:
        told["who"]["user"] = _user(record.who.uid)
    return json.dumps(told)


def _text(record: LogRecord) -> str:
    where = printable(record.chip) or "gpiovirtd"
    if record.offset >= 0:
        where += f":{record.offset}" + (f" ({printable(record.line)})" if record.line else "")
    words = [_when(record.time_ns), where, _WORDS.get(record.what, _plain)(record)]
    if (who := record.who) is not None:
        process = f"pid {who.pid}, {_user(who.uid)}" if who.pid else _user(who.uid)
        name = f'"{printable(who.consumer)}" ' if who.consumer else ""
        words.append(f"by {name}({process})" + (f" {printable(who.command)}" if who.command else ""))
    return " ".join(words)


def _plain(record: LogRecord) -> str:
    return record.what


def _refused(record: LogRecord) -> str:
    name = errno.errorcode.get(record.value, str(record.value))
    return f"refused ({name}: {printable(record.text) or os.strerror(record.value)})"


def _configured(record: LogRecord) -> str:
    return f"configured {record.direction}" + (f" {record.value}" if record.direction == "output" else "")


_FORCED = {0: "forced to 0", 1: "forced to 1"}


def _with_text(record: LogRecord, what: str = "") -> str:
    return (what or record.what) + (f" ({printable(record.text)})" if record.text else "")


_WORDS: dict[str, Callable[[LogRecord], str]] = {
    "set": lambda record: f"set {record.value}",
    "edge": lambda record: f"edge {'rising' if record.value else 'falling'}",
    "configured": _configured,
    "refused": _refused,
    "missed": lambda record: f"missed {record.value} edges",
    "lost": lambda record: f"lost {record.value} entries" + (f" {record.text}" if record.text else ""),
    "forced": lambda record: _with_text(record, _FORCED.get(record.value, "no longer forced")),
    **dict.fromkeys(("tripped", "rearmed", "made", "changed", "deleted"), _with_text),
}


def _verdict(end: End, as_json: bool) -> int:
    """1 if something was altered or is missing."""
    wrong = [verdict for verdict in end.verdicts if verdict.state in ("altered", "missing", "unknown")]
    if as_json:
        print(json.dumps(encode_answer(end)))
        return 1 if wrong or end.broken else 0
    for verdict in end.verdicts:
        print(f"{verdict.segment}: {_STATES[verdict.state]}")
    if end.broken:
        print(f"the chain is broken: {printable(end.broken)}")
    if not wrong and not end.broken:
        print("nothing that was sealed has been altered or removed")
    return 1 if wrong or end.broken else 0


_STATES = {
    "whole": "as it was sealed",
    "altered": "ALTERED since it was sealed",
    "missing": "MISSING: it was sealed, and is not there",
    "unknown": "NOT SEALED, though others came after it",
    "pruned": "removed by gpiovirtd, to make room",
    "open": "still written to, not sealed yet",
}
