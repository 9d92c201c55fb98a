# SPDX-License-Identifier: MIT
"""What a picture of a line's levels can show of them, from memory; the record answers the same by itself."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, MutableSequence, Sequence
from typing import NamedTuple

__all__ = ["UNKNOWN", "Piece", "Trace", "thin"]

UNKNOWN = 2
"""A level that is not known, where levels are numbers"""


class Piece(NamedTuple):
    """The level from `end_ns` on; changes before that begin at `begin_ns`."""

    begin_ns: int
    end_ns: int
    level: int


class Trace(NamedTuple):
    """A line over time: `levels[i]` from `times_ns[i]` on, in order; UNKNOWN before."""

    times_ns: MutableSequence[int]
    levels: MutableSequence[int]

    def level_at(self, time_ns: int) -> int:
        """The level then."""
        place = bisect_right(self.times_ns, time_ns)
        return self.levels[place - 1] if place else UNKNOWN


def thin(trace: Trace, since_ns: int, until_ns: int, columns: int) -> Iterator[Piece]:
    """At most one piece for each of so many parts of the time; what is alone in its part is as it was."""
    times: Sequence[int] = trace.times_ns
    width_ns = max((until_ns - since_ns) // max(columns, 1), 1)
    place = bisect_left(times, since_ns)
    end = bisect_right(times, until_ns)
    while place < end:
        column = (times[place] - since_ns) // width_ns
        after = min(bisect_left(times, since_ns + (column + 1) * width_ns, place), end)
        yield Piece(times[place], times[after - 1], trace.levels[after - 1])
        place = after
