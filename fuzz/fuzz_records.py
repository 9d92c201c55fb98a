# SPDX-License-Identifier: MIT
"""Fuzz the records of chips that gpiovirtd reads when it starts."""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import harness
from gpiovirt.daemon.store import decode_record, encode_record

INVARIANT = (
    "any JSON is refused with a ValueError, or is a record that is the same when written and read again"
)
RECORD: dict[str, Any] = {
    "name": "plc",
    "lines": "sim-a 0-3, DOOR",
    "options": {"0": "safe=low", "DOOR": "pull-up,debounce=5ms,name=GATE"},
    "vm": True,
    "poll_us": 100,
    "uid": 0,
    "gid": 12,
    "mode": 432,
    "driver": "",
    "permanent": True,
    "origin": "/etc/gpiovirt/chips.d/plc.toml",
    "boot_id": "x",
    "creator": [1, 2],
    "addresses": [["sim-a", 8, 0], ["sim-a", 8, 1, "gpiochip3"]],
    "incarnation": "00112233aabbccdd",
}
OLD: dict[str, Any] = {
    **{key: value for key, value in RECORD.items() if key not in ("lines", "options", "addresses")},
    "definition": "sim-a 0-3",
    "names": {"0": "GATE"},
    "settings": {"1": "pull-up"},
    "safe": {"2": "low"},
    "places": [["sim-a", 8, 0, ""]],
}
VALUES: list[Any] = [
    *(None, True, 0, -1, 1 << 70, 1.5, "", "\0", "a 0-65534", "x" * 5000, [], {}, [[]], {"0": ""}),
    *({"9": "safe=low"}, {"0": "x"}, {"0": 7}, [["a", 1]], [["a", 1, 2, 3]], ["a"], "safe=low", "0" * 16),
]


def once(choose: random.Random) -> None:
    raw: Any = copy.deepcopy(choose.choice((RECORD, OLD)))
    for _ in range(choose.randrange(4)):
        key = choose.choice([*raw, "more"])
        if choose.randrange(4):
            raw[key] = copy.deepcopy(choose.choice(VALUES))
        else:
            raw.pop(key, None)
    if not choose.randrange(50):
        raw = choose.choice(VALUES)
    raw = json.loads(json.dumps(raw))
    try:
        record, boot_id = decode_record(raw)
    except ValueError:
        return
    assert decode_record(json.loads(json.dumps(encode_record(record, boot_id)))) == (record, boot_id), raw


if __name__ == "__main__":
    sys.exit(harness.main(INVARIANT, once))
