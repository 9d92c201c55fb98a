# SPDX-License-Identifier: MIT
from __future__ import annotations

import mmap
import os
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from gpiovirt.errors import GpiovirtError, HostError, PeerError
from gpiovirt.protocols import vhost_user as v
from gpiovirt.protocols.guest_memory import GuestMemory, Region
from gpiovirt.protocols.vhost_user import messages as m
from gpiovirt.protocols.vhost_user.messages import ProtocolFeature, Request
from gpiovirt.protocols.virtio_gpio import GpioDevice
from gpiovirt.protocols.virtqueue import Ring, Virtqueue
from gpiovirt.sources.simulator import Simulator
from gpiovirt.testing.clock import FakeClock
from gpiovirt.testing.vmm import Vmm
from gpiovirt.uapi import virtio_gpio as u
from tests.holders import VMM

FEATURES = 1 << 32 | 1
CONFIG = bytes(range(8))
REGION = m.memory_region.pack(0x1000, 0x1000, 0x7000_0000, 0)


def message(request: int, payload: bytes = b"", flags: int = m.VERSION) -> bytes:
    return m.header.pack(request, flags, len(payload)) + payload


def state(index: int, num: int) -> bytes:
    return m.vring_state.pack(index, num)


class Peer:
    """A Backend with what it said and was told; `handle` plays the export."""

    def __init__(self, protocol_features: int | None = None) -> None:
        self.backend = v.Backend(FEATURES, CONFIG, num_queues=2, record_size=32)
        self.handle: Callable[[v.Event], None] = lambda event: None
        if protocol_features is None:
            protocol_features = 1 << ProtocolFeature.REPLY_ACK
        self.say(Request.SET_PROTOCOL_FEATURES, m.u64.pack(protocol_features))

    def feed(self, data: bytes, fds: tuple[int, ...] = ()) -> list[v.Event]:
        events = []
        for event in self.backend.receive(data, fds):
            events.append(event)
            self.handle(event)
        return events

    def say(
        self, request: int, payload: bytes = b"", fds: tuple[int, ...] = (), ack: bool = False
    ) -> list[v.Event]:
        return self.feed(message(request, payload, m.VERSION | ack * m.NEED_REPLY_MASK), fds)

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        """The payload of the one answer to a request."""
        assert self.say(request, payload) == []
        return self.answer(request)

    def answer(self, request: int) -> bytes:
        ((data, fds),) = self.backend.data_to_send()
        answered, flags, size = m.header.unpack_from(data)
        assert (answered, flags, size) == (request, m.VERSION | m.REPLY_MASK, len(data) - 12)
        assert fds == ()
        return data[12:]

    def acked(self, request: int) -> bool:
        return not m.u64.unpack(self.answer(request))[0]

    def start(self, index: int = 0, base: int = 0) -> list[v.Event]:
        self.say(Request.SET_VRING_NUM, state(index, 64))
        self.say(Request.SET_VRING_BASE, state(index, base))
        self.say(Request.SET_VRING_ADDR, m.vring_addr.pack(index, 0, 16, 32, 48, (1 << 64) - 1))
        return self.say(Request.SET_VRING_KICK, m.u64.pack(index), (9,))


@pytest.fixture
def peer() -> Peer:
    return Peer()


RING = Ring(64, 16, 48, 32)


def refusals(events: list[v.Event]) -> list[str]:
    return [event.reason for event in events if isinstance(event, v.Refused)]


def test_features_are_offered_with_protocol_features(peer: Peer) -> None:
    assert m.u64.unpack(peer.ask(Request.GET_FEATURES)) == (FEATURES | 1 << 30,)
    (offered,) = m.u64.unpack(peer.ask(Request.GET_PROTOCOL_FEATURES))
    for feature in (
        "MQ",
        "REPLY_ACK",
        "BACKEND_REQ",
        "CONFIG",
        "INFLIGHT_SHMFD",
        "CONFIGURE_MEM_SLOTS",
        "STATUS",
    ):
        assert offered >> ProtocolFeature[feature] & 1


def test_features_chosen_are_told(peer: Peer) -> None:
    assert peer.say(Request.SET_FEATURES, m.u64.pack(FEATURES)) == [v.SetFeatures(FEATURES)]


def test_features_that_were_not_offered_are_refused(peer: Peer) -> None:
    for request in (Request.SET_FEATURES, Request.SET_PROTOCOL_FEATURES):
        assert refusals(peer.say(request, m.u64.pack(1 << 63), ack=True))
        assert not peer.acked(request)


