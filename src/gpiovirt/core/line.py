# SPDX-License-Identifier: MIT
"""What a line is: its settings, its state as others see it, and the events it gives.

Values and bits are logical (active-low applied) unless a name says physical.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, NewType

__all__ = [
    "AS_IS",
    "Bias",
    "Clock",
    "Direction",
    "Drive",
    "Edge",
    "EdgeEvent",
    "InfoEvent",
    "InfoEventType",
    "LineInfo",
    "LineSettings",
    "Offset",
]

Offset = NewType("Offset", int)


class Direction(IntEnum):
    """Direction of a line; AS_IS leaves it as it is."""

    AS_IS = 1
    INPUT = 2
    OUTPUT = 3


class Edge(IntEnum):
    """Logical edges that give an event; a bit mask."""

    NONE = 0
    RISING = 1
    FALLING = 2
    BOTH = 3


class Bias(IntEnum):
    """Internal pull of a line; AS_IS leaves it alone (and reads as unknown)."""

    AS_IS = 1
    DISABLED = 3
    PULL_UP = 4
    PULL_DOWN = 5


class Drive(IntEnum):
    """How an output drives its two levels."""

    PUSH_PULL = 1
    OPEN_DRAIN = 2
    OPEN_SOURCE = 3


class Clock(IntEnum):
    """Clock of edge event timestamps."""

    MONOTONIC = 1
    REALTIME = 2
    HTE = 3


class LineSettings(NamedTuple):
    """What a consumer asks of a line; `output_value` (0 or 1, logical) counts for outputs only."""

    direction: Direction = Direction.AS_IS
    edge: Edge = Edge.NONE
    bias: Bias = Bias.AS_IS
    drive: Drive = Drive.PUSH_PULL
    active_low: bool = False
    debounce_period_us: int = 0
    event_clock: Clock = Clock.MONOTONIC
    output_value: int = 0
    is_v1: bool = False
    """Asked for by uAPI v1: a line's info shows neither the edges nor the clock."""


AS_IS = LineSettings()


class LineInfo(NamedTuple):
    """A line as everybody sees it; direction is never AS_IS."""

    offset: int
    name: str
    consumer: str
    used: bool
    direction: Direction
    settings: LineSettings = AS_IS


class EdgeEvent(NamedTuple):
    """A logical edge; the sequence numbers count from 1 per request and per line of the request."""

    offset: int
    rising: bool
    timestamp_ns: int
    seqno: int
    line_seqno: int


class InfoEventType(IntEnum):
    """linux/gpio.h: gpio_v2_line_changed_type."""

    REQUESTED = 1
    RELEASED = 2
    CONFIG = 3


class InfoEvent(NamedTuple):
    """A change of a line's state, with the state after it; the clock is CLOCK_MONOTONIC."""

    type: InfoEventType
    timestamp_ns: int
    info: LineInfo
