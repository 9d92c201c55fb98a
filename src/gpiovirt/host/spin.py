# SPDX-License-Identifier: MIT
"""How long a loop looks for its next event before it sleeps, so that who waits for it need not wake it.

Where requests follow each other closely, a sleep costs more than what is done between two of them. A look
costs a CPU, which may be somebody else's: it is as long as events have taken to come lately, and where it
is in vain, or interrupted, there is none for a while.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic_ns

__all__ = ["Spin", "new_spin"]

_LOOK_MAX_NS = 200_000
_INTERRUPTED_NS = 50_000  # of a turn without events, which takes one: somebody else has had the CPU
_REST_MIN_NS = 10_000_000
_REST_MAX_NS = 5_000_000_000
_VAIN_MAX = 2  # looks in a row
_num_cpus = os.cpu_count() or 1  # a confined process cannot ask


class Spin:
    """Decides after each turn of a loop whether the next one sleeps.

    With `fixed_ns`, it looks for so long after each event, unless somebody else gets the CPU meanwhile.
    """

    def __init__(self, fixed_ns: int = 0, now_ns: Callable[[], int] = monotonic_ns) -> None:
        self._fixed_ns = fixed_ns
        self._now_ns = now_ns
        self._served_ns = 0  # when events were last served
        self._turned_ns = 0
        self._until_ns = 0
        self._is_looking = False
        self._in_vain = 0
        self._rest_ns = _REST_MIN_NS
        self._rests_until_ns = 0

    def looked(self, found: bool) -> None:
        """After a look, before what was found is served."""
        now_ns = self._now_ns()
        if now_ns - self._turned_ns > _INTERRUPTED_NS:
            self._rest(now_ns)
        elif found:
            self._in_vain = 0
            self._rest_ns = _REST_MIN_NS
        elif now_ns >= self._until_ns:
            self._is_looking = False
            self._in_vain += 1
            if self._in_vain >= _VAIN_MAX:
                self._rest(now_ns)

    def turn(self, had_events: bool) -> bool:
        """After a turn: whether to look again at once."""
        now_ns = self._now_ns()
        if had_events:
            self._begin(now_ns)
        self._turned_ns = now_ns
        return self._is_looking

    def _begin(self, now_ns: int) -> None:
        took_ns, self._served_ns = now_ns - self._served_ns, now_ns
        look_ns = self._fixed_ns or min(2 * took_ns, _LOOK_MAX_NS)
        self._is_looking = bool(self._fixed_ns) or (
            took_ns <= _LOOK_MAX_NS and now_ns >= self._rests_until_ns
        )
        self._until_ns = now_ns + look_ns

    def _rest(self, now_ns: int) -> None:
        self._is_looking = False
        if self._fixed_ns:
            return
        self._in_vain = 0
        self._rests_until_ns = now_ns + self._rest_ns
        self._rest_ns = min(2 * self._rest_ns, _REST_MAX_NS)


def new_spin(poll_us: int) -> Spin | None:
    """One that looks for so long, or (0) as it finds best; None where there is one CPU only."""
    if poll_us:
        return Spin(poll_us * 1000)
    return Spin() if _num_cpus > 1 else None
