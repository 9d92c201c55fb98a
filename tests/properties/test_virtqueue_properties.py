# SPDX-License-Identifier: MIT
from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import fuzz_vhost_user
from gpiovirt.errors import PeerError
from gpiovirt.protocols import vhost_user as v
from gpiovirt.protocols.guest_memory import GuestMemory, Region
from gpiovirt.protocols.vhost_user import messages as m
from gpiovirt.protocols.vhost_user.messages import Request
from gpiovirt.protocols.virtqueue import Chain, Virtqueue
from gpiovirt.testing.virtio_driver import DriverQueue, GuestRam
from gpiovirt.uapi import virtio_ring as r

SIZE = 8
RAM_BYTES = 4096
NEAR = GuestRam(memoryview(b"")).guest_address

near = st.integers(-8, RAM_BYTES + 8).map(lambda offset: NEAR + offset)
addresses = near | st.integers(0, (1 << 64) - 1)
lengths = st.integers(0, 64) | st.integers(0, (1 << 32) - 1)
descriptors = st.tuples(addresses, lengths, st.integers(0, 7), st.integers(0, SIZE + 1))
tables = st.lists(descriptors, min_size=1, max_size=SIZE)


def guest(indirect: bool = False) -> tuple[DriverQueue, Virtqueue]:
    ram = GuestRam(memoryview(bytearray(RAM_BYTES)))
    driver = DriverQueue(ram, SIZE, indirect=indirect)
    queue = Virtqueue(GuestMemory([ram.region]), driver.ring, indirect=indirect)
    return driver, queue


@given(tables, st.lists(st.integers(0, SIZE - 1), max_size=SIZE), st.booleans())
def test_any_descriptors_are_answered_each_once(
    table: list[tuple[int, int, int, int]], heads: list[int], indirect: bool
) -> None:
    driver, queue = guest(indirect=indirect)
    other, neighbour = guest()
    for index, descriptor in enumerate(table):
        driver.describe(index, *descriptor)
    for head in heads:
        driver.offer(head)
    served = 0

    def answer(request: bytes, room: int, fault: str) -> bytes:
        nonlocal served
        served += 1
        assert len(request) <= 16
        return b""

    assert not queue.serve(answer, 100)
    assert served == queue.used_idx == driver.used16[1] == len(heads)
    other.add([b"next"], [4])
    assert not neighbour.serve(lambda request, room, fault: request, 2)
    assert other.collect()[0].data == b"next"


@given(tables, st.binary(max_size=100), st.booleans())
def test_answer_goes_to_the_writable_parts_and_nowhere_else(
    table: list[tuple[int, int, int, int]], reply: bytes, indirect: bool
) -> None:
    driver, queue = guest(indirect=indirect)
    for index, descriptor in enumerate(table):
        driver.describe(index, *descriptor)
    driver.offer(0)
    before = bytearray(driver.ram.view)
    chain = queue.pop()
    assert chain is not None
    written = queue.complete(chain, reply)
    assert written == min(len(reply), sum(size for _, size in chain.writable))
    left = reply
    for address, size in chain.writable:
        at = address - NEAR
        part, left = left[:size], left[size:]
        before[at : at + len(part)] = part
    used = driver.used - NEAR
    after = bytearray(driver.ram.view)
    # the used ring is the device's own
    end = used + r.vring_used_size(SIZE)
    assert (after[:used], after[end:]) == (before[:used], before[end:])


@given(st.integers(0, 1 << 32), st.booleans(), st.integers(0, 0xFFFF))
def test_any_memory_is_served_or_stops_the_ring(seed: int, indirect: bool, base: int) -> None:
    driver, _ = guest()
    rng = Random(seed)
    driver.ram.view[:] = rng.randbytes(RAM_BYTES)
    driver.available16[1] = base + rng.choice((1, 4, SIZE, SIZE + 1)) & 0xFFFF
    for index in range(SIZE):
        driver.available16[2 + index] %= rng.choice((SIZE, SIZE, SIZE, SIZE + 1))
    for serve in (True, False):
        queue = Virtqueue(GuestMemory([driver.ram.region]), driver.ring, base, indirect=indirect)
        try:
            if serve:
                queue.serve(lambda request, room, fault: request, 20)
            for _ in range(20):
                chain = queue.pop()
                if chain is not None:
                    queue.complete(chain, b"answer")
        except PeerError as error:
            assert str(error)
        queue.should_call()


