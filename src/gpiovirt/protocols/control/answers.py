# SPDX-License-Identifier: MIT
"""What gpiovirtd says of its chips and of itself. As JSON, each is an object with the keys of its class."""

import errno
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints

from gpiovirt.core.text import printable
from gpiovirt.errors import GpiovirtError, PeerError, UsageError
from gpiovirt.protocols.control import NUMBER_MAX

__all__ = [
    "ChipDescription",
    "ChipDetails",
    "ChipEvent",
    "ChipState",
    "Consumer",
    "DaemonState",
    "Direction",
    "Event",
    "ForceEvent",
    "Forced",
    "Levels",
    "LineEvent",
    "LineHolder",
    "LineState",
    "LossEvent",
    "OwnedEvent",
    "Ownership",
    "Page",
    "Rearmed",
    "RefusedError",
    "RuleEvent",
    "RuleState",
    "SourceEvent",
    "SourceLine",
    "SourcePage",
    "SourceState",
    "acceptance",
    "decode_answer",
    "decode_event",
    "encode_answer",
    "refusal",
    "result_of",
]

_T = TypeVar("_T")

Direction = Literal["input", "output"]


class ChipState(NamedTuple):
    """A chip. `device` and `vm` are paths of its sockets, `worker` is a pid (0: none), `creator` another."""

    name: str
    definition: str
    num_lines: int
    uid: int
    gid: int
    mode: int
    state: Literal["live", "starting", "waiting"]
    trouble: str
    """Why it is not live"""
    permanent: bool
    origin: str
    """The file that describes it"""
    driver: str
    vm: str | None
    poll_us: int
    device: str
    worker: int
    restarts: int
    creator: int | None
    """The process that it ends with"""


class ChipDescription(NamedTuple):
    """A chip as it is to be; the keys of `chip` stand beside the others."""

    chip: ChipState
    options: Mapping[str, str]
    """By line: its offset, or its name while the chip waits for it"""
    rules: Mapping[str, Any]
    """`interlock` and `watchdog`, as tables, with lines by offset once they are known"""
    names: tuple[str, ...]
    """Of its lines at their sources, none while it waits for them"""


class LineHolder(NamedTuple):
    """The process that holds a line; 0 and 0 if it is the one that serves the line."""

    kind: Literal["program", "vm", "chip", "hog", "container"]
    pid: int
    uid: int


class LineState(NamedTuple):
    """A line of a chip; `there`: so is the line that it is made of, its `source`."""

    offset: int
    name: str
    source: str
    there: bool
    direction: Direction
    consumer: str
    used: bool
    holder: LineHolder | None
    """None where nobody has the line, or is known by name only"""
    forced: Literal["", "low", "high"]
    """The level that an operator has forced it to"""
    options: str


class Levels(NamedTuple):
    """Levels of lines, in the order that they were asked for; None where one cannot be read."""

    levels: tuple[int | None, ...]


class Consumer(NamedTuple):
    """A process that has a chip open."""

    pid: int
    uid: int
    gid: int


class RuleState(NamedTuple):
    """A rule in words, and what it has done since the chip's worker started.

    `tripped`: it holds lines down now.
    """

    text: str
    refused: int
    trips: int
    tripped: bool


class ChipDetails(NamedTuple):
    """A chip and its lines, none while it waits for them; the keys of `chip` stand beside the others."""

    chip: ChipState
    options: Mapping[str, str]
    rules: Mapping[str, Any]
    """`interlock` and `watchdog`, as tables"""
    lines: tuple[LineState, ...]
    consumers: tuple[Consumer, ...]
    vm_consumer: Consumer | None
    rule_states: tuple[RuleState, ...]
    """All that holds, options of lines included; none if its worker does not answer"""

    def and_then(self, told: "ChipDetails") -> "ChipDetails":
        """With the lines that were told next."""
        return self._replace(options={**self.options, **told.options}, lines=self.lines + told.lines)


class Page(NamedTuple):
    """Some chips, by name; `more` come after them."""

    chips: tuple[ChipState, ...]
    more: bool


class SourceLine(NamedTuple):
    """A line that may be taken."""

    name: str
    consumer: str
    direction: Direction


class SourceState(NamedTuple):
    """A chip to take lines of."""

    name: str
    label: str
    kind: Literal["kernel", "simulated"]
    lines: tuple[SourceLine, ...]


class SourcePage(NamedTuple):
    """Some chips to take lines of; `more` come after them."""

    chips: tuple[SourceState, ...]
    more: bool


class Ownership(NamedTuple):
    """Who may use a chip."""

    uid: int
    gid: int
    mode: int


class Rearmed(NamedTuple):
    """Whether a watchdog had tripped."""

    was_tripped: bool


class DaemonState(NamedTuple):
    """gpiovirtd, as whoever asks sees it: numbers are of chips that they see."""

    version: str
    pid: int
    chips: int
    live: int
    lines: int
    restarts: int
    watchers: int
    default: Ownership
    """Of a chip that is made without"""
    manager: bool
    """Whoever asks may make, change and delete chips"""


