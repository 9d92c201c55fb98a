# SPDX-License-Identifier: MIT
"""When a loop looks for its next event without sleeping; times in us."""

from __future__ import annotations

from gpiovirt.host.spin import Spin


class Loop:
    """A loop whose turns take what is said, and find events when these come."""

    def __init__(self, fixed_us: int = 0) -> None:
        self.now_us = 1_000_000.0
        self.spin = Spin(fixed_us * 1000, lambda: int(self.now_us * 1000))
        self.looks = False
        self.looked_us = 0.0

    def event_after(self, us: float, interrupted_us: float = 0) -> bool:
        """Whether it was looking when an event came so long after the last one, and was served in 20 us."""
        end_us = self.now_us + us - 20
        while self.looks and self.now_us < end_us:
            turn_us = min(interrupted_us or 2, end_us - self.now_us)
            self.now_us += turn_us
            self.looked_us += turn_us
            if self.now_us < end_us:
                self.spin.looked(False)
                self.looks = self.spin.turn(False)
        was_looking = self.looks
        if self.looks:
            self.spin.looked(True)
        self.now_us = end_us + 20
        self.looks = self.spin.turn(True)
        return was_looking


def test_events_that_follow_each_other_closely_are_looked_for() -> None:
    loop = Loop()
    seen = [loop.event_after(60) for _ in range(100)]
    assert seen == [False, False] + [True] * 98  # of the first it is not known after what it came


def test_events_that_come_seldom_are_slept_for() -> None:
    loop = Loop()
    assert not any(loop.event_after(1000) for _ in range(100))
    assert loop.looked_us == 0


def test_an_end_of_events_costs_one_look_of_twice_their_distance() -> None:
    loop = Loop()
    for _ in range(10):
        loop.event_after(60)
    before_us = loop.looked_us
    assert not loop.event_after(1_000_000)
    assert loop.looked_us - before_us <= 2 * 60 + 4


def test_looks_in_vain_become_rare() -> None:
    """Pairs of events, each alone with its second one."""
    loop = Loop()
    for _ in range(1000):
        loop.event_after(1000)
        loop.event_after(150)
    assert loop.looked_us < 0.01 * 1000 * 1150


def test_where_somebody_else_wants_the_cpu_there_is_no_look_for_a_while() -> None:
    loop = Loop()
    for _ in range(2000):
        loop.event_after(150, interrupted_us=60)
    assert loop.looked_us < 0.03 * 2000 * 150


def test_a_guest_that_runs_while_we_are_interrupted_is_no_success() -> None:
    """On one CPU for both: what is found was made by whom we kept from it."""
    loop = Loop()
    for _ in range(2000):
        loop.event_after(150, interrupted_us=130)
    assert loop.looked_us < 0.03 * 2000 * 150


def test_after_a_rest_it_looks_again() -> None:
    loop = Loop()
    for _ in range(5):
        loop.event_after(150, interrupted_us=60)
    seen = [loop.event_after(60) for _ in range(2000)]  # 0.12 s
    assert not seen[2]
    assert all(seen[-100:])


def test_a_time_that_is_said_is_looked_for_whatever_comes_of_it() -> None:
    loop = Loop(fixed_us=200)
    loop.event_after(5000)
    assert [loop.event_after(150) for _ in range(50)] == [True] * 50
    before_us = loop.looked_us
    assert not loop.event_after(5000)
    assert 200 <= loop.looked_us - before_us <= 204
