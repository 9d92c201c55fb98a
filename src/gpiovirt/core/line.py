# SPDX-License-Identifier: MIT
"""What a line is: its settings, its state as others see it, and the events it gives.

Values and bits are logical (active-low applied) unless a name says physical.
"""

from enum import IntEnum
from typing import NamedTuple

from gpiovirt.core.holder import Holder

__all__ = [
    "AS_IS",
    "PLAIN",
    "SWAPPED_EDGE",
    "Bias",
    "Clock",
    "Direction",
    "Drive",
    "Edge",
    "EdgeEvent",
    "InfoEvent",
    "InfoEventType",
    "LineInfo",
    "LineOptions",
    "LineSettings",
]


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


SWAPPED_EDGE = {
    Edge.NONE: Edge.NONE,
    Edge.RISING: Edge.FALLING,
    Edge.FALLING: Edge.RISING,
    Edge.BOTH: Edge.BOTH,
}
"""As seen with the other polarity"""


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


class LineOptions(NamedTuple):
    """What a virtual chip's definition says of a line: what its consumers leave open, whoever they are.

    `name` is the line's name in the chip, if not its source's; `safe` is what it is when nobody holds it,
    in physical terms: without, it stays as it is. The last four are rules: a `direction` that it keeps, how
    long it stays 1, and 0, at least, and how often it may become 1 in a second (0: no matter).
    """

    bias: Bias = Bias.AS_IS
    drive: Drive = Drive.PUSH_PULL
    active_low: bool = False
    debounce_period_us: int = 0
    safe: LineSettings | None = None
    name: str = ""
    direction: Direction = Direction.AS_IS
    min_on_us: int = 0
    min_off_us: int = 0
    max_rate_hz: float = 0

    def applied_to(self, settings: LineSettings) -> LineSettings:
        """`settings`, of an input or output, with what they leave open filled in, and for the source line."""
        is_output = settings.direction is Direction.OUTPUT
        return settings._replace(
            bias=self.bias if settings.bias is Bias.AS_IS else settings.bias,
            drive=self.drive if is_output and settings.drive is Drive.PUSH_PULL else settings.drive,
            debounce_period_us=settings.debounce_period_us or (0 if is_output else self.debounce_period_us),
            output_value=settings.output_value ^ self.active_low,
            edge=SWAPPED_EDGE[settings.edge] if self.active_low else settings.edge,
        )


PLAIN = LineOptions()
"""Nothing is said of the line"""


class LineInfo(NamedTuple):
    """A line as everybody sees it; direction is never AS_IS.

    `holder` is None where nobody has the line, and where no more than its `consumer` is known.
    """

    offset: int
    name: str
    consumer: str
    used: bool
    direction: Direction
    settings: LineSettings = AS_IS
    holder: Holder | None = None


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
