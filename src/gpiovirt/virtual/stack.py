# SPDX-License-Identifier: MIT
"""The chip that consumers see: a virtual chip's lines, with their options, as one Chip.

The same stack serves a program under `run`, a VM of `serve`, and a worker of gpiovirtd.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gpiovirt.core.aggregate import AggregateDriver, SourceLine
from gpiovirt.core.chip import EdgeSink, LineRequest, Now, PresenceSink
from gpiovirt.core.deadline import Cancel, Deadlines
from gpiovirt.core.forced import ForcedDriver
from gpiovirt.core.gpiolib import Driver, GpioChip
from gpiovirt.core.guarded import GuardedDriver
from gpiovirt.core.holder import Holder
from gpiovirt.core.line import PLAIN, Clock, LineOptions, LineSettings
from gpiovirt.core.record import RecordingDriver, RingWriter
from gpiovirt.errors import GpiovirtError, InvalidError, NotPermittedError
from gpiovirt.host.clock import boot_ns
from gpiovirt.sources.line_files import LineFile, LineFilesChip, LineFilesDriver, RequestAnew

if TYPE_CHECKING:
    from gpiovirt.core.guards.driver import Happening, RuledDriver, RuleState
    from gpiovirt.core.guards.rule import Rule
    from gpiovirt.host.reactor import Waits
    from gpiovirt.virtual.memory import KeptMemory

__all__ = ["StackedLine", "VirtualChip"]


class StackedLine(NamedTuple):
    """One line of a virtual chip: a file, a line of a chip in this process, or gone for now (neither)."""

    name: str
    file: LineFile | None = None
    is_output: bool = False
    local: SourceLine | None = None


class _Guarded(GuardedDriver):
    """Tells the record of releases: what a line does without a holder is another entry."""

    record: RecordingDriver | None = None

    def free(self, offset: int) -> None:
        if self.record is not None:
            self.record.released(offset)
        super().free(offset)


class VirtualChip(GpioChip):
    """A chip of `lines`, each with its options.

    `kept` and `on_use` are as of GuardedDriver, `request_anew` of LineFilesDriver, `rules` and `tell` of
    RuledDriver, `on_force_end` of ForcedDriver; rules and forces need `deadlines`. What happens is written to
    `record`.
    """

    def __init__(
        self,
        name: str,
        lines: Sequence[StackedLine],
        now: Now,
        waits: "Waits",
        options: Sequence[LineOptions] = (),
        kept: "KeptMemory | None" = None,
        on_use: Callable[[], object] = lambda: None,
        request_anew: RequestAnew | None = None,
        rules: "Sequence[Rule]" = (),
        deadlines: Deadlines | None = None,
        tell: "Callable[[Happening], object]" = lambda _happening: None,
        on_force_end: Callable[[int], object] = lambda _offset: None,
        record: RingWriter | None = None,
    ) -> None:
        self._request_anew = request_anew
        self._files: LineFilesDriver | LineFilesChip | None = None
        self._places = {offset: offset for offset in range(len(lines))}
        """The index of each line that is a file among the files"""
        self._aggregate: AggregateDriver | None = None
        driver: Driver = self._source(name, lines, now, waits)
        self.record = None if record is None else RecordingDriver(driver, record)
        self._guarded = _Guarded(self.record or driver, options or [PLAIN] * len(lines), kept, on_use)
        self._guarded.record = self.record
        self._ruled: RuledDriver | None = None
        self._tell = tell
        self._on_force_end = on_force_end
        self._forced: ForcedDriver | None = None
        driver = self._guarded
        if rules:
            assert deadlines is not None
            driver = self._ruled = _ruled(self._guarded, rules, kept, deadlines, now, self._on_rule)
        if kept is not None and deadlines is not None:
            call_after = _after(deadlines, now)
            driver = self._forced = ForcedDriver(
                driver,
                kept,
                boot_ns,
                now,
                call_after,
                self.rebind,
                self._force_ended,
                self._guarded.is_unclaimed,
            )
            if self._ruled is not None:
                self._ruled.made_safe = self._forced.drop_output
                self._ruled.fixed = self._forced.levels
                self._forced.not_started = self._ruled.dependents
                self._forced.ask_rules = self._ruled.admit
                self._forced.waiting = self._ruled.waiting
        admit = self._ruled.admit if self._ruled else None
        super().__init__(driver, now, name, self._forced.admit if self._forced and admit else admit)

    def _on_rule(self, happening: "Happening") -> None:
        if (record := self.record) is not None:
            match happening.what.value:
                case "refused":
                    record.refused(happening.offset, NotPermittedError.errno, happening.why, happening.holder)
                case "tripped":
                    record.tripped(happening.offset, happening.why)
                case "rearmed":
                    record.rearmed(happening.offset, happening.why, happening.holder)
        self._tell(happening)

    def _force_ended(self, offset: int) -> None:
        if self.record is not None:
            self.record.forced(offset, None, "its time is over")
        self._on_force_end(offset)

    def request(  # type: ignore[override]
        self,
        offsets: Sequence[int],
        settings: Sequence[LineSettings],
        holder: Holder,
        on_edge: EdgeSink | None = None,
        on_presence: PresenceSink | None = None,
    ) -> LineRequest:
        """As of Chip; a refusal is written down."""
        try:
            return super().request(offsets, settings, holder, on_edge, on_presence)
        except NotPermittedError:  # by a rule, which has told us
            raise
        except GpiovirtError as error:
            if self.record is not None and offsets and max(offsets) < self.info.num_lines:
                self.record.refused(self._first_held(offsets), error.errno, str(error), holder)
            raise

    def _first_held(self, offsets: Sequence[int]) -> int:
        return next((offset for offset in offsets if self.line_info(offset).used), offsets[0])

    def _source(self, name: str, lines: Sequence[StackedLine], now: Now, waits: "Waits") -> Driver:
        files = [offset for offset, line in enumerate(lines) if line.local is None]
        if len(files) == len(lines):
            self._files = LineFilesDriver(name, [line[:3] for line in lines], waits, self._request_anew)
            return self._files
        local = [line.local for line in lines]
        if files:
            # a chip of its own below the aggregate, which knows chips only
            self._places = {offset: place for place, offset in enumerate(files)}
            self._files = held = LineFilesChip(
                name, [lines[offset][:3] for offset in files], now, waits, self._anew_by_place(files)
            )
            local = [line or (held, self._places[offset]) for offset, line in enumerate(local)]
        self._aggregate = AggregateDriver(name, [line for line in local if line is not None])
        return self._aggregate

    def _anew_by_place(self, files: Sequence[int]) -> RequestAnew | None:
        anew = self._request_anew
        return None if anew is None else lambda place: anew(files[place])

    def replace(self, offset: int, file: LineFile | None, is_output: bool = False) -> None:
        """Line `offset`, which is a file, has vanished (None), or is another file from now on."""
        assert self._files is not None
        self._files.replace(self._places[offset], file, is_output)

    @property
    def num_held(self) -> int:
        """How many of its lines have a holder."""
        return self._guarded.num_held

    def make_safe(self, offsets: Iterable[int]) -> None:
        """Put lines that nobody holds, or has forced, into their safe states."""
        self._guarded.make_safe(offset for offset in offsets if offset not in self.forced)
        self._look()

    def _look(self) -> None:
        if self._ruled is not None:
            self._ruled.look()

    @property
    def rules(self) -> "list[RuleState]":
        """What its rules have done."""
        return self._ruled.states() if self._ruled is not None else []

    @property
    def forced(self) -> dict[int, int]:
        """The level of each line that is forced."""
        return self._forced.levels if self._forced is not None else {}

    def levels(self, offsets: Sequence[int]) -> list[int | None]:
        """What lines are, whoever holds them; None for one that cannot be read."""
        try:
            bits = self._driver.bind(offsets).get((1 << len(offsets)) - 1)
        except GpiovirtError:
            return [None] if len(offsets) == 1 else [self.levels([offset])[0] for offset in offsets]
        return [bits >> i & 1 for i in range(len(offsets))]

    def force(self, offset: int, level: int, until_ns: int, drives: bool) -> None:
        """As of ForcedDriver; InvalidError for a chip that keeps nothing."""
        if self._forced is None:
            raise InvalidError(f"lines of {self.info.label} cannot be forced")
        self._forced.force(offset, level, until_ns, drives)
        if self.record is not None:
            self.record.forced(offset, level, "")

    def clear(self, offset: int) -> bool:
        """End the force of a line; False if it has none."""
        was_forced = self._forced is not None and self._forced.clear(offset)
        if was_forced and self.record is not None:
            self.record.forced(offset, None, "")
        return was_forced

    def rearm(self) -> bool:
        """Re-arm its watchdog; False if it has none, or that has not tripped."""
        return self._ruled is not None and self._ruled.rearm()

    def free_unclaimed(self, offsets: Iterable[int] | None = None) -> None:
        """Free those of the lines (None: of all) whose holders have not come back by now."""
        wanted = range(self.info.num_lines) if offsets is None else offsets
        freed = [offset for offset in wanted if self._guarded.is_unclaimed(offset)]
        self._guarded.free_unclaimed(freed)
        for offset in freed:
            if self._forced is not None and self._guarded.is_output(offset):
                self._forced.drop_output(offset)
        self._look()

    def close(self) -> None:
        """Release everything."""
        if self._aggregate is not None:
            self._aggregate.detach()
        if self._files is not None:
            self._files.close()


def _ruled(
    guarded: GuardedDriver,
    rules: Sequence["Rule"],
    kept: "KeptMemory | None",
    deadlines: Deadlines,
    now: Now,
    tell: "Callable[[Happening], object]",
) -> "RuledDriver":
    from gpiovirt.core.guards.driver import RuledDriver  # most chips do without
    from gpiovirt.core.guards.lines import Unkept

    known = kept or Unkept(len(guarded.names))
    return RuledDriver(guarded, rules, known, boot_ns, _after(deadlines, now), tell)


def _after(deadlines: Deadlines, now: Now) -> Callable[[int, Callable[[], object]], Cancel]:
    return lambda delay_ns, callback: deadlines.call_at(now(Clock.MONOTONIC) + delay_ns, callback)
