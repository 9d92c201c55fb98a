# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest

from gpiovirt.errors import PeerError
from gpiovirt.protocols.guest_memory import GuestMemory, Region, check_regions
from gpiovirt.protocols.vhost_user import SplitRingLog, inflight_size, log_area, record_area
from gpiovirt.protocols.virtqueue import Ring, Virtqueue, ran_before
from gpiovirt.testing.virtio_driver import DriverQueue, GuestRam
from gpiovirt.uapi import virtio_ring as r

NEXT, WRITE, INDIRECT = r.VRING_DESC_F_NEXT, r.VRING_DESC_F_WRITE, r.VRING_DESC_F_INDIRECT


class Bench:
    """A guest's queue and the device's end of it; the device answers with the request, reversed."""

    def __init__(self, size: int = 8, last_avail_idx: int = 0, **options: bool) -> None:
        self.ram = GuestRam(memoryview(bytearray(1 << 16)))
        indirect = options.get("indirect", False)
        self.driver = DriverQueue(self.ram, size, indirect=indirect)
        self.memory = GuestMemory([self.ram.region])
        self.fences = 0
        fence = self._fence if options.get("fenced") else None
        self.queue = Virtqueue(
            self.memory,
            self.driver.ring,
            last_avail_idx,
            fence=fence,
            indirect=indirect,
        )
        self.seen: list[tuple[bytes, int, str]] = []

    def _fence(self) -> None:
        self.fences += 1

    def answer(self, request: bytes, room: int, fault: str) -> bytes:
        self.seen.append((request, room, fault))
        return b"!" if fault else request[::-1]

    def serve(self, budget: int = 16) -> bool:
        return self.queue.serve(self.answer, budget)

    def chain(self, *descriptors: tuple[int, int, int, int]) -> None:
        """Descriptors (address, length, flags, next) from 0 on, and their head offered."""
        for index, descriptor in enumerate(descriptors):
            self.driver.describe(index, *descriptor)
        self.driver.offer(0)

    def fault(self) -> str:
        """Serve one chain; what was wrong with it. It must have come back."""
        used = self.driver.used16[1]
        self.serve()
        assert self.driver.used16[1] == used + 1
        return self.seen[-1][2]