def test_number_of_queues(peer: Peer) -> None:
    assert m.u64.unpack(peer.ask(Request.GET_QUEUE_NUM)) == (2,)
    assert m.u64.unpack(peer.ask(Request.GET_MAX_MEM_SLOTS)) == (32,)


# config space


@pytest.mark.parametrize(("offset", "size"), [(0, 8), (0, 4), (4, 4), (7, 1), (8, 0), (0, 0)])
def test_config_within_bounds_is_told(peer: Peer, offset: int, size: int) -> None:
    space = m.config_space.pack(offset, size, 0)
    assert peer.ask(Request.GET_CONFIG, space + bytes(size)) == space + CONFIG[offset : offset + size]


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 9), (8, 1), (4, 8), (0xFFFF_FFFF, 1), (0, 0xFFFF_FFFF), (9, 0)]
)
def test_config_out_of_bounds_is_answered_with_nothing(peer: Peer, offset: int, size: int) -> None:
    assert refusals(peer.say(Request.GET_CONFIG, m.config_space.pack(offset, size, 0)))
    assert peer.answer(Request.GET_CONFIG) == b""


def test_config_cannot_be_set(peer: Peer) -> None:
    assert refusals(peer.say(Request.SET_CONFIG, m.config_space.pack(0, 4, 0) + bytes(4), ack=True))
    assert not peer.acked(Request.SET_CONFIG)


# framing


def test_message_may_come_byte_by_byte() -> None:
    whole = message(Request.SET_VRING_CALL, m.u64.pack(1))
    for cut in range(1, len(whole)):
        peer = Peer()
        assert peer.feed(whole[:cut], (7,)) == []
        assert 0 < peer.backend.bytes_wanted <= len(whole) - cut
        assert peer.feed(whole[cut:]) == [v.SetCall(1, 7)]
        assert peer.backend.bytes_wanted == 12


def test_messages_may_come_together(peer: Peer) -> None:
    peer.feed(message(Request.GET_FEATURES) + message(Request.GET_QUEUE_NUM))
    assert len(peer.backend.data_to_send()) == 2


def test_every_message_cut_short_is_refused() -> None:
    payloads = {
        Request.SET_FEATURES: m.u64.pack(1),
        Request.SET_MEM_TABLE: m.memory_table.pack(1, 0) + REGION,
        Request.SET_VRING_NUM: state(0, 64),
        Request.SET_VRING_ADDR: m.vring_addr.pack(0, 0, 0, 0, 0, 0),
        Request.SET_VRING_BASE: state(0, 0),
        Request.GET_VRING_BASE: state(0, 0),
        Request.SET_VRING_KICK: m.u64.pack(0),
        Request.SET_VRING_ENABLE: state(0, 1),
        Request.GET_CONFIG: m.config_space.pack(0, 0, 0),
        Request.GET_INFLIGHT_FD: m.inflight.pack(0, 0, 2, 64),
        Request.SET_INFLIGHT_FD: m.inflight.pack(1 << 16, 0, 2, 64),
        Request.ADD_MEM_REG: bytes(8) + REGION,
        Request.REM_MEM_REG: bytes(8) + REGION,
        Request.SET_STATUS: m.u64.pack(0),
    }
    for request, payload in payloads.items():
        for size in range(len(payload)):
            peer = Peer()
            events = peer.say(request, payload[:size], (5,), ack=True)
            assert refusals(events), (request, size)
            assert v.CloseFds((5,)) in events
            data = peer.backend.data_to_send()
            assert len(data) == 1


@pytest.mark.parametrize(
    "header", [(1, 0, 0), (1, 2, 0), (1, m.VERSION | m.REPLY_MASK, 0), (1, 1, 4097), (1, 1, 0xFFFF_FFFF)]
)
def test_header_that_is_none_closes_the_connection(peer: Peer, header: tuple[int, int, int]) -> None:
    events = peer.feed(m.header.pack(*header), (3, 4))
    assert isinstance(events[0], v.CloseConnection)
    assert events[1:] == [v.CloseFds((3, 4))]
    assert peer.backend.closed
    assert peer.feed(message(Request.GET_FEATURES), (5,)) == [v.CloseFds((5,))]
    assert peer.backend.data_to_send() == []


def test_end_in_the_middle_of_a_message_gives_up_its_fds(peer: Peer) -> None:
    peer.feed(message(Request.SET_VRING_CALL, m.u64.pack(1))[:13], (7,))
    assert list(peer.backend.close()) == [v.CloseFds((7,))]
    assert list(peer.backend.close()) == []


