# SPDX-License-Identifier: MIT
"""A line stays 1, and stays 0, at least so long: an earlier change is made when that time is over."""

from collections.abc import Container

from gpiovirt.core.guards.lines import Lines
from gpiovirt.core.guards.rule import Change, Rule

__all__ = ["Dwells"]


class Dwells(Rule):
    """One line, at least `min_on_us` at 1 and `min_off_us` at 0. A safe state waits for nothing."""

    def __init__(self, offset: int, name: str, min_on_us: int, min_off_us: int) -> None:
        self.offsets = frozenset([offset])
        self._offset = offset
        self.judges_levels: Container[int] = [level for level, us in enumerate((min_on_us, min_off_us)) if us]
        self._min_on_ns = min_on_us * 1000
        self._min_off_ns = min_off_us * 1000
        said = [f"{us / 1000:g} ms {how}" for us, how in ((min_on_us, "on"), (min_off_us, "off")) if us]
        self.text = f"{name} is at least {' and '.join(said)}"

    def judge(self, change: Change) -> None:
        offset, lines = self._offset, change.lines
        if change.falls(offset):
            at_ns = lines.on_ns[offset] + self._min_on_ns if lines.on_ns[offset] else 0
        elif change.rises(offset):
            at_ns = lines.off_ns[offset] + self._min_off_ns if lines.off_ns[offset] else 0
        else:
            return
        if at_ns > change.now_ns:
            change.postpone(offset, at_ns)

    def is_idle(self, lines: Lines, _offset: int, level: int, now_ns: int, /) -> bool:
        if level:
            return now_ns >= lines.off_ns[self._offset] + self._min_off_ns
        return now_ns >= lines.on_ns[self._offset] + self._min_on_ns