@pytest.fixture(params=[False, True], ids=["direct", "indirect"])
def indirect(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_request_is_answered(indirect: bool) -> None:
    bench = Bench(indirect=indirect)
    for i in range(20):
        head = bench.driver.add([b"abcdefg%c" % (65 + i)], [8])
        assert not bench.serve()
        (completion,) = bench.driver.collect()
        assert completion == (head, 8, b"%cgfedcba" % (65 + i))


def test_framing_does_not_matter(indirect: bool) -> None:
    bench = Bench(indirect=indirect)
    bench.driver.add([b"ab", b"c", b"defgh"], [1, 2, 100])
    bench.serve()
    (completion,) = bench.driver.collect()
    assert (completion.written, completion.data[:8]) == (8, b"hgfedcba")


def test_answer_longer_than_its_buffer_is_cut() -> None:
    for room in range(8):
        bench = Bench()
        bench.driver.add([b"abcdefgh"], [room] if room else [])
        bench.serve()
        (completion,) = bench.driver.collect()
        assert (completion.written, completion.data) == (room, b"hgfedcba"[:room])


def test_answer_stays_within_its_buffer() -> None:
    bench = Bench()
    to = bench.ram.allocate(8, 8)
    bench.chain((bench.ram.guest_address, 8, NEXT, 1), (to, 1, WRITE, 0))
    bench.serve()
    assert bytes(bench.ram.bytes_at(to + 1, 7)) == bytes(7)


def test_only_the_start_of_a_long_request_is_copied() -> None:
    bench = Bench()
    bench.driver.add([bytes(5000)], [2])
    bench.serve()
    assert bench.seen == [(bytes(16), 2, "")]


def test_queue_index_wraps() -> None:
    bench = Bench(size=2)
    for _ in range(0x1_0010):
        bench.driver.offer(0)
        bench.serve()
    assert bench.queue.last_avail_idx == bench.queue.used_idx == bench.driver.used16[1] == 0x10


def test_budget_bounds_the_work_of_one_kick() -> None:
    bench = Bench()
    for _ in range(4):
        bench.driver.add([b"a"], [1])
    assert bench.serve(budget=3)
    assert len(bench.seen) == 3
    assert not bench.serve(budget=3)


def test_request_is_completed_even_if_answering_raises() -> None:
    def fails(request: bytes, room: int, fault: str) -> bytes:
        raise ZeroDivisionError

    for parts in ([2], [1, 1]):
        bench = Bench()
        head = bench.driver.add([b"a"], parts)
        with pytest.raises(ZeroDivisionError):
            bench.queue.serve(fails, 1)
        assert [c[:2] for c in bench.driver.collect()] == [(head, 0)]


# malformed chains come back, malformed rings stop


def test_loop_comes_back() -> None:
    bench = Bench()
    bench.chain((bench.ram.guest_address, 8, NEXT, 1), (bench.ram.guest_address, 8, NEXT, 0))
    assert "loop" in bench.fault()


def test_loop_in_writable_descriptors_comes_back_with_an_error() -> None:
    bench = Bench()
    to = bench.ram.allocate(8)
    bench.chain((bench.ram.guest_address, 8, NEXT, 1), (to, 1, NEXT | WRITE, 1))
    assert "loop" in bench.fault()
    assert bytes(bench.ram.bytes_at(to, 1)) == b"!"


def test_chain_longer_than_the_limit_comes_back() -> None:
    bench = Bench(size=128)
    bench.chain(*[(bench.ram.guest_address, 1, NEXT, i + 1) for i in range(100)])
    assert "more than 64" in bench.fault()


@pytest.mark.parametrize("address", [0, 0x4000_0000 - 1, 0x4000_FFFC, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("flags", [0, WRITE])
def test_descriptor_outside_of_memory_comes_back(address: int, flags: int) -> None:
    bench = Bench()
    bench.chain((address, 8, flags, 0))
    assert "outside of memory" in bench.fault()


@pytest.mark.parametrize("length", [0x1_0001, 1 << 31, 0xFFFF_FFFF])
def test_huge_descriptor_comes_back(length: int) -> None:
    for flags in (NEXT, NEXT | WRITE):
        bench = Bench()
        bench.chain((bench.ram.guest_address, length, flags, 1), (bench.ram.guest_address, 1, WRITE, 0))
        assert "outside of memory" in bench.fault()


def test_empty_descriptors_count_for_nothing() -> None:
    bench = Bench()
    bench.chain((1, 0, NEXT, 1), (2, 0, NEXT | WRITE, 2), (3, 0, WRITE, 0))
    assert bench.fault() == ""
    assert bench.seen == [(b"", 0, "")]


def test_next_past_the_table_comes_back() -> None:
    bench = Bench()
    bench.chain((bench.ram.guest_address, 8, NEXT, 8))
    assert "past the end" in bench.fault()


def test_readable_after_writable_comes_back() -> None:
    bench = Bench()
    bench.chain((bench.ram.guest_address, 1, NEXT | WRITE, 1), (bench.ram.guest_address, 1, 0, 0))
    assert "after a writable" in bench.fault()


def test_indirect_that_was_not_negotiated_comes_back() -> None:
    bench = Bench()
    bench.chain((bench.ram.guest_address, 32, INDIRECT, 0))
    assert "not negotiated" in bench.fault()


@pytest.mark.parametrize(
    ("address", "length", "flags", "fault"),
    [
        (0x4000_0000, 0, INDIRECT, "table of 0 bytes"),
        (0x4000_0000, 31, INDIRECT, "table of 31 bytes"),
        (0x4000_0000, 16 * 9, INDIRECT, "table of 144 bytes"),
        (0x4000_0000, 0xFFFF_FFF0, INDIRECT, "bytes"),
        (0x4000_FFF0, 32, INDIRECT, "outside of memory"),
        (0x4000_0000, 32, INDIRECT | NEXT, "not the last"),
    ],
)
def test_bad_indirect_table_comes_back(address: int, length: int, flags: int, fault: str) -> None:
    bench = Bench(indirect=True)
    bench.chain((address, length, flags, 0))
    assert fault in bench.fault()


def test_indirect_within_indirect_comes_back() -> None:
    bench = Bench(indirect=True)
    table = bench.ram.allocate(32)
    bench.ram.bytes_at(table, 16)[:] = r.vring_desc.pack(table, 32, INDIRECT, 0)
    bench.chain((table, 32, INDIRECT | WRITE, 0))
    assert "within an indirect" in bench.fault()


def test_indirect_loop_and_index_past_the_table_come_back() -> None:
    bench = Bench(indirect=True)
    table = bench.ram.allocate(32)
    for following, fault in ((0, "loop"), (2, "past the end"), (0xFFFF, "past the end")):
        bench.ram.bytes_at(table, 16)[:] = r.vring_desc.pack(table, 8, NEXT, following)
        bench.chain((table, 32, INDIRECT, 0))
        assert fault in bench.fault()


def test_indirect_table_may_end_a_chain() -> None:
    bench = Bench(indirect=True)
    table = bench.ram.allocate(16)
    to = bench.ram.allocate(8)
    bench.ram.bytes_at(table, 16)[:] = r.vring_desc.pack(to, 8, WRITE, 0)
    bench.chain((table, 2, NEXT, 1), (table, 16, INDIRECT, 0))
    assert bench.fault() == ""


def test_available_index_jump_stops_the_ring() -> None:
    for jump in (9, 0x8000, 0xFFFF):
        bench = Bench()
        bench.driver.available16[1] = jump
        with pytest.raises(PeerError, match="jumped"):
            bench.serve()


def test_head_past_the_table_stops_the_ring() -> None:
    bench = Bench()
    bench.driver.offer(8)
    with pytest.raises(PeerError, match="names descriptor 8"):
        bench.serve()


@pytest.mark.parametrize("size", [0, 3, 65536, -8])
def test_ring_size_must_be_a_power_of_two(size: int) -> None:
    bench = Bench()
    with pytest.raises(PeerError, match="power of two"):
        Virtqueue(bench.memory, bench.driver.ring._replace(size=size))


@pytest.mark.parametrize("part", ["descriptors", "available", "used"])
def test_ring_must_be_aligned_and_in_memory(part: str) -> None:
    bench = Bench()
    ring = bench.driver.ring
    for address in (getattr(ring, part) + 1, 0, bench.ram.user_address + 0xFFF0, (1 << 64) - 16):
        with pytest.raises(PeerError, match=r"aligned|not in one"):
            Virtqueue(bench.memory, ring._replace(**{part: address}))


def test_ring_moves_with_the_memory() -> None:
    bench = Bench()
    bench.driver.add([b"ab"], [2])
    bench.serve()
    copy = memoryview(bytearray(bench.ram.view))
    bench.queue.use(GuestMemory([bench.ram.region._replace(view=copy)]))
    bench.driver.offer(0)
    assert not bench.serve()
    assert bench.queue.used_idx == 1
    with pytest.raises(PeerError):
        bench.queue.use(GuestMemory([]))


# notifications


def test_no_notification_is_suppressed() -> None:
    for fenced in (False, True):
        bench = Bench(fenced=fenced)
        bench.driver.available16[0] = r.VRING_AVAIL_F_NO_INTERRUPT
        bench.driver.add([b"a"], [1])
        assert bench.driver.kick_needed()
        bench.serve()
        assert bench.queue.should_call()
        assert bench.driver.used16[0] == 0
        bench.driver.add([b"a"], [1])
        assert bench.driver.kick_needed()


def test_guest_is_called_once_for_what_was_completed() -> None:
    bench = Bench()
    assert not bench.queue.should_call()
    bench.driver.add([b"a"], [1])
    bench.serve()
    assert bench.queue.should_call()
    assert not bench.queue.should_call()


def test_unordered_machine_gets_a_fence_before_each_part_is_read_or_shown() -> None:
    bench = Bench(fenced=True)
    bench.driver.add([b"a"], [1])
    bench.serve()
    assert bench.fences == 2


# out of order, and across a restart


def test_chains_complete_in_any_order() -> None:
    bench = Bench()
    heads = [bench.driver.add([b"%d" % i], [1]) for i in range(3)]
    chains = [bench.queue.pop() for _ in heads]
    assert bench.queue.pop() is None
    for i in (2, 0, 1):
        chain = chains[i]
        assert chain is not None
        assert bench.queue.complete(chain, chain.readable) == 1
    assert [(c.head, c.data) for c in bench.driver.collect()] == [
        (heads[2], b"2"),
        (heads[0], b"0"),
        (heads[1], b"1"),
    ]


def test_chain_in_flight_offered_again_stops_the_ring() -> None:
    bench = Bench()
    head = bench.driver.add([b"a"], [1])
    bench.queue.pop()
    bench.driver.offer(head)
    with pytest.raises(PeerError, match="again"):
        bench.queue.pop()


def test_ring_goes_on_from_a_given_base() -> None:
    bench = Bench()
    for _ in range(3):
        bench.driver.add([b"a"], [1])
        bench.serve()
        bench.driver.collect()
    bench.driver.add([b"new"], [1])
    bench.queue = Virtqueue(bench.memory, bench.driver.ring, 3)
    bench.seen.clear()
    bench.serve()
    assert bench.seen == [(b"new", 1, "")]
    assert bench.driver.used16[1] == 4


class Restarting(Bench):
    """A queue with a log, whose device can be killed."""

    def __init__(self) -> None:
        super().__init__()
        self.tracked = memoryview(bytearray(inflight_size(2, 8, 20)))
        self.revive(0)

    def revive(self, base: int | None = None) -> None:
        log = SplitRingLog(log_area(self.tracked, 1, 8), 8)
        base = self.driver.used16[1] if base is None else base
        self.queue = Virtqueue(self.memory, self.driver.ring, base, log=log)

    def pop_all(self) -> dict[bytes, int]:
        chains = {}
        while chain := self.queue.pop():
            chains[chain.readable] = chain.head
        return chains


def test_chains_in_flight_survive_a_restart() -> None:
    bench = Restarting()
    first, second, third = (bench.driver.add([name], [1]) for name in (b"1", b"2", b"3"))
    chains = [bench.queue.pop() for _ in range(3)]
    for chain in chains[1:2]:
        assert chain is not None
        bench.queue.complete(chain, b"x")
    bench.driver.collect()
    bench.driver.offer(second)
    bench.revive()
    assert list(bench.pop_all().values()) == [first, third, second]


def test_chain_shown_as_used_is_not_in_flight_if_the_crash_came_just_then() -> None:
    bench = Restarting()
    first = bench.driver.add([b"1"], [1])
    bench.driver.add([b"2"], [1])
    area = log_area(bench.tracked, 1, 8)
    chains = [bench.queue.pop(), bench.queue.pop()]
    chain = chains[1]
    assert chain is not None
    before = bytes(area)
    bench.queue.complete(chain, b"x")
    # as it was between the used index and the log's
    area[14:16] = before[14:16]
    area[16 + 16 * chain.head] = 1
    bench.revive()
    assert list(bench.pop_all().values()) == [first]


def test_log_of_another_queue_counts_as_empty() -> None:
    bench = Restarting()
    bench.driver.add([b"1"], [1])
    bench.queue.pop()
    for spoil in (b"\0\0", b"\2\0"):
        log_area(bench.tracked, 1, 8)[8:10] = spoil
        bench.revive(1)
        assert list(bench.pop_all()) == [b"1"]


def test_fresh_ring_clears_the_log() -> None:
    bench = Restarting()
    bench.driver.add([b"1"], [1])
    bench.queue.pop()
    fresh = DriverQueue(bench.ram, 8)
    bench.queue = Virtqueue(bench.memory, fresh.ring, 0, log=SplitRingLog(log_area(bench.tracked, 1, 8), 8))
    assert bench.queue.pop() is None
    assert not any(log_area(bench.tracked, 1, 8)[16::16])


def test_ring_whose_index_came_round_to_0_is_not_a_fresh_one() -> None:
    bench = Restarting()
    assert not ran_before(bench.memory, bench.driver.ring, 0)
    held, other = bench.driver.add([b"1"], [1]), bench.driver.add([b"2"], [1])
    assert bench.queue.pop() is not None
    for _ in range(0x10000):
        chain = bench.queue.pop()
        assert chain is not None
        bench.queue.complete(chain, b"x")
        bench.driver.offer(other)
    assert bench.driver.used16[1] == 0
    assert ran_before(bench.memory, bench.driver.ring, 0)
    bench.revive()
    assert list(bench.pop_all().values()) == [held, other]


def test_inflight_memory_that_is_too_small_is_refused() -> None:
    memory = memoryview(bytearray(inflight_size(2, 8, 20)))
    record_area(memory, 2, 8, 20)
    with pytest.raises(PeerError):
        record_area(memory, 2, 8, 21)
    with pytest.raises(PeerError):
        log_area(memory, 2, 8)
    log = SplitRingLog(log_area(memory, 0, 8), 8)
    with pytest.raises(PeerError):
        log.take(8)


# memory


def test_regions_must_not_overlap_or_overflow() -> None:
    check_regions([(0, 4096, 0x10000), (4096, 4096, 0x20000)])
    for spans in (
        [(0, 0, 0)],
        [((1 << 64) - 4096, 4097, 0)],
        [(0, 4096, (1 << 64) - 1)],
        [(0, 4096, 0x10000), (4095, 1, 0x20000)],
        [(0, 4096, 0x10000), (4096, 4096, 0x10FFF)],
        [(0, 1 << 40, 0), (1 << 39, 1, 1 << 50)],
    ):
        with pytest.raises(PeerError):
            check_regions(spans)


def test_region_mapped_shorter_than_it_claims_is_refused() -> None:
    with pytest.raises(PeerError, match="shorter"):
        GuestMemory([Region(0, 4096, 0, memoryview(bytearray(4095)))])


def test_buffer_may_span_adjacent_regions() -> None:
    low, high = bytearray(16), bytearray(16)
    memory = GuestMemory(
        [Region(0x1010, 16, 0x8000, memoryview(high)), Region(0x1000, 16, 0x4000, memoryview(low))]
    )
    memory.write(0x100C, b"abcdefgh")
    assert (bytes(low[12:]), bytes(high[:4])) == (b"abcd", b"efgh")
    assert memory.read(0x100C, 8) == b"abcdefgh"
    assert memory.contains(0x1000, 32)
    for address, size in ((0xFFF, 1), (0x1000, 33), (0x1020, 1)):
        assert not memory.contains(address, size)
        with pytest.raises(PeerError):
            memory.read(address, size)
        with pytest.raises(PeerError):
            memory.write(address, bytes(size))


def test_ring_may_not_span_regions() -> None:
    memory = GuestMemory(
        [Region(0, 16, 0x4000, memoryview(bytearray(16))), Region(16, 16, 0x4010, memoryview(bytearray(16)))]
    )
    with pytest.raises(PeerError):
        memory.at_user_address(0x4008, 16, 2)
    with pytest.raises(PeerError):
        Virtqueue(memory, Ring(1, 0x4000, 0x4010, 0x4018))
