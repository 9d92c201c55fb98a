# SPDX-License-Identifier: MIT
"""A line is 1 only while others are as they must be: it goes to its safe state as soon as one is not."""

from collections.abc import Container, Iterable, Mapping

from gpiovirt.core.guards.lines import Lines
from gpiovirt.core.guards.rule import Change, RefusedChangeError, Rule, joined

__all__ = ["OnlyWhile"]


class OnlyWhile(Rule):
    """A permissive: line `offset` needs the levels `conditions`, of inputs (`inputs`) or outputs of the chip.

    What was switched off so stays off until somebody switches it on again.
    """

    judges_levels: Container[int] = (1,)
    makes_victims = True

    def __init__(
        self, offset: int, conditions: Mapping[int, int], inputs: Iterable[int], names: Mapping[int, str]
    ) -> None:
        self.senses = frozenset(inputs)
        self.offsets = frozenset([offset]) | (conditions.keys() - self.senses)
        self._offset = offset
        self._conditions = conditions
        self._items = tuple(conditions.items())
        self.conditions = frozenset(conditions)
        self.dependents = frozenset([offset])
        self._names = names
        said = joined([f"{names[other]} is {level}" for other, level in conditions.items()])
        self.text = f"{names[offset]} only while {said}"

    def judge(self, change: Change) -> None:
        if change.rises(self._offset):
            for other, level in self._conditions.items():
                found = change.after(other)
                if found != level:
                    is_so = "not known" if found is None else found
                    raise RefusedChangeError(
                        self,
                        self._offset,
                        f"it may not be 1 while {self._names[other]} is {is_so}: {self.text}",
                    )

    def is_idle(self, lines: Lines, _offset: int, _level: int, _now_ns: int, /) -> bool:
        levels = lines.levels
        for other, level in self._items:  # noqa: SIM110 (all() takes twice as long)
            if levels[other] != level:
                return False
        return True

    def victims(self, lines: Lines, /) -> Iterable[int]:
        if lines.levels[self._offset] == 1:
            for other, level in self._conditions.items():
                if lines.levels[other] != level:
                    return (self._offset,)
        return ()
