# SPDX-License-Identifier: MIT
"""A Driver around a Driver: what a virtual chip's definition says of its lines holds for every consumer.

It stands where all is physical and per line, so a line changes in three ways: it is configured, set, or
freed. What it must not forget when its process dies is in `held`, memory that somebody else keeps too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from gpiovirt.core.chip import PresenceSink
from gpiovirt.core.gpiolib import Driver, PhysicalEdge, Values
from gpiovirt.core.holder import Holder
from gpiovirt.core.line import PLAIN, Direction, LineOptions, LineSettings
from gpiovirt.errors import GpiovirtError

__all__ = ["GuardedDriver", "Kept"]


class Flags(Protocol):
    """A number for each line."""

    def __getitem__(self, offset: int, /) -> int: ...
    def __setitem__(self, offset: int, value: int, /) -> None: ...
    def __iter__(self) -> Iterator[int]: ...


class Kept(Protocol):
    """What is not to be forgotten when the process dies."""

    @property
    def held(self) -> Flags:
        """1 for each line that has a holder."""

    def set_output(self, offset: int, is_output: bool) -> None:
        """The direction that the line has from now on."""

    def set_holder(self, offset: int, pid: int) -> None:
        """The process that has the line from now on; 0: not known."""


class _Forgotten:
    """For a chip that ends with its process."""

    def __init__(self, num_lines: int) -> None:
        self.held: Flags = bytearray(num_lines)

    def set_output(self, offset: int, is_output: bool) -> None:
        """Nobody will ask."""

    def set_holder(self, offset: int, pid: int) -> None:
        """Nobody will ask."""


class _Inverted:
    """Values of which some have the other polarity."""

    __slots__ = ("_inverted", "_values")

    def __init__(self, values: Values, inverted: int) -> None:
        self._values = values
        self._inverted = inverted

    def get(self, mask: int) -> int:
        return (self._values.get(mask) ^ self._inverted) & mask

    def set(self, mask: int, bits: int) -> None:
        self._values.set(mask, (bits ^ self._inverted) & mask)


class GuardedDriver:
    """Applies `options[i]` to line i of `inner`, and keeps who holds what in `kept`.

    Lines that are held there from the beginning had holders that a former process served: they may come
    back for them until free_unclaimed(). `on_use` is called when the first line gets a holder, and when the
    last one has lost its own.
    """

    def __init__(
        self,
        inner: Driver,
        options: Sequence[LineOptions],
        kept: Kept | None = None,
        on_use: Callable[[], object] = lambda: None,
    ) -> None:
        self.label = inner.label
        self.names: Sequence[str] = [
            option.name or name for option, name in zip(options, inner.names, strict=True)
        ]
        self._inner = inner
        self._options = options
        self._is_plain = [option._replace(name="", safe=None) == PLAIN for option in options]
        """Of each line, whether its consumers' settings stay what they are"""
        self._kept: Kept = kept or _Forgotten(len(options))
        self._held = self._kept.held
        self._on_use = on_use
        self._unclaimed = {offset for offset, is_held in enumerate(self._held) if is_held}
        self.num_held = len(self._unclaimed)

    def attach(self, edge: PhysicalEdge, presence: PresenceSink) -> None:
        """Edges of lines with the other polarity are told the other way round."""
        inverted = frozenset(offset for offset, option in enumerate(self._options) if option.active_low)

        def on_edge(offset: int, rising: bool, timestamp_ns: int, lost: int = 0, /) -> None:
            edge(offset, rising ^ (offset in inverted), timestamp_ns, lost)

        def on_presence(offset: int, there: bool) -> None:
            if there and not self._held[offset]:
                self._make_safe(offset)
            presence(offset, there)

        self._presence = presence
        self._inner.attach(on_edge if inverted else edge, on_presence)

    def is_output(self, offset: int) -> bool:
        return self._inner.is_output(offset)

    def request(self, offset: int, holder: Holder) -> None:
        self._unclaimed.discard(offset)
        self._kept.set_holder(offset, holder.pid)
        if not self._held[offset]:
            self._held[offset] = 1
            self.num_held += 1
            if self.num_held == 1:
                self._on_use()
        self._inner.request(offset, holder)

    def configure(self, offset: int, settings: LineSettings) -> None:
        if not self._is_plain[offset]:
            settings = self._options[offset].applied_to(settings)
        self._configure(offset, settings)

    def _configure(self, offset: int, settings: LineSettings) -> None:
        self._inner.configure(offset, settings)
        self._kept.set_output(offset, settings.direction is Direction.OUTPUT)

    def free(self, offset: int) -> None:
        """The line goes to its safe state; whatever becomes of that, it has no holder."""
        if self._held[offset]:
            self._held[offset] = 0
            self.num_held -= 1
            if not self.num_held:
                self._on_use()
        if self._options[offset].safe is None:
            self._inner.free(offset)
        else:
            self._make_safe(offset)

    def bind(self, offsets: Sequence[int]) -> Values:
        values = self._inner.bind(offsets)
        inverted = sum(1 << i for i, offset in enumerate(offsets) if self._options[offset].active_low)
        return _Inverted(values, inverted) if inverted else values

    def catch_up(self) -> None:
        self._inner.catch_up()

    def make_safe(self, offsets: Iterable[int]) -> None:
        """Put lines that nobody holds into their safe states."""
        for offset in offsets:
            if not self._held[offset] and self._make_safe(offset):
                self._presence(offset, True)

    def is_unclaimed(self, offset: int) -> bool:
        """Whether its holder, whom a former process served, has not come back for a line so far."""
        return offset in self._unclaimed

    def has_safe(self, offset: int) -> bool:
        """Whether a line has a safe state."""
        return self._options[offset].safe is not None

    def safe_level(self, offset: int) -> int | None:
        """The level that a line has in its safe state, here; None if it is an input then."""
        options = self._options[offset]
        if options.safe is None or options.safe.direction is not Direction.OUTPUT:
            return None
        return options.safe.output_value ^ options.active_low

    def take_safe(self, offset: int) -> bool:
        """Put a line into its safe state, held or not; False if it has none, or is gone."""
        return self._make_safe(offset)

    def free_unclaimed(self, offsets: Iterable[int]) -> None:
        """Whoever has not come back for one of these lines by now has lost it."""
        for offset in self._unclaimed.intersection(offsets):
            self._unclaimed.remove(offset)
            self.free(offset)

    def _make_safe(self, offset: int) -> bool:
        safe = self._options[offset].safe
        if safe is not None:
            with suppress(GpiovirtError):  # the line is gone: it is made safe when it is back
                self._configure(offset, safe)
                return True
        return False
