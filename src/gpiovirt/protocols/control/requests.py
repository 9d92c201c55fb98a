# SPDX-License-Identifier: MIT
"""What is asked of gpiovirtd: fields are checked here, once, and what they mean is for others to know."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, cast

from gpiovirt.errors import UsageError
from gpiovirt.protocols.control import ID_MAX, NUMBER_MAX
from gpiovirt.protocols.control.answers import (
    ChipDescription,
    ChipDetails,
    ChipState,
    DaemonState,
    Forced,
    Levels,
    Page,
    Rearmed,
    SourcePage,
    decode_answer,
)
from gpiovirt.uapi.gpio import GPIO_V2_LINES_MAX

__all__ = [
    "DRIVERS",
    "Change",
    "ChangeAll",
    "Delete",
    "Describe",
    "Drive",
    "Force",
    "List",
    "Look",
    "New",
    "Own",
    "Read",
    "Rearm",
    "Request",
    "Save",
    "SetOptions",
    "Show",
    "Sources",
    "State",
    "Watch",
    "decode_acting_for",
    "decode_request",
    "encode_request",
]

DRIVERS = ("gpio-virt-agg", "gpio-aggregator")
"""Directories of the control files; chips without a name are numbered in one"""

_TEXT_MAX = 65536
_GIDS_MAX = 65536  # limits.h: NGROUPS_MAX
_CHANGES_MAX = 256
_LINES_MAX = 1024
_SHOWN_MAX = 40
_NONE: Mapping[str, Any] = {}
_A_co = TypeVar("_A_co", covariant=True)


class Request(Protocol[_A_co]):
    """What has a name, fields, and a kind of answer."""

    @property
    def _field_defaults(self) -> dict[str, Any]: ...

    def _asdict(self) -> dict[str, Any]: ...

    def answer(self, told: object) -> _A_co:
        """The answer, from what JSON had; PeerError."""


class New(NamedTuple):
    """Make a chip; without a name, it gets its driver's next."""

    definition: str
    name: str = ""
    options: Mapping[str, str] = _NONE
    """By line: its offset, or its name"""
    rules: Mapping[str, Any] = _NONE
    """`interlock` and `watchdog`, as tables"""
    vm: bool = False
    poll_us: int = 0
    uid: int = -1
    """-1, of mode and gid, too: as the daemon has it"""
    gid: int = -1
    mode: int = -1
    driver: str = ""
    permanent: bool = False
    origin: str = ""
    """The file that describes it"""
    lifetime: Literal["connection", "process"] | None = None
    """What it ends with; the process is `pid`, which `started` then (proc_pid_stat(5))"""
    pid: int = 0
    started: int = 0
    wait: bool = False
    """Be there, too, if its lines are not yet"""

    def answer(self, told: object) -> ChipState:
        return decode_answer(ChipState, told)

    def as_change(self) -> "Change":
        """A change of the chip of that name to what this would make, kept as it is."""
        return Change(
            self.name,
            self.definition,
            self.options,
            self.rules,
            self.vm,
            self.poll_us,
            self.uid,
            self.gid,
            self.mode,
        )


class Delete(NamedTuple):
    """Delete a chip; `force`: also one that is in use."""

    name: str
    force: bool = False

    def answer(self, told: object) -> None:
        """There is nothing to be said."""


class Change(NamedTuple):
    """Have another chip: what is None, or -1, is as it is, and options stay with their lines."""

    name: str
    definition: str | None = None
    options: Mapping[str, str] | None = None
    rules: Mapping[str, Any] | None = None
    vm: bool | None = None
    poll_us: int | None = None
    uid: int = -1
    gid: int = -1
    mode: int = -1
    permanent: bool | None = None
    origin: str | None = None
    force: bool = False
    """Also of lines that are in use"""

    def answer(self, told: object) -> ChipState:
        return decode_answer(ChipState, told)


class ChangeAll(NamedTuple):
    """Change several chips, all or none; `force` of each does not count."""

    changes: tuple[Change, ...]
    force: bool = False

    def answer(self, told: object) -> tuple[ChipState, ...]:
        return decode_answer(tuple[ChipState, ...], told)


class SetOptions(NamedTuple):
    """Options of some lines, added to those that they have, unless `replace`."""

    name: str
    options: Mapping[str, str] = _NONE
    replace: bool = False
    force: bool = False

    def answer(self, told: object) -> ChipState:
        return decode_answer(ChipState, told)


