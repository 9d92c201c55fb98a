# SPDX-License-Identifier: MIT
"""Fuzz the VM export's protocols: rings, descriptors and messages.

Invariant: whatever a guest writes to its memory and whatever a front-end sends, each step ends in
an answer, a refusal or a stopped ring, in bounded time, with every fd told of exactly once, and the
virtual machine next to it is served as before.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.harness import main
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.errors import GpiovirtError, HostError, PeerError
from gpiovirt.protocols import vhost_user as v
from gpiovirt.protocols.guest_memory import GuestMemory, Region
from gpiovirt.protocols.vhost_user import messages as m
from gpiovirt.protocols.vhost_user.messages import Request
from gpiovirt.protocols.virtio_gpio import GpioDevice
from gpiovirt.protocols.virtqueue import Virtqueue
from gpiovirt.sources.simulator import Simulator
from gpiovirt.testing.clock import FakeClock
from gpiovirt.testing.virtio_driver import DriverQueue, GpioDriver, GuestRam
from gpiovirt.uapi import virtio_gpio as u
from gpiovirt.uapi import virtio_ring as r

LINES = 6
RAM_BYTES = 1 << 15
KICKS_MAX = 600  # one ring of 64 needs two; a guest that writes while we read needs some more
EDGES = (0, 1, 2, 3, 8, 16, 63, 64, 255, 256, 4095, 0x7FFF, 0x8000, 0xFFFF, 1 << 31, (1 << 32) - 1)


VMM = Holder("vm", HolderKind.VM, 900, 107)


class Neighbour:
    """Another VM on another chip of the same simulator."""

    def __init__(self, simulator: Simulator) -> None:
        chip = simulator.add_chip("neighbour", ["N"])
        ram = GuestRam(memoryview(bytearray(RAM_BYTES)))
        queues = DriverQueue(ram), DriverQueue(ram)
        device = GpioDevice(chip, self.ignore, self.complain, self.complain, holder=VMM)
        device.start(0, Virtqueue(GuestMemory([ram.region]), queues[0].ring))
        self.ram = ram
        self.driver = GpioDriver(*queues, lambda index: self.ignore(device.kick(index)))
        self.driver.direction_output(0, 0)

    def ignore(self, *_: object) -> None:
        pass

    def complain(self, *what: object) -> None:
        raise AssertionError(f"the neighbour was refused: {what}")

    def check(self, value: int) -> None:
        self.ram._free = 4096  # its requests may overwrite those that are done
        self.driver.set_value(0, value)
        assert self.driver.get_value(0) == value


class Target:
    """A back-end, its device and guest, and an export that keeps account of fds."""

    def __init__(self, rng: random.Random, report: Counter[str]) -> None:
        self.rng = rng
        self.report = report
        self.simulator = Simulator(FakeClock())
        self.chip = self.simulator.add_chip("target", [f"T{i}" for i in range(LINES)])
        self.neighbour = Neighbour(self.simulator)
        self.device = GpioDevice(self.chip, self.call, self.refused, self.broken, holder=VMM)
        self.backend = v.Backend(
            self.device.features | 1 << r.VIRTIO_RING_F_INDIRECT_DESC,
            self.device.config,
            num_queues=2,
            queue_size_max=256,
            record_size=self.device.record.size,
        )
        self.features = 0
        self.ram = GuestRam(memoryview(bytearray(RAM_BYTES)))
        self.queues = [DriverQueue(self.ram, 16), DriverQueue(self.ram, 16)]
        self.buffers = self.ram.allocate(256)
        self.regions: list[Region] = []
        self.tracked: memoryview | None = None
        self.tracked_size = 0
        self.last_fd = 1000
        self.fds: Counter[int] = Counter()

    def call(self, _index: int) -> None:
        self.report["calls"] += 1

    def refused(self, _offset: int | None, error: GpiovirtError) -> None:
        assert str(error)
        self.report["requests refused"] += 1
        self.scribble()

    def broken(self, _index: int, error: PeerError) -> None:
        assert str(error)
        self.report["rings stopped"] += 1

    def scribble(self) -> None:
        """The guest writes while we read."""
        if self.rng.random() < 0.1:
            queue = self.rng.choice(self.queues)
            queue.available16[1] = queue.avail_idx + self.rng.randrange(-2, 3) & 0xFFFF
            at = self.rng.randrange(16 * 16)
            queue.table[at] = self.rng.getrandbits(8)

    def tell(self, data: bytes, fds: Sequence[int]) -> None:
        self.fds.update(fds)
        for event in self.backend.receive(data, fds):
            self.report[type(event).__name__] += 1
            self.account(event)
            try:
                self.obey(event)
            except GpiovirtError as error:
                self.backend.fail(error)
        for outgoing in self.backend.data_to_send():
            _, flags, size = m.header.unpack_from(outgoing.data)
            assert flags == m.VERSION | m.REPLY_MASK
            assert size == len(outgoing.data) - m.header.size
            self.report["answers"] += 1

    def account(self, event: v.Event) -> None:
        fds: Sequence[int | None] = ()
        if isinstance(event, v.MapMemory | v.CloseFds):
            fds = event.fds
        elif isinstance(
            event, v.AddMemory | v.SetKick | v.SetCall | v.SetErr | v.SetInflight | v.SetBackendRequestFd
        ):
            fds = (event.fd,)
        self.fds.subtract(fd for fd in fds if fd is not None)

    def map(self, region: v.MemoryRegion) -> Region:
        if region.size > 1 << 20:
            raise HostError("too much memory")
        whole = region.size == RAM_BYTES
        view = self.ram.view if whole else memoryview(bytearray(region.size))
        return Region(region.guest_address, region.size, region.user_address, view)

    def obey(self, event: v.Event) -> None:
        match event:
            case v.MapMemory(regions, _):
                self.regions = [self.map(region) for region in regions]
                self.remap()
            case v.AddMemory(region, _):
                self.regions.append(self.map(region))
                self.remap()
            case v.RemoveMemory(region):
                self.regions = [known for known in self.regions if known[:3] != region[:3]]
                self.remap()
            case v.SetFeatures(features):
                self.features = features
                self.device.negotiate(features)
            case v.StartRing(vring, ring, base):
                if vring == u.VIRTIO_GPIO_REQUESTQ:
                    self.device.restore() if base else self.device.reset()
                log = None
                if vring and self.tracked is not None:
                    log = v.SplitRingLog(v.log_area(self.tracked, 1, self.tracked_size), self.tracked_size)
                queue = Virtqueue(
                    GuestMemory(self.regions),
                    ring,
                    base,
                    indirect=bool(self.features >> r.VIRTIO_RING_F_INDIRECT_DESC & 1),
                    fence=self.scribble if self.rng.random() < 0.5 else None,
                    log=log,
                )
                self.device.start(vring, queue)
            case v.StopRing(vring):
                self.backend.ring_stopped(vring, self.device.stop(vring))
            case v.ResetDevice():
                self.device.reset()
            case v.CreateInflight(_, _, size):
                assert size < 1 << 20
                self.backend.inflight_created(7)
            case v.SetInflight(num_queues, queue_size, size, _, _):
                tracked = memoryview(bytearray(self.rng.randbytes(64).ljust(size, b"\0")))
                record = v.record_area(tracked, num_queues, queue_size, self.device.record.size)
                v.log_area(tracked, 1, queue_size)
                self.device.record.bind(record)
                self.tracked, self.tracked_size = tracked, queue_size

    def remap(self) -> None:
        memory = GuestMemory(self.regions)
        for index, queue in enumerate(self.device._queues):
            if queue is not None:
                try:
                    queue.use(memory)
                except PeerError as error:
                    self.device._break(index, error)

    def number(self) -> int:
        if self.rng.random() < 0.7:
            return self.rng.choice(EDGES)
        return self.rng.getrandbits(self.rng.choice((4, 8, 16, 32)))

    def region(self) -> bytes:
        good = self.ram.region
        fields = [good.guest_address, good.size, good.user_address, 0]
        if self.rng.random() < 0.3:
            fields[self.rng.randrange(4)] = self.rng.choice(
                (0, 1, 4096, 1 << 40, (1 << 64) - 1, good.size - 16)
            )
        return m.memory_region.pack(*fields)

    def payload(self, request: int) -> bytes:
        rng = self.rng
        index = rng.choice((0, 0, 1, 1, 2, 255))
        ring = self.queues[index & 1].ring
        address = [ring.descriptors, ring.used, ring.available]
        if rng.random() < 0.1:
            address[rng.randrange(3)] = rng.choice((0, 1, (1 << 64) - 16, ring.used + RAM_BYTES))
        match request:
            case Request.SET_MEM_TABLE:
                count = rng.choice((0, 1, 1, 1, 1, 2, 9, 1 << 31))
                return m.memory_table.pack(count, 0) + b"".join(self.region() for _ in range(min(count, 2)))
            case Request.ADD_MEM_REG | Request.REM_MEM_REG:
                return bytes(8) + self.region()
            case Request.SET_VRING_ADDR:
                return m.vring_addr.pack(index, 0, *address, (1 << 64) - 1)
            case Request.SET_VRING_NUM:
                return m.vring_state.pack(index, rng.choice((16, 16, 16, 8, 256, 3, 0)))
            case Request.SET_VRING_BASE | Request.GET_VRING_BASE:
                return m.vring_state.pack(index, rng.choice((0, 0, 1, 5, 0xFFFF, 0x1_0000)))
            case Request.SET_VRING_ENABLE:
                return m.vring_state.pack(index, rng.choice((1, 1, 1, 0, 7)))
            case Request.SET_VRING_KICK | Request.SET_VRING_CALL | Request.SET_VRING_ERR:
                return m.u64.pack(index | rng.choice((0, 0, 0, 0x100)))
            case Request.SET_FEATURES:
                return m.u64.pack(
                    rng.choice((1, 1 << 32 | 1, 1 << 30 | 3 << 28 | 1, 3 << 28 | 1, (1 << 64) - 1))
                )
            case Request.SET_PROTOCOL_FEATURES:
                return m.u64.pack(rng.choice((0x1B229, 8, 0, 1 << 63)))
            case Request.GET_CONFIG | Request.SET_CONFIG:
                return m.config_space.pack(self.number(), self.number(), 0) + bytes(8)
            case Request.GET_INFLIGHT_FD | Request.SET_INFLIGHT_FD:
                size = v.inflight_size(2, 16, rng.choice((0, self.device.record.size)))
                return m.inflight.pack(size, 0, rng.choice((2, 2, 1, 0, 3)), rng.choice((16, 16, 8, 0)))
        return rng.randbytes(rng.choice((0, 8, 8, 24)))

    def message(self) -> None:
        rng = self.rng
        request = rng.choice(list(Request)) if rng.random() < 0.95 else self.number()
        payload = self.payload(request)
        wants = {Request.SET_MEM_TABLE: 1, Request.ADD_MEM_REG: 1, Request.SET_INFLIGHT_FD: 1}
        count = wants.get(Request(request) if request in list(Request) else Request.SET_OWNER, 0)
        count = 1 if request in (12, 13, 14, 21) else count
        if rng.random() < 0.1:
            count = rng.randrange(4)
            payload = payload[: rng.randrange(len(payload) + 1)]
        flags, size = m.VERSION | rng.choice((0, m.NEED_REPLY_MASK)), len(payload)
        if rng.random() < 0.005:
            flags, size = self.number(), self.number()
        fds = range(self.last_fd, self.last_fd + count)
        self.last_fd += count
        data = m.header.pack(request, flags & 0xFFFF_FFFF, size & 0xFFFF_FFFF) + payload
        cut = rng.randrange(len(data)) if rng.random() < 0.2 else len(data)
        self.tell(data[:cut], fds)
        self.tell(data[cut:], ())

    def set_up(self) -> None:
        """What a front-end says that means well."""
        features = 1 << 32 | 1 | self.rng.getrandbits(2) << 28
        self.features = features
        self.device.negotiate(features)
        self.tell(m.header.pack(2, 1, 8) + m.u64.pack(features), ())
        region = m.memory_region.pack(self.ram.guest_address, RAM_BYTES, self.ram.user_address, 0)
        self.tell(m.header.pack(5, 1, 40) + m.memory_table.pack(1, 0) + region, (1,))
        for index, queue in enumerate(self.queues):
            ring = queue.ring
            self.tell(m.header.pack(8, 1, 8) + m.vring_state.pack(index, ring.size), ())
            address = m.vring_addr.pack(index, 0, ring.descriptors, ring.used, ring.available, 0)
            self.tell(m.header.pack(9, 1, 40) + address, ())
            self.tell(m.header.pack(12, 1, 8) + m.u64.pack(index), (2 + index,))

    def guest(self) -> None:
        rng = self.rng
        index = rng.randrange(2)
        queue = self.queues[index]
        kind = rng.random()
        if kind < 0.5:
            self.descriptors(queue, index)
            queue.offer(rng.randrange(16) if rng.random() < 0.98 else rng.randrange(0x1_0000))
        elif kind < 0.55:
            at = rng.randrange(RAM_BYTES - 64)
            self.ram.view[at : at + 8] = rng.randbytes(8)
        elif kind < 0.57:
            queue.available16[1] = rng.getrandbits(16)
        elif kind < 0.8:
            self.simulator.pull("target", rng.randrange(LINES), rng.randrange(2))
        kicks = 0
        while self.device.kick(index):
            kicks += 1
            assert kicks < KICKS_MAX, "a kick that never ends"
        self.report["kicks"] += 1

    def descriptors(self, queue: DriverQueue, index: int) -> None:
        """A chain that may be a request, in any shape, from any descriptor."""
        rng = self.rng
        gpio = rng.choice((0, 1, 2, LINES - 1, LINES, 0xFFFF))
        body = u.virtio_gpio_irq_request.pack(gpio)
        if index == u.VIRTIO_GPIO_REQUESTQ:
            body = u.virtio_gpio_request.pack(rng.randrange(1, 8), gpio, rng.choice((0, 1, 2, 3, 4, 8, 9)))
        self.ram.bytes_at(self.buffers, len(body))[:] = body
        descriptors = [rng.randrange(16) for _ in range(rng.choice((1, 2, 2, 2, 2, 3)))]
        for i, descriptor in enumerate(descriptors):
            last = i + 1 == len(descriptors)
            writable = i == len(descriptors) - 1
            address = self.buffers + (128 if writable else 0)
            length = (2 if index == 0 else 1) if writable else len(body)
            flags = (r.VRING_DESC_F_WRITE if writable else 0) | (0 if last else r.VRING_DESC_F_NEXT)
            if rng.random() < 0.08:
                flags = rng.randrange(8)
            if rng.random() < 0.08:
                length = self.number() & 0xFFFF_FFFF
            if rng.random() < 0.05:
                address = rng.choice(
                    (0, (1 << 64) - 1, self.ram.guest_address + RAM_BYTES - 1, queue.descriptors)
                )
            following = 0 if last else descriptors[i + 1]
            if rng.random() < 0.05:
                following = rng.randrange(32)
            queue.describe(descriptor, address, length, flags, following)

    def end(self) -> None:
        for event in self.backend.close():
            self.account(event)
        lost = {fd: count for fd, count in self.fds.items() if count}
        assert not lost, f"fds told of not exactly once: {lost}"
        self.device.reset()
        assert not any(self.chip.line_info(offset).used for offset in range(LINES)), "a line is held for ever"


def once(rng: random.Random) -> Counter[str]:
    """One VM's life; what happened in it."""
    report: Counter[str] = Counter()
    target = Target(rng, report)
    if rng.random() < 0.8:
        target.set_up()
    messages = rng.choice((0.0, 0.1, 0.5, 1.0))
    for _ in range(rng.randrange(10, 120)):
        started = time.monotonic()
        if rng.random() < messages:
            target.message()
        else:
            target.guest()
        assert time.monotonic() - started < 5, "a step that takes too long"
        report["steps"] += 1
    target.neighbour.check(rng.randrange(2))
    target.end()
    return report


if __name__ == "__main__":
    sys.exit(main("VMMs that say anything, and guests that write anything", once))
