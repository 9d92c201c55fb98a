# SPDX-License-Identifier: MIT
"""The guest's side of virtqueues and of the virtio GPIO device, over plain memory.

The mirror of gpiovirt.protocols.virtqueue and .virtio_gpio, for tests; it does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gpiovirt.errors import GpiovirtError
from gpiovirt.protocols.guest_memory import Region
from gpiovirt.protocols.virtqueue import Ring
from gpiovirt.uapi import virtio_gpio as u
from gpiovirt.uapi import virtio_ring as r

__all__ = ["Completion", "DriverQueue", "GpioDriver", "GuestRam", "RequestFailedError", "Response"]


class RequestFailedError(GpiovirtError):
    """The device answered with an error, or not at all."""


class GuestRam:
    """A pretended guest's memory; allocate() hands it out and takes nothing back."""

    def __init__(
        self, view: memoryview, guest_address: int = 0x4000_0000, user_address: int = 0x7F00_0000_0000
    ) -> None:
        self.view = view
        self.guest_address = guest_address
        self.user_address = user_address
        self._free = 0

    @property
    def region(self) -> Region:
        return Region(self.guest_address, len(self.view), self.user_address, self.view)

    def allocate(self, size: int, align: int = 16) -> int:
        """Guest address of `size` fresh bytes."""
        at = (self._free + align - 1) // align * align
        if at + size > len(self.view):
            raise MemoryError(f"the guest has {len(self.view)} bytes; {at + size} are needed")
        self._free = at + size
        return self.guest_address + at

    def bytes_at(self, address: int, size: int) -> memoryview:
        at = address - self.guest_address
        return self.view[at : at + size]

    def user(self, address: int) -> int:
        """The front-end's address for a guest address."""
        return address - self.guest_address + self.user_address


class Completion(NamedTuple):
    """A chain that the device gave back: head, bytes written, and contents of its writable part."""

    head: int
    written: int
    data: bytes


class DriverQueue:
    """The driver's end of a split virtqueue; all its indexes are public, for tests to corrupt."""

    def __init__(self, ram: GuestRam, size: int = 64, *, indirect: bool = False) -> None:
        self.ram = ram
        self.size = size
        self.indirect = indirect
        self.descriptors = ram.allocate(16 * size)
        self.available = ram.allocate(r.vring_avail_size(size))
        self.used = ram.allocate(r.vring_used_size(size))
        self.table = ram.bytes_at(self.descriptors, 16 * size)
        self.available16 = ram.bytes_at(self.available, r.vring_avail_size(size)).cast("H")
        self.used16 = ram.bytes_at(self.used, r.vring_used_size(size)).cast("H")
        self.free = list(range(size - 1, -1, -1))
        self.avail_idx = 0
        self.last_used_idx = 0
        self._chains: dict[int, tuple[list[int], list[tuple[int, int]]]] = {}

    @property
    def ring(self) -> Ring:
        """Where the queue is, in the front-end's addresses."""
        user = self.ram.user
        return Ring(self.size, user(self.descriptors), user(self.available), user(self.used))

    def describe(self, index: int, address: int, length: int, flags: int, following: int = 0) -> None:
        """Write one descriptor, whatever it says."""
        r.vring_desc.pack_into(self.table, 16 * index, address, length, flags, following)

    def offer(self, head: int) -> None:
        """Make a chain available, whatever it is."""
        self.available16[2 + self.avail_idx % self.size] = head
        self.avail_idx = (self.avail_idx + 1) & 0xFFFF
        self.available16[1] = self.avail_idx

    def add(self, readable: Sequence[bytes], writable: Sequence[int]) -> int:
        """Offer a chain of these parts to read, and parts of these sizes to write; returns its head."""
        parts = []
        for data in readable:
            address = self.ram.allocate(len(data), 8)
            self.ram.bytes_at(address, len(data))[:] = data
            parts.append((address, len(data), 0))
        for size in writable:
            address = self.ram.allocate(size, 8)
            parts.append((address, size, r.VRING_DESC_F_WRITE))
        if self.indirect:
            table = self.ram.allocate(16 * len(parts))
            for i, (address, length, flags) in enumerate(parts):
                more = r.VRING_DESC_F_NEXT if i + 1 < len(parts) else 0
                entry = r.vring_desc.pack(address, length, flags | more, i + 1 if more else 0)
                self.ram.bytes_at(table + 16 * i, 16)[:] = entry
            indexes = [self.free.pop()]
            self.describe(indexes[0], table, 16 * len(parts), r.VRING_DESC_F_INDIRECT)
        else:
            indexes = [self.free.pop() for _ in parts]
            for i, (address, length, flags) in enumerate(parts):
                more = r.VRING_DESC_F_NEXT if i + 1 < len(parts) else 0
                self.describe(indexes[i], address, length, flags | more, indexes[i + 1] if more else 0)
        head = indexes[0]
        self._chains[head] = indexes, [part[:2] for part in parts if part[2]]
        self.offer(head)
        return head

    def kick_needed(self) -> bool:
        """Whether the device wants to be notified of what was offered."""
        return not self.used16[0] & r.VRING_USED_F_NO_NOTIFY

    def collect(self) -> list[Completion]:
        """Take back what the device has used."""
        completions = []
        while self.last_used_idx != self.used16[1]:
            at = 4 + self.last_used_idx % self.size * 8
            head, written = r.vring_used_elem.unpack_from(self.used16.cast("B"), at)
            self.last_used_idx = (self.last_used_idx + 1) & 0xFFFF
            indexes, segments = self._chains.pop(head)
            self.free += reversed(indexes)
            data = b"".join(bytes(self.ram.bytes_at(*segment)) for segment in segments)
            completions.append(Completion(head, written, data))
        return completions