@pytest.mark.parametrize("request_number", [0, 6, 7, 19, 22, 35, 41, 0xFFFF_FFFF])
def test_unknown_message_is_refused_or_ignored(peer: Peer, request_number: int) -> None:
    assert peer.say(request_number, b"what", (1, 2))[1:] == [v.CloseFds((1, 2))]
    assert peer.backend.data_to_send() == []
    assert refusals(peer.say(request_number, b"what", ack=True))
    assert not peer.acked(request_number)
    assert peer.ask(Request.GET_QUEUE_NUM)


def test_acknowledgement_needs_the_feature_and_the_flag() -> None:
    peer = Peer(protocol_features=0)
    peer.say(Request.SET_OWNER, ack=True)
    assert peer.backend.data_to_send() == []
    peer = Peer()
    peer.say(Request.SET_OWNER)
    assert peer.backend.data_to_send() == []
    peer.say(Request.SET_OWNER, ack=True)
    assert peer.acked(Request.SET_OWNER)


def test_message_with_an_answer_is_not_acknowledged_as_well(peer: Peer) -> None:
    peer.say(Request.GET_FEATURES, ack=True)
    assert len(peer.backend.data_to_send()) == 1


def test_event_that_fails_is_a_refusal(peer: Peer) -> None:
    peer.handle = lambda event: peer.backend.fail(HostError("no memory"))
    events = peer.say(Request.SET_MEM_TABLE, m.memory_table.pack(1, 0) + REGION, (4,), ack=True)
    assert refusals(events) == ["no memory"]
    assert not peer.acked(Request.SET_MEM_TABLE)


# memory


def test_memory_table_comes_with_its_fds(peer: Peer) -> None:
    other = m.memory_region.pack(0x2000, 0x1000, 0x8000_0000, 0x40)
    events = peer.say(Request.SET_MEM_TABLE, m.memory_table.pack(2, 0) + REGION + other, (4, 5))
    regions = (
        v.MemoryRegion(0x1000, 0x1000, 0x7000_0000, 0),
        v.MemoryRegion(0x2000, 0x1000, 0x8000_0000, 0x40),
    )
    assert events == [v.MapMemory(regions, (4, 5))]


def test_memory_table_may_be_longer_than_its_regions(peer: Peer) -> None:
    payload = (m.memory_table.pack(1, 0) + REGION).ljust(72, b"\xff")
    assert isinstance(peer.say(Request.SET_MEM_TABLE, payload, (4,))[0], v.MapMemory)


@pytest.mark.parametrize("fds", [(), (4, 5)])
def test_wrong_number_of_fds_is_refused_and_they_are_given_up(peer: Peer, fds: tuple[int, ...]) -> None:
    for request, payload in (
        (Request.SET_MEM_TABLE, m.memory_table.pack(1, 0) + REGION),
        (Request.ADD_MEM_REG, bytes(8) + REGION),
        (Request.SET_VRING_KICK, m.u64.pack(0)),
        (Request.SET_VRING_CALL, m.u64.pack(0)),
        (Request.SET_VRING_ERR, m.u64.pack(0)),
        (Request.SET_BACKEND_REQ_FD, b""),
        (Request.SET_INFLIGHT_FD, m.inflight.pack(1 << 16, 0, 2, 64)),
    ):
        events = peer.say(request, payload, fds)
        assert refusals(events)
        assert [e for e in events if isinstance(e, v.CloseFds)] == ([v.CloseFds(fds)] if fds else [])


def test_fds_without_end_close_the_connection(peer: Peer) -> None:
    fds = tuple(range(100, 105))
    assert peer.feed(m.header.pack(Request.SET_VRING_CALL, m.VERSION, 8), fds) == []
    events = peer.feed(b"\0", fds)
    assert isinstance(events[0], v.CloseConnection)
    assert events[1:] == [v.CloseFds(fds + fds)]


def test_fds_that_belong_nowhere_are_given_up(peer: Peer) -> None:
    assert peer.say(Request.GET_FEATURES, b"", (8, 9)) == [v.CloseFds((8, 9))]


def test_regions_that_overlap_or_overflow_are_refused(peer: Peer) -> None:
    for one, other in (
        ((0, 0x2000, 0x10000, 0), (0x1000, 0x1000, 0x20000, 0)),
        ((0, 0x1000, 0x10000, 0), (0x1000, 0x1000, 0x10800, 0)),
        ((0, 0, 0, 0), (0x1000, 0x1000, 0x10800, 0)),
        ((0, 0x1000, 0x10000, 0), ((1 << 64) - 1, 2, 0x20000, 0)),
    ):
        payload = m.memory_table.pack(2, 0) + m.memory_region.pack(*one) + m.memory_region.pack(*other)
        events = peer.say(Request.SET_MEM_TABLE, payload, (4, 5))
        assert refusals(events)
        assert v.CloseFds((4, 5)) in events


