# SPDX-License-Identifier: MIT
"""What is written down of a chip, whoever its consumer is; what a reader makes of any memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import count

import pytest

from gpiovirt.core.chip import Chip
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Clock, Direction, Edge, EdgeEvent, LineSettings
from gpiovirt.core.record import (
    CAPACITY,
    NO_LINE,
    TEXT_MAX,
    Entry,
    Lost,
    RecordingDriver,
    RingReader,
    RingWriter,
    What,
    ring_size,
)
from gpiovirt.errors import GpiovirtError, HostError, LineBusyError, PeerError
from gpiovirt.host.reactor import Reactor
from gpiovirt.testing import FakeClock, Simulator
from gpiovirt.virtual.options import parse_options
from gpiovirt.virtual.ring import new_ring, readable_copy, reader_of, writer_to
from gpiovirt.virtual.stack import StackedLine, VirtualChip
from tests.holders import OPENER, program

OUT = LineSettings(Direction.OUTPUT)
IN = LineSettings(Direction.INPUT, Edge.BOTH)


class Ring:
    """A ring, both ends of it; each reading of the clock is 1 ns later."""

    def __init__(self, num_lines: int) -> None:
        self.memory = memoryview(bytearray(ring_size(num_lines)))
        self.num_lines = num_lines
        self.clock = count(1_000_000_000)
        self.wakes = 0
        self.writer = self.another_writer()
        self.reader = RingReader(self.memory, num_lines)

    def another_writer(self) -> RingWriter:
        return RingWriter(self.memory, self.num_lines, lambda: next(self.clock), lambda: 500, self._wake)

    def _wake(self) -> None:
        self.wakes += 1

    def entries(self) -> list[Entry]:
        return [entry for entry in self.reader.read(CAPACITY) if isinstance(entry, Entry)]

    def told(self) -> list[tuple[str, int, int]]:
        """(what, offset, value), without who the holders are."""
        return [
            (What(entry.what).name, entry.offset, entry.value)
            for entry in self.entries()
            if entry.what != What.HOLDER
        ]


class Recorded:
    """A virtual chip of simulated lines, with a record."""

    def __init__(self, *options: str) -> None:
        self.simulator = Simulator(FakeClock())
        self.source = self.simulator.add_chip("sim", [f"L{i}" for i in range(len(options))])
        self.ring = Ring(len(options))
        self.chip = VirtualChip(
            "plc",
            [StackedLine(f"L{i}", local=(self.source, i)) for i in range(len(options))],
            FakeClock(),
            Reactor(),
            [parse_options(text) for text in options],
            record=self.ring.writer,
        )


def test_what_a_consumer_does_is_written_down_in_order() -> None:
    made = Recorded("", "")
    request = made.chip.request([0, 1], [OUT, IN], program("me"), lambda _: None)
    request.set_values(1, 1)
    made.simulator.pull("sim", 1, 1)
    request.release()
    assert made.ring.told() == [
        ("REQUESTED", 0, 0),
        ("CONFIGURED", 0, 0b10),
        ("REQUESTED", 1, 0),
        ("CONFIGURED", 1, Edge.BOTH << 2),
        ("SET", 0, 1),
        ("EDGE", 1, 1),
        ("RELEASED", 0, 0),
        ("RELEASED", 1, 0),
    ]


def test_an_entry_says_who_holds_its_line() -> None:
    made = Recorded("", "")
    first = made.chip.request([0], [OUT], Holder("one", HolderKind.PROGRAM, 7, 1000))
    second = made.chip.request([1], [OUT], Holder("two", HolderKind.VM, 8, 0))
    second.set_values(1, 1)
    first.set_values(1, 1)
    entries = made.ring.entries()
    holders = {entry.holder: entry.as_holder() for entry in entries if entry.what == What.HOLDER}
    assert [holders[entry.holder].label for entry in entries if entry.what == What.SET] == ["two", "one"]
    assert sorted(holders.values()) == [
        Holder("one", HolderKind.PROGRAM, 7, 1000),
        Holder("two", HolderKind.VM, 8, 0),
    ]


def test_the_safe_state_comes_after_the_release_and_is_nobodys() -> None:
    made = Recorded("safe=high")
    made.chip.request([0], [OUT], program("me")).release()
    *_, released, safe = made.ring.entries()
    assert (released.what, released.holder > 0) == (What.RELEASED, True)
    assert (safe.what, safe.value, safe.holder) == (What.CONFIGURED, 0b11, 0)


def test_a_polarity_is_the_consumers_and_levels_are_physical() -> None:
    made = Recorded("active-low")
    request = made.chip.request([0], [OUT], program("me"))
    request.set_values(1, 1)
    assert made.ring.told()[1:] == [("CONFIGURED", 0, 0b11), ("SET", 0, 0)]


def test_a_value_that_is_driven_again_is_written_down_once() -> None:
    made = Recorded("", "")
    request = made.chip.request([0, 1], [OUT, OUT], program("me"))
    made.ring.told()
    for bits in (0b01, 0b01, 0b11, 0b11, 0b10):
        request.set_values(0b11, bits)
    request.set_values(0b01, 0b00)
    assert made.ring.told() == [("SET", 0, 1), ("SET", 1, 1), ("SET", 0, 0)]


def test_a_refused_request_says_why_and_to_whom() -> None:
    made = Recorded("")
    made.chip.request([0], [OUT], program("me"))
    made.ring.told()
    with pytest.raises(LineBusyError):
        made.chip.request([0], [OUT], OPENER.labelled("you"))
    entries = made.ring.entries()
    (refused,) = (entry for entry in entries if entry.what == What.REFUSED)
    (whom,) = (entry.as_holder() for entry in entries if entry.what == What.HOLDER)
    assert whom.label == "you"
    assert refused.value == LineBusyError.errno
    assert refused.text.startswith("line plc:0 (L0) is held by")


def test_what_is_noted_of_another_leaves_the_lines_holder_as_it_is() -> None:
    made = Recorded("")
    request = made.chip.request([0], [OUT], program("me"))
    assert made.chip.record is not None
    made.chip.record.forced(0, 1, "maintenance", OPENER.labelled("operator"))
    made.chip.record.tripped(0, "watchdog")
    made.chip.record.rearmed(0, "by hand")
    request.set_values(1, 1)
    entries = [entry for entry in made.ring.entries() if entry.what != What.HOLDER]
    requested, _, forced, tripped, rearmed, driven = entries
    assert forced.holder != requested.holder == driven.holder == tripped.holder == rearmed.holder
    assert (forced.text, tripped.text, rearmed.text) == ("maintenance", "watchdog", "by hand")


class Broken:
    """Hardware that refuses everything."""

    label = "broken"
    names: Sequence[str] = [""]

    def attach(self, edge: object, presence: object) -> None: ...

    def is_output(self, offset: int) -> bool:
        return False

    def request(self, offset: int, holder: Holder) -> None: ...

    def configure(self, offset: int, settings: LineSettings) -> None:
        raise HostError("it is on fire")

    def free(self, offset: int) -> None: ...

    def catch_up(self) -> None: ...

    def bind(self, offsets: object) -> Broken:
        return self

    def get(self, mask: int) -> int:
        return 0

    def set(self, mask: int, bits: int) -> None:
        raise HostError("it is on fire")


def test_what_the_hardware_refuses_is_written_down() -> None:
    ring = Ring(1)
    driver = RecordingDriver(Broken(), ring.writer)
    values = driver.bind([0])
    with pytest.raises(GpiovirtError):
        driver.configure(0, OUT)
    with pytest.raises(GpiovirtError):
        values.set(1, 1)
    assert [(entry.what, entry.text) for entry in ring.entries()] == [(What.REFUSED, "it is on fire")] * 2


def test_an_edge_has_the_time_of_its_event_on_the_clock_of_the_record() -> None:
    class Edges(Broken):
        def attach(self, edge: object, presence: object) -> None:
            self.edge = edge

        def configure(self, offset: int, settings: LineSettings) -> None: ...

    ring, hardware, heard = Ring(1), Edges(), []
    driver = RecordingDriver(hardware, ring.writer)
    driver.attach(lambda *told: heard.append(told), lambda *_: None)
    hardware.edge(0, True, 400)  # type: ignore[operator]
    driver.configure(0, IN._replace(event_clock=Clock.REALTIME))
    hardware.edge(0, False, 700, 3)  # type: ignore[operator]
    first, _, missed, second = ring.entries()
    assert 0 <= first.time_ns - 1_000_000_000 + 500 - 400 < 10
    assert (missed.what, missed.first) == (What.MISSED, 3)
    assert second.time_ns == 700
    assert heard == [(0, True, 400, 0), (0, False, 700, 3)]


def test_a_new_writer_goes_on_where_the_last_one_was_killed() -> None:
    ring = Ring(2)
    ring.writer.introduce(1, program("me"))
    for _ in range(5):
        ring.writer.write(1, What.SET, 1)
    other = ring.another_writer()
    other.write(1, What.SET, 0)
    entries = ring.entries()
    assert len(entries) == 7
    assert [entry.value for entry in entries[-2:]] == [1, 0]
    assert entries[-1].holder == entries[0].holder == 1
    assert other.introduce(0, program("you")) == 2


def test_what_is_overwritten_is_counted() -> None:
    ring = Ring(1)
    for _ in range(CAPACITY + 10):
        ring.writer.write(0, What.SET, 1)
    assert ring.reader.read(5)[0] == Lost(11)  # of the eleventh it cannot be known that it was whole
    told = ring.reader.read(CAPACITY)
    assert len(told) == CAPACITY - 5
    assert all(isinstance(entry, Entry) for entry in told)


def test_a_reader_takes_no_more_than_it_was_asked_for() -> None:
    ring = Ring(1)
    for number in range(100):
        ring.writer.write(0, What.SET, number & 1)
    assert [len(ring.reader.read(30)) for _ in range(5)] == [30, 30, 30, 10, 0]


def test_a_text_of_any_length_is_cut_and_goes_to_its_entry_only() -> None:
    ring = Ring(1)
    ring.writer.text(0, "x" * (TEXT_MAX + 9))
    ring.writer.write(0, What.REFUSED, 1)
    ring.writer.write(0, What.SET, 1)
    assert [entry.text for entry in ring.entries()] == ["x" * TEXT_MAX, ""]


def test_a_text_is_whole_when_its_parts_are_read_one_by_one() -> None:
    ring = Ring(1)
    ring.writer.text(0, "the quick brown fox jumps over it")
    ring.writer.write(0, What.REFUSED, 1)
    told = [entry for _ in range(5) for entry in ring.reader.read(1)]
    assert [entry.text for entry in told if isinstance(entry, Entry)] == ["the quick brown fox jumps over it"]


def test_the_reader_is_woken_at_most_once_in_four_ms() -> None:
    ring = Ring(1)
    for _ in range(1000):  # as many ns
        ring.writer.write(0, What.SET, 1)
    assert ring.wakes == 1
    ring.clock = count(2_000_000_000)
    ring.writer.write(0, What.SET, 1)
    assert ring.wakes == 2
    ring.clock = count(1_000_000_000)  # set back
    ring.writer.write(0, What.SET, 1)
    assert ring.wakes == 3


@pytest.mark.parametrize("head", [(1 << 64) - 1, 1 << 63, (1 << 62) + 1])
def test_a_number_that_no_writer_comes_to_is_told_as_loss_once(head: int) -> None:
    ring = Ring(1)
    ring.memory[16:24].cast("Q")[0] = head
    assert ring.reader.read(100) == [Lost(1)]
    assert ring.reader.read(100) == []


def test_a_huge_number_is_a_loss_and_costs_no_more_than_was_asked_for() -> None:
    ring = Ring(1)
    ring.memory[16:24].cast("Q")[0] = 1 << 60
    assert ring.reader.read(100) == [Lost((1 << 60) - CAPACITY + 100)]


def test_a_number_that_goes_back_is_told_as_loss() -> None:
    ring = Ring(1)
    for _ in range(10):
        ring.writer.write(0, What.SET, 1)
    ring.entries()
    ring.memory[16:24].cast("Q")[0] = 3
    assert ring.reader.read(100) == [Lost(1)]
    assert ring.reader.next_seq == 3


def test_the_record_of_another_chip_is_refused() -> None:
    ring = Ring(3)
    with pytest.raises(PeerError):
        RingWriter(ring.memory, 2, lambda: 0, lambda: 0, lambda: None)


def test_whoever_reads_can_neither_write_nor_truncate() -> None:
    fd = new_ring("plc", 2)
    copy = readable_copy(fd)
    try:
        writer_to(fd, 2, lambda: None).write(1, What.SET, 1)
        assert [entry.offset for entry in reader_of(copy, 2).read(9) if isinstance(entry, Entry)] == [1]
        with pytest.raises(OSError):
            os.pwrite(copy, b"x", 0)
        with pytest.raises(OSError):
            os.ftruncate(fd, 0)
        if os.getuid() == 0:
            script = f"import os; os.setuid(4242); os.open('/proc/self/fd/{copy}', os.O_RDWR)"
            done = subprocess.run(
                [sys.executable, "-c", script], pass_fds=[copy], capture_output=True, text=True, check=False
            )
            assert "PermissionError" in done.stderr
    finally:
        os.close(copy)
        os.close(fd)


def test_memory_that_is_shorter_or_can_shrink_is_refused() -> None:
    fd = os.memfd_create("x")
    try:
        os.ftruncate(fd, ring_size(2))
        with pytest.raises(PeerError):
            reader_of(fd, 2)
        with pytest.raises(PeerError):
            writer_to(fd, 1000, lambda: None)
    finally:
        os.close(fd)


def test_a_chip_without_a_record_has_no_driver_more() -> None:
    simulator = Simulator(FakeClock())
    source = simulator.add_chip("sim", ["A"])
    chip: Chip = VirtualChip("plc", [StackedLine("A", local=(source, 0))], FakeClock(), Reactor())
    seen: list[EdgeEvent] = []
    chip.request([0], [IN], program("me"), seen.append)
    simulator.pull("sim", 0, 1)
    assert len(seen) == 1
    assert chip.record is None  # type: ignore[attr-defined]


def test_no_offset_is_that_of_no_line() -> None:
    ring = Ring(1)
    ring.writer._write_text(0, b"x")
    raw = ring.memory[-CAPACITY * 32 :]
    raw[10:12] = NO_LINE.to_bytes(2, "little")
    assert ring.reader.read(9) == [Lost(1)]
