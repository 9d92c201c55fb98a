# SPDX-License-Identifier: MIT
"""One front-end's connection: what each message means, the order of things, and the answers.

Requests of messages come out as events; nothing is kept here but what later messages and answers
need. QEMU: docs/interop/vhost-user.rst
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from gpiovirt.errors import GpiovirtError, PeerError
from gpiovirt.protocols.guest_memory import check_regions
from gpiovirt.protocols.vhost_user import events as e
from gpiovirt.protocols.vhost_user import messages as m
from gpiovirt.protocols.vhost_user.framing import Framing, Message, Outgoing
from gpiovirt.protocols.vhost_user.inflight import inflight_size
from gpiovirt.protocols.vhost_user.messages import ProtocolFeature, Request
from gpiovirt.protocols.vhost_user.session import (
    INFLIGHT,
    REQUEST,
    SessionState,
    VringState,
    memory_file,
    ring_file,
)
from gpiovirt.protocols.virtqueue import Ring

__all__ = ["Backend"]

_PROTOCOL_FEATURES = sum(
    1 << feature
    for feature in (
        ProtocolFeature.MQ,
        ProtocolFeature.REPLY_ACK,
        ProtocolFeature.BACKEND_REQ,
        ProtocolFeature.CONFIG,
        ProtocolFeature.INFLIGHT_SHMFD,
        ProtocolFeature.RESET_DEVICE,
        ProtocolFeature.CONFIGURE_MEM_SLOTS,
        ProtocolFeature.STATUS,
    )
)


class _Vring:
    __slots__ = ("base", "enabled", "kick", "ring", "running", "size")

    def __init__(self) -> None:
        self.size = 0
        self.base = 0
        self.ring: tuple[int, int, int] | None = None
        self.kick = self.enabled = self.running = False


class Backend:
    """The protocol with one front-end.

    Read at most `bytes_wanted` and `fds_wanted` at a time, so that fds are attributed to the right
    message. While an event of receive() is handled, fail() makes it a refusal.
    """

    def __init__(
        self,
        features: int,
        config: bytes,
        *,
        num_queues: int,
        queue_size_max: int = 1024,
        memory_slots: int = 32,
        record_size: int = 0,
        protocol_features: int = _PROTOCOL_FEATURES,
    ) -> None:
        """`record_size` bytes are needed behind the queues' areas of the inflight memory."""
        self._offered = features | 1 << m.F_PROTOCOL_FEATURES
        self._protocol_offered = protocol_features
        self._config = config
        self._queue_size_max = queue_size_max
        self._memory_slots = memory_slots
        self._record_size = record_size
        self._vrings = [_Vring() for _ in range(num_queues)]
        self._regions: list[e.MemoryRegion] = []
        self._features = self._protocol_features = self._status = 0
        self._framing = Framing()
        self._failure: GpiovirtError | None = None
        self._inflight_fd: int | None = None
        self._inflight: tuple[int, int, int, int] | None = None
        self.closed = False

    @property
    def bytes_wanted(self) -> int:
        """How many bytes of the message, or its header, are missing."""
        return self._framing.bytes_wanted

    @property
    def fds_wanted(self) -> int:
        """How many fds may come with it."""
        return self._framing.fds_wanted

    @property
    def has_rings(self) -> bool:
        """Whether the front-end has said where rings are."""
        return any(vring.ring is not None for vring in self._vrings)

    def data_to_send(self) -> list[Outgoing]:
        """The answers so far; each is returned once."""
        outbox, self._framing.outbox = self._framing.outbox, []
        return outbox

    def fail(self, error: GpiovirtError) -> None:
        """The event being handled failed."""
        self._failure = error.with_traceback(None)  # whose frames would keep the guest's memory mapped

    def ring_stopped(self, index: int, last_avail_idx: int) -> None:
        """Where a ring was stopped."""
        self._vrings[index].base = last_avail_idx & 0xFFFF

    def inflight_created(self, fd: int) -> None:
        """The shared memory that CreateInflight asked for; `fd` stays the caller's."""
        self._inflight_fd = fd

    def receive(self, data: bytes, fds: Sequence[int] = ()) -> Iterator[e.Event]:
        """What the front-end said, as events; consume all of them."""
        if self.closed:
            if fds:
                yield e.CloseFds(tuple(fds))
            return
        try:
            for message in self._framing.receive(data, fds):
                yield from self._dispatch(message)
        except PeerError as error:
            self.closed = True
            yield e.CloseConnection(str(error))
            yield from self.close()

    def close(self) -> Iterator[e.Event]:
        """The connection has ended; returns the fds left over."""
        self.closed = True
        self._failure = None
        unclaimed = self._framing.unclaimed()
        if unclaimed:
            yield e.CloseFds(unclaimed)

    def state(self) -> str:
        """What resume() of another back-end takes."""
        vrings = [
            VringState(vring.size, vring.base, vring.ring, vring.kick, vring.enabled, vring.running)
            for vring in self._vrings
        ]
        features = self._features, self._protocol_features, self._status
        return SessionState(*features, tuple(self._regions), tuple(vrings), self._inflight).encode()

    def resume(self, state: str, files: dict[str, int]) -> Iterator[e.Event]:
        """Resume from another's state(), with its files; returns events, consume all of them.

        Files are taken out of `files` as they are given away. PeerError if it cannot be done.
        """
        known = SessionState.decode(state, len(self._vrings), self._queue_size_max, self._memory_slots)
        self._features, self._protocol_features, self._status = known[:3]
        self._regions = list(known.regions)
        self._inflight = known.inflight
        for event in self._events_to(known, files):
            self._failure = None
            yield event
            if self._failure is not None:
                raise self._failure
        for index, (vring, was) in enumerate(zip(self._vrings, known.vrings, strict=True)):
            vring.size, vring.base, vring.ring, vring.kick, vring.enabled, _ = was
            if was.running:
                yield from self._start_if_ready(index)

    def _events_to(self, state: SessionState, files: dict[str, int]) -> Iterator[e.Event]:
        try:
            yield e.SetFeatures(state.features)
            yield e.SetStatus(state.status)
            if REQUEST in files:
                yield e.SetBackendRequestFd(files.pop(REQUEST))
            regions = state.regions
            yield e.MapMemory(regions, tuple(files.pop(memory_file(region)) for region in regions))
            if state.inflight is not None:
                yield e.SetInflight(*state.inflight, files.pop(INFLIGHT))
            for index, vring in enumerate(state.vrings):
                for use, event in (("call", e.SetCall), ("err", e.SetErr)):
                    if (name := ring_file(use, index)) in files:
                        yield event(index, files.pop(name))
                if vring.kick:
                    yield e.SetKick(index, files.pop(ring_file("kick", index)))
        except KeyError as error:
            raise PeerError(f"a session without its file {error}") from error

    def _dispatch(self, message: Message) -> Iterator[e.Event]:
        answered = message.request in _ANSWERED
        replies = len(self._framing.outbox)
        self._failure = None
        try:
            handler = _HANDLERS.get(message.request)
            if handler is None:
                raise PeerError("no such message is known, or its feature was not offered")
            yield from handler(self, message)
            if self._failure is not None:
                raise self._failure
            failed = False
        except GpiovirtError as error:
            failed = True
            if answered and len(self._framing.outbox) == replies:
                # virtio device config space: "zero length of payload to indicate an error"
                self._framing.reply(message.request, b"")
            yield e.Refused(m.name_of(message.request), str(error))
        if message.fds:
            yield e.CloseFds(tuple(message.fds))
        if message.need_reply and not answered and self._has(ProtocolFeature.REPLY_ACK):
            self._framing.reply(message.request, m.u64.pack(failed))

    def _has(self, feature: ProtocolFeature) -> bool:
        return bool(self._protocol_features >> feature & 1)

    def _reply_u64(self, message: Message, value: int) -> None:
        self._framing.reply(message.request, m.u64.pack(value))

    def _vring(self, index: int) -> _Vring:
        if index >= len(self._vrings):
            raise PeerError(f"no ring {index}; there are {len(self._vrings)}")
        return self._vrings[index]

    def _get_features(self, message: Message) -> Iterator[e.Event]:
        self._reply_u64(message, self._offered)
        return iter(())

    def _set_features(self, message: Message) -> Iterator[e.Event]:
        (features,) = message.fields(m.u64)
        if features & ~self._offered:
            raise PeerError(f"features {features & ~self._offered:#x} were not offered")
        self._features = features
        yield e.SetFeatures(features)

    def _get_protocol_features(self, message: Message) -> Iterator[e.Event]:
        self._reply_u64(message, self._protocol_offered)
        return iter(())

    def _set_protocol_features(self, message: Message) -> Iterator[e.Event]:
        (features,) = message.fields(m.u64)
        if features & ~self._protocol_offered:
            raise PeerError(f"protocol features {features & ~self._protocol_offered:#x} were not offered")
        self._protocol_features = features
        return iter(())

    def _set_owner(self, message: Message) -> Iterator[e.Event]:
        return iter(())

    def _get_queue_num(self, message: Message) -> Iterator[e.Event]:
        self._reply_u64(message, len(self._vrings))
        return iter(())

    def _set_mem_table(self, message: Message) -> Iterator[e.Event]:
        count, _ = message.fields(m.memory_table)
        if count > m.MEMORY_REGIONS_MAX or len(message.payload) < 8 + m.memory_region.size * count:
            raise PeerError(f"{count} memory regions in {len(message.payload)} bytes")
        spans = memoryview(message.payload)[8 : 8 + m.memory_region.size * count]
        regions = [e.MemoryRegion(*fields) for fields in m.memory_region.iter_unpack(spans)]
        check_regions([region[:3] for region in regions])
        fds = message.take_fds(count)
        self._regions = regions
        yield e.MapMemory(tuple(regions), fds)

    def _get_max_mem_slots(self, message: Message) -> Iterator[e.Event]:
        self._reply_u64(message, self._memory_slots)
        return iter(())

    def _single_region(self, message: Message) -> e.MemoryRegion:
        if len(message.payload) < m.single_memory_region.size:
            raise PeerError(
                f"a payload of {len(message.payload)} bytes; it takes {m.single_memory_region.size}"
            )
        return e.MemoryRegion(*m.memory_region.unpack_from(message.payload, m.u64.size))

    def _add_mem_reg(self, message: Message) -> Iterator[e.Event]:
        region = self._single_region(message)
        if len(self._regions) >= self._memory_slots:
            raise PeerError(f"all {self._memory_slots} memory slots are in use")
        check_regions([other[:3] for other in (*self._regions, region)])
        (fd,) = message.take_fds(1)
        self._regions.append(region)
        yield e.AddMemory(region, fd)
        if self._failure is not None:
            self._regions.remove(region)

    def _rem_mem_reg(self, message: Message) -> Iterator[e.Event]:
        region = self._single_region(message)
        for known in self._regions:
            if known[:3] == region[:3]:
                self._regions.remove(known)
                yield e.RemoveMemory(known)
                return
        raise PeerError(f"no memory region at {region.guest_address:#x} of {region.size:#x} bytes")

    def _set_vring_num(self, message: Message) -> Iterator[e.Event]:
        index, size = message.fields(m.vring_state)
        vring = self._vring(index)
        if not 0 < size <= self._queue_size_max or size & (size - 1):
            raise PeerError(f"ring size {size} is not a power of two up to {self._queue_size_max}")
        if vring.running and size != vring.size:
            raise PeerError(f"ring {index} is running")
        vring.size = size
        return iter(())

    def _set_vring_addr(self, message: Message) -> Iterator[e.Event]:
        index, _, descriptors, used, available, _ = message.fields(m.vring_addr)
        vring = self._vring(index)
        ring = (descriptors, available, used)
        if vring.running and ring != vring.ring:
            yield from self._stop(index)
        vring.ring = ring
        yield from self._start_if_ready(index)

    def _set_vring_base(self, message: Message) -> Iterator[e.Event]:
        index, base = message.fields(m.vring_state)
        vring = self._vring(index)
        if vring.running or base > 0xFFFF:
            raise PeerError(f"base {base} for ring {index}, or it is running")
        vring.base = base
        return iter(())

    def _get_vring_base(self, message: Message) -> Iterator[e.Event]:
        index, _ = message.fields(m.vring_state)
        vring = self._vring(index)
        yield from self._stop(index)
        vring.kick = False
        self._framing.reply(message.request, m.vring_state.pack(index, vring.base))

    def _set_vring_enable(self, message: Message) -> Iterator[e.Event]:
        index, enabled = message.fields(m.vring_state)
        self._vring(index).enabled = bool(enabled)
        if enabled:
            yield from self._start_if_ready(index)
        else:
            yield from self._stop(index)

    def _vring_fd(self, message: Message) -> tuple[int, int | None]:
        (value,) = message.fields(m.u64)
        index = value & m.VRING_INDEX_MASK
        self._vring(index)
        if value & m.VRING_NOFD_MASK:
            return index, None
        return index, message.take_fds(1)[0]

    def _set_vring_kick(self, message: Message) -> Iterator[e.Event]:
        index, fd = self._vring_fd(message)
        if fd is None:
            raise PeerError(f"ring {index} without a kick fd: polling is not offered")
        yield e.SetKick(index, fd)
        self._vrings[index].kick = self._failure is None
        yield from self._start_if_ready(index)

    def _set_vring_call(self, message: Message) -> Iterator[e.Event]:
        yield e.SetCall(*self._vring_fd(message))

    def _set_vring_err(self, message: Message) -> Iterator[e.Event]:
        yield e.SetErr(*self._vring_fd(message))

    def _start_if_ready(self, index: int) -> Iterator[e.Event]:
        vring = self._vrings[index]
        # "Ring states": without the feature, rings are enabled from the beginning
        enabled = vring.enabled or not self._features >> m.F_PROTOCOL_FEATURES & 1
        if vring.running or not (enabled and vring.kick and vring.size and vring.ring):
            return
        vring.running = True
        yield e.StartRing(index, Ring(vring.size, *vring.ring), vring.base)
        if self._failure is not None:
            vring.running = False

    def _stop(self, index: int) -> Iterator[e.Event]:
        vring = self._vrings[index]
        if vring.running:
            vring.running = False
            yield e.StopRing(index)

    def _stop_all(self) -> Iterator[e.Event]:
        for index, vring in enumerate(self._vrings):
            yield from self._stop(index)
            vring.enabled = False

    def _reset_owner(self, message: Message) -> Iterator[e.Event]:
        """Deprecated; of the readings allowed, the one that disables all rings."""
        return self._stop_all()

    def _reset_device(self, message: Message) -> Iterator[e.Event]:
        yield from self._stop_all()
        self._status = 0
        yield e.ResetDevice()

    def _get_config(self, message: Message) -> Iterator[e.Event]:
        offset, size, flags = message.fields(m.config_space)
        if size > m.CONFIG_SIZE_MAX or offset + size > len(self._config):
            raise PeerError(f"{size} bytes at {offset} of a config space of {len(self._config)}")
        space = m.config_space.pack(offset, size, flags)
        self._framing.reply(message.request, space + self._config[offset : offset + size])
        return iter(())

    def _set_config(self, message: Message) -> Iterator[e.Event]:
        raise PeerError("the config space is read-only")

    def _set_status(self, message: Message) -> Iterator[e.Event]:
        (status,) = message.fields(m.u64)
        self._status = status & 0xFF
        yield e.SetStatus(self._status)

    def _get_status(self, message: Message) -> Iterator[e.Event]:
        self._reply_u64(message, self._status)
        return iter(())

    def _set_backend_req_fd(self, message: Message) -> Iterator[e.Event]:
        yield e.SetBackendRequestFd(message.take_fds(1)[0])

    def _inflight_fields(self, message: Message) -> tuple[int, int, int, int]:
        size, offset, num_queues, queue_size = message.fields(m.inflight)
        if not 0 < num_queues <= len(self._vrings) or not 0 < queue_size <= self._queue_size_max:
            raise PeerError(f"inflight memory for {num_queues} queues of {queue_size}")
        return size, offset, num_queues, queue_size

    def _get_inflight_fd(self, message: Message) -> Iterator[e.Event]:
        _, _, num_queues, queue_size = self._inflight_fields(message)
        size = inflight_size(num_queues, queue_size, self._record_size)
        self._inflight_fd = None
        yield e.CreateInflight(num_queues, queue_size, size)
        if self._inflight_fd is None:
            raise self._failure or PeerError("no memory was made")
        payload = m.inflight.pack(size, 0, num_queues, queue_size).ljust(len(message.payload), b"\0")
        self._framing.reply(message.request, payload, (self._inflight_fd,))

    def _set_inflight_fd(self, message: Message) -> Iterator[e.Event]:
        size, offset, num_queues, queue_size = self._inflight_fields(message)
        needed = inflight_size(num_queues, queue_size)
        if not needed <= size <= 1 << 24 or offset >= 1 << 63:
            raise PeerError(f"inflight memory of {size} bytes at {offset}; it takes {needed}")
        yield e.SetInflight(num_queues, queue_size, size, offset, message.take_fds(1)[0])
        if self._failure is None:
            self._inflight = num_queues, queue_size, size, offset