def test_more_regions_than_there_are_bytes_are_refused(peer: Peer) -> None:
    for count in (2, 9, 0xFFFF_FFFF):
        assert refusals(peer.say(Request.SET_MEM_TABLE, m.memory_table.pack(count, 0) + REGION, (4,)))


def test_memory_slots_come_and_go(peer: Peer) -> None:
    region = v.MemoryRegion(0x1000, 0x1000, 0x7000_0000, 0)
    assert peer.say(Request.ADD_MEM_REG, bytes(8) + REGION, (4,)) == [v.AddMemory(region, 4)]
    assert refusals(peer.say(Request.ADD_MEM_REG, bytes(8) + REGION, (5,)))
    assert peer.say(Request.REM_MEM_REG, bytes(8) + REGION, (6,)) == [
        v.RemoveMemory(region),
        v.CloseFds((6,)),
    ]
    assert refusals(peer.say(Request.REM_MEM_REG, bytes(8) + REGION))
    assert peer.say(Request.ADD_MEM_REG, bytes(8) + REGION, (4,)) == [v.AddMemory(region, 4)]


def test_memory_slot_that_could_not_be_mapped_is_free(peer: Peer) -> None:
    peer.handle = lambda event: peer.backend.fail(HostError("no"))
    peer.say(Request.ADD_MEM_REG, bytes(8) + REGION, (4,))
    peer.handle = lambda event: None
    assert not refusals(peer.say(Request.ADD_MEM_REG, bytes(8) + REGION, (4,)))


def test_memory_slots_are_limited(peer: Peer) -> None:
    for i in range(33):
        region = m.memory_region.pack(0x1000 * i, 0x1000, 0x7000_0000 + 0x1000 * i, 0)
        events = peer.say(Request.ADD_MEM_REG, bytes(8) + region, (4,))
    assert "slots" in refusals(events)[0]


# rings


def test_ring_without_protocol_features_starts_at_its_kick_fd(peer: Peer) -> None:
    peer.say(Request.SET_FEATURES, m.u64.pack(FEATURES))
    assert peer.start(base=5) == [v.SetKick(0, 9), v.StartRing(0, RING, 5)]


def test_ring_with_protocol_features_starts_when_enabled(peer: Peer) -> None:
    peer.say(Request.SET_FEATURES, m.u64.pack(FEATURES | 1 << 30))
    assert peer.start(1) == [v.SetKick(1, 9)]
    assert peer.say(Request.SET_VRING_ENABLE, state(1, 1)) == [v.StartRing(1, RING, 0)]
    assert peer.say(Request.SET_VRING_ENABLE, state(1, 1)) == []


def test_order_of_a_ring_s_messages_does_not_matter(peer: Peer) -> None:
    peer.say(Request.SET_FEATURES, m.u64.pack(FEATURES | 1 << 30))
    peer.say(Request.SET_VRING_ENABLE, state(0, 1))
    peer.say(Request.SET_VRING_KICK, m.u64.pack(0), (9,))
    peer.say(Request.SET_VRING_NUM, state(0, 64))
    address = m.vring_addr.pack(0, 0, 16, 32, 48, 0)
    assert peer.say(Request.SET_VRING_ADDR, address) == [v.StartRing(0, RING, 0)]


def test_stopped_ring_tells_where(peer: Peer) -> None:
    peer.start()
    peer.handle = lambda event: peer.backend.ring_stopped(0, 77)
    assert peer.say(Request.GET_VRING_BASE, state(0, 0)) == [v.StopRing(0)]
    assert peer.answer(Request.GET_VRING_BASE) == state(0, 77)
    assert peer.ask(Request.GET_VRING_BASE, state(0, 0)) == state(0, 77)


def test_stopped_ring_needs_a_new_kick_fd(peer: Peer) -> None:
    peer.start()
    peer.say(Request.GET_VRING_BASE, state(0, 0))
    assert peer.say(Request.SET_VRING_ENABLE, state(0, 1)) == []
    assert peer.start(base=3) == [v.SetKick(0, 9), v.StartRing(0, RING, 3)]


