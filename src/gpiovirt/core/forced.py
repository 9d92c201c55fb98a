# SPDX-License-Identifier: MIT
"""A Driver by which an operator overrides lines for a time: what an output does, what an input seems to be.

It stands above the rules: a forced output is judged as any change, and what rules read of a forced input is
what it really is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from gpiovirt.core.chip import PresenceSink
from gpiovirt.core.deadline import Cancel
from gpiovirt.core.gpiolib import Admit, Driver, PhysicalEdge, Values
from gpiovirt.core.holder import Holder
from gpiovirt.core.line import Clock, Direction, Edge, LineSettings
from gpiovirt.errors import GpiovirtError

__all__ = ["FOR_EVER", "ForcedDriver", "KeptForces"]

FOR_EVER = 0


class KeptForces(Protocol):
    """What is not to be forgotten when the process dies, by offset."""

    def force(self, offset: int) -> tuple[int | None, int]:
        """(level that the line is forced to, if it is; until when, ns on CLOCK_BOOTTIME or FOR_EVER)."""

    def set_force(self, offset: int, level: int | None, until_ns: int) -> None:
        """Keep it; None: it is not forced."""


class _ForcedValues:
    __slots__ = ("_driver", "_lines", "_values")

    def __init__(self, driver: ForcedDriver, offsets: Sequence[int], values: Values) -> None:
        self._driver = driver
        self._values = values
        self._lines = [(1 << i, offset) for i, offset in enumerate(offsets)]

    def get(self, mask: int) -> int:
        bits = self._values.get(mask)
        for bit, offset in self._lines:
            if mask & bit and (level := self._driver.seems(offset)) is not None:
                bits = bits | bit if level else bits & ~bit
        return bits

    def set(self, mask: int, bits: int) -> None:
        forced = sum(bit for bit, offset in self._lines if mask & bit and offset in self._driver.levels)
        if rest := mask & ~forced:
            self._values.set(rest, bits & rest)
        for bit, offset in self._lines:
            if forced & bit:
                self._driver.keep_wanted(offset, int(bits & bit != 0))


class ForcedDriver:
    """`inner`, with lines that are forced. `rebind` is called when values that were bound are outdated.

    `call_after` calls back after so many ns, `ended` is called with the offset of a line when its force ends
    by itself. `is_unclaimed` says whether a line's holder may come back for it.
    """

    def __init__(
        self,
        inner: Driver,
        kept: KeptForces,
        boot_ns: Callable[[], int],
        monotonic_ns: Callable[[Clock], int],
        call_after: Callable[[int, Callable[[], object]], Cancel],
        rebind: Callable[[], object],
        ended: Callable[[int], object],
        is_unclaimed: Callable[[int], bool] = lambda _offset: False,
    ) -> None:
        self.label = inner.label
        self.names: Sequence[str] = inner.names
        self._inner = inner
        self._kept = kept
        self._boot_ns = boot_ns
        self._now = monotonic_ns
        self._call_after = call_after
        self._rebind = rebind
        self._is_unclaimed = is_unclaimed
        self.not_started: frozenset[int] = frozenset()
        """Outputs that do not become 1 because a force ends: rules have conditions for them"""
        self.ask_rules: Admit | None = None
        self.waiting: Callable[[int], int | None] = lambda _offset: None
        """The level that a rule will give a line later"""
        self._ended = ended
        self.levels: dict[int, int] = {}
        """Of each line that is forced"""
        self._wanted: dict[int, int] = {}
        """What holders of forced outputs have set them to meanwhile"""
        self._held: set[int] = set()
        self._edges: dict[int, LineSettings] = {}
        """Settings of inputs that are watched for edges"""
        self._cancels: dict[int, Cancel] = {}
        for offset in range(len(inner.names)):
            level, until_ns = kept.force(offset)
            if level is not None:
                self.levels[offset] = level
                self._set_timer(offset, until_ns)

    def attach(self, edge: PhysicalEdge, presence: PresenceSink) -> None:
        self._edge = edge

        def on_presence(offset: int, there: bool) -> None:
            if not there and self._inner.is_output(offset):
                self.drop_output(offset)
            presence(offset, there)

        self._inner.attach(self._on_edge, on_presence)

    def _on_edge(self, offset: int, rising: bool, timestamp_ns: int, lost: int = 0, /) -> None:
        if offset not in self.levels:
            self._edge(offset, rising, timestamp_ns, lost)

    def is_output(self, offset: int) -> bool:
        return self._inner.is_output(offset)

    def request(self, offset: int, holder: Holder) -> None:
        self._held.add(offset)
        self._inner.request(offset, holder)

    def configure(self, offset: int, settings: LineSettings) -> None:
        wanted = settings.output_value
        self._inner.configure(offset, settings := self._forced(offset, settings))
        if offset in self.levels and settings.direction is Direction.OUTPUT:
            self._wanted[offset] = wanted
        if settings.edge:
            self._edges[offset] = settings
        else:
            self._edges.pop(offset, None)

    def _forced(self, offset: int, settings: LineSettings) -> LineSettings:
        """What a line is configured to, whatever its holder wants."""
        if offset in self.levels and settings.direction is Direction.OUTPUT:
            return settings._replace(output_value=self.levels[offset])
        return settings

    def admit(self, wanted: Mapping[int, LineSettings], holder: Holder) -> None:
        """Ask the rules about what lines will be configured to."""
        if self.ask_rules is not None:
            self.ask_rules({o: self._forced(o, settings) for o, settings in wanted.items()}, holder)

    def free(self, offset: int) -> None:
        """The force of an output ends with its holder."""
        self._held.discard(offset)
        self._edges.pop(offset, None)
        try:
            self._inner.free(offset)
        finally:
            if offset in self.levels and self._inner.is_output(offset):
                self._drop(offset)
                self._ended(offset)

    def bind(self, offsets: Sequence[int]) -> Values:
        values = self._inner.bind(offsets)
        return values if self.levels.keys().isdisjoint(offsets) else _ForcedValues(self, offsets, values)

    def catch_up(self) -> None:
        self._inner.catch_up()

    def seems(self, offset: int) -> int | None:
        """The level that a forced input has for its holder."""
        level = self.levels.get(offset)
        return None if level is None or self._inner.is_output(offset) else level

    def keep_wanted(self, offset: int, level: int) -> None:
        """Keep what a holder sets a forced output to."""
        self._wanted[offset] = level

    # the operator's side

    def force(self, offset: int, level: int, until_ns: int, drives: bool) -> None:
        """Force a line until then; one that nobody holds is driven if `drives`, or it is an output already.

        NotPermittedError if a rule does not allow an output that level.
        """
        if self._inner.is_output(offset) or (drives and offset not in self._held):
            values = self._inner.bind([offset])
            wanted = self.waiting(offset)
            wanted = values.get(1) if wanted is None else wanted
            if self._inner.is_output(offset):
                values.set(1, level)
            else:
                self._inner.configure(offset, LineSettings(Direction.OUTPUT, output_value=level))
            self._wanted.setdefault(offset, wanted)
            was = level
        else:
            was = self.levels.get(offset, self._inner.bind([offset]).get(1))
        self.levels[offset] = level
        self._kept.set_force(offset, level, until_ns)
        self._set_timer(offset, until_ns)
        self._rebind()
        self._tell_edge(offset, was, level)

    def clear(self, offset: int) -> bool:
        """Let a line be what its holder wants, or what it is; False if it is not forced."""
        if offset not in self.levels:
            return False
        was = self.levels[offset]
        wanted = self._drop(offset)
        with suppress(GpiovirtError):  # a rule says no, or the line is gone: it stays as it is
            if not self._inner.is_output(offset):
                self._tell_edge(offset, was, self._inner.bind([offset]).get(1))
                return True
            starts = wanted == 1 and was == 0 and offset in self.not_started
            if wanted is not None and not starts:
                self._inner.bind([offset]).set(1, wanted)
            if offset not in self._held and not self._is_unclaimed(offset):
                self._inner.free(offset)
        return True

    def drop_output(self, offset: int) -> None:
        """An output is made safe, by a rule, or since it is gone: that ends its force."""
        if offset in self.levels:
            self._drop(offset)
            self._ended(offset)

    def _drop(self, offset: int) -> int | None:
        del self.levels[offset]
        self._kept.set_force(offset, None, FOR_EVER)
        if offset in self._cancels:
            self._cancels.pop(offset)()
        self._rebind()
        return self._wanted.pop(offset, None)

    def _set_timer(self, offset: int, until_ns: int) -> None:
        if offset in self._cancels:
            self._cancels.pop(offset)()
        if until_ns != FOR_EVER:
            left_ns = max(until_ns - self._boot_ns(), 0)
            self._cancels[offset] = self._call_after(left_ns, lambda: self._on_end(offset))

    def _on_end(self, offset: int) -> None:
        if self.clear(offset):
            self._ended(offset)

    def _tell_edge(self, offset: int, was: int, level: int) -> None:
        """An input seems to change: whoever watches it for such edges sees one."""
        settings = self._edges.get(offset)
        edge = Edge.RISING if level else Edge.FALLING
        if settings is not None and was != level and settings.edge & edge:
            self._edge(offset, bool(level), self._now(settings.event_clock))