class Response(NamedTuple):
    """The device's answer to a request."""

    status: int
    value: bytes
    written: int


class GpioDriver:
    """A guest's virtio GPIO driver; it has one request in flight at a time.

    `kick(index)` notifies the device of a queue; `wait()` is called until an answer has come, as often
    as `patience` says.
    """

    def __init__(
        self,
        requestq: DriverQueue,
        eventq: DriverQueue,
        kick: Callable[[int], None],
        wait: Callable[[], object] = lambda: None,
        patience: int = 1,
    ) -> None:
        self.queues = (requestq, eventq)
        self._kick = kick
        self._wait = wait
        self._patience = patience
        self._lines_of: dict[int, int] = {}

    def request(self, kind: int, gpio: int, value: int = 0, response_size: int = 2) -> Response:
        """One request and its answer; RequestFailedError if none comes."""
        queue = self.queues[u.VIRTIO_GPIO_REQUESTQ]
        head = queue.add([u.virtio_gpio_request.pack(kind, gpio, value)], [response_size])
        if queue.kick_needed():
            self._kick(u.VIRTIO_GPIO_REQUESTQ)
        for _ in range(self._patience + 1):
            for completion in queue.collect():
                if completion.head == head:
                    status, data = completion.data[0], completion.data[1 : completion.written]
                    return Response(status, data, completion.written)
            self._wait()
        raise RequestFailedError(f"no answer to message {kind} for line {gpio}")

    def _ask(self, kind: int, gpio: int, value: int = 0) -> int:
        response = self.request(kind, gpio, value)
        if response.status != u.VIRTIO_GPIO_STATUS_OK or response.written != 2:
            raise RequestFailedError(f"message {kind} for line {gpio} with value {value} was refused")
        return response.value[0]

    def names(self, num_lines: int, size: int) -> list[str]:
        """The line names; `size` is gpio_names_size of the config space."""
        if not size:
            return [""] * num_lines
        response = self.request(u.VIRTIO_GPIO_MSG_GET_NAMES, 0, 0, 1 + size)
        if response.status != u.VIRTIO_GPIO_STATUS_OK or response.written != 1 + size:
            raise RequestFailedError("the line names were refused")
        return [name.decode() for name in response.value.split(b"\0")[:num_lines]]

    def get_direction(self, gpio: int) -> int:
        return self._ask(u.VIRTIO_GPIO_MSG_GET_DIRECTION, gpio)

    def set_direction(self, gpio: int, direction: int) -> None:
        self._ask(u.VIRTIO_GPIO_MSG_SET_DIRECTION, gpio, direction)

    def get_value(self, gpio: int) -> int:
        return self._ask(u.VIRTIO_GPIO_MSG_GET_VALUE, gpio)

    def set_value(self, gpio: int, value: int) -> None:
        self._ask(u.VIRTIO_GPIO_MSG_SET_VALUE, gpio, value)

    def direction_input(self, gpio: int) -> None:
        self.set_direction(gpio, u.VIRTIO_GPIO_DIRECTION_IN)

    def direction_output(self, gpio: int, value: int) -> None:
        self.set_value(gpio, value)
        self.set_direction(gpio, u.VIRTIO_GPIO_DIRECTION_OUT)

    def release(self, gpio: int) -> None:
        self.set_direction(gpio, u.VIRTIO_GPIO_DIRECTION_NONE)

    def set_irq_type(self, gpio: int, irq_type: int) -> None:
        self._ask(u.VIRTIO_GPIO_MSG_IRQ_TYPE, gpio, irq_type)

    def unmask(self, gpio: int) -> None:
        """Queue an event buffer for a line."""
        queue = self.queues[u.VIRTIO_GPIO_EVENTQ]
        self._lines_of[queue.add([u.virtio_gpio_irq_request.pack(gpio)], [1])] = gpio
        if queue.kick_needed():
            self._kick(u.VIRTIO_GPIO_EVENTQ)

    def events(self) -> list[tuple[int, int]]:
        """(line, VIRTIO_GPIO_IRQ_STATUS_*) of the event buffers that have come back."""
        return [
            (self._lines_of.pop(completion.head), completion.data[0])
            for completion in self.queues[u.VIRTIO_GPIO_EVENTQ].collect()
        ]
