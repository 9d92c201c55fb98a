# SPDX-License-Identifier: MIT
"""What a rule is, and the change that it judges."""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping, Sequence

from gpiovirt.core.guards.lines import Level, Lines
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.errors import NotPermittedError

__all__ = ["Change", "RefusedChangeError", "Rule"]


class RefusedChangeError(NotPermittedError):
    """A rule does not allow a change; `offset` is the line that would have changed."""

    def __init__(self, rule: "Rule", offset: int, why: str) -> None:
        super().__init__(why)
        self.rule = rule
        self.offset = offset


class Rule(ABC):
    """One rule, with the offsets of the lines that it is about."""

    text: str
    """What holds, in words"""
    offsets: frozenset[int]
    """Lines whose changes it judges"""
    judges_levels: Container[int]
    """The levels that a line that is an output can be set to only if it says so"""
    senses: frozenset[int] = frozenset()
    """Inputs whose levels have to be known at any time; nobody may drive them"""
    conditions: frozenset[int] = frozenset()
    """Lines whose changes can make victims"""
    dependents: frozenset[int] = frozenset()
    """Lines that are what they are only while others are"""
    makes_victims = False

    @abstractmethod
    def judge(self, change: "Change") -> None:
        """Let it be, refuse it, postpone parts of it, or add what has to happen before."""

    def is_idle(self, _lines: Lines, _offset: int, _level: int, _now_ns: int, /) -> bool:
        """Whether it surely lets a line that it judges have a level, alone, while nothing is postponed.

        In short what judge() would find at length; False where only that can say.
        """
        return False

    def victims(self, _lines: Lines, /) -> Iterable[int]:
        """Lines that are to be made safe, for what is so now."""
        return ()


class Change:
    """What is to become of some lines, in one step: `levels`, from which rules take what is postponed.

    `holder` asks for it, `holders` have the lines that are held, `pending` are levels that lines will
    have later, by what was postponed before. Lines in `fixed` are switched off for nobody.
    """

    __slots__ = (
        "_fixed",
        "_holders",
        "_pending",
        "given_up",
        "holder",
        "levels",
        "lines",
        "now_ns",
        "postponed",
        "was_added",
    )

    def __init__(
        self,
        lines: Lines,
        levels: dict[int, Level],
        holder: Holder | None,
        holders: Mapping[int, Holder],
        pending: Mapping[int, tuple[Level, int]],
        now_ns: int,
        fixed: Container[int] = (),
    ) -> None:
        self.lines = lines
        self.levels = levels
        self.postponed: dict[int, tuple[Level, int]] = {}
        self.given_up: set[int] = set()
        """Lines whose postponed changes are not to come"""
        self.holder = holder
        self.now_ns = now_ns
        self.was_added = False
        self._holders = holders
        self._pending = pending
        self._fixed = fixed

    def after(self, offset: int) -> Level:
        """A line's level after the change."""
        return self.levels[offset] if offset in self.levels else self.lines.levels[offset]

    def rises(self, offset: int) -> bool:
        """Whether a line becomes 1."""
        return self.levels.get(offset) == 1 and self.lines.levels[offset] != 1

    def falls(self, offset: int) -> bool:
        """Whether a line that is 1 will not be."""
        return offset in self.levels and self.levels[offset] != 1 and self.lines.levels[offset] == 1

    def postpone(self, offset: int, at_ns: int) -> None:
        """Not now: it is judged again at `at_ns`."""
        self.postponed[offset] = self.levels.pop(offset), at_ns

    def is_to_rise(self, offset: int) -> bool:
        """Whether a line will become 1, by what was postponed."""
        return offset in self._pending and self._pending[offset][0] == 1

    def give_up(self, offset: int) -> None:
        """That is not to be any more."""
        self.given_up.add(offset)

    def falls_at(self, offset: int) -> int | None:
        """When a line that is 1 will cease to be, by what is postponed; None if it will not."""
        level, at_ns = self.postponed.get(offset) or self._pending.get(offset) or (1, 0)
        return None if level == 1 else at_ns

    def may_break(self, offset: int) -> bool:
        """Whether who asks may have a line switched off: they have it, or nobody has."""
        if offset in self._fixed:
            return False
        other, who = self._holders.get(offset), self.holder
        if other is None or other == who:
            return True
        return who is not None and bool(who.pid) and who.kind is not HolderKind.CHIP and other[1:] == who[1:]

    def add(self, offset: int, level: Level) -> None:
        """Have this, too, in the same step; the rules are asked again."""
        self.levels[offset] = level
        self.was_added = True


def joined(names: Sequence[str]) -> str:
    """`A, B and C`"""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