class Own(NamedTuple):
    """Say who may use a chip (-1: as it is)."""

    name: str
    uid: int = -1
    gid: int = -1
    mode: int = -1

    def answer(self, told: object) -> ChipState:
        return decode_answer(ChipState, told)


class Rearm(NamedTuple):
    """Allow the outputs of a chip again whose watchdog has tripped."""

    name: str

    def answer(self, told: object) -> Rearmed:
        return decode_answer(Rearmed, told)


class Force(NamedTuple):
    """Force a line for so many ms (0: until it is ended); no level: end it, of all lines if none is named."""

    name: str
    line: str = ""
    """Its offset, or name"""
    level: Literal["low", "high"] | None = None
    for_ms: int = 0

    def answer(self, told: object) -> Forced:
        return decode_answer(Forced, told)


class List(NamedTuple):
    """Chips by name, those whose names come after `after`."""

    after: str = ""

    def answer(self, told: object) -> Page:
        return decode_answer(Page, told)


class Look(NamedTuple):
    """A chip."""

    name: str

    def answer(self, told: object) -> ChipState:
        return decode_answer(ChipState, told)


class Describe(NamedTuple):
    """A chip as it is to be."""

    name: str

    def answer(self, told: object) -> ChipDescription:
        return decode_answer(ChipDescription, told)


class Show(NamedTuple):
    """A chip, its lines from `first` on, as many as an answer has room for, and who has it open."""

    name: str
    first: int = 0

    def answer(self, told: object) -> ChipDetails:
        return decode_answer(ChipDetails, told)

    def next(self, told: ChipDetails) -> "Show | None":
        """What to ask for more lines, when `told` has those up to here; None if there are none."""
        end = len(told.lines)
        return Show(self.name, end) if self.first < end < told.chip.num_lines else None


class Read(NamedTuple):
    """The levels of lines, which stay as they are, whoever holds them; of all lines if none is named."""

    name: str
    lines: tuple[str, ...] = ()
    """Their offsets, or names"""

    def answer(self, told: object) -> Levels:
        return decode_answer(Levels, told)


class Drive(NamedTuple):
    """Set lines, and let them go; `hold` them as outputs until the connection ends, one request for each."""

    name: str
    levels: Mapping[str, int]
    """By line: its offset, or its name"""
    consumer: str = "gpiovirt"
    hold: bool = False

    def answer(self, told: object) -> Levels:
        """What the lines are then."""
        return decode_answer(Levels, told)


class Save(NamedTuple):
    """Have a chip there after a reboot, or not; `origin` (None: as it is) is the file that describes it."""

    name: str
    permanent: bool = True
    origin: str | None = None

    def answer(self, told: object) -> ChipState:
        return decode_answer(ChipState, told)


class Sources(NamedTuple):
    """The chips that lines can be taken of, from this one on, as many as an answer has room for."""

    first: int = 0

    def answer(self, told: object) -> SourcePage:
        return decode_answer(SourcePage, told)


class State(NamedTuple):
    """The daemon."""

    def answer(self, told: object) -> DaemonState:
        return decode_answer(DaemonState, told)


class Watch(NamedTuple):
    """Be told what happens, to this chip (None: to all), from now on."""

    name: str | None = None

    def answer(self, told: object) -> None:
        """There is nothing to be said."""


_KINDS: Mapping[str, type[Request[Any]]] = {
    "new": New,
    "delete": Delete,
    "change": Change,
    "change-all": ChangeAll,
    "set": SetOptions,
    "own": Own,
    "rearm": Rearm,
    "force": Force,
    "list": List,
    "look": Look,
    "describe": Describe,
    "drive": Drive,
    "show": Show,
    "read": Read,
    "save": Save,
    "sources": Sources,
    "state": State,
    "watch": Watch,
}
_NAMES: Mapping[type, str] = {kind: name for name, kind in _KINDS.items()}


def encode_request(
    request: Request[Any], acting_for: tuple[int, Iterable[int]] | None = None
) -> dict[str, Any]:
    """The packet; `acting_for` is the (uid, gids) of who asks through us."""
    body = {"do": _NAMES[type(request)], **_said(request)}
    if acting_for is not None:
        body["as"] = {"uid": acting_for[0], "gids": sorted(acting_for[1])}
    return body


def _said(request: Request[Any]) -> dict[str, Any]:
    defaults = request._field_defaults
    said = {
        key: value
        for key, value in request._asdict().items()
        if key not in defaults or value != defaults[key]
    }
    if isinstance(request, ChangeAll):
        said["changes"] = [_said(change) for change in request.changes]
    return said


