# SPDX-License-Identifier: MIT
"""Trains of levels: pulses, a contact that bounces; and what applies one to a line at its times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from gpiovirt.core.deadline import Cancel, Deadlines
from gpiovirt.errors import UsageError

__all__ = ["Train", "bounce", "pulses"]

_STEP_MIN_NS = 10_000  # more often, and nobody else would be served
_LAST_MAX_NS = 3_600_000_000_000
_STEPS_MAX = 1_000_000

Steps = Iterator[tuple[int, int]]
"""(time from the start in ns, level), in order"""


def pulses(idle: int, width_ns: int, times: int = 1, period_ns: int = 0) -> Steps:
    """So many pulses away from the level `idle`, `period_ns` apart (0: twice the width)."""
    period_ns = period_ns or 2 * width_ns
    _check("a pulse takes", width_ns, _STEP_MIN_NS, _LAST_MAX_NS)
    _check("the time from pulse to pulse is", period_ns, width_ns + _STEP_MIN_NS, _LAST_MAX_NS)
    if not 0 < times <= _STEPS_MAX // 2:
        raise UsageError(f"{times} pulses: use 1 to {_STEPS_MAX // 2}")
    _check("all pulses take", times * period_ns, _STEP_MIN_NS, _LAST_MAX_NS)
    starts = (number * period_ns for number in range(times))
    return chain.from_iterable(((start, idle ^ 1), (start + width_ns, idle)) for start in starts)


def bounce(to: int, for_ns: int, every_ns: int = 1_000_000) -> Steps:
    """A contact on its way to the level `to`: it is there at once, and for good after `for_ns`."""
    _check("a level lasts", every_ns, _STEP_MIN_NS, _LAST_MAX_NS)
    _check("bouncing takes", for_ns, every_ns, min(_LAST_MAX_NS, every_ns * _STEPS_MAX))
    changes = ((number * every_ns, to ^ (number & 1)) for number in range(-(-for_ns // every_ns)))
    return chain(changes, [(for_ns, to)])


def _check(what: str, time_ns: int, least_ns: int, most_ns: int) -> None:
    if not least_ns <= time_ns <= most_ns:
        raise UsageError(
            f"{what} {time_ns / 1e6:g} ms: use {least_ns / 1e6:g} ms to {most_ns / 1e6:g} ms here"
        )


class Train:
    """Applies levels at their times; `at_end` is called once, after the last or when it is cancelled."""

    __slots__ = ("_apply", "_at_end", "_cancel", "_deadlines", "_now_ns", "_start_ns", "_steps")

    def __init__(
        self,
        steps: Steps,
        apply: Callable[[int], object],
        deadlines: Deadlines,
        now_ns: Callable[[], int],
        at_end: Callable[[], object],
    ) -> None:
        self._steps = steps
        self._apply = apply
        self._deadlines = deadlines
        self._now_ns = now_ns
        self._at_end: Callable[[], object] | None = at_end
        self._cancel: Cancel | None = None
        self._start_ns = now_ns()
        self._go_on()

    def _go_on(self, level: int | None = None) -> None:
        """Apply a level that is due, and wait for the next: one a turn, so that others have theirs."""
        self._cancel = None
        if level is not None:
            self._apply(level)
        step = next(self._steps, None)
        if step is None:
            self.cancel()
            return
        time_ns, following = step
        if time_ns == 0:
            self._go_on(following)
        else:
            due_ns = self._start_ns + time_ns
            self._cancel = self._deadlines.call_at(due_ns, lambda: self._go_on(following))

    def cancel(self) -> None:
        """Leave the line as it is."""
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        at_end, self._at_end = self._at_end, None
        if at_end is not None:
            at_end()
