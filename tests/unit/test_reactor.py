# SPDX-License-Identifier: MIT
from __future__ import annotations

import logging
import os
import select
import time

import pytest

from gpiovirt.host.reactor import Reactor
from gpiovirt.host.spin import Spin


def test_written_eventfd_is_told_each_time_and_never_read() -> None:
    reactor = Reactor()
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
    reactor = Reactor()
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
    reactor = Reactor()
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
    reactor = Reactor()
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
    assert caplog.text.count("internal error") == 2
    for fd in (one, other, third):
        os.close(fd)


def test_fault_silences_no_listener(caplog: pytest.LogCaptureFixture) -> None:
    reactor = Reactor()
    fd = os.eventfd(1)
    calls: list[int] = []

    def fails_twice() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise OSError("ours")
        reactor.stop()

    reactor.add_reader(fd, fails_twice)
    began = time.monotonic()
    reactor.run()
    assert len(calls) == 3
    assert time.monotonic() - began >= 0.1  # it rests instead of spinning
    os.close(fd)


def test_file_that_rests_can_be_removed_and_closed(caplog: pytest.LogCaptureFixture) -> None:
    reactor = Reactor()
    fd = os.eventfd(1)
    calls: list[int] = []

    def fails() -> None:
        calls.append(1)
        reactor.soon(leave)
        raise OSError("ours")

    def leave() -> None:
        reactor.remove_reader(fd)
        os.close(fd)

    reactor.add_reader(fd, fails)
    reactor.call_later(0.05, reactor.stop)
    reactor.run()
    assert calls == [1]


def test_fault_at_a_deadline_ends_neither_the_loop_nor_the_other_deadlines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reactor = Reactor()

    def fails() -> None:
        raise OSError("no fork")

    reactor.call_later(0, fails)
    reactor.call_later(0, fails)
    reactor.call_later(0, reactor.stop)
    reactor.run()
    assert caplog.text.count("internal error") == 2


def test_fault_of_what_is_to_be_done_about_a_fault_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    reactor = Reactor()
    fd = os.eventfd(1)

    def fails() -> None:
        raise OSError("ours")

    def fails_too() -> None:
        reactor.stop()
        raise OSError("and that")

    reactor.add_reader(fd, fails, fails_too)
    reactor.run()
    assert "and that" in caplog.text
    os.close(fd)


def test_deadline_is_served_in_time_and_may_end_the_loop() -> None:
    reactor = Reactor()
    began = time.monotonic()
    reactor.call_later(0.02, reactor.stop)
    reactor.run()
    assert time.monotonic() - began >= 0.02


def test_many_calls_are_one_where_they_are_coalesced() -> None:
    reactor = Reactor()
    calls: list[int] = []
    call = reactor.coalesced(0.01, lambda: calls.append(1))
    for _ in range(3):
        call()
    reactor.call_later(0.03, call)
    reactor.call_later(0.06, reactor.stop)
    reactor.run()
    assert calls == [1, 1]


def test_polling_ends_when_nothing_comes() -> None:
    reactor = Reactor(spin=Spin(2000 * 1000))
    reactor.call_later(0.1, reactor.stop)
    fd = os.eventfd(1)
    reactor.add_edge_reader(fd, lambda: None, reactor.stop)
    used = time.process_time()
    reactor.run()
    assert time.process_time() - used < 0.05
    os.close(fd)


def test_what_comes_first_is_served_before_the_rest_and_told_its_events() -> None:
    reactor = Reactor()
    first, other = os.eventfd(1), os.eventfd(1)
    order: list[object] = []

    def on_first(events: int) -> None:
        order.append(events)
        os.eventfd_read(first)

    reactor.add_first(first, on_first)
    reactor.add_edge_reader(other, lambda: order.append("other"), reactor.stop)
    reactor.call_later(0.05, reactor.stop)
    reactor.run()
    assert order == [select.POLLIN, "other"]
    reactor.remove_first(first)
    os.close(first)
    os.close(other)


def test_a_fault_in_what_comes_first_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    reactor = Reactor()
    fd = os.eventfd(2, os.EFD_SEMAPHORE)
    calls: list[int] = []

    def fails(_events: int) -> None:
        calls.append(os.eventfd_read(fd))
        raise RuntimeError("a fault of ours")

    reactor.add_first(fd, fails)
    reactor.call_later(0.05, reactor.stop)
    with caplog.at_level(logging.ERROR):
        reactor.run()
    assert calls == [1, 1]
    assert "a fault of ours" in caplog.text
    os.close(fd)


def test_hang_ups_are_served_before_what_is_readable() -> None:
    reactor = Reactor()
    order: list[str] = []
    readable = os.eventfd(1)
    reader, writer = os.pipe()
    reactor.add_edge_reader(readable, lambda: order.append("readable"), reactor.stop)

    def hung_up() -> None:
        order.append("hung up")
        reactor.remove_reader(writer)

    reactor.add_hangup(writer, hung_up)
    os.close(reader)
    reactor.serve_ready()
    assert order == ["hung up", "readable"]
    os.close(writer)
    os.close(readable)


def test_what_a_deadline_asks_for_soon_does_not_wait_for_the_next_one() -> None:
    reactor = Reactor()
    reactor.call_later(60, lambda: None)
    reactor.call_later(0.001, lambda: reactor.soon(reactor.stop))
    began = time.monotonic()
    reactor.run()
    assert time.monotonic() - began < 30


def test_a_loop_that_is_stopped_at_a_deadline_does_not_wait_for_the_next_one() -> None:
    reactor = Reactor()
    reactor.call_later(60, lambda: None)
    reactor.call_later(0.001, reactor.stop)
    began = time.monotonic()
    reactor.run()
    assert time.monotonic() - began < 30


def test_deadlines_that_never_end_leave_files_their_turn() -> None:
    reactor = Reactor()
    readable, writable = os.pipe()

    def again() -> None:
        reactor.call_later(0, again)

    again()
    reactor.add_reader(readable, reactor.stop)
    os.write(writable, b"x")
    reactor.run()
    for fd in (readable, writable):
        os.close(fd)