_HANDLERS: dict[int, Callable[[Backend, Message], Iterator[e.Event]]] = {
    Request.GET_FEATURES: Backend._get_features,
    Request.SET_FEATURES: Backend._set_features,
    Request.SET_OWNER: Backend._set_owner,
    Request.RESET_OWNER: Backend._reset_owner,
    Request.SET_MEM_TABLE: Backend._set_mem_table,
    Request.SET_VRING_NUM: Backend._set_vring_num,
    Request.SET_VRING_ADDR: Backend._set_vring_addr,
    Request.SET_VRING_BASE: Backend._set_vring_base,
    Request.GET_VRING_BASE: Backend._get_vring_base,
    Request.SET_VRING_KICK: Backend._set_vring_kick,
    Request.SET_VRING_CALL: Backend._set_vring_call,
    Request.SET_VRING_ERR: Backend._set_vring_err,
    Request.GET_PROTOCOL_FEATURES: Backend._get_protocol_features,
    Request.SET_PROTOCOL_FEATURES: Backend._set_protocol_features,
    Request.GET_QUEUE_NUM: Backend._get_queue_num,
    Request.SET_VRING_ENABLE: Backend._set_vring_enable,
    Request.SET_BACKEND_REQ_FD: Backend._set_backend_req_fd,
    Request.GET_CONFIG: Backend._get_config,
    Request.SET_CONFIG: Backend._set_config,
    Request.GET_INFLIGHT_FD: Backend._get_inflight_fd,
    Request.SET_INFLIGHT_FD: Backend._set_inflight_fd,
    Request.RESET_DEVICE: Backend._reset_device,
    Request.GET_MAX_MEM_SLOTS: Backend._get_max_mem_slots,
    Request.ADD_MEM_REG: Backend._add_mem_reg,
    Request.REM_MEM_REG: Backend._rem_mem_reg,
    Request.SET_STATUS: Backend._set_status,
    Request.GET_STATUS: Backend._get_status,
}
_ANSWERED = {
    Request.GET_FEATURES,
    Request.GET_PROTOCOL_FEATURES,
    Request.GET_VRING_BASE,
    Request.GET_QUEUE_NUM,
    Request.GET_CONFIG,
    Request.GET_INFLIGHT_FD,
    Request.GET_MAX_MEM_SLOTS,
    Request.GET_STATUS,
}
