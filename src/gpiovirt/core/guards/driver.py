# SPDX-License-Identifier: MIT
"""A Driver that asks rules before a line changes, and makes lines safe when rules say so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple, Protocol

from gpiovirt.core.chip import PresenceSink
from gpiovirt.core.deadline import Cancel
from gpiovirt.core.gpiolib import Driver, PhysicalEdge, Values
from gpiovirt.core.guards.direction import KeepsDirection
from gpiovirt.core.guards.lines import KeptLines, Level, Lines
from gpiovirt.core.guards.rule import Change, RefusedChangeError, Rule
from gpiovirt.core.guards.watchdog import Watchdog
from gpiovirt.core.holder import Holder
from gpiovirt.core.line import Bias, Direction, Drive, Edge, LineSettings
from gpiovirt.errors import GpiovirtError

__all__ = ["Happened", "Happening", "RuleState", "RuledDriver", "SafeDriver"]

_ROUNDS = 8  # of rules that add to a change: each adds a line at most once


class SafeDriver(Driver, Protocol):
    """A driver that has safe states for lines."""

    def take_safe(self, offset: int) -> bool:
        """Put a line into its safe state, held or not; False if it has none, or is gone."""

    def is_unclaimed(self, offset: int) -> bool:
        """Whether its holder, whom a former process served, has not come back for a line so far."""

    def safe_level(self, offset: int) -> Level:
        """The level that a line has in its safe state; None if it is an input then."""

    def has_safe(self, offset: int) -> bool:
        """Whether a line has a safe state."""


class Happened(StrEnum):
    """What a rule has done."""

    REFUSED = "refused"
    TRIPPED = "tripped"
    REARMED = "rearmed"


class Happening(NamedTuple):
    """It was `rule`, by number, about a line and its holder, if any."""

    what: Happened
    rule: int
    offset: int
    holder: Holder | None
    why: str


class RuleState(NamedTuple):
    """A rule in words, what it has done so far, and whether it has tripped and still holds lines down."""

    text: str
    refused: int
    trips: int
    tripped: bool


class _RuledValues:
    __slots__ = ("_driver", "_lines", "_mask", "_set_one", "_single", "_values")

    def __init__(self, driver: RuledDriver, offsets: Sequence[int], values: Values) -> None:
        self._driver = driver
        self._set_one = driver.set_one
        self._values = values
        self._lines = [(1 << i, offset) for i, offset in enumerate(offsets) if offset in driver.ruled]
        self._single = dict(self._lines)
        self._mask = sum(self._single)

    def get(self, mask: int) -> int:
        return self._values.get(mask)

    def set(self, mask: int, bits: int) -> None:
        if mask in self._single:
            self._set_one(self._single[mask], 1 if bits & mask else 0)
            return
        if mask & self._mask:
            self._driver.set({offset: int(bits & bit != 0) for bit, offset in self._lines if mask & bit})
            mask &= ~self._mask
        if mask:
            self._values.set(mask, bits & mask)


class _Judges:
    """The rules that have a say when a line is to have a level."""

    __slots__ = ("are_idle", "look")

    def __init__(self, rules: Sequence[Rule], offset: int, level: int) -> None:
        found = [rule for rule in rules if offset in rule.offsets and level in rule.judges_levels]
        self.are_idle = tuple(rule.is_idle for rule in found)
        self.look = any(rule.senses for rule in found)
        """Whether one of them needs the levels of inputs"""


class RuledDriver:
    """`inner` under `rules`.

    `boot_ns` is the time on CLOCK_BOOTTIME, `call_after` calls back after so many ns. `tell` is called with
    what rules do.
    """

    def __init__(
        self,
        inner: SafeDriver,
        rules: Sequence[Rule],
        kept: KeptLines,
        boot_ns: Callable[[], int],
        call_after: Callable[[int, Callable[[], object]], Cancel],
        tell: Callable[[Happening], object] = lambda _happening: None,
    ) -> None:
        self.label = inner.label
        self.names: Sequence[str] = inner.names
        self.ruled: frozenset[int] = frozenset().union(*(rule.offsets | rule.senses for rule in rules))
        self._inner = inner
        self._rules = rules
        self._lines = Lines(kept, len(inner.names))
        self._boot_ns = boot_ns
        self._call_after = call_after
        self._tell = tell
        self._counts = [[0, 0] for _ in rules]
        self._down: dict[int, int] = {}
        """By line, the rule that has made it safe under its holder"""
        self._as_input: set[int] = set()
        """Lines whose safe state is to be an input, until they are driven again"""
        self._holders: dict[int, Holder] = {}
        self._settings: dict[int, LineSettings] = {}
        self._asked_edges: dict[int, Edge] = {}
        self._claims: frozenset[int] = frozenset()
        """Lines whose holders are coming back for them: they are as they are"""
        self._pending: dict[int, tuple[Level, int]] = {}
        self._values: dict[int, Values] = {}
        self._cancel: Cancel | None = None
        self.made_safe: Callable[[int], object] = lambda _offset: None
        """Called with each line that a rule has made safe"""
        self.fixed: Collection[int] = ()
        """Lines that somebody above has said the level of"""
        self._senses = frozenset().union(*(rule.senses for rule in rules))
        self._reactive = [(number, rule) for number, rule in enumerate(rules) if rule.makes_victims]
        self._watchdog = next((rule for rule in rules if isinstance(rule, Watchdog)), None)
        self._beats_at = -1 if self._watchdog is None else self._watchdog.offset
        self._judges = [{offset: _Judges(rules, offset, level) for offset in self.ruled} for level in (0, 1)]
        """Of each line, what judges a value of 0, and of 1"""
        self._conditions = frozenset().union(*(rule.conditions for rule in rules))
        self._concerns = self._conditions | {self._beats_at}
        """Lines whose changes have consequences"""
        self._catch_up = inner.catch_up
        self._inputs = frozenset().union(*(rule.inputs for rule in rules if isinstance(rule, KeepsDirection)))
        self.dependents = frozenset().union(*(rule.dependents for rule in rules))
        self._plain = (
            frozenset()
            .union(*(rule.offsets for rule in rules if not isinstance(rule, KeepsDirection | Watchdog)))
            .difference(self._senses)
        )
        self._beat_ns = kept.beat_ns
        self._watches = False

    def attach(self, edge: PhysicalEdge, presence: PresenceSink) -> None:
        self._edge = edge
        self._presence = presence
        self._inner.attach(self._on_edge if self._senses else edge, self._on_presence)
        self.look()
        if self._watchdog is not None and self._is_watched():  # by whom a former process served
            self._watches = True
            age_ns = max(self._boot_ns() - self._beat_ns[0], 0)
            self._call_after(max(self._watchdog.timeout_ns - age_ns, 0), self._on_timeout)

    def look(self) -> None:
        """Find out how lines are that nobody holds: they have changed without us."""
        for offset in self.ruled - self._holders.keys():
            self._meet(offset)
        self._react()

    def _meet(self, offset: int) -> None:
        """A line is as it is, whoever has made it so; one that is never driven is not."""
        try:
            if offset in self._senses:
                self._sense(
                    offset, LineSettings(Direction.INPUT, edge=self._asked_edges.get(offset, Edge.NONE))
                )
                return
            if offset in self._inputs and self._inner.is_output(offset):
                self._inner.configure(offset, LineSettings(Direction.INPUT))
        except GpiovirtError:
            self._lines.levels[offset] = None
            return
        self._know(offset)

    def _know(self, offset: int) -> None:
        """Find out what a line is driven to: it may have failed to become what it should."""
        level: Level = None
        with suppress(GpiovirtError):
            level = self._value_of(offset) if self._inner.is_output(offset) else None
        self._lines.meet(offset, level, self._boot_ns())

    def _sense(self, offset: int, settings: LineSettings) -> None:
        """Configure an input whose level has to be known: consumers cannot change how it is read."""
        self._asked_edges[offset] = settings.edge
        self._lines.levels[offset] = None
        self._inner.configure(
            offset, settings._replace(edge=Edge.BOTH, bias=Bias.AS_IS, debounce_period_us=0)
        )
        self._lines.levels[offset] = self._value_of(offset)

    def _value_of(self, offset: int) -> int:
        return self._bound(offset).get(1)

    def _bound(self, offset: int) -> Values:
        if offset not in self._values:
            self._values[offset] = self._inner.bind([offset])
        return self._values[offset]

    # the driver's port

    def is_output(self, offset: int) -> bool:
        if offset in self._as_input:
            return True  # its holder has it as one
        return self._inner.is_output(offset)

    def request(self, offset: int, holder: Holder) -> None:
        self._holders[offset] = holder
        self._inner.request(offset, holder)
        self._watch()

    def admit(self, wanted: Mapping[int, LineSettings], holder: Holder) -> None:
        """Ask whether lines may be configured so, one after the other, and make those 0 first that will be.

        RefusedChangeError, and then nothing has changed.
        """
        self._claims = frozenset(filter(self._inner.is_unclaimed, wanted))
        asked = {
            offset: settings
            for offset, settings in wanted.items()
            if offset in self.ruled and offset not in self._claims
        }
        if not asked:
            return
        for offset, settings in asked.items():
            self._check_plain(offset, settings, holder)
        levels = {offset: _level(settings) for offset, settings in asked.items()}
        if len(levels) == 1 and self._is_plainly_allowed(*next(iter(levels.items()))):
            return
        falls = [o for o, level in levels.items() if level != 1 and self._lines.levels[o] == 1]
        rehearsal = self._lines.copy() if len(levels) > 1 else self._lines
        tripped = rehearsal.tripped[0]
        if tripped and self._watchdog is not None and self._watchdog.by_consumer:
            beat = levels.get(self._watchdog.offset)
            tripped = beat is None or beat == self._lines.levels[self._watchdog.offset]
        high = frozenset(offset for offset, level in levels.items() if level == 1)  # none for another's sake
        fallen = []
        change: Change | None = None
        for offset in sorted(levels, key=lambda offset: offset not in falls):
            if change is not None:
                for other, level in change.levels.items():
                    rehearsal.note(other, level, change.now_ns)
            change = self._judged({offset: levels[offset]}, holder, rehearsal, bool(tripped), high)
            if offset in falls and offset in change.levels:
                fallen.append(offset)
        if self._lines.tripped[0] and not tripped:
            self.rearm()
        for offset in fallen:
            if offset not in self._senses:
                self._drive(offset, 0)

    def _check_plain(self, offset: int, settings: LineSettings, holder: Holder | None) -> None:
        """A bias or drive could make a line high that is not driven high: they are the definition's."""
        is_watched = (
            self._watchdog is not None and self._lines.tripped[0] and offset in self._watchdog.outputs
        )
        if offset not in self._plain and not is_watched:
            return
        if settings.bias in (Bias.PULL_UP, Bias.PULL_DOWN) or settings.drive is not Drive.PUSH_PULL:
            rule = next(rule for rule in self._rules if offset in rule.offsets)
            error = RefusedChangeError(
                rule,
                offset,
                "its bias and drive are those that the chip's definition says, since it has rules",
            )
            self._tell_refused(error, holder)
            raise error

    def configure(self, offset: int, settings: LineSettings) -> None:
        if offset not in self.ruled:
            self._inner.configure(offset, settings)
            self._watch()
            return
        wanted = _level(settings)
        if offset in self._claims and wanted is not None and offset not in self._senses:
            self._claim(offset, settings)
            return
        holder = self._holders.get(offset)
        self._check_plain(offset, settings, holder)
        change = self._judged({offset: wanted}, holder)
        if offset in self._senses:
            self._sense(offset, settings)
            self._react()
            return
        for other, level in change.levels.items():
            if other != offset:
                self._drive(other, level)
        self._settings[offset] = settings
        self._pending.pop(offset, None)
        self._postpone(change)
        level = wanted
        if offset in change.postponed:
            level = self._lines.levels[offset] or 0
            settings = settings._replace(direction=Direction.OUTPUT, output_value=level)
        beats = self._is_beat(offset, level)
        self._foresee(offset, level)
        if level == 1:
            self._lines.note(offset, 1, self._boot_ns())
        try:
            self._inner.configure(offset, settings)
        except GpiovirtError:
            self._know(offset)
            raise
        self._lines.note(offset, level, self._boot_ns())
        self._up(offset)
        if beats:
            self._beat()
        self._react()
        self._watch()

    def _foresee(self, offset: int, level: Level) -> None:
        """What may not be 1 any more when a line changes so is made safe before it does."""
        if offset in self._conditions:
            was, self._lines.levels[offset] = self._lines.levels[offset], level
            self._react()
            self._lines.levels[offset] = was

    def _claim(self, offset: int, settings: LineSettings) -> None:
        """An output has its holder again, and the level that it has, unless that was told to be 0."""
        level = self._lines.levels[offset]
        self._settings[offset] = settings
        if level is None:
            self._as_input.add(offset)
        else:
            self._inner.configure(offset, settings._replace(output_value=level))
            if level == 1 and not settings.output_value:
                self.set({offset: 0})
        self._watch()

    def free(self, offset: int) -> None:
        self._holders.pop(offset, None)
        self._settings.pop(offset, None)
        if offset in self._pending and self._pending[offset][0] == 1:
            del self._pending[offset]  # but what was told to be 0 will be
        self._up(offset)
        try:
            self._inner.free(offset)
        finally:
            if offset in self.ruled:
                self._settle(offset)
                self._react()
            self._watch()

    def _settle(self, offset: int) -> None:
        """A line has nobody who drives it: it is safe, or as it was."""
        if offset in self._senses:
            with suppress(GpiovirtError):
                self._sense(offset, LineSettings(Direction.INPUT))
        elif self._inner.has_safe(offset):
            self._lines.note(offset, self._inner.safe_level(offset), self._boot_ns())
        elif not self._inner.is_output(offset):
            self._lines.note(offset, None, self._boot_ns())

    def bind(self, offsets: Sequence[int]) -> Values:
        values = self._inner.bind(offsets)
        return values if self.ruled.isdisjoint(offsets) else _RuledValues(self, offsets, values)

    def set(self, levels: Mapping[int, Level]) -> None:
        """Drive ruled lines of one holder, falls first; RefusedChangeError, and nothing has changed."""
        lines = self._lines
        for offset, level in levels.items():
            if level != lines.levels[offset] or offset in self._pending:
                break
        else:
            return
        change = self._judged(levels, self._holders.get(next(iter(levels))))
        for offset in levels:
            self._pending.pop(offset, None)  # the last word counts
        self._postpone(change)
        self._make(change.levels)

    def set_one(self, offset: int, level: int) -> None:
        """The same, for one line: what a program does all the time, and rules mostly have no say in."""
        lines = self._lines
        was = lines.levels[offset]
        if was == level and not self._pending:
            return
        if (
            was is None
            or self._pending
            or self._down
            or self._as_input
            or lines.tripped[0]
            or offset in self._concerns
        ):
            self.set({offset: level})
            return
        judges = self._judges[level][offset]  # as _have_no_say(), whose call alone costs a hundredth of a set
        if judges.look:
            self._catch_up()
        now_ns = self._boot_ns()
        for is_idle in judges.are_idle:
            if not is_idle(lines, offset, level, now_ns):
                self.set({offset: level})
                return
        values = self._values.get(offset) or self._bound(offset)
        try:
            if level:  # whatever becomes of us meanwhile, it is not taken for 0
                lines.rise(offset, now_ns)
                values.set(1, 1)
            else:
                values.set(1, 0)
                lines.fall(offset, now_ns)
        except GpiovirtError:
            self._know(offset)
            raise

    def _make(self, levels: Mapping[int, Level]) -> None:
        lines = self._lines
        changed = [(offset, level) for offset, level in levels.items() if level != lines.levels[offset]]
        if len(changed) > 1:  # falls before rises, and what depends on others first down and last up
            changed.sort(key=lambda each: (each[1] == 1, (each[0] in self.dependents) == (each[1] == 1)))
        for offset, level in changed:
            self._foresee(offset, level)
            self._drive(offset, level)
            if offset == self._beats_at and level is not None:
                self._beat()
        if changed and not self._conditions.isdisjoint(levels):
            self._react()

    def _drive(self, offset: int, level: Level) -> None:
        try:
            if level == 1:  # whatever becomes of us meanwhile, it is not taken for 0
                self._lines.note(offset, 1, self._boot_ns())
            if level is None or offset in self._as_input:
                settings = self._settings.get(offset, LineSettings(Direction.OUTPUT))
                self._inner.configure(offset, settings._replace(output_value=level or 0))
            else:
                self._bound(offset).set(1, level)
        except GpiovirtError:
            self._know(offset)
            raise
        if level != 1:
            self._lines.note(offset, level, self._boot_ns())
        if self._down or self._as_input:
            self._up(offset)

    # judging

    def _judged(
        self,
        levels: Mapping[int, Level],
        holder: Holder | None,
        lines: Lines | None = None,
        has_tripped: bool = True,
        high: frozenset[int] = frozenset(),
    ) -> Change:
        """The change that is left after all rules that are about the lines have judged it.

        As if lines were as `lines` say, and, unless `has_tripped`, the watchdog had not. Lines of `high` are
        switched off for no other.
        """
        change = Change(
            lines or self._lines,
            dict(levels),
            holder,
            self._holders,
            self._pending,
            self._boot_ns(),
            high.union(self.fixed) if high else self.fixed,
        )
        if len(levels) == 1 and not self._pending and not change.lines.tripped[0]:
            ((offset, level),) = levels.items()
            if level is not None and self._have_no_say(change.lines, offset, level, change.now_ns):
                return change
        rules = [
            rule
            for rule in self._rules
            if not rule.offsets.isdisjoint(levels) and (has_tripped or rule is not self._watchdog)
        ]
        try:
            for rule in rules:
                if rule.senses:
                    self._inner.catch_up()
                rule.judge(change)
            rounds = _ROUNDS
            while change.was_added and rounds:
                change.was_added = False
                rounds -= 1
                for rule in self._rules:
                    if not rule.offsets.isdisjoint(change.levels):
                        rule.judge(change)
        except RefusedChangeError as error:
            self._tell_refused(error, holder)
            raise
        return change

    def _is_plainly_allowed(self, offset: int, level: Level) -> bool:
        """Whether one line may surely be configured so, and nothing has to be done before."""
        lines = self._lines
        if level is None or self._pending or lines.tripped[0] or (not level and lines.levels[offset] == 1):
            return False
        return self._have_no_say(lines, offset, level, self._boot_ns())

    def _have_no_say(self, lines: Lines, offset: int, level: int, now_ns: int) -> bool:
        """Whether all rules surely let one line have a level, while nothing is postponed or has tripped."""
        judges = self._judges[level][offset]
        if judges.look:
            self._catch_up()
        for is_idle in judges.are_idle:  # noqa: SIM110 (all() takes twice as long)
            if not is_idle(lines, offset, level, now_ns):
                return False
        return True

    def _tell_refused(self, error: RefusedChangeError, holder: Holder | None) -> None:
        number, offset = self._rules.index(error.rule), error.offset
        self._counts[number][0] += 1
        self._tell(Happening(Happened.REFUSED, number, offset, holder, str(error)))
        name = f" ({self.names[offset]})" if self.names[offset] else ""
        error.args = (f"line {self.label}:{offset}{name}: {error}",)

    def _refresh(self, offsets: Iterable[int]) -> None:
        """Edges were lost: an input is what it is now."""
        for offset in offsets:
            try:
                self._lines.levels[offset] = self._value_of(offset)
            except GpiovirtError:
                self._lines.levels[offset] = None

    def catch_up(self) -> None:
        self._inner.catch_up()

    def waiting(self, offset: int) -> Level:
        """The level that a line will have later; None if it will not change."""
        return self._pending[offset][0] if offset in self._pending else None

    # later

    def _postpone(self, change: Change) -> None:
        for offset in change.given_up:
            self._pending.pop(offset, None)
        if change.postponed:
            self._pending.update(change.postponed)
            self._set_timer()

    def _set_timer(self) -> None:
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        if self._pending:
            first_ns = min(at_ns for _, at_ns in self._pending.values())
            self._cancel = self._call_after(max(first_ns - self._boot_ns(), 0), self._on_due)

    def _on_due(self) -> None:
        self._cancel = None
        now_ns = self._boot_ns()
        due = {offset: level for offset, (level, at_ns) in self._pending.items() if at_ns <= now_ns}
        for offset in due:
            del self._pending[offset]
        try:
            for offset, level in sorted(due.items(), key=lambda each: each[1] == 1):
                with suppress(GpiovirtError):  # it has been told, and comes to nothing
                    change = self._judged({offset: level}, self._holders.get(offset))
                    self._postpone(change)
                    self._make(change.levels)
        finally:
            self._set_timer()

    # tripping

    def _on_edge(self, offset: int, rising: bool, timestamp_ns: int, lost: int = 0, /) -> None:
        if offset in self._senses:
            self._lines.levels[offset] = int(rising)
            if self._watchdog is not None and offset == self._watchdog.offset:
                self._beat()
            self._react()
            if lost:
                self._refresh([offset])
                self._react()
            if not self._asked_edges[offset] & (Edge.RISING if rising else Edge.FALLING):
                return
        self._edge(offset, rising, timestamp_ns, lost)

    def _on_presence(self, offset: int, there: bool) -> None:
        if offset in self.ruled:
            self._values.pop(offset, None)
            if there:
                self._meet(offset)
            elif offset in self._senses:
                self._lines.levels[offset] = None
            else:
                self._lines.note(offset, None, self._boot_ns())
            self._react()
        self._presence(offset, there)

    def _react(self) -> None:
        """Make safe whatever may not go on as it is; that may be so of more lines then."""
        again = True
        while again:
            again = False
            for number, rule in self._reactive:
                for offset in rule.victims(self._lines):
                    again = True
                    self._trip(number, offset)

    def _trip(self, number: int, offset: int) -> None:
        self._pending.pop(offset, None)
        self._counts[number][1] += 1
        self._make_safe(number, offset)
        rule = self._rules[number]
        self._tell(Happening(Happened.TRIPPED, number, offset, self._holders.get(offset), rule.text))

    def _make_safe(self, number: int, offset: int) -> None:
        self._take_safe(number, offset)
        self.made_safe(offset)

    def _take_safe(self, number: int, offset: int) -> None:
        if self._inner.take_safe(offset):
            level = self._inner.safe_level(offset)
            self._lines.note(offset, level, self._boot_ns())
            if offset in self._holders:
                self._down[offset] = number
                if level is None:
                    self._as_input.add(offset)
            return
        level = None
        if not self._inner.has_safe(offset):
            with suppress(GpiovirtError):
                self._bound(offset).set(1, 0)
                level = 0
        self._lines.note(offset, level, self._boot_ns())

    def _up(self, offset: int) -> None:
        self._down.pop(offset, None)
        self._as_input.discard(offset)

    # the watchdog

    def _is_beat(self, offset: int, level: Level) -> bool:
        watchdog = self._watchdog
        return (
            watchdog is not None
            and offset == watchdog.offset
            and level is not None
            and level != self._lines.levels[offset]
        )

    def _beat(self) -> None:
        self._beat_ns[0] = self._boot_ns()
        if self._lines.tripped[0] and self._watchdog is not None and self._watchdog.by_consumer:
            self.rearm()

    def rearm(self) -> bool:
        """Allow outputs again, which stay as they are until they are set; False if nothing has tripped."""
        if self._watchdog is None or not self._lines.tripped[0]:
            return False
        self._lines.tripped[0] = 0
        number = self._rules.index(self._watchdog)
        for offset in [offset for offset, by in self._down.items() if by == number]:
            del self._down[offset]
        self._tell(Happening(Happened.REARMED, number, self._watchdog.offset, None, self._watchdog.text))
        self._watches = False
        self._watch()
        return True

    def _watch(self) -> None:
        """Begin to wait for the next toggle, if outputs are held and nobody waits yet."""
        if self._watchdog is not None and not self._watches and self._is_watched():
            self._watches = True
            self._beat_ns[0] = self._boot_ns()
            self._call_after(self._watchdog.timeout_ns, self._on_timeout)

    def _is_watched(self) -> bool:
        """Whether there are outputs that somebody answers for."""
        assert self._watchdog is not None
        return any(map(self._is_driven, self._watchdog.outputs))

    def _is_driven(self, offset: int) -> bool:
        """Whether somebody has it as an output, or will come back for it."""
        is_held = offset in self._holders or self._inner.is_unclaimed(offset)
        return is_held and self.is_output(offset)

    def _on_timeout(self) -> None:
        watchdog = self._watchdog
        assert watchdog is not None
        if not self._is_watched():
            self._watches = False
            return
        self._inner.catch_up()  # it may have toggled while we were held up
        late_ns = self._boot_ns() - self._beat_ns[0] - watchdog.timeout_ns
        if late_ns < 0:
            self._call_after(-late_ns, self._on_timeout)
            return
        self._watches = False
        if self._lines.tripped[0]:
            return
        self._lines.tripped[0] = 1
        number = self._rules.index(watchdog)
        self._counts[number][1] += 1
        self._pending.clear()
        for offset in sorted(watchdog.outputs):
            if self._is_driven(offset) and self._inner.has_safe(offset):
                self._make_safe(number, offset)
        self._tell(
            Happening(
                Happened.TRIPPED, number, watchdog.offset, self._holders.get(watchdog.offset), watchdog.text
            )
        )
        self._react()

    def states(self) -> list[RuleState]:
        """Each rule, in order."""
        tripped = bool(self._lines.tripped[0])
        down = set(self._down.values())
        return [
            RuleState(rule.text, refused, trips, number in down or (tripped and rule is self._watchdog))
            for number, (rule, (refused, trips)) in enumerate(zip(self._rules, self._counts, strict=True))
        ]


def _level(settings: LineSettings) -> Level:
    return settings.output_value if settings.direction is Direction.OUTPUT else None
