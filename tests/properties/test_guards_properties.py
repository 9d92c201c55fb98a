# SPDX-License-Identifier: MIT
"""Rules hold whatever consumers and the world do, in whatever order: told by what the lines really did."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from gpiovirt.core.chip import LineRequest
from gpiovirt.core.guards.direction import KeepsDirection
from gpiovirt.core.guards.dwell import Dwells
from gpiovirt.core.guards.lines import Lines, Unkept
from gpiovirt.core.guards.never_both import NeverBoth
from gpiovirt.core.guards.only_while import OnlyWhile
from gpiovirt.core.guards.rate import RateLimit
from gpiovirt.core.guards.rule import Change, Rule
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Direction, LineSettings
from gpiovirt.errors import GpiovirtError, NotPermittedError
from gpiovirt.testing import LevelChange
from tests.rules_rig import MS, Rig

NAMES = ("FWD", "REV", "PUMP", "LAMP", "DOOR")
FWD, REV, PUMP, LAMP, DOOR = range(5)
DEAD_MS, MIN_ON_MS, MIN_OFF_MS, TIMEOUT_MS = 50, 120, 80, 1000

Step = tuple[str, int, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 1), st.integers(0, 255)),
        st.tuples(st.just("request"), st.integers(0, 1), st.integers(0, 255)),
        st.tuples(st.just("release"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("input"), st.integers(0, 1), st.integers(0, 3)),
        st.tuples(st.just("door"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 150), st.just(0)),
    ),
    max_size=60,
)


class World:
    """Two consumers of one chip, and a record of what became of its lines."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.requests: list[LineRequest | None] = [None, None]
        self.holders = [
            Holder("one", HolderKind.PROGRAM, 1, 1000),
            Holder("other", HolderKind.VM, 2, 1001),
        ]
        self.changes: list[LevelChange] = []
        self.forced: set[int] = set()
        """Times at which safe states may have been taken"""
        rig.simulator.observers.append(self.changes.append)

    def do(self, step: Step) -> None:
        what, who, more = step
        if what == "wait":
            self.rig.advance(who)
        elif what == "door":
            self.forced.add(self.rig.clock.ns)
            self.rig.pull("DOOR", who)
        elif what == "release":
            self.release(who)
        elif what == "request":
            self.release(who)
            offsets = [offset for offset in range(4) if more >> offset & 1]
            wanted = [LineSettings(Direction.OUTPUT, output_value=more >> 4 + o & 1) for o in offsets]
            with suppress(GpiovirtError):
                if offsets:
                    self.requests[who] = self.rig.chip.request(offsets, wanted, self.holders[who])
                    self.forced.add(self.rig.clock.ns)
        elif (request := self.requests[who]) is not None:
            with suppress(NotPermittedError):
                if what == "input":
                    self.forced.add(self.rig.clock.ns)
                    request.reconfigure({more % len(request.offsets): LineSettings(Direction.INPUT)})
                else:
                    mask = more & 15 & ((1 << len(request.offsets)) - 1)
                    request.set_values(mask, more >> 4 & mask)

    def release(self, who: int) -> None:
        request, self.requests[who] = self.requests[who], None
        if request is not None:
            self.forced.add(self.rig.clock.ns)
            request.release()


def history(steps: Sequence[Step], rig: Rig) -> World:
    world = World(rig)
    for step in steps:
        world.do(step)
        levels = rig.levels("FWD", "REV", "DOOR")
        assert levels[:2] != [1, 1]
        assert not (levels[0] and levels[2]), "FWD while the door is open"
    return world


