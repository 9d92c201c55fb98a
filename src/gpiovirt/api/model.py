# SPDX-License-Identifier: MIT
"""What the HTTP API says of chips, lines and consumers; gpiovirt.configuration.model has what it is told."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gpiovirt.configuration.model import Chip, chip_of
from gpiovirt.control.access import group_name, user_name
from gpiovirt.errors import UsageError
from gpiovirt.protocols.control import answers as protocol

__all__ = [
    "AccessChange",
    "ChipDetails",
    "ChipSummary",
    "Consumer",
    "DaemonState",
    "LineLevel",
    "LineState",
    "RuleState",
    "Source",
    "SourceLine",
    "chip_details",
    "chip_summary",
    "consumers",
    "daemon_state",
    "line_states",
    "source",
]

Direction = Literal["input", "output"]


class _Told(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class ChipSummary(_Told):
    """A virtual chip."""

    name: str
    """Its name and label."""
    definition: str
    """Its lines, as written to new_device."""
    num_lines: int
    """How many lines it has."""
    owner: str
    """Its owner's name, or number."""
    group: str
    """Its group's name, or number."""
    uid: int
    """Its owner's number."""
    gid: int
    """Its group's number."""
    mode: str
    """Who may use it, as of a file, in octal."""
    state: Literal["live", "starting", "waiting"]
    """live; starting: its process is not there yet; waiting: a line is missing."""
    trouble: str
    """Why it is not live, if it is not."""
    permanent: bool
    """It is there after a reboot, too."""
    origin: str
    """The configuration file that describes it, if one does."""
    driver: str
    """The directory of the control files that it was made in, if it was."""
    device: str
    """Its socket, for programs: gpiovirt run --chip NAME."""
    vm: str | None
    """Its socket for virtual machines, if it has one."""
    poll_us: int
    """For how many microseconds it is looked for more after each request."""
    worker: int
    """The process that serves it; 0: there is none."""
    restarts: int
    """How often that was started anew."""
    creator: int | None
    """The process that it ends with, if there is one."""


class LineHolder(_Told):
    """The process that holds a line; pid and uid are 0 if it is the one that serves the line."""

    kind: Literal["program", "vm", "chip", "hog", "container"]
    """A program, a virtual machine's VMM, a virtual chip made of the line, or the simulator."""
    pid: int
    """Its process."""
    uid: int
    """The user's number."""


class LineState(_Told):
    """A line of a virtual chip."""

    offset: int
    """Its offset in the chip."""
    name: str
    """Its name there."""
    source: str
    """The line that it is: chip and offset."""
    there: bool
    """The chip that it is of is there."""
    direction: Direction
    """As it is now."""
    consumer: str
    """What its holder calls itself."""
    used: bool
    """Somebody holds it."""
    holder: LineHolder | None
    """Who that is, by the kernel's word; null where nobody holds it, or only the name is known."""
    forced: Literal["", "low", "high"]
    """The level that an operator has forced it to, if one has."""
    options: str
    """What it is for consumers that do not ask for something else, as pull-up,debounce=5ms,safe=low."""


class LineLevel(_Told):
    """What a line is."""

    chip: str
    """The chip's name."""
    offset: int
    """Its number."""
    name: str
    """Its name, if it has one."""
    direction: Direction
    """As it is now."""
    level: Literal[0, 1] | None
    """As its active-low option has it; null: it cannot be read."""


class Consumer(_Told):
    """A process that has a chip open."""

    kind: Literal["process", "vm"]
    """A program, or a virtual machine's VMM."""
    pid: int
    """Its process."""
    user: str
    """Whose it is: the user's name, or number."""
    uid: int
    """The user's number."""
    gid: int
    """The group's number."""


class RuleState(_Told):
    """A rule, and what it has done since the chip's process started."""

    text: str
    """What holds, in words."""
    refused: int
    """How often it has refused something."""
    trips: int
    """How often it has made lines safe."""
    tripped: bool
    """It keeps lines safe now."""


class ChipDetails(ChipSummary):
    """A virtual chip and its lines."""

    lines: list[LineState]
    """Its lines, by offset; none while it waits for them."""
    consumers: list[Consumer]
    """Who has it open."""
    rules: list[RuleState]
    """All rules of the chip and its lines; none if its process does not answer."""
    description: Chip | None
    """The chip as PUT takes it; null while that cannot be told."""


class SourceLine(_Told):
    """A line that may be taken."""

    name: str
    """Its name, if it has one."""
    consumer: str
    """What its holder calls itself, if it is held."""
    direction: Direction
    """As it is now."""


class Source(_Told):
    """A chip to take lines of."""

    name: str
    """Its device's name."""
    label: str
    """Its label."""
    kind: Literal["kernel", "simulated"]
    """The kernel's, or of a process."""
    lines: list[SourceLine]
    """Its lines, by offset."""


class DaemonState(_Told):
    """gpiovirtd, as whoever asks sees it."""

    version: str
    """Its version."""
    pid: int
    """Its process."""
    chips: int
    """How many chips there are."""
    live: int
    """How many of them are served."""
    lines: int
    """How many lines these chips have."""
    restarts: int
    """How often processes of chips were started anew."""
    watchers: int
    """How many wait for events."""
    user: str
    """Who asks."""
    manager: bool
    """Whoever asks may make, change and delete chips."""


class AccessChange(BaseModel):
    """What is to be otherwise of who may use a chip."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    owner: str = ""
    """A user's name or number; without, as it is."""
    group: str = ""
    """A group's name or number; without, as it is."""
    mode: str = Field("", pattern="^(0?[0-7]{1,3})?$")
    """As of a file, in octal; without, as it is."""


def _summary(told: protocol.ChipState) -> dict[str, Any]:
    owner, group = user_name(told.uid), group_name(told.gid)
    return {**told._asdict(), "owner": owner, "group": group, "mode": f"{told.mode:04o}"}


def chip_summary(told: protocol.ChipState) -> ChipSummary:
    """Of a chip."""
    return ChipSummary.model_validate(_summary(told))


def line_states(told: protocol.ChipDetails) -> list[LineState]:
    """Of a chip's lines."""
    return [
        LineState.model_validate({**line._asdict(), "holder": line.holder and line.holder._asdict()})
        for line in told.lines
    ]


def consumers(told: protocol.ChipDetails) -> list[Consumer]:
    """Of who has a chip open."""
    found: list[tuple[Literal["process", "vm"], protocol.Consumer]]
    found = [("process", peer) for peer in told.consumers]
    if told.vm_consumer is not None:
        found.append(("vm", told.vm_consumer))
    return [Consumer(kind=kind, user=user_name(peer.uid), **peer._asdict()) for kind, peer in found]


def chip_details(told: protocol.ChipDetails) -> ChipDetails:
    """Of a chip and its lines."""
    description = None
    with suppress(UsageError):
        description = chip_of(told.chip, told.options, told.rules, [line.name for line in told.lines])
    return ChipDetails(
        **_summary(told.chip),
        lines=line_states(told),
        consumers=consumers(told),
        rules=[RuleState(**state._asdict()) for state in told.rule_states],
        description=description,
    )


def source(told: protocol.SourceState) -> Source:
    """Of a chip to take lines of."""
    return Source.model_validate(protocol.encode_answer(told))


def daemon_state(told: protocol.DaemonState, uid: int) -> DaemonState:
    """Of the daemon, for `uid`."""
    return DaemonState.model_validate({**told._asdict(), "user": user_name(uid)})
