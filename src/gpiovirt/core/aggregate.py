# SPDX-License-Identifier: MIT
"""The aggregate: a chip made of lines of other chips.

It holds its source lines from its creation on (one request per source chip, as they are), so
nobody else can take them; its own consumers come and go above that.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpiovirt.core.chip import Chip, LineRequest, Now, PresenceSink
from gpiovirt.core.gpiolib import GpioChip, PhysicalEdge, Values, bits_of
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import AS_IS, EdgeEvent, LineSettings

__all__ = ["Aggregate", "AggregateDriver", "SourceLine"]

SourceLine = tuple[Chip, int]
"""(source chip, offset on it)"""


class _Source:
    """The lines one source chip gives, and where each stands in the aggregate."""

    __slots__ = ("chip", "offsets", "request", "virtual")

    request: LineRequest

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self.offsets: list[int] = []
        self.virtual: dict[int, int] = {}

    def hold(self, holder: Holder, edge: PhysicalEdge, presence: PresenceSink) -> None:
        virtual = self.virtual
        last_seqno: dict[int, int] = {}

        def on_edge(event: EdgeEvent) -> None:
            offset = virtual[event.offset]
            lost = event.line_seqno - last_seqno.get(offset, 0) - 1
            last_seqno[offset] = event.line_seqno
            edge(offset, event.rising, event.timestamp_ns, lost)

        def on_presence(offset: int, there: bool) -> None:
            presence(virtual[offset], there)

        settings = [AS_IS] * len(self.offsets)
        self.request = self.chip.request(self.offsets, settings, holder, on_edge, on_presence)


class _Run:
    """Values whose bits stand on the source side in the same order, `shift` places higher."""

    __slots__ = ("_request", "_shift")

    def __init__(self, request: LineRequest, shift: int) -> None:
        self._request = request
        self._shift = shift

    def get(self, mask: int) -> int:
        return self._request.get_values(mask << self._shift) >> self._shift

    def set(self, mask: int, bits: int) -> None:
        self._request.set_values(mask << self._shift, bits << self._shift)


class _Scattered:
    """Values in any order over any number of sources: one call per source that has a line in the mask."""

    __slots__ = ("_places", "_plan", "_planned")

    def __init__(self, places: Sequence[tuple[LineRequest, int]]) -> None:
        self._places = places
        self._planned = 0
        self._plan: list[tuple[LineRequest, int, list[tuple[int, int]]]] = []

    def _plan_for(self, mask: int) -> list[tuple[LineRequest, int, list[tuple[int, int]]]]:
        if mask != self._planned:
            by_request: dict[int, tuple[LineRequest, list[tuple[int, int]]]] = {}
            for i in bits_of(mask):
                request, bit = self._places[i]
                by_request.setdefault(id(request), (request, []))[1].append((1 << i, 1 << bit))
            self._plan = [
                (request, sum(theirs for _, theirs in pairs), pairs) for request, pairs in by_request.values()
            ]
            self._planned = mask
        return self._plan

    def get(self, mask: int) -> int:
        bits = 0
        for request, their_mask, pairs in self._plan_for(mask):
            their_bits = request.get_values(their_mask)
            for ours, theirs in pairs:
                if their_bits & theirs:
                    bits |= ours
        return bits

    def set(self, mask: int, bits: int) -> None:
        for request, their_mask, pairs in self._plan_for(mask):
            their_bits = 0
            for ours, theirs in pairs:
                if bits & ours:
                    their_bits |= theirs
            request.set_values(their_mask, their_bits)


class AggregateDriver:
    """Driver over lines held on the source chips, as `consumer`; without `names` theirs stay."""

    def __init__(
        self, label: str, lines: Sequence[SourceLine], consumer: str = "", names: Sequence[str] | None = None
    ) -> None:
        self.label = label
        self._consumer = consumer or f"gpiovirt:{label}"
        if names is None:
            names = [chip.line_info(offset).name for chip, offset in lines]
        self.names: Sequence[str] = names
        self._sources: dict[int, _Source] = {}
        self._places: list[tuple[_Source, int]] = []
        for virtual, (chip, offset) in enumerate(lines):
            source = self._sources.setdefault(id(chip), _Source(chip))
            self._places.append((source, len(source.offsets)))
            source.offsets.append(offset)
            source.virtual[offset] = virtual

    def attach(self, edge: PhysicalEdge, presence: PresenceSink) -> None:
        self.presence = presence
        holder = Holder.of(self._consumer, HolderKind.CHIP)
        held: list[_Source] = []
        try:
            for source in self._sources.values():
                source.hold(holder, edge, presence)
                held.append(source)
        except BaseException:
            for source in held:
                source.request.release()
            raise

    def detach(self) -> None:
        for source in self._sources.values():
            source.request.release()

    def is_output(self, offset: int) -> bool:
        source, index = self._places[offset]
        return source.chip.is_output(source.offsets[index])

    def catch_up(self) -> None:
        """Chips of this process tell edges at once."""

    def request(self, offset: int, holder: Holder) -> None:
        """Each line is held all the time."""

    def configure(self, offset: int, settings: LineSettings) -> None:
        source, index = self._places[offset]
        source.request.reconfigure({index: settings})

    def free(self, offset: int) -> None:
        source, index = self._places[offset]
        source.request.relinquish(1 << index)

    def bind(self, offsets: Sequence[int]) -> Values:
        places = [(self._places[offset][0].request, self._places[offset][1]) for offset in offsets]
        request, first = places[0]
        if all(place == (request, first + i) for i, place in enumerate(places)):
            return _Run(request, first)
        return _Scattered(places)


class Aggregate(GpioChip):
    """A chip whose line i is the i-th of `lines`; any number of lines and sources, nested at will.

    LineBusyError if a line is held or named twice, and then nothing is held.
    """

    def __init__(
        self,
        label: str,
        lines: Sequence[SourceLine],
        now: Now,
        name: str = "",
        consumer: str = "",
        names: Sequence[str] | None = None,
    ) -> None:
        self._aggregated = AggregateDriver(label, lines, consumer, names)
        super().__init__(self._aggregated, now, name)

    def close(self) -> None:
        """Give the source lines back."""
        self._aggregated.detach()
