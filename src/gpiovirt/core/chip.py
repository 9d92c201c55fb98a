# SPDX-License-Identifier: MIT
"""The ports of the domain: Chip and LineRequest, named as libgpiod v2 names things.

Sources, aggregates and guards implement Chip; exports consume it. Nothing here does anything.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from gpiovirt.core.holder import Holder
from gpiovirt.core.line import Clock, EdgeEvent, InfoEvent, LineInfo, LineSettings

__all__ = ["Chip", "ChipInfo", "EdgeSink", "InfoSink", "LineRequest", "Now", "PresenceSink"]

EdgeSink = Callable[[EdgeEvent], None]
InfoSink = Callable[[InfoEvent], None]
PresenceSink = Callable[[int, bool], None]
"""(offset, whether it is there): a line held has vanished with its hardware, or is back, as it is"""

Now = Callable[[Clock], int]
"""The time now in ns on a clock; passed in, so that core has no clock of its own."""


class ChipInfo(NamedTuple):
    """linux/gpio.h: gpiochip_info."""

    name: str
    label: str
    num_lines: int


class LineRequest(Protocol):
    """Lines held by one Holder. Masks and bits index `offsets`: bit i is `offsets[i]`."""

    offsets: tuple[int, ...]

    def get_values(self, mask: int) -> int:
        """Logical values of the lines in `mask`; inputs and outputs alike."""

    def set_values(self, mask: int, bits: int) -> None:
        """Drive the outputs in `mask`; NotPermittedError, and nothing set, if one is an input."""

    def reconfigure(self, settings: Mapping[int, LineSettings]) -> None:
        """New settings by index; lines not named, or named with direction AS_IS, stay as they are."""

    def relinquish(self, mask: int) -> None:
        """As if the lines in `mask` were released and at once held again as they are."""

    def release(self) -> None:
        """Give all lines back; more than once is harmless."""


class Chip(Protocol):
    """A set of lines, numbered from 0, of which each has at most one holder."""

    @property
    def info(self) -> ChipInfo:
        """Name, label and number of lines."""

    def line_info(self, offset: int) -> LineInfo:
        """State of one line; OffsetError past the end."""

    def is_output(self, offset: int) -> bool:
        """Its direction alone; OffsetError past the end."""

    def tell_once(self, offset: int, changed: Callable[[], object]) -> bool:
        """Whether `changed` is called, once, as soon as a line that is held has another value.

        It replaces one that waits; none is called any more when the line has no holder.
        """

    def watch(self, sink: InfoSink) -> Callable[[], None]:
        """Tell `sink` every change of every line's state; returns what ends the watch."""

    def request(
        self,
        offsets: Sequence[int],
        settings: Sequence[LineSettings],
        holder: Holder,
        on_edge: EdgeSink | None = None,
        on_presence: PresenceSink | None = None,
    ) -> LineRequest:
        """Take lines, all or none.

        `settings[i]` is for `offsets[i]`. LineBusyError if one is held (a line named twice is),
        OffsetError past the end, ChipGoneError if one has vanished, InvalidError if edges are asked
        for without `on_edge`. That gets the edge events, also while this call runs. Lines that vanish
        stay held: their values are ChipGoneError.
        """