def test_disabled_ring_stops_and_goes_on_where_it_was(peer: Peer) -> None:
    peer.say(Request.SET_FEATURES, m.u64.pack(FEATURES | 1 << 30))
    peer.start()
    peer.say(Request.SET_VRING_ENABLE, state(0, 1))
    peer.handle = lambda event: peer.backend.ring_stopped(0, 12)
    assert peer.say(Request.SET_VRING_ENABLE, state(0, 0)) == [v.StopRing(0)]
    assert peer.say(Request.SET_VRING_ENABLE, state(0, 1)) == [v.StartRing(0, RING, 12)]


def test_running_ring_that_moves_starts_anew(peer: Peer) -> None:
    peer.start()
    same = m.vring_addr.pack(0, 1, 16, 32, 48, 0)
    assert peer.say(Request.SET_VRING_ADDR, same) == []
    moved = m.vring_addr.pack(0, 0, 160, 32, 48, 0)
    assert peer.say(Request.SET_VRING_ADDR, moved) == [
        v.StopRing(0),
        v.StartRing(0, RING._replace(descriptors=160), 0),
    ]


def test_ring_whose_kick_is_of_no_use_does_not_start(peer: Peer) -> None:
    peer.handle = lambda event: peer.backend.fail(PeerError("no eventfd"))
    events = peer.start()
    assert refusals(events)
    assert not any(isinstance(event, v.StartRing) for event in events)


def test_another_back_end_goes_on_where_one_stopped(peer: Peer) -> None:
    peer.say(Request.SET_FEATURES, m.u64.pack(1 << 32))
    peer.say(Request.SET_MEM_TABLE, m.memory_table.pack(1, 0) + REGION, (5,))
    peer.say(Request.SET_BACKEND_REQ_FD, b"", (6,))
    peer.start(1, base=7)
    peer.say(Request.SET_VRING_CALL, m.u64.pack(1), (8,))
    peer.say(Request.SET_INFLIGHT_FD, m.inflight.pack(1 << 16, 0, 2, 64), (4,))
    files = {"memory:1000": 5, "request": 6, "kick:1": 9, "call:1": 8, "inflight": 4, "call:7": 3}
    other = v.Backend(FEATURES, CONFIG, num_queues=2, record_size=32)
    region = v.MemoryRegion(*m.memory_region.unpack(REGION))
    assert list(other.resume(peer.backend.state(), files)) == [
        v.SetFeatures(1 << 32),
        v.SetStatus(0),
        v.SetBackendRequestFd(6),
        v.MapMemory((region,), (5,)),
        v.SetInflight(2, 64, 1 << 16, 0, 4),
        v.SetCall(1, 8),
        v.SetKick(1, 9),
        v.StartRing(1, RING, 7),
    ]
    assert files == {"call:7": 3}
    assert other.state() == peer.backend.state()


@pytest.mark.parametrize(
    "state",
    [
        *("", "[]", "7", "{}", "[" * 9000, '["1", 0, 0, [], [], null]', "[0, 0, 0, [], [], null]"),
        "[0, 0, 0, [], [[3, 0, null, false, false, false], [4, 0, null, false, false, false]], null]",
        "[0, 0, 0, [], [[4, 0, null, true, true, true], [4, 0, null, false, false, false]], null]",
        "[0, 0, 0, [], [[4, 65536, null, true, true, false], [4, 0, null, false, false, false]], null]",
        "[0, 0, 0, [[0, 0, 0, 0]], [[4, 0, null, 1, 1, 0], [4, 0, null, 0, 0, 0]], null]",
        "[0, 0, 0, [[0, 1, 0, 0], [0, 1, 0, 0]], [[4, 0, null, 1, 1, 0], [4, 0, null, 0, 0, 0]], null]",
        "[0, 0, 0, [[0, 1, 0, 0]], [[4, 0, null, 0, 0, 0], [4, 0, null, 0, 0, 0]], null]",  # and no file
    ],
)
def test_session_that_cannot_be_is_refused(state: str) -> None:
    backend = v.Backend(FEATURES, CONFIG, num_queues=2)
    with pytest.raises(PeerError):
        list(backend.resume(state, {}))


def test_running_ring_keeps_its_size_and_base(peer: Peer) -> None:
    peer.start()
    assert refusals(peer.say(Request.SET_VRING_NUM, state(0, 32)))
    assert refusals(peer.say(Request.SET_VRING_BASE, state(0, 1)))


def test_ring_that_could_not_be_started_is_not_running(peer: Peer) -> None:
    def fail(event: v.Event) -> None:
        if isinstance(event, v.StartRing):
            peer.backend.fail(PeerError("not in memory"))

    peer.handle = fail
    assert refusals(peer.start())
    peer.handle = lambda event: None
    address = m.vring_addr.pack(0, 0, 16, 32, 48, 0)
    assert peer.say(Request.SET_VRING_ADDR, address) == [v.StartRing(0, RING, 0)]