@given(
    st.lists(st.binary(max_size=20), max_size=4),
    st.lists(st.integers(0, 20), max_size=4),
    st.booleans(),
)
def test_requests_and_answers_round_trip(readable: list[bytes], writable: list[int], indirect: bool) -> None:
    if not readable and not writable:
        return
    driver, queue = guest(indirect)
    head = driver.add(readable, writable)
    reply = bytes(range(1, 1 + sum(writable)))
    seen = []

    def answer(request: bytes, room: int, fault: str) -> bytes:
        seen.append((request, room, fault))
        return reply

    queue.serve(answer, 1)
    assert seen == [(b"".join(readable)[:16], sum(writable), "")]
    assert driver.collect() == [(head, sum(writable), reply)]


@given(st.lists(st.booleans(), max_size=200), st.data())
def test_chains_in_any_order_and_any_restart_are_completed_once(
    steps: list[bool], data: st.DataObject
) -> None:
    driver, _ = guest()
    memory = GuestMemory([driver.ram.region])
    tracked = memoryview(bytearray(v.inflight_size(1, SIZE)))

    def start(base: int) -> Virtqueue:
        log = v.SplitRingLog(v.log_area(tracked, 0, SIZE), SIZE)
        return Virtqueue(memory, driver.ring, base, log=log)

    queue = start(0)
    in_flight: dict[int, int] = {}
    serial = 0
    here: list[Chain] = []
    for restart in steps:
        if restart:
            queue, here = start(driver.used16[1]), []
        elif len(in_flight) < SIZE and data.draw(st.booleans()):
            serial += 1
            driver.ram._free = 1024
            address = driver.ram.guest_address + 2048 + 8 * serial % 1024
            head = driver.free.pop()
            driver.ram.bytes_at(address, 4)[:] = serial.to_bytes(4, "little")
            driver.describe(head, address, 4, 0)
            driver.offer(head)
            in_flight[head] = serial
        while chain := queue.pop():
            assert in_flight[chain.head] == int.from_bytes(chain.readable, "little")
            here.append(chain)
        assert sorted(chain.head for chain in here) == sorted(in_flight)
        if data.draw(st.booleans()) and here:
            done = here.pop(data.draw(st.integers(0, len(here) - 1)))
            queue.complete(done, b"")
            del in_flight[done.head]
            driver.free.append(done.head)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300)), max_size=6))
def test_memory_is_made_of_regions_or_refused(spans: list[tuple[int, int, int]]) -> None:
    regions = [Region(*span, memoryview(bytearray(span[1]))) for span in spans]
    try:
        memory = GuestMemory(regions)
    except PeerError:
        return
    for guest_address, size, _ in spans:
        data = bytes(i & 0xFF for i in range(size))
        memory.write(guest_address, data)
        assert memory.read(guest_address, size) == data
    inside = {address for start, size, _ in spans for address in range(start, start + size)}
    for address in range(0, 620, 7):
        assert memory.contains(address, 1) is (address in inside)


messages = st.builds(
    lambda request, flags, payload: m.header.pack(request, m.VERSION | flags, len(payload)) + payload,
    st.sampled_from(list(Request)) | st.integers(0, 60),
    st.sampled_from([0, m.NEED_REPLY_MASK]),
    st.binary(max_size=80)
    | st.lists(st.integers(0, 64), max_size=10).map(lambda q: b"".join(map(m.u64.pack, q))),
)


@given(st.lists(st.tuples(messages, st.integers(0, 3)), max_size=20), st.binary(max_size=30), st.data())
def test_any_messages_in_any_pieces_account_for_every_fd(
    sent: list[tuple[bytes, int]], tail: bytes, data: st.DataObject
) -> None:
    backend = v.Backend(1, bytes(8), num_queues=2)
    given_fds: list[int] = []
    told: list[int] = []

    def consume(events: list[v.Event]) -> None:
        for event in events:
            fds = getattr(event, "fds", ()) or (getattr(event, "fd", None),)
            told.extend(fd for fd in fds if fd is not None)

    for message, count in [*sent, (tail, 1)]:
        fds = list(range(len(given_fds), len(given_fds) + count)) if message else []
        given_fds += fds
        cut = data.draw(st.integers(0, len(message)))
        consume(list(backend.receive(message[:cut], fds)))
        consume(list(backend.receive(message[cut:])))
    consume(list(backend.close()))
    assert sorted(told) == given_fds
    for outgoing in backend.data_to_send():
        assert len(outgoing.data) == m.header.size + m.header.unpack_from(outgoing.data)[2]


@settings(max_examples=100)
@given(st.integers(0, (1 << 48) - 1))
def test_fuzzer_s_invariant_holds(case: int) -> None:
    fuzz_vhost_user.once(Random(case))
