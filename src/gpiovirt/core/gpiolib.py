# SPDX-License-Identifier: MIT
"""GpioChip: what the kernel's gpiolib does above a driver.

It owns who holds a line, names and consumers, active-low, sequence numbers and info events. How
a line gets its level belongs to the Driver below, which speaks in physical levels only.
Behaviour: Documentation/userspace-api/gpio of Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from gpiovirt.core.chip import ChipInfo, EdgeSink, InfoSink, Now, PresenceSink
from gpiovirt.core.holder import Holder
from gpiovirt.core.line import (
    AS_IS,
    SWAPPED_EDGE,
    Clock,
    Direction,
    Edge,
    EdgeEvent,
    InfoEvent,
    InfoEventType,
    LineInfo,
    LineSettings,
)
from gpiovirt.errors import ChipGoneError, InvalidError, LineBusyError, NotPermittedError, OffsetError

__all__ = ["Admit", "Driver", "GpioChip", "PhysicalEdge", "Picked", "Values", "bits_of"]


class PhysicalEdge(Protocol):
    """Told of each edge, with its time in ns on the clock that the line was configured with."""

    def __call__(self, offset: int, rising: bool, timestamp_ns: int, lost: int = 0, /) -> None:
        """`lost` events of the line came before this one and are gone."""


class Values(Protocol):
    """Physical levels of a fixed set of lines, in the order they were bound."""

    def get(self, mask: int) -> int:
        """Levels of the lines in `mask`."""

    def set(self, mask: int, bits: int) -> None:
        """Drive the lines in `mask`, all of them outputs."""


class Driver(Protocol):
    """The hardware side of a chip, as struct gpio_chip is to gpiolib. All levels are physical."""

    label: str
    names: Sequence[str]

    def attach(self, edge: PhysicalEdge, presence: PresenceSink) -> None:
        """Edges of lines configured for them go to `edge` from now on, lines gone and back to `presence`."""

    def is_output(self, offset: int) -> bool:
        """Direction as the hardware has it."""

    def request(self, offset: int, holder: Holder) -> None:
        """The line has a holder."""

    def configure(self, offset: int, settings: LineSettings) -> None:
        """Make the line an input or output; `settings` never say active_low or AS_IS.

        Edges that this causes are told as the line was configured before.
        """

    def free(self, offset: int) -> None:
        """The line's holder is gone."""

    def bind(self, offsets: Sequence[int]) -> Values:
        """The hot path: the levels of just these lines."""

    def catch_up(self) -> None:
        """Tell the edges that there have been until now."""


Admit = Callable[[Mapping[int, LineSettings], Holder], None]
"""May lines be configured so, by offset and in physical terms? NotPermittedError if not"""


class _Line:
    __slots__ = (
        "clock",
        "edge",
        "index",
        "is_gone",
        "is_output",
        "line_seqno",
        "name",
        "offset",
        "request",
        "settings",
    )

    def __init__(self, offset: int, name: str, is_output: bool) -> None:
        self.offset = offset
        self.name = name
        self.is_output = is_output
        self.is_gone = False
        self.request: _Request | None = None
        self.index = 0
        self.line_seqno = 0
        self.settings = AS_IS
        self.edge = Edge.NONE  # logical, as the driver has it
        self.clock = Clock.MONOTONIC  # as its info shows it: the last one asked for, by whomever

    def settle_for(self, wanted: LineSettings) -> None:
        """Take on what info shows of settings, and the polarity."""
        self.settings = wanted
        if not wanted.is_v1:
            self.clock = wanted.event_clock

    def shown_settings(self) -> LineSettings:
        """As the kernel tells: edges of uAPI v1 do not show, a clock stays after its request."""
        settings = self.settings
        if settings.event_clock is not self.clock or settings.is_v1:
            return settings._replace(
                edge=Edge.NONE if settings.is_v1 else settings.edge, event_clock=self.clock, is_v1=False
            )
        return settings


def _physical(settings: LineSettings) -> LineSettings:
    if not settings.active_low:
        return settings
    return settings._replace(
        active_low=False, edge=SWAPPED_EDGE[settings.edge], output_value=settings.output_value ^ 1
    )


