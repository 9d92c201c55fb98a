# SPDX-License-Identifier: MIT
"""The pipe behind a file: the kernel's capacities and overflow rules."""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Iterator

import pytest

from gpiovirt.host.fifo import PipeFifo
from gpiovirt.protocols.gpiochip import FifoShape


def records(fifo: PipeFifo) -> Iterator[int]:
    os.set_blocking(fifo.reader, False)
    while True:
        try:
            yield int.from_bytes(os.read(fifo.reader, 48), "little")
        except BlockingIOError:
            return


def fill(fifo: PipeFifo, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        fifo.put(number.to_bytes(48, "little"))


@pytest.fixture(params=[4, 16, 1024])
def capacity(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_a_full_fifo_drops_the_oldest(capacity: int) -> None:
    fifo = PipeFifo.make(FifoShape(48, capacity, True))
    fill(fifo, capacity + 10)
    assert list(records(fifo)) == list(range(10, capacity + 10))
    fifo.close()


def test_a_full_fifo_refuses_the_newest_where_the_kernel_does(capacity: int) -> None:
    fifo = PipeFifo.make(FifoShape(48, capacity, False))
    fill(fifo, capacity + 10)
    assert list(records(fifo)) == list(range(capacity))
    fifo.close()


def test_reading_makes_room(capacity: int) -> None:
    fifo = PipeFifo.make(FifoShape(48, capacity, True))
    fill(fifo, capacity)
    assert len(list(records(fifo))) == capacity
    fill(fifo, capacity, start=capacity)
    assert list(records(fifo)) == list(range(capacity, 2 * capacity))
    fifo.close()


def test_the_last_close_of_the_reader_shows_at_the_writer() -> None:
    fifo = PipeFifo.make(FifoShape(48, 16, True))
    copy = os.dup(fifo.reader)
    poll = select.poll()
    poll.register(fifo.writer, 0)
    fifo.close_reader()
    assert poll.poll(0) == []
    os.close(copy)
    assert poll.poll(0) == [(fifo.writer, select.POLLERR)]
    fill(fifo, 20)
    fifo.close()


def test_all_ends_have_one_identity() -> None:
    fifo = PipeFifo.make(FifoShape(48, 16, True))
    status = os.fstat(fifo.reader)
    assert fifo.identity == (status.st_dev, status.st_ino)
    fifo.close()


def test_what_is_forwarded_keeps_its_order_and_the_rules_of_where_it_goes(capacity: int) -> None:
    source, fifo = (PipeFifo.make(FifoShape(48, capacity, True)) for _ in range(2))
    os.set_blocking(source.reader, False)
    fill(fifo, 3)
    fill(source, capacity, start=3)
    with pytest.raises(BlockingIOError):
        while fifo.forward(source.reader, 48):
            pass
    assert list(records(fifo)) == list(range(3, capacity + 3))
    source.hang_up()
    assert fifo.forward(source.reader, 48) == 0
    source.close()
    fifo.close()


def test_a_pipe_for_another_holds_its_records_and_is_no_larger_than_that(capacity: int) -> None:
    fifo = PipeFifo.make_for_another(FifoShape(48, capacity, True))
    fill(fifo, capacity + 10)
    reader = os.dup(fifo.reader)
    os.set_blocking(reader, False)
    assert int.from_bytes(os.read(reader, 48), "little") == 10
    fill(fifo, 1, start=1000)
    assert list(records(fifo))[-1] == 1000
    assert fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) <= max(8192, 2 * 48 * capacity)
    os.close(reader)
    fifo.close()


def test_who_has_the_other_ends_of_a_pipe_cannot_make_its_writer_wait() -> None:
    fifo = PipeFifo.make_for_another(FifoShape(48, 1024, True))
    os.set_blocking(fifo.their_writer, True)
    assert not os.get_blocking(fifo.writer)
    writer = os.dup(fifo.their_writer)
    fifo.close_reader()
    poll = select.poll()
    poll.register(fifo.writer, 0)
    assert poll.poll(0) == [(fifo.writer, select.POLLERR)]
    os.close(writer)
    fifo.close()