@pytest.mark.parametrize("size", [0, 3, 2048, 65536, 0xFFFF_FFFF])
def test_ring_size_must_be_a_power_of_two_within_the_limit(peer: Peer, size: int) -> None:
    assert refusals(peer.say(Request.SET_VRING_NUM, state(0, size)))


def test_ring_that_is_not_there_is_refused(peer: Peer) -> None:
    for request in (
        Request.SET_VRING_NUM,
        Request.SET_VRING_BASE,
        Request.SET_VRING_ENABLE,
        Request.GET_VRING_BASE,
    ):
        assert refusals(peer.say(request, state(2, 1)))
    for request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR):
        assert v.CloseFds((5,)) in peer.say(request, m.u64.pack(2), (5,))
    assert refusals(peer.say(Request.SET_VRING_ADDR, m.vring_addr.pack(2, 0, 0, 0, 0, 0)))


def test_fds_of_a_ring_are_told(peer: Peer) -> None:
    assert peer.say(Request.SET_VRING_CALL, m.u64.pack(1), (4,)) == [v.SetCall(1, 4)]
    assert peer.say(Request.SET_VRING_CALL, m.u64.pack(1 | m.VRING_NOFD_MASK)) == [v.SetCall(1, None)]
    assert peer.say(Request.SET_VRING_ERR, m.u64.pack(1), (4,)) == [v.SetErr(1, 4)]
    assert refusals(peer.say(Request.SET_VRING_KICK, m.u64.pack(1 | m.VRING_NOFD_MASK)))


def test_reset_stops_the_rings_first(peer: Peer) -> None:
    peer.start(0)
    peer.start(1)
    assert peer.say(Request.RESET_DEVICE) == [v.StopRing(0), v.StopRing(1), v.ResetDevice()]
    peer.start(0)
    assert peer.say(Request.RESET_OWNER) == [v.StopRing(0)]


def test_status_is_kept(peer: Peer) -> None:
    assert peer.say(Request.SET_STATUS, m.u64.pack(7)) == [v.SetStatus(7)]
    assert m.u64.unpack(peer.ask(Request.GET_STATUS)) == (7,)


def test_backend_request_fd_is_told(peer: Peer) -> None:
    assert peer.say(Request.SET_BACKEND_REQ_FD, b"", (4,)) == [v.SetBackendRequestFd(4)]


@pytest.mark.parametrize("padded", [20, 24])
def test_inflight_memory_is_made_by_the_export(peer: Peer, padded: int) -> None:
    peer.handle = lambda event: peer.backend.inflight_created(11)
    size = v.inflight_size(2, 64, 32)
    wanted = m.inflight.pack(0, 0, 2, 64).ljust(padded, b"\0")
    assert peer.say(Request.GET_INFLIGHT_FD, wanted) == [v.CreateInflight(2, 64, size)]
    ((data, fds),) = peer.backend.data_to_send()
    assert (data[12:], fds) == (m.inflight.pack(size, 0, 2, 64).ljust(padded, b"\0"), (11,))


def test_inflight_memory_that_could_not_be_made_is_answered_with_nothing(peer: Peer) -> None:
    assert refusals(peer.say(Request.GET_INFLIGHT_FD, m.inflight.pack(0, 0, 2, 64)))
    assert peer.answer(Request.GET_INFLIGHT_FD) == b""


def test_inflight_memory_comes_back(peer: Peer) -> None:
    size = v.inflight_size(2, 64)
    events = peer.say(Request.SET_INFLIGHT_FD, m.inflight.pack(size, 64, 2, 64), (4,))
    assert events == [v.SetInflight(2, 64, size, 64, 4)]
    for bad in (
        (size - 1, 0, 2, 64),
        (1 << 25, 0, 2, 64),
        (size, 1 << 63, 2, 64),
        (size, 0, 3, 64),
        (size, 0, 0, 64),
    ):
        assert refusals(peer.say(Request.SET_INFLIGHT_FD, m.inflight.pack(*bad), (4,)))


# with a VMM on the other end of a socket


