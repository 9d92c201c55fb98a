# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest

from gpiovirt.core.deadline import Deadlines
from gpiovirt.core.task import Future, Lock, TooLateError, finish_now, sleep, start, wait_for


def test_task_goes_on_when_what_it_awaits_is_there() -> None:
    number: Future[int] = Future()
    seen: list[int] = []

    async def double() -> int:
        seen.append(0)
        return 2 * await number

    outcome = start(double())
    assert (seen, outcome.is_done) == ([0], False)
    number.set(21)
    number.set(5)
    assert outcome.result() == 42


def test_error_reaches_whoever_awaits_it() -> None:
    number: Future[int] = Future()

    async def fails() -> int:
        return await number

    async def tries() -> str:
        try:
            await start(fails())
        except OSError as error:
            return str(error)
        return ""

    outcome = start(tries())
    number.fail(OSError("gone"))
    assert outcome.result() == "gone"


def test_deadline_ends_a_wait_and_a_late_result_is_nobodys() -> None:
    deadlines = Deadlines()
    number: Future[int] = Future()
    outcome = start(wait_for(number, deadlines, 10))
    deadlines.on_deadline(9)
    assert not outcome.is_done
    deadlines.on_deadline(10)
    with pytest.raises(TooLateError):
        outcome.result()
    number.set(1)

    in_time: Future[int] = Future()
    outcome = start(wait_for(in_time, deadlines, 20))
    in_time.set(7)
    assert outcome.result() == 7
    assert deadlines.next_deadline_ns() is None


def test_sleep_ends_at_its_time() -> None:
    deadlines = Deadlines()
    outcome = start(sleep(deadlines, 5))
    assert not outcome.is_done
    deadlines.on_deadline(5)
    assert outcome.is_done


def test_lock_admits_one_at_a_time_in_order_also_when_one_fails() -> None:
    lock = Lock()
    gates: list[Future[None]] = [Future(), Future(), Future()]
    order: list[str] = []

    async def visit(number: int) -> None:
        async with lock:
            order.append(f"in {number}")
            await gates[number]
            order.append(f"out {number}")

    visits = [start(visit(number)) for number in range(3)]
    gates[1].set(None)
    assert order == ["in 0"]
    gates[0].fail(OSError())
    assert order == ["in 0", "in 1", "out 1", "in 2"]
    gates[2].set(None)
    assert visits[2].is_done
    assert not lock.is_held


def test_coroutine_that_must_not_wait_says_so() -> None:
    async def quick() -> int:
        return 3

    async def slow() -> int:
        return await Future[int]()

    assert finish_now(quick()) == 3
    with pytest.raises(RuntimeError):
        finish_now(slow())
