# SPDX-License-Identifier: MIT
"""Fuzz what gpiovirtd is asked, as it reads it, and what it says, as its clients do."""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import harness
from gpiovirt.errors import PeerError, UsageError
from gpiovirt.protocols.control.answers import (
    ChipDetails,
    ChipState,
    DaemonState,
    LineState,
    Ownership,
    Page,
    RefusedError,
    SourcePage,
    decode_answer,
    decode_event,
    encode_answer,
    result_of,
)
from gpiovirt.protocols.control.requests import decode_acting_for, decode_request, encode_request

INVARIANT = "any JSON is refused in words, or is a message that is the same when written and read again"
VALUES: list[Any] = [
    *(None, True, -1, 0, 3, 1 << 32, 1 << 70, 2.5, "", "plc", "\0", "\ud800", "\x1b[2J", "x" * 70_000),
    *("live", "input", "gpio-aggregator", "process", [], {}, [{}], [[]], {"0": "safe=low"}, {"0": 1}),
    *([{"name": "plc"}], [{"name": "plc", "uid": 7}], [0] * 300, [{}] * 300, {"uid": 0, "gids": [0]}),
    *({"uid": -1, "gids": []}, {"uid": 0, "gids": [1 << 40]}, {"uid": 0}),
]
KEYS = [
    *("name", "definition", "options", "vm", "poll_us", "uid", "gid", "mode", "driver", "permanent"),
    *("origin", "lifetime", "pid", "started", "wait", "force", "changes", "replace", "after", "first"),
    *("as", "more", "rules", "line", "level", "for_ms"),
]
REQUESTS = [
    *("new", "delete", "change", "change-all", "set", "own", "list", "look", "describe", "show", "save"),
    *("sources", "state", "watch", "rearm", "force"),
]
DOS = [*REQUESTS, "dance", 3, ["new"], None]
PEER = {"pid": 7, "uid": 0, "gid": 0}
CHIP = ChipState("plc", "a 0", 1, 0, 0, 0o660, "live", "", False, "", "", None, 0, "/c", 7, 0, None)._asdict()
HOLDER = {"kind": "program", "pid": 7, "uid": 0}
LINE = {
    **LineState(0, "DOOR", "a:0", True, "input", "", False, None, "", "safe=low")._asdict(),
    "holder": HOLDER,
}
RULE = {"text": "never both", "refused": 1, "trips": 0, "tripped": False}
RULES = {"interlock": [{"never_both": ["0", "1"]}]}
LISTS = {"options": {"0": "safe=low"}, "lines": [LINE], "consumers": [PEER]}
ANSWERS: list[tuple[Any, Any]] = [
    (ChipDetails, {**CHIP, **LISTS, "vm_consumer": PEER, "rules": RULES, "rule_states": [RULE]}),
    (Page, {"chips": [CHIP, CHIP], "more": False}),
    (SourcePage, {"chips": [{"name": "a", "label": "a", "kind": "kernel", "lines": [LINE]}], "more": True}),
    (DaemonState, encode_answer(DaemonState("1", 1, 1, 1, 1, 1, 1, Ownership(0, 0, 0), True))),
]
EVENTS: list[dict[str, Any]] = [
    {"event": "live", "chip": "plc"},
    {"event": "owned", "chip": "plc", "uid": 0, "gid": 0, "mode": 0},
    {"event": "line-gone", "chip": "plc", "offset": 0, "source": "a:0"},
    {**LINE, "event": "line-config", "chip": "plc", "timestamp_ns": 1, "used": True},
    {"event": "rule-refused", "chip": "plc", "offset": 0, "pid": 7, "uid": 0, "why": "no"},
    {"event": "line-forced", "chip": "plc", "offset": 0, "level": "low", "uid": 0},
    {"event": "lost", "chip": "plc", "count": 1},
]


def _request(choose: random.Random) -> None:
    body = {key: choose.choice(VALUES) for key in choose.sample(KEYS, choose.randrange(6))}
    body["do"] = choose.choice(DOS)
    if choose.randrange(2):
        body |= {"name": "plc", "definition": "nochip 0-3, DOOR"}
    try:
        acting_for = None if body.get("as") is None else decode_acting_for(body["as"])
        request = decode_request(body)
    except UsageError as error:
        assert len(str(error)) < 500, body
        return
    again = json.loads(json.dumps(encode_request(request, acting_for)))
    assert decode_request(again) == request, body
    assert acting_for is None or decode_acting_for(again["as"]) == acting_for, body


def _changed(choose: random.Random, told: Any) -> Any:
    """It, with something else in one place, or without it."""
    if isinstance(told, (dict, list)) and told and choose.randrange(4):
        key = choose.choice(list(told) if isinstance(told, dict) else range(len(told)))
        if choose.randrange(8):
            told[key] = _changed(choose, told[key])
        else:
            del told[key]
        return told
    return copy.deepcopy(choose.choice(VALUES))


def _answer(choose: random.Random) -> None:
    kind, told = copy.deepcopy(choose.choice([*ANSWERS, *((None, event) for event in EVENTS)]))
    for _ in range(choose.randrange(3)):
        told = _changed(choose, told)
    try:
        if kind is not None:
            answer = decode_answer(kind, result_of({"ok": told}))
            assert decode_answer(kind, json.loads(json.dumps(encode_answer(answer)))) == answer, told
        elif isinstance(told, dict):
            event = decode_event(told)
            assert decode_event(encode_answer(event)) == event, told
    except PeerError:
        return
    refused = {"error": choose.choice(VALUES), "errno": choose.choice(VALUES), "line": choose.choice(VALUES)}
    try:
        result_of(refused)
    except (PeerError, RefusedError):
        return
    raise AssertionError(refused)


def once(choose: random.Random) -> None:
    _request(choose)
    _answer(choose)


if __name__ == "__main__":
    sys.exit(harness.main(INVARIANT, once))
