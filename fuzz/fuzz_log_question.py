# SPDX-License-Identifier: MIT
"""Fuzz the questions that anybody may ask about the record."""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import harness
from gpiovirt.core.record import What
from gpiovirt.errors import GpiovirtError
from gpiovirt.protocols.control import NUMBER_MAX
from gpiovirt.protocols.log import Ask, decode_ask, decode_records, encode_ask, encode_records
from gpiovirt.recorder.query import Query
from gpiovirt.recorder.segments import HolderRow, Segments

INVARIANT = (
    "any JSON is refused as wrong usage, or is a question that is the same when written and read again, and "
    "its answer is of chips that may be seen, in the order of time, and can be read back"
)
VALUES: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        1 << 70,
        1.5,
        "",
        "plc",
        "other",
        "0",
        "LAMP",
        "\0",
        "'; DROP TABLE entry",
        "x" * 300,
    ),
    *([], ["LAMP"], ["0", 7], ["x" * 300], ["a"] * 99, {}, NUMBER_MAX, NUMBER_MAX + 1, [[]]),
]
_FOLDER = tempfile.TemporaryDirectory(prefix="gpiovirt-fuzz-")


def _store() -> str:
    segments = Segments(_FOLDER.name, 64, 1)
    segments.begin()
    holder = segments.holder(HolderRow("r", 1, "program", 7, 1000, "me", "me --now"))
    rows = []
    for number in range(200):
        chip = ("plc", "other", "")[number % 3]
        offset = number % 4 - 1
        segments.seq += 1
        line = segments.line(chip, offset, "" if offset < 0 else f"L{offset}")
        what = list(What)[number % len(What)]
        rows.append(
            (line, number * 7919 % 1000, segments.seq, int(what), number % 5, holder * (number & 1), None)
        )
    segments.add(rows)
    segments.commit()
    segments.close()
    return _FOLDER.name


STORE = _store()


def once(choose: random.Random) -> Counter[str]:
    body: Any = encode_ask(Ask("plc", ("L0",), choose.randrange(1000), choose.randrange(1000)))
    for _ in range(choose.randrange(4)):
        key = choose.choice([*body, "more"])
        if choose.randrange(4):
            body[key] = choose.choice(VALUES)
        else:
            body.pop(key, None)
    body = json.loads(json.dumps(body))
    try:
        ask = decode_ask(body)
    except GpiovirtError:
        return Counter(refused=1)
    assert decode_ask(json.loads(json.dumps(encode_ask(ask)))) == ask
    since = choose.choice([None, {"plc": 0}, {"plc": 500, "other": 0}, {}])
    query = Query(STORE, ask, since)
    try:
        found = list(query.records())
    except GpiovirtError:
        return Counter(unknown=1)
    if ask.last:
        found_last = query.last_levels()
        assert all(record.time_ns < ask.since_ns for record in found_last)
    for record in found:
        assert ask.since_ns <= record.time_ns <= ask.until_ns
        assert since is None or record.time_ns >= since[record.chip]
    assert [record.time_ns for record in found] == sorted(record.time_ns for record in found)
    assert decode_records(json.loads(json.dumps(encode_records(found)))["records"]) == tuple(found)
    return Counter(answered=1, records=len(found))


if __name__ == "__main__":
    sys.exit(harness.main(INVARIANT, once))
