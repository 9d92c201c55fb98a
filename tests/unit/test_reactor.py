# SPDX-License-Identifier: MIT
from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

import pytest

from gpiovirt.host.reactor import Reactor


class Clock:
    """Wants to be called once, so long after it was made."""

    def __init__(self, after_ms: int | None = None) -> None:
        self.deadline_ns = None if after_ms is None else time.monotonic_ns() + after_ms * 1_000_000
        self.called_ns = 0
        self.then: Callable[[], None] = lambda: None

    def next_deadline_ns(self) -> int | None:
        return self.deadline_ns

    def on_deadline(self, now_ns: int) -> None:
        self.called_ns = now_ns
        self.deadline_ns = None
        self.then()


def test_written_eventfd_is_told_each_time_and_never_read() -> None:
    reactor = Reactor(Clock())
    fd = os.eventfd(0)
    told: list[int] = []

    def kicked() -> None:
        told.append(1)
        if len(told) < 3:
            os.eventfd_write(fd, 1)
        else:
            reactor.stop()

    os.eventfd_write(fd, 1)
    reactor.add_edge_reader(fd, kicked, reactor.stop)
    reactor.run()
    assert len(told) == 3
    assert os.eventfd_read(fd) == 3
    os.close(fd)


def test_callback_with_more_to_do_is_called_again_after_others() -> None:
    reactor = Reactor(Clock())
    one, other = os.eventfd(1), os.eventfd(1)
    order: list[str] = []

    def busy() -> bool:
        order.append("busy")
        if len(order) > 4:
            reactor.stop()
        return len(order) < 5

    reactor.add_edge_reader(one, busy, reactor.stop)
    reactor.add_edge_reader(other, lambda: order.append("other"), reactor.stop)
    reactor.run()
    assert order[:2] == ["busy", "other"]
    assert order.count("busy") >= 3
    os.close(one)
    os.close(other)


def test_callback_that_is_removed_has_no_more_turns() -> None:
    reactor = Reactor(Clock())
    fd = os.eventfd(1)
    calls: list[int] = []

    def once() -> bool:
        calls.append(1)
        reactor.remove_reader(fd)
        reactor.soon(reactor.stop)
        return True

    reactor.add_edge_reader(fd, once, reactor.stop)
    reactor.run()
    assert calls == [1]
    reactor.remove_reader(fd)
    os.close(fd)


def test_fault_of_a_callback_is_logged_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    reactor = Reactor(Clock())
    one, other, third = os.eventfd(1), os.eventfd(1), os.eventfd(1)
    faults: list[str] = []

    def raises() -> None:
        raise RuntimeError("ours")

    reactor.add_reader(one, raises)
    reactor.add_edge_reader(other, raises, lambda: faults.append("told"))
    reactor.add_reader(third, lambda: reactor.soon(reactor.stop))
    with caplog.at_level(logging.ERROR):
        reactor.run()
    assert faults == ["told"]
    assert caplog.text.count("a fault of ours") == 2
    for fd in (one, other, third):
        os.close(fd)


def test_deadline_is_served_in_time_and_may_end_the_loop() -> None:
    began_ns = time.monotonic_ns()
    clock = Clock(after_ms=20)
    reactor = Reactor(clock)
    clock.then = reactor.stop
    reactor.run()
    assert clock.called_ns - began_ns >= 20_000_000


def test_polling_ends_when_nothing_comes() -> None:
    clock = Clock(after_ms=100)
    reactor = Reactor(clock, poll_us=2000)
    clock.then = reactor.stop
    fd = os.eventfd(1)
    reactor.add_edge_reader(fd, lambda: None, reactor.stop)
    used = time.process_time()
    reactor.run()
    assert time.process_time() - used < 0.05
    os.close(fd)