class Export:
    """The least an export does with a Backend and a GpioDevice: it maps, starts and answers."""

    def __init__(self, chip_names: str = "ABCD") -> None:
        self.simulator = Simulator(FakeClock())
        self.chip = self.simulator.add_chip("s", chip_names)
        self.refused: list[str] = []
        self.sock: socket.socket | None = None
        self.fds: dict[object, int] = {}

    def accept(self) -> socket.socket:
        """Be a fresh process with a fresh connection; returns its other end."""
        self.die()
        self.device = GpioDevice(
            self.chip,
            self.call,
            lambda offset, error: self.refused.append(str(error)),
            self.broken,
            holder=VMM,
        )
        self.backend = v.Backend(
            self.device.features, self.device.config, num_queues=2, record_size=self.device.record.size
        )
        self.regions: list[Region] = []
        self.tracked: memoryview | None = None
        self.queue_size = 0
        self.sock, other = socket.socketpair()
        self.sock.setblocking(False)
        return other

    def die(self) -> None:
        """Killed: the kernel closes the fds, and releases the lines."""
        if self.sock is not None:
            for line in self.device._lines:
                if line.request is not None:
                    line.request.release()
            self.sock.close()
            self.sock = None
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()

    def call(self, index: int) -> None:
        os.write(self.fds["call", index], (1).to_bytes(8, "little"))

    def broken(self, index: int, error: GpiovirtError) -> None:
        self.refused.append(str(error))

    def keep(self, key: object, fd: int) -> None:
        if key in self.fds:
            os.close(self.fds[key])
        self.fds[key] = fd

    def pump(self) -> None:
        assert self.sock is not None
        while select.select([self.sock], [], [], 0)[0] and not self.backend.closed:
            data, fds, _, _ = socket.recv_fds(self.sock, self.backend.bytes_wanted, 16)
            if not data:
                break
            for event in self.backend.receive(data, fds):
                self.handle(event)
            for outgoing in self.backend.data_to_send():
                socket.send_fds(self.sock, [outgoing.data], list(outgoing.fds))
        for index in range(2):
            kick = self.fds.get(("kick", index))
            if kick is not None and select.select([kick], [], [], 0)[0]:
                os.read(kick, 8)
                while self.device.kick(index):
                    pass

    def handle(self, event: v.Event) -> None:
        try:
            self.obey(event)
        except GpiovirtError as error:
            self.backend.fail(error)

    def obey(self, event: v.Event) -> None:
        match event:
            case v.MapMemory(regions, fds):
                self.regions = [self.map(region, fd) for region, fd in zip(regions, fds, strict=True)]
            case v.SetFeatures(features):
                self.device.negotiate(features)
                self.features = features
            case v.SetKick(vring, fd):
                self.keep(("kick", vring), fd)
            case v.SetCall(vring, int(fd)):
                self.keep(("call", vring), fd)
            case v.StartRing(vring, ring, base):
                self.start(vring, ring, base)
            case v.StopRing(vring):
                self.backend.ring_stopped(vring, self.device.stop(vring))
            case v.CreateInflight(_, _, size):
                fd = os.memfd_create("inflight")
                os.ftruncate(fd, size)
                self.keep("inflight", fd)
                self.backend.inflight_created(fd)
            case v.SetInflight(num_queues, queue_size, size, offset, fd):
                self.tracked = memoryview(mmap.mmap(fd, size, offset=offset))
                self.queue_size = queue_size
                self.device.record.bind(
                    v.record_area(self.tracked, num_queues, queue_size, self.device.record.size)
                )
                os.close(fd)
            case v.ResetDevice():
                self.device.reset()
            case v.CloseFds(fds):
                for fd in fds:
                    os.close(fd)
            case v.Refused(request, reason):
                self.refused.append(f"{request}: {reason}")

    def map(self, region: v.MemoryRegion, fd: int) -> Region:
        view = memoryview(mmap.mmap(fd, region.size, offset=region.mmap_offset))
        os.close(fd)
        return Region(region.guest_address, region.size, region.user_address, view)

    def start(self, index: int, ring: Ring, base: int) -> None:
        log = None
        if index == u.VIRTIO_GPIO_REQUESTQ:
            if base:
                self.device.restore()
            else:
                self.device.reset()
        elif self.tracked is not None:
            log = v.SplitRingLog(v.log_area(self.tracked, index, self.queue_size), self.queue_size)
        queue = Virtqueue(
            GuestMemory(self.regions),
            ring,
            base,
            indirect=bool(self.features >> 28 & 1),
            log=log,
        )
        while self.device.start(index, queue):
            pass


@pytest.fixture
def export() -> Iterator[Export]:
    export = Export()
    yield export
    export.die()


@pytest.fixture
def vmm(export: Export) -> Iterator[Vmm]:
    with Vmm(pump=export.pump) as vmm:
        vmm.connect(export.accept())
        vmm.start()
        yield vmm


