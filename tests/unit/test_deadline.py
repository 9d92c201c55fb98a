# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpiovirt.core.deadline import Deadlines


def test_callbacks_come_in_order_of_time_and_then_of_request() -> None:
    deadlines = Deadlines()
    order: list[str] = []
    deadlines.call_at(20, lambda: order.append("late"))
    deadlines.call_at(10, lambda: order.append("first"))
    deadlines.call_at(10, lambda: order.append("second"))
    assert deadlines.next_deadline_ns() == 10
    deadlines.on_deadline(15)
    assert order == ["first", "second"]
    assert deadlines.next_deadline_ns() == 20


def test_cancelled_callback_wakes_nobody() -> None:
    deadlines = Deadlines()
    cancel = deadlines.call_at(10, lambda: pytest.fail("cancelled"))
    cancel()
    cancel()
    assert deadlines.next_deadline_ns() is None
    deadlines.on_deadline(10)


def test_callback_that_adds_itself_for_now_does_not_hold_the_loop() -> None:
    deadlines = Deadlines()
    calls: list[int] = []

    def again() -> None:
        calls.append(1)
        deadlines.call_at(0, again)

    deadlines.call_at(0, again)
    deadlines.on_deadline(10)
    assert calls == [1]
    assert deadlines.next_deadline_ns() == 0


def test_callback_that_raises_is_gone_and_the_rest_is_still_due() -> None:
    deadlines = Deadlines()
    calls: list[int] = []

    def fails() -> None:
        raise OSError

    deadlines.call_at(1, fails)
    deadlines.call_at(2, lambda: calls.append(1))
    with pytest.raises(OSError):
        deadlines.on_deadline(5)
    deadlines.on_deadline(5)
    assert calls == [1]


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans())), st.lists(st.integers(0, 60)))
def test_each_is_called_once_when_due_unless_cancelled(
    asked: list[tuple[int, bool]], times: list[int]
) -> None:
    deadlines = Deadlines()
    called: list[tuple[int, int]] = []
    now = 0
    for number, (at, cancelled) in enumerate(asked):
        cancel = deadlines.call_at(at, lambda number=number: called.append((number, now)))  # type: ignore[misc]
        if cancelled:
            cancel()
    for now in sorted(times):
        deadlines.on_deadline(now)
    expected = {
        number: next(time for time in sorted(times) if time >= at)
        for number, (at, cancelled) in enumerate(asked)
        if not cancelled and any(time >= at for time in times)
    }
    assert dict(called) == expected
    assert len(called) == len(expected)
