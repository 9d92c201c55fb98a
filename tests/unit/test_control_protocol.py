# SPDX-License-Identifier: MIT
"""Messages of the control socket: the same when written and read; what is none is refused in words."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpiovirt.errors import HostError, LineBusyError, PeerError, UsageError
from gpiovirt.protocols.control import ID_MAX
from gpiovirt.protocols.control.answers import (
    ChipDescription,
    ChipDetails,
    ChipState,
    DaemonState,
    Event,
    LineEvent,
    Page,
    RefusedError,
    SourcePage,
    acceptance,
    decode_answer,
    decode_event,
    encode_answer,
    refusal,
    result_of,
)
from gpiovirt.protocols.control.requests import (
    DRIVERS,
    Change,
    ChangeAll,
    Delete,
    Describe,
    Drive,
    Force,
    List,
    Look,
    New,
    Own,
    Rearm,
    Request,
    Save,
    SetOptions,
    Show,
    Sources,
    State,
    Watch,
    decode_acting_for,
    decode_request,
    encode_request,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
IDS = st.integers(-1, ID_MAX)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("name", "definition", "origin", "after", "consumer"), TEXTS),
    **dict.fromkeys(("uid", "gid", "mode", "poll_us", "pid"), IDS),
    **dict.fromkeys(("vm", "permanent", "wait", "force", "hold", "replace"), st.booleans()),
    "driver": st.sampled_from(["", *DRIVERS]),
    "lifetime": st.sampled_from([None, "connection", "process"]),
    "options": st.dictionaries(TEXTS, TEXTS, max_size=3),
    "rules": st.dictionaries(TEXTS, st.one_of(TEXTS, st.lists(TEXTS)), max_size=3),
    "first": st.integers(0, ID_MAX),
    "line": TEXTS,
    "levels": st.dictionaries(TEXTS, st.integers(0, 1), min_size=1, max_size=3),
    "level": st.sampled_from(["low", "high"]),
    "for_ms": st.integers(0, 1 << 32),
    "started": st.integers(-1, (1 << 63) - 1),
}
PLAIN = [
    New,
    Delete,
    Change,
    SetOptions,
    Own,
    Rearm,
    Drive,
    Force,
    List,
    Look,
    Describe,
    Show,
    Save,
    Sources,
    State,
    Watch,
]


def of(kind: Any) -> st.SearchStrategy[Any]:
    """Requests of one kind."""
    required = {key: FIELDS[key] for key in kind._fields if key not in kind._field_defaults}
    optional = {key: FIELDS[key] for key in kind._field_defaults}
    return st.fixed_dictionaries(required, optional=optional).map(lambda given: kind(**given))


REQUESTS = st.one_of(
    *map(of, PLAIN),
    st.builds(ChangeAll, st.lists(of(Change), min_size=1, max_size=3).map(tuple), st.booleans()),
)


@given(REQUESTS, st.none() | st.tuples(st.integers(0, ID_MAX), st.frozensets(st.integers(0, ID_MAX))))
def test_a_request_is_the_same_when_written_and_read(
    request_: Request[Any], acting_for: tuple[int, frozenset[int]] | None
) -> None:
    body = json.loads(json.dumps(encode_request(request_, acting_for)))
    assert decode_request(body) == request_
    assert (decode_acting_for(body["as"]) if "as" in body else None) == acting_for


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (New("sim-a 0", "plc", vm=True), {"do": "new", "definition": "sim-a 0", "name": "plc", "vm": True}),
        (Change("plc", options={}), {"do": "change", "name": "plc", "options": {}}),
        (
            ChangeAll((Change("a", "s 0"), Change("b", vm=False)), True),
            {
                "do": "change-all",
                "changes": [{"name": "a", "definition": "s 0"}, {"name": "b", "vm": False}],
                "force": True,
            },
        ),
        (SetOptions("plc", {"0": "pull-up"}), {"do": "set", "name": "plc", "options": {"0": "pull-up"}}),
        (Watch(), {"do": "watch"}),
    ],
)
def test_only_what_differs_from_the_default_is_written(request_: Request[Any], body: dict[str, Any]) -> None:
    assert encode_request(request_) == body


def test_what_makes_a_chip_changes_another_into_it() -> None:
    rules = {"watchdog": {"line": "0", "timeout_ms": 200}}
    access = (1, 2, 0o600)
    wanted = New("a 0", "plc", {"0": "pull-up"}, rules, True, 5, *access, permanent=True, origin="/plc.toml")
    assert wanted.as_change() == Change("plc", "a 0", {"0": "pull-up"}, rules, True, 5, *access)


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        ({"do": "watch", "name": None}, Watch()),
        ({"do": "new", "definition": "", "lifetime": None, "wait": 1, "more": []}, New("", wait=True)),
        ({"do": "look", "name": "a\0"}, Look("a\0")),  # it is not found
        ({"do": "change", "name": "plc", "vm": None}, Change("plc")),
    ],
)
def test_what_is_null_or_unknown_does_not_count(body: dict[str, Any], request_: Request[Any]) -> None:
    assert decode_request(body) == request_


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, "unknown request None; expected one of: new, delete, change, change-all, set, own, rearm"),
        ({"do": ["new"]}, "unknown request ['new']; expected"),
        ({"do": "dance" * 1000}, "unknown request 'dancedance"),
        ({"do": "new"}, "definition: expected a text"),
        ({"do": "new", "definition": 3}, "definition: expected a text"),
        ({"do": "new", "definition": "x" * 65537}, "definition: expected a text"),
        ({"do": "new", "definition": "a\0b"}, "definition: a NUL cannot be in a name"),
        ({"do": "new", "definition": "\ud800"}, "definition: expected a text of characters"),
        ({"do": "new", "definition": "", "driver": "x"}, "driver: 'x' is none of gpio-virt-agg, gpio-agg"),
        ({"do": "new", "definition": "", "lifetime": "x"}, "lifetime: expected connection or process"),
        ({"do": "new", "definition": "", "options": {"0": 1}}, "options: expected an object of texts"),
        ({"do": "new", "definition": "", "rules": []}, "rules: expected an object"),
        ({"do": "own", "name": "plc", "uid": ID_MAX + 1}, "uid: expected a number"),
        ({"do": "own", "name": "plc", "gid": -2}, "gid: expected a number"),
        ({"do": "own", "name": "plc", "mode": True}, "mode: expected a number"),
        ({"do": "own", "name": "plc", "mode": 1.5}, "mode: expected a number"),
        ({"do": "drive", "name": "plc"}, "levels: expected an object of 1 to 64 levels"),
        ({"do": "drive", "name": "plc", "levels": {}}, "levels: expected an object of 1 to 64 levels"),
        ({"do": "drive", "name": "plc", "levels": {"0": True}}, "levels: a level is 0 or 1"),
        ({"do": "drive", "name": "plc", "levels": {"0": 2}}, "levels: a level is 0 or 1"),
        ({"do": "drive", "name": "plc", "levels": {"a\0b": 1}}, "levels: a NUL cannot be in a name"),
        ({"do": "show"}, "name: expected a text"),
        ({"do": "list", "after": []}, "after: expected a text"),
        ({"do": "sources", "first": "a"}, "first: expected a number"),
        ({"do": "change-all"}, "changes: expected a list of 1 to 256"),
        ({"do": "change-all", "changes": [{}] * 257}, "changes: expected a list of 1 to 256"),
        ({"do": "change-all", "changes": [3]}, "changes: expected objects, as of change"),
        ({"do": "change-all", "changes": [{}]}, "name: expected a text"),
    ],
)
def test_what_is_no_request_is_refused_in_words(body: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UsageError) as raised:
        decode_request(body)
    assert str(raised.value).startswith(wrong)
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize(
    "told",
    [0, {}, {"uid": 1}, {"uid": "0", "gids": []}, {"uid": -1, "gids": []}, {"uid": 0, "gids": [1 << 40]}],
)
def test_nobody_acts_for_what_is_no_user(told: object) -> None:
    with pytest.raises(UsageError, match=r"as: expected \{uid, gids\}"):
        decode_acting_for(told)


def value(hint: Any) -> st.SearchStrategy[Any]:
    """What a field of an answer may be."""
    parts = get_args(hint)
    if hint is int:
        return st.integers(-(1 << 63) + 1, (1 << 63) - 1)
    if hint == Mapping[str, str]:
        return st.dictionaries(st.text(), st.text(), max_size=3)
    if get_origin(hint) is tuple:
        return st.lists(value(parts[0]), max_size=3).map(tuple)
    if type(None) in parts:
        return st.none() | value(parts[0])
    if hasattr(hint, "_fields"):
        return answer_of(hint)
    return FIELDS["rules"] if hint == Mapping[str, Any] else st.from_type(hint)


def answer_of(kind: Any) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{key: value(hint) for key, hint in get_type_hints(kind).items()})


@given(st.one_of(*map(answer_of, [ChipDescription, ChipDetails, ChipState, DaemonState, Page, SourcePage])))
def test_an_answer_is_the_same_when_written_and_read(answer: Any) -> None:
    told = json.loads(json.dumps(acceptance(answer)))
    assert decode_answer(type(answer), result_of(told)) == answer


@given(st.one_of(*map(answer_of, get_args(Event))))
def test_an_event_is_the_same_when_written_and_read(event: Event) -> None:
    assert decode_event(json.loads(json.dumps(encode_answer(event)))) == event


EVENT = {
    "event": "line-requested",
    "chip": "plc",
    "timestamp_ns": 1,
    "offset": 0,
    "name": "DOOR",
    "direction": "input",
    "consumer": "gpiomon",
    "used": True,
    "holder": None,
}


def test_keys_stand_in_their_order() -> None:
    event = LineEvent("line-requested", "plc", 1, 0, "DOOR", "input", "gpiomon", True, None)
    assert list(encode_answer(event).items()) == list(EVENT.items())


@pytest.mark.parametrize(
    "wrong",
    [
        *({"event": "dance"}, {"event": None}, {"event": {}}, {"chip": 3}, {"timestamp_ns": 1 << 63}),
        *({"offset": True}, {"direction": "up"}, {"used": 1}, {"consumer": None}),
    ],
)
def test_what_is_no_event_is_the_daemons_fault(wrong: dict[str, Any]) -> None:
    with pytest.raises(PeerError, match="is it of another version"):
        decode_event({**EVENT, **wrong})


def test_an_answer_without_one_of_its_keys_is_none() -> None:
    for key in EVENT.keys() - {"holder"}:
        with pytest.raises(PeerError):
            decode_event({name: value for name, value in EVENT.items() if name != key})
    assert decode_event({**EVENT, "more": 1}) == decode_event(EVENT)


def test_a_refusal_keeps_what_it_is_about() -> None:
    error = LineBusyError("line 3 is held by \x1b[2J")
    error.line = 3
    with pytest.raises(RefusedError) as raised:
        result_of(json.loads(json.dumps(refusal(error))))
    told = raised.value
    assert (str(told), told.errno, told.line) == ("line 3 is held by \\x1b[2J", errno.EBUSY, 3)
    assert refusal(HostError("no")) == {"error": "no", "errno": errno.EIO}


@pytest.mark.parametrize("told", [{}, {"error": 3}, {"o": 1}])
def test_what_neither_accepts_nor_refuses_is_no_answer(told: dict[str, Any]) -> None:
    with pytest.raises(PeerError, match="neither ok nor error"):
        result_of(told)
