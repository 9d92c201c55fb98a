# SPDX-License-Identifier: MIT
"""Files of lines as a chip: what order its edges have, and what is lost of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from gpiovirt.core.line import AS_IS, Direction, Edge, EdgeEvent, LineSettings
from gpiovirt.errors import ChipGoneError
from gpiovirt.sources.line_files import LineFilesChip
from gpiovirt.testing import FakeClock
from gpiovirt.uapi import gpio as u
from tests.holders import program

EDGES = LineSettings(Direction.INPUT, Edge.BOTH)


class Waits:
    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], object]] = {}

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        self.readers.pop(fd, None)

    def turn(self) -> None:
        for callback in list(self.readers.values()):
            callback()


class FakeLine:
    """A line's file: its events come through a pipe, its ioctls are noted."""

    def __init__(self) -> None:
        self.events, self.writer = os.pipe()
        os.set_blocking(self.events, False)
        self.fds: tuple[int, ...] = (self.events,)
        self.ioctl: Callable[[int, bytes], bytes] = self._ioctl
        self.asked: list[int] = []
        self.is_gone = False
        self.seqno = 0

    def _ioctl(self, cmd: int, argument: bytes) -> bytes:
        if self.is_gone:
            raise OSError(errno.ENODEV, "No such device")
        self.asked.append(cmd)
        return argument

    def edge(self, timestamp_ns: int, lost: int = 0) -> None:
        self.seqno += 1 + lost
        kind = u.GPIO_V2_LINE_EVENT_RISING_EDGE
        os.write(self.writer, u.gpio_v2_line_event.pack(timestamp_ns, kind, 0, self.seqno, self.seqno))

    def close(self) -> None:
        os.close(self.events)
        os.close(self.writer)


@pytest.fixture
def waits() -> Waits:
    return Waits()


def chip_of(lines: list[FakeLine], waits: Waits) -> LineFilesChip:
    return LineFilesChip("plc", [("", line, False) for line in lines], FakeClock(), waits)


def test_edges_of_lines_that_were_read_late_come_in_the_order_of_their_times(waits: Waits) -> None:
    lines = [FakeLine() for _ in range(4)]
    chip = chip_of(lines, waits)
    events: list[EdgeEvent] = []
    chip.request(range(4), [EDGES] * 4, program("me"), events.append)
    for timestamp_ns in range(200):
        lines[timestamp_ns % 4].edge(timestamp_ns)
    waits.turn()
    assert [event.timestamp_ns for event in events] == list(range(200))
    assert [event.seqno for event in events] == list(range(1, 201))
    assert [event.line_seqno for event in events if event.offset == 2] == list(range(1, 51))
    chip.close()


def test_events_that_the_kernel_has_dropped_count(waits: Waits) -> None:
    lines = [FakeLine(), FakeLine()]
    chip = chip_of(lines, waits)
    events: list[EdgeEvent] = []
    chip.request([0, 1], [EDGES] * 2, program("me"), events.append)
    lines[0].edge(1)
    waits.turn()
    lines[0].edge(2, lost=3)
    lines[1].edge(3)
    waits.turn()
    assert [(event.offset, event.seqno, event.line_seqno) for event in events] == [
        (0, 1, 1),
        (0, 5, 5),
        (1, 6, 1),
    ]
    chip.close()


def test_events_of_a_former_holder_are_nobodys(waits: Waits) -> None:
    line = FakeLine()
    chip = chip_of([line], waits)
    line.edge(1)
    events: list[EdgeEvent] = []
    chip.request([0], [EDGES], program("me"), events.append)
    line.edge(2)
    waits.turn()
    assert [(event.timestamp_ns, event.line_seqno) for event in events] == [(2, 1)]
    chip.close()


def test_line_that_vanishes_is_gone_for_its_holder_until_it_is_back(waits: Waits) -> None:
    line = FakeLine()
    chip = chip_of([line], waits)
    presence: list[tuple[int, bool]] = []
    request = chip.request([0], [AS_IS], program("me"), None, lambda *told: presence.append(told))
    line.is_gone = True
    with pytest.raises(ChipGoneError, match="the chip providing line plc:0 is gone"):
        request.get_values(1)
    chip.replace(0, None)
    chip.replace(0, FakeLine())
    assert presence == [(0, False), (0, True)]
    assert request.get_values(1) in (0, 1)
    chip.close()


def test_line_that_is_freed_is_requested_anew_where_somebody_says_how(waits: Waits) -> None:
    first, second = FakeLine(), FakeLine()
    chip = LineFilesChip("plc", [("", first, False)], FakeClock(), waits, lambda _offset: (second, True))
    chip.request([0], [EDGES], program("me"), lambda _: None).release()
    with pytest.raises(OSError):
        os.fstat(first.events)
    assert chip.line_info(0).direction is Direction.OUTPUT
    chip.close()
