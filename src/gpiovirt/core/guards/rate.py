# SPDX-License-Identifier: MIT
"""A line becomes 1 at most so often: sooner than that is refused."""

from collections.abc import Container

from gpiovirt.core.guards.lines import Lines
from gpiovirt.core.guards.rule import Change, RefusedChangeError, Rule

__all__ = ["RateLimit"]


class RateLimit(Rule):
    """One line, at most `max_rate_hz` times a second. To become 0 is always allowed."""

    judges_levels: Container[int] = (1,)

    def __init__(self, offset: int, name: str, max_rate_hz: float) -> None:
        self.offsets = frozenset([offset])
        self._offset = offset
        self._period_ns = int(1e9 / max_rate_hz)
        self.text = f"{name} is switched on at most {max_rate_hz:g} times a second"

    def judge(self, change: Change) -> None:
        last_ns = change.lines.on_ns[self._offset]
        if change.rises(self._offset) and last_ns and change.now_ns < last_ns + self._period_ns:
            ago = (change.now_ns - last_ns) / 1e6
            raise RefusedChangeError(
                self,
                self._offset,
                f"it was switched on {ago:.0f} ms ago, and may not be again yet: {self.text}",
            )

    def is_idle(self, lines: Lines, _offset: int, _level: int, now_ns: int, /) -> bool:
        return now_ns >= lines.on_ns[self._offset] + self._period_ns