def bits_of(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


_T = TypeVar("_T")


class Picked(Generic[_T]):
    """Those of a fixed set of lines, of which there may be very many, that are in a mask.

    Programs ask for the same ones again and again: what was picked for the last `mask` is remembered.
    """

    __slots__ = ("_lines", "_mask", "_picked")

    def __init__(self, lines: Sequence[_T]) -> None:
        self._lines = lines
        self._mask = 0
        self._picked: list[tuple[int, _T]] = []

    def pick(self, mask: int) -> list[tuple[int, _T]]:
        """The bit of each line in `mask`, and the line."""
        if mask != self._mask:
            self._picked = [(1 << i, self._lines[i]) for i in bits_of(mask)]
            self._mask = mask
        return self._picked


class GpioChip:
    """A Chip made of a Driver."""

    not_valid: frozenset[int] = frozenset()
    """Lines that show as used and cannot be requested: the kernel's valid_mask"""

    def __init__(self, driver: Driver, now: Now, name: str = "", admit: Admit | None = None) -> None:
        """`admit` is asked before any of several lines is touched."""
        self._driver = driver
        self._admit = admit
        self._now = now
        self._name = name or driver.label
        self._lines = [
            _Line(offset, line_name, driver.is_output(offset))
            for offset, line_name in enumerate(driver.names)
        ]
        self._watchers: list[InfoSink] = []
        driver.attach(self._edge, self._presence)

    @property
    def info(self) -> ChipInfo:
        return ChipInfo(self._name, self._driver.label, len(self._lines))

    def line_info(self, offset: int) -> LineInfo:
        line = self._line(offset)
        request = line.request
        return LineInfo(
            offset,
            line.name,
            request.holder.label if request else "",
            request is not None or offset in self.not_valid,
            Direction.OUTPUT if line.is_output else Direction.INPUT,
            line.shown_settings(),
            request.holder if request else None,
        )

    def is_output(self, offset: int) -> bool:
        return self._line(offset).is_output

    def tell_once(self, _offset: int, _changed: Callable[[], object]) -> bool:
        return False  # levels are the hardware's

    def watch(self, sink: InfoSink) -> Callable[[], None]:
        self._watchers = [*self._watchers, sink]

        def unwatch() -> None:
            self._watchers = [other for other in self._watchers if other is not sink]

        return unwatch

    def request(
        self,
        offsets: Sequence[int],
        settings: Sequence[LineSettings],
        holder: Holder,
        on_edge: EdgeSink | None = None,
        on_presence: PresenceSink | None = None,
    ) -> _Request:
        if self._admit is not None:
            for offset in offsets:
                self._check_free(self._line(offset))
            if len(set(offsets)) < len(offsets):
                raise LineBusyError(f"a line of {self._driver.label} is requested twice at once")
            self._admit(
                {
                    offset: _physical(wanted)
                    for offset, wanted in zip(offsets, settings, strict=True)
                    if wanted.direction is not Direction.AS_IS
                },
                holder,
            )
        request = _Request(self, holder, on_edge, on_presence)
        try:
            for offset, wanted in zip(offsets, settings, strict=True):
                line = self._line(offset)
                self._check_free(line)
                request.take(line, wanted)
            request.bind()
        except BaseException:
            with suppress(Exception):  # what went wrong first is what is to be told
                request.release()
            raise
        return request

    def rebind(self) -> None:
        """The driver has other values for bound lines, and other directions of those without a holder."""
        for line in self._lines:
            if line.request is None:
                line.is_output = self._driver.is_output(line.offset)
            elif line.index == 0:
                line.request.rebind()

    def _check_free(self, line: _Line) -> None:
        """LineBusyError if it is held, InvalidError or ChipGoneError if it is not to be had."""
        if line.request is not None:
            raise LineBusyError(
                f"line {self.describe(line)} is held by {line.request.holder}; release it or choose another"
            )
        if line.offset in self.not_valid:
            raise InvalidError(f"line {self.describe(line)} is not valid, and cannot be requested")
        if line.is_gone:
            raise ChipGoneError(f"the chip providing line {self.describe(line)} is gone")

    def describe(self, line: _Line) -> str:
        """`chip:offset (name)` for messages."""
        return f"{self._driver.label}:{line.offset}" + (f" ({line.name})" if line.name else "")

    def _line(self, offset: int) -> _Line:
        if 0 <= offset < len(self._lines):
            return self._lines[offset]
        raise OffsetError(
            f"{self._driver.label} has no line {offset}: its {len(self._lines)} lines are "
            f"0 to {len(self._lines) - 1}"
        )

    def _configure(self, line: _Line, wanted: LineSettings) -> None:
        """Have the driver do what is wanted, direction AS_IS excepted."""
        was_debounced = bool(line.settings.debounce_period_us)
        line.settle_for(wanted)
        if wanted.edge and (line.request is None or line.request.on_edge is None):
            # all but edge detection has been done by the time the kernel finds that it has no buffer
            line.settings = wanted._replace(debounce_period_us=wanted.debounce_period_us * was_debounced)
            self._driver.configure(line.offset, _physical(line.settings._replace(edge=Edge.NONE)))
            line.is_output = False
            raise InvalidError(f"line {self.describe(line)}: nothing would receive its edges")
        self._driver.configure(line.offset, _physical(wanted))
        line.edge = wanted.edge
        line.is_output = wanted.direction is Direction.OUTPUT

    def _free(self, line: _Line) -> None:
        was_output = self._driver.is_output(line.offset)
        try:
            self._driver.free(line.offset)
        finally:
            line.settings = AS_IS
            line.edge = Edge.NONE
            if (is_output := self._driver.is_output(line.offset)) != was_output:  # by its safe state
                line.is_output = is_output  # else it counts as what it was held as, as in the kernel

    def _notify(self, change: InfoEventType, line: _Line) -> None:
        if self._watchers:
            event = InfoEvent(change, self._now(Clock.MONOTONIC), self.line_info(line.offset))
            fault: Exception | None = None
            for sink in self._watchers:
                try:
                    sink(event)
                except Exception as error:  # the others are told all the same
                    fault = fault or error
            if fault is not None:
                raise fault

    def _edge(self, offset: int, rising: bool, timestamp_ns: int, lost: int = 0, /) -> None:
        line = self._lines[offset]
        request = line.request
        if request is None or request.on_edge is None:
            return
        line.line_seqno += 1 + lost
        request.seqno += 1 + lost
        if line.edge in (Edge.RISING, Edge.FALLING):
            rising = line.edge is Edge.RISING
        else:
            rising ^= line.settings.active_low
        request.on_edge(EdgeEvent(offset, rising, timestamp_ns, request.seqno, line.line_seqno))

    def _presence(self, offset: int, there: bool) -> None:
        line = self._lines[offset]
        line.is_gone = not there
        if there:
            line.is_output = self._driver.is_output(offset)
        if line.request is not None:
            line.request.update_masks(line)
            if line.request.on_presence is not None:
                line.request.on_presence(offset, there)


class _Request:
    """The LineRequest of a GpioChip."""

    __slots__ = (
        "_chip",
        "_inverted",
        "_lines",
        "_outputs",
        "_values",
        "holder",
        "offsets",
        "on_edge",
        "on_presence",
        "seqno",
    )

    def __init__(
        self, chip: GpioChip, holder: Holder, on_edge: EdgeSink | None, on_presence: PresenceSink | None
    ) -> None:
        self._chip = chip
        self._lines: list[_Line] = []
        self._inverted = 0
        self._outputs = 0
        self.holder = holder
        self.on_edge = on_edge
        self.on_presence = on_presence
        self.seqno = 0

    def take(self, line: _Line, wanted: LineSettings) -> None:
        """Hold one more line; on failure it is held all the same, for release() to free."""
        line.request = self
        line.index = len(self._lines)
        line.line_seqno = 0
        self._lines.append(line)
        self._chip._driver.request(line.offset, self.holder)
        if wanted.direction is Direction.AS_IS:
            line.settle_for(wanted)
            line.is_output = self._chip._driver.is_output(line.offset)
        else:
            self._chip._configure(line, wanted)
        self._chip._notify(InfoEventType.REQUESTED, line)

    def bind(self) -> None:
        """All lines are taken: make the hot path."""
        self.offsets = tuple(line.offset for line in self._lines)
        self._values = self._chip._driver.bind(self.offsets)
        for line in self._lines:
            self.update_masks(line)

    def rebind(self) -> None:
        """Make it anew, unless the lines are being given back."""
        if self._lines:
            self.bind()

    def update_masks(self, line: _Line) -> None:
        """The line may have another direction or polarity; it may be one of very many."""
        bit = 1 << line.index
        if line.settings.active_low:
            self._inverted |= bit
        else:
            self._inverted &= ~bit
        if line.is_output:
            self._outputs |= bit
        else:
            self._outputs &= ~bit

    def get_values(self, mask: int) -> int:
        return (self._values.get(mask) ^ self._inverted) & mask

    def set_values(self, mask: int, bits: int) -> None:
        if mask & ~self._outputs:
            raise NotPermittedError("a line in the mask is not an output")
        self._values.set(mask, (bits ^ self._inverted) & mask)

    def reconfigure(self, settings: Mapping[int, LineSettings]) -> None:
        fault: Exception | None = None
        if self._chip._admit is not None:
            self._chip._admit(
                {
                    self.offsets[index]: _physical(wanted)
                    for index, wanted in settings.items()
                    if wanted.direction is not Direction.AS_IS
                },
                self.holder,
            )
        for index, wanted in settings.items():
            if wanted.direction is Direction.AS_IS:
                continue
            line = self._lines[index]
            try:
                self._chip._configure(line, wanted)
            finally:
                self.update_masks(line)
            try:
                self._chip._notify(InfoEventType.CONFIG, line)
            except Exception as error:  # of a watcher: the other lines are configured all the same
                fault = fault or error
        if fault is not None:
            raise fault

    def relinquish(self, mask: int) -> None:
        fault: Exception | None = None
        for i in bits_of(mask):
            line = self._lines[i]
            try:
                self._chip._free(line)
            except Exception as error:  # the others are given up all the same
                fault = fault or error
            try:
                self._chip._driver.request(line.offset, self.holder)
                line.is_output = self._chip._driver.is_output(line.offset)
                self._chip._notify(InfoEventType.CONFIG, line)
            except Exception as error:
                fault = fault or error
            self.update_masks(line)
        if fault is not None:
            raise fault

    def release(self) -> None:
        lines, self._lines = self._lines, []
        fault: Exception | None = None
        for line in lines:
            try:
                self._chip._free(line)
            except Exception as error:  # the others are freed all the same
                fault = fault or error
            line.request = None
            try:
                self._chip._notify(InfoEventType.RELEASED, line)
            except Exception as error:
                fault = fault or error
        if fault is not None:
            raise fault
