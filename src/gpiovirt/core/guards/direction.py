# SPDX-License-Identifier: MIT
"""A line keeps its direction: an output is never turned, an input never drives."""

from collections.abc import Container

from gpiovirt.core.guards.rule import Change, RefusedChangeError, Rule

__all__ = ["KeepsDirection"]


class KeepsDirection(Rule):
    """Of one line."""

    def __init__(self, offset: int, name: str, is_output: bool) -> None:
        self.offsets = frozenset([offset])
        self._offset = offset
        self._is_output = is_output
        self.judges_levels: Container[int] = () if is_output else (0, 1)
        self.inputs = frozenset() if is_output else self.offsets
        self.text = f"{name} is an {'output' if is_output else 'input'}"

    def judge(self, change: Change) -> None:
        if (change.levels[self._offset] is not None) != self._is_output:
            wrong = "an input" if self._is_output else "driven"
            raise RefusedChangeError(self, self._offset, f"it may not be {wrong}: {self.text}")