def decode_request(body: Mapping[str, object]) -> Request[Any]:
    """The request in a packet; UsageError, in words for who asks, if there is none."""
    what = body.get("do")
    kind = _KINDS.get(what) if isinstance(what, str) else None
    if kind is None:
        raise UsageError(f"unknown request {repr(what)[:_SHOWN_MAX]}; expected one of: {', '.join(_KINDS)}")
    return cast(Request[Any], _decode(kind, body))


def _decode(kind: Any, body: Mapping[str, object]) -> Any:
    """Fields that are not there, or null, are as their defaults say."""
    given = {key: body.get(key) for key in kind._fields}
    return kind(
        **{
            key: _CHECKS[key](key, value)
            for key, value in given.items()
            if value is not None or key not in kind._field_defaults
        }
    )


def decode_acting_for(told: object) -> tuple[int, frozenset[int]]:
    """The (uid, gids) of "as"; UsageError."""
    match told:
        case {"uid": uid, "gids": list(gids)} if len(gids) <= _GIDS_MAX and all(map(_is_id, [uid, *gids])):
            return cast(int, uid), frozenset(gids)
    raise UsageError("as: expected {uid, gids}")


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= ID_MAX + 1


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > _TEXT_MAX:
        raise UsageError(f"{key}: expected a text")
    if "\0" in value and key != "name":  # no chip has one: it is not found
        raise UsageError(f"{key}: a NUL cannot be in a name")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise UsageError(f"{key}: expected a text of characters")
    return value


def _driver(key: str, value: object) -> str:
    driver = _text(key, value)
    if driver and driver not in DRIVERS:
        raise UsageError(f"{key}: {driver[:_SHOWN_MAX]!r} is none of {', '.join(DRIVERS)}")
    return driver


def _number(key: str, value: object, most: int = ID_MAX) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value <= most:
        raise UsageError(f"{key}: expected a number")
    return value


def _options(key: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise UsageError(f"{key}: expected an object of texts, by line")
    return value


def _rules(key: str, value: object) -> dict[str, Any]:
    """What they say is looked at where the lines are known."""
    if not isinstance(value, dict):
        raise UsageError(f"{key}: expected an object with interlock and watchdog")
    return value


def _level(key: str, value: object) -> object:
    if value not in ("low", "high"):
        raise UsageError(f"{key}: expected low or high")
    return value


def _lifetime(key: str, value: object) -> object:
    if value not in ("connection", "process"):
        raise UsageError(f"{key}: expected connection or process")
    return value


def _changes(key: str, value: object) -> tuple[Change, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= _CHANGES_MAX:
        raise UsageError(f"{key}: expected a list of 1 to {_CHANGES_MAX}")
    if not all(isinstance(change, dict) for change in value):
        raise UsageError(f"{key}: expected objects, as of change")
    return tuple(_decode(Change, change) for change in value)


def _lines(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _LINES_MAX:
        raise UsageError(f"{key}: expected a list of at most {_LINES_MAX}")
    return tuple(_text(key, line) for line in value)


def _levels(key: str, value: object) -> dict[str, int]:
    if not isinstance(value, dict) or not 0 < len(value) <= GPIO_V2_LINES_MAX:
        raise UsageError(f"{key}: expected an object of 1 to {GPIO_V2_LINES_MAX} levels, by line")
    if not all(type(level) is int and level in (0, 1) for level in value.values()):
        raise UsageError(f"{key}: a level is 0 or 1")
    return {_text(key, line): level for line, level in value.items()}


def _truth(_key: str, value: object) -> bool:
    return bool(value)


_CHECKS: Mapping[str, Callable[[str, object], object]] = {
    "lines": _lines,
    "levels": _levels,
    **dict.fromkeys(("after", "consumer", "definition", "name", "origin"), _text),
    **dict.fromkeys(("force", "hold", "permanent", "replace", "vm", "wait"), _truth),
    "first": lambda key, value: max(_number(key, value), 0),
    **dict.fromkeys(("gid", "mode", "pid", "poll_us", "uid"), _number),
    "changes": _changes,
    "driver": _driver,
    "lifetime": _lifetime,
    "options": _options,
    "rules": _rules,
    "line": _text,
    "level": _level,
    "for_ms": lambda key, value: max(_number(key, value, NUMBER_MAX // 1_000_000), 0),
    "started": lambda key, value: _number(key, value, NUMBER_MAX),
}