def test_vmm_drives_lines(export: Export, vmm: Vmm) -> None:
    assert vmm.config == export.device.config
    assert vmm.driver.names(4, 8) == ["A", "B", "C", "D"]
    vmm.driver.direction_output(0, 1)
    assert export.simulator.level("s", 0) == 1
    vmm.driver.direction_input(1)
    export.simulator.pull("s", 1, 1)
    assert vmm.driver.get_value(1) == 1
    assert export.refused == []


def test_vmm_with_or_without_indirect_descriptors_drives_lines() -> None:
    for indirect in (False, True):
        export = Export("x" * 200)
        with Vmm(pump=export.pump, indirect=indirect, queue_size=256) as vmm:
            vmm.connect(export.accept())
            vmm.start()
            for _ in range(500):
                vmm.driver.direction_output(199, 1)
        assert export.refused == []
        export.die()


def test_vmm_gets_events(export: Export, vmm: Vmm) -> None:
    vmm.driver.direction_input(1)
    vmm.driver.set_irq_type(1, u.VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH)
    vmm.driver.unmask(1)
    assert not vmm.wait(u.VIRTIO_GPIO_EVENTQ)
    export.simulator.pull("s", 1, 1)
    assert vmm.wait(u.VIRTIO_GPIO_EVENTQ)
    assert vmm.driver.events() == [(1, u.VIRTIO_GPIO_IRQ_STATUS_VALID)]


def test_guest_reset_releases_its_lines(export: Export, vmm: Vmm) -> None:
    vmm.driver.direction_output(0, 1)
    vmm.stop()
    vmm.boot()
    vmm.start()
    assert not export.chip.line_info(0).used
    vmm.driver.direction_input(0)


def test_paused_guest_goes_on(export: Export, vmm: Vmm) -> None:
    vmm.get_inflight()
    vmm.driver.direction_input(1)
    vmm.driver.set_irq_type(1, u.VIRTIO_GPIO_IRQ_TYPE_EDGE_RISING)
    vmm.driver.unmask(1)
    vmm.start(vmm.stop())
    assert vmm.driver.events() == [(1, u.VIRTIO_GPIO_IRQ_STATUS_INVALID)]
    vmm.driver.unmask(1)
    export.simulator.pull("s", 1, 1)
    assert vmm.driver.events() == [(1, u.VIRTIO_GPIO_IRQ_STATUS_VALID)]


def test_device_reset_by_message_forgets_all(export: Export, vmm: Vmm) -> None:
    vmm.driver.direction_output(0, 1)
    vmm.tell(Request.RESET_DEVICE)
    assert not export.chip.line_info(0).used


def test_killed_back_end_goes_on_with_requests_lines_and_events(export: Export) -> None:
    with Vmm(pump=export.pump) as vmm:
        vmm.connect(export.accept())
        vmm.get_inflight()
        vmm.start()
        for line in (0, 1):
            vmm.driver.direction_input(line)
            vmm.driver.set_irq_type(line, u.VIRTIO_GPIO_IRQ_TYPE_EDGE_RISING)
            vmm.driver.unmask(line)
        vmm.driver.direction_output(3, 1)
        export.simulator.pull("s", 1, 1)
        assert vmm.driver.events() == [(1, u.VIRTIO_GPIO_IRQ_STATUS_VALID)]
        vmm.driver.unmask(1)
        vmm.queues[0].add([u.virtio_gpio_request.pack(u.VIRTIO_GPIO_MSG_GET_VALUE, 3, 0)], [2])
        export.simulator.pull("s", 1, 0)

        vmm.disconnect()
        vmm.connect(export.accept())
        vmm.set_inflight()
        vmm.resume()
        assert vmm.queues[0].collect()[-1].data == b"\0\1"
        assert export.simulator.level("s", 3) == 1
        for line in (0, 1):
            export.simulator.pull("s", line, 1)
        assert sorted(vmm.driver.events()) == [(0, 1), (1, 1)]
        assert export.refused == []


def test_next_vm_is_served_after_one_that_died(export: Export) -> None:
    for _ in range(3):
        with Vmm(pump=export.pump) as vmm:
            vmm.connect(export.accept())
            vmm.start()
            vmm.driver.direction_input(1)
            vmm.driver.set_irq_type(1, u.VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH)
            vmm.driver.unmask(1)


def test_vmm_is_told_what_is_refused(export: Export, vmm: Vmm) -> None:
    with pytest.raises(PeerError, match="was refused"):
        vmm.tell(99)
    assert vmm.get_config(4, 8) == b""
    assert vmm.get_config(0, 2) == b"\4\0"
