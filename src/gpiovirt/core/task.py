# SPDX-License-Identifier: MIT
"""Coroutines without a loop: what takes several steps is written in one piece, and nobody waits for it.

A task runs in the callbacks of whoever sets the results that it awaits, on the one thread there is. Time
comes from Deadlines. What asyncio has beyond that, and its start-up time, is not needed here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from gpiovirt.core.deadline import Deadlines

__all__ = ["Future", "Lock", "TooLateError", "finish_now", "sleep", "start", "wait_for"]

T = TypeVar("T")


class TooLateError(Exception):
    """What was awaited did not come in its time."""


class Future(Generic[T]):
    """A result to come; the first that is set counts. Any number of tasks may await it."""

    __slots__ = ("_callbacks", "_error", "_result", "is_done")

    _result: T

    def __init__(self) -> None:
        self.is_done = False
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[], object]] = []

    def set(self, result: T) -> None:
        """This is the result."""
        if not self.is_done:
            self._result = result
            self._settle()

    def fail(self, error: BaseException) -> None:
        """Whoever awaits it gets this exception."""
        if not self.is_done:
            self._error = error
            self._settle()

    def _settle(self) -> None:
        self.is_done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def then(self, callback: Callable[[], object]) -> None:
        """Call back when it is done; at once, if it is."""
        if self.is_done:
            callback()
        else:
            self._callbacks.append(callback)

    @property
    def has_failed(self) -> bool:
        """It is done, and result() raises."""
        return self._error is not None

    def result(self) -> T:
        """Of a future that is done."""
        if self._error is not None:
            raise self._error
        return self._result

    def __await__(self) -> Generator[Future[T], None, T]:
        if not self.is_done:
            yield self
        return self.result()


def start(coroutine: Coroutine[Any, None, T]) -> Future[T]:
    """Run a coroutine to its first wait, and on when that is over; the future has what it returns."""
    outcome: Future[T] = Future()

    def step() -> None:
        try:
            awaited = coroutine.send(None)
        except StopIteration as end:
            outcome.set(end.value)
        except Exception as error:
            outcome.fail(error)
        else:
            awaited.then(step)

    step()
    return outcome


def finish_now(coroutine: Coroutine[Any, None, T]) -> T:
    """The result of a coroutine that has nothing to wait for."""
    outcome = start(coroutine)
    if not outcome.is_done:
        coroutine.close()
        raise RuntimeError("it waits for something that is not here")
    return outcome.result()


async def wait_for(future: Future[T], deadlines: Deadlines, deadline_ns: int) -> T:
    """The future's result; TooLateError at the deadline, and then a result that comes later is nobody's."""
    first: Future[None] = Future()
    cancel = deadlines.call_at(deadline_ns, lambda: first.set(None))
    future.then(lambda: first.set(None))
    await first
    cancel()
    if not future.is_done:
        raise TooLateError
    return future.result()


async def sleep(deadlines: Deadlines, until_ns: int) -> None:
    """Go on at that time."""
    future: Future[None] = Future()
    deadlines.call_at(until_ns, lambda: future.set(None))
    await future


class Lock:
    """One task at a time, in the order they come: `async with lock`. Any number may wait."""

    __slots__ = ("_is_free", "_is_passed_on", "_waiting", "is_held")

    def __init__(self) -> None:
        self.is_held = False
        self._is_free = False
        self._is_passed_on = False
        self._waiting: deque[Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self.is_held:
            turn: Future[None] = Future()
            self._waiting.append(turn)
            await turn
        self.is_held = True

    async def __aexit__(self, *_: object) -> None:
        if self._is_passed_on:  # by whom it came to us, when we are done
            self._is_free = True
            return
        self._is_passed_on = True
        try:
            self._is_free = True
            while self._is_free and self._waiting:
                self._is_free = False
                self._waiting.popleft().set(None)
            self.is_held = not self._is_free
        finally:
            self._is_passed_on = False