def rig_of(policy: str) -> Rig:
    exclusion: dict[str, object] = {"never_both": ["FWD", "REV"]}
    if policy == "break-before-make":
        exclusion |= {"policy": policy, "dead_time_ms": DEAD_MS}
    return Rig(
        {
            "FWD": "safe=low",
            "REV": "safe=low",
            "PUMP": f"safe=low,min-on={MIN_ON_MS}ms,min-off={MIN_OFF_MS}ms",
            "LAMP": "",
            "DOOR": "",
        },
        {"interlock": [exclusion, {"only_while": {"line": "FWD", "is": {"DOOR": 0}}}]},
    )


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_interlocks_hold_at_every_moment(steps: list[Step]) -> None:
    world = history(steps, rig_of("refuse"))
    levels = [0] * len(NAMES)
    for change in world.changes:
        levels[change.offset] = change.level
        assert not (levels[FWD] and levels[REV])


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_times_are_kept_but_for_safe_states(steps: list[Step]) -> None:
    world = history(steps, rig_of("break-before-make"))
    last = {(offset, level): 0 for offset in range(len(NAMES)) for level in (0, 1)}
    levels = [0] * len(NAMES)
    for change in world.changes:
        offset, level, now_ns = change.offset, change.level, change.timestamp_ns
        levels[offset] = level
        assert not (levels[FWD] and levels[REV])
        for one, other in ((FWD, REV), (REV, FWD)):
            if (offset, level) == (one, 1) and last[other, 0]:
                assert now_ns - last[other, 0] >= DEAD_MS * MS
        if offset == PUMP and level == 0 and now_ns not in world.forced:
            assert now_ns - last[PUMP, 1] >= MIN_ON_MS * MS
        if offset == PUMP and level == 1 and last[PUMP, 0]:
            assert now_ns - last[PUMP, 0] >= MIN_OFF_MS * MS
        last[offset, level] = now_ns


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_what_no_rule_forbids_is_done(steps: list[Step]) -> None:
    """A tiny model: FWD needs the door shut and REV low; REV needs FWD low; the lamp does as it is told."""
    rig = rig_of("refuse")
    world = World(rig)
    request = rig.chip.request([FWD, REV, LAMP], [LineSettings(Direction.OUTPUT)] * 3, world.holders[0])
    fwd = rev = lamp = door = 0
    for what, who, more in steps:
        if what == "door":
            door = who
            rig.pull("DOOR", door)
            fwd = 0 if door else fwd
        elif what == "set":
            mask, bits = more & 7, more >> 4 & 7
            wanted = [bits >> i & 1 if mask >> i & 1 else now for i, now in enumerate((fwd, rev, lamp))]
            allowed = not (wanted[0] and wanted[1]) and not (wanted[0] and not fwd and door)
            try:
                request.set_values(mask, bits)
                assert allowed
                fwd, rev, lamp = wanted
            except NotPermittedError:
                assert not allowed
        assert rig.levels("FWD", "REV", "LAMP") == [fwd, rev, lamp]


@st.composite
def judged_alone(draw: st.DrawFn) -> tuple[Rule, Lines, int, int, int]:
    """A rule about lines 0 to 2, how they are, and a change of line 0 that it judges: its level, and when."""
    names = {0: "A", 1: "B", 2: "C"}
    us = st.integers(1, 30)
    rule: Rule = draw(
        st.one_of(
            st.just(KeepsDirection(0, "A", is_output=False)),
            st.builds(Dwells, st.just(0), st.just("A"), us, us),
            st.builds(RateLimit, st.just(0), st.just("A"), st.sampled_from([40_000.0, 90_000.0])),
            st.builds(NeverBoth, st.just(names), st.none() | us),
            st.builds(
                OnlyWhile,
                st.just(0),
                st.dictionaries(st.integers(1, 2), st.integers(0, 1), min_size=1),
                st.just([1]),
                st.just(names),
            ),
        )
    )
    level = draw(st.sampled_from([level for level in (0, 1) if level in rule.judges_levels]))
    kept = Unkept(3)
    past_ns = st.integers(0, 60_000)
    kept.on_ns, kept.off_ns = ([draw(past_ns) for _ in range(3)] for _ in range(2))
    lines = Lines(kept, 3)
    was = draw(st.sampled_from([None, 1 - level]))
    lines.levels = [was, *(draw(st.sampled_from([None, 0, 1])) for _ in range(2))]
    return rule, lines, 0, level, draw(st.integers(60_000, 80_000))


@settings(max_examples=1000, deadline=None)
@given(judged_alone())
def test_what_a_rule_calls_idle_it_lets_be(case: tuple[Rule, Lines, int, int, int]) -> None:
    rule, lines, offset, level, now_ns = case
    change = Change(lines, {offset: level}, None, {}, {}, now_ns)
    if rule.is_idle(lines, offset, level, now_ns):
        rule.judge(change)
        assert (change.levels, change.postponed, change.given_up) == ({offset: level}, {}, set())