class ChipEvent(NamedTuple):
    """Something became of a chip."""

    event: Literal["live", "changed", "deleted", "worker-ended"]
    chip: str


class OwnedEvent(NamedTuple):
    """Others may use a chip."""

    event: Literal["owned"]
    chip: str
    uid: int
    gid: int
    mode: int


class RuleEvent(NamedTuple):
    """A rule has refused something, tripped, or was re-armed; `pid` and `uid` are the line's holder's."""

    event: Literal["rule-refused", "rule-tripped", "rule-rearmed"]
    chip: str
    offset: int
    name: str
    pid: int
    uid: int
    why: str


class ForceEvent(NamedTuple):
    """An operator has forced a line, or that has ended (`uid` 0: by itself)."""

    event: Literal["line-forced", "line-unforced"]
    chip: str
    offset: int
    name: str
    level: Literal["", "low", "high"]
    uid: int


class Forced(NamedTuple):
    """How many lines are forced now, or are not any more."""

    lines: int


class SourceEvent(NamedTuple):
    """What a line is made of."""

    event: Literal["line-gone", "line-back"]
    chip: str
    offset: int
    name: str
    source: str


class LineEvent(NamedTuple):
    """What a consumer did."""

    event: Literal["line-requested", "line-released", "line-config"]
    chip: str
    timestamp_ns: int
    """On CLOCK_MONOTONIC"""
    offset: int
    name: str
    direction: Direction
    consumer: str
    used: bool
    holder: LineHolder | None


class LossEvent(NamedTuple):
    """So many events could not be told, the last of them of this chip."""

    event: Literal["lost"]
    chip: str
    count: int  # type: ignore[assignment]


Event = ChipEvent | OwnedEvent | SourceEvent | LineEvent | RuleEvent | ForceEvent | LossEvent
_EVENTS: Mapping[str, type[Event]] = {
    name: kind for kind in get_args(Event) for name in get_args(get_type_hints(kind)["event"])
}


class RefusedError(UsageError):
    """The daemon says no; `errno` is what it says."""

    def __init__(self, message: str, number: int, line: int | None = None) -> None:
        super().__init__(message)
        self.errno = number
        self.line = line


def encode_answer(answer: object) -> Any:
    """As JSON has it."""
    if not isinstance(answer, tuple):
        return answer
    if not hasattr(answer, "_fields"):
        return [encode_answer(part) for part in answer]
    made: dict[str, Any] = {}
    for key, value in zip(answer._fields, answer, strict=True):
        made.update(encode_answer(value) if isinstance(value, ChipState) else {key: encode_answer(value)})
    return made


def decode_answer(kind: type[_T], told: object) -> _T:
    """What JSON had as one of the classes here, or a tuple of one; PeerError if it is none."""
    return cast(_T, _decode(kind, told, "answer"))


def decode_event(told: Mapping[str, object]) -> Event:
    """PeerError if it is none."""
    name = told.get("event")
    return decode_answer(_EVENTS.get(name, ChipEvent) if isinstance(name, str) else ChipEvent, told)


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _decode(kind: Any, told: Any, key: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if hasattr(kind, "_fields"):
        if isinstance(told, Mapping):
            return kind(
                *(
                    _decode(hint, told if hint is ChipState else told.get(field), field)
                    for field, hint in _hints(kind).items()
                )
            )
    elif origin is tuple:
        if isinstance(told, list):
            return tuple(_decode(parts[0], part, key) for part in told)
    elif origin is Mapping:
        if isinstance(told, dict):
            return (
                told if parts[1] is Any else {field: _decode(str, text, key) for field, text in told.items()}
            )
    elif origin is Literal:
        if told in parts:
            return told
    elif parts:
        return None if told is None else _decode(parts[0], told, key)
    elif type(told) is kind and not (kind is int and abs(told) > NUMBER_MAX):
        return told
    raise PeerError(f"gpiovirtd breaks the protocol ({key}); is it of another version?")


def acceptance(answer: object) -> dict[str, Any]:
    """The packet of an answer; None is one without contents."""
    return {"ok": {} if answer is None else encode_answer(answer)}


def refusal(error: GpiovirtError) -> dict[str, Any]:
    """The packet that says no."""
    where = {} if error.line is None else {"line": error.line}
    return {"error": printable(str(error)), "errno": error.errno, **where}


def result_of(told: Mapping[str, Any]) -> Any:
    """What a packet answers; RefusedError if that is no, PeerError if it is no answer."""
    match told:
        case {"ok": answer}:
            return answer
        case {"error": str(text)}:
            number, line = told.get("errno"), told.get("line")
            raise RefusedError(
                text,
                number if isinstance(number, int) else errno.EIO,
                line if isinstance(line, int) and line >= 0 else None,
            )
    raise PeerError("gpiovirtd breaks the protocol: neither ok nor error")
