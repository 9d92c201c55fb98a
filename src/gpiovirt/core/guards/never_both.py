# SPDX-License-Identifier: MIT
"""At most one of these lines is 1: another is refused, or the first is switched off some time before."""

from collections.abc import Container, Iterable, Mapping

from gpiovirt.core.guards.lines import Lines
from gpiovirt.core.guards.rule import Change, RefusedChangeError, Rule, joined

__all__ = ["NeverBoth"]


class NeverBoth(Rule):
    """Lines of which one at most is 1.

    With `dead_time_us`, break before make: to ask for one switches the other off, if who asks has it too or
    nobody has, and the one comes on that time after. Without, it is refused while the other is 1.
    """

    judges_levels: Container[int] = (1,)
    makes_victims = True

    def __init__(self, names: Mapping[int, str], dead_time_us: int | None) -> None:
        self.offsets = frozenset(names)
        self._names = names
        self._dead_time_ns = None if dead_time_us is None else dead_time_us * 1000
        what = "both" if len(names) == 2 else "two of"
        self.text = f"never {what} {joined(list(names.values()))}"
        if dead_time_us is not None:
            self.text += f", with {dead_time_us / 1000:g} ms between them"

    def judge(self, change: Change) -> None:
        for offset in self._names:
            if change.rises(offset):
                self._judge_rise(change, offset)

    def _judge_rise(self, change: Change, offset: int) -> None:
        dead_time_ns, lines = self._dead_time_ns, change.lines
        at_ns = 0
        for other in self._names:
            if other == offset:
                continue
            if change.is_to_rise(other):  # the last word counts, but of another's
                if not change.may_break(other):
                    raise RefusedChangeError(
                        self, offset, f"it may not be 1, as {self._names[other]} is about to be: {self.text}"
                    )
                change.give_up(other)
            if change.after(other) == 1:
                if dead_time_ns is None or other in change.levels or not change.may_break(other):
                    raise RefusedChangeError(
                        self, offset, f"it may not be 1 while {self._names[other]} is: {self.text}"
                    )
                if (falls_at_ns := change.falls_at(other)) is None:
                    change.add(other, 0)
                    at_ns = max(at_ns, change.now_ns + dead_time_ns)
                else:
                    at_ns = max(at_ns, falls_at_ns)  # and then it is judged again
            elif dead_time_ns:
                off_ns = change.now_ns if change.falls(other) else lines.off_ns[other]
                at_ns = max(at_ns, off_ns + dead_time_ns if off_ns else 0)
        if at_ns > change.now_ns:
            change.postpone(offset, at_ns)

    def is_idle(self, lines: Lines, offset: int, _level: int, now_ns: int, /) -> bool:
        levels, off_ns, dead_time_ns = lines.levels, lines.off_ns, self._dead_time_ns
        for other in self._names:
            if other != offset and (
                levels[other] == 1 or (dead_time_ns and now_ns < off_ns[other] + dead_time_ns)
            ):
                return False
        return True

    def victims(self, lines: Lines, /) -> Iterable[int]:
        """If more than one is 1, which happened before this rule was there: all."""
        high = [offset for offset in self.offsets if lines.levels[offset] == 1]
        return high if len(high) > 1 else ()
