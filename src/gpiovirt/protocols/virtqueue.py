# SPDX-License-Identifier: MIT
"""The device's side of a split virtqueue, over plain memory views. virtio-v1.2 2.7

Everything in the views is the guest's, who may write to it at any time: each field is read once
and checked as read. A fault in one chain is reported in the chain, which goes back to the
guest; a fault in the ring is a PeerError, after which the queue must not be used.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple, Protocol

from gpiovirt.errors import HostError, PeerError
from gpiovirt.protocols.guest_memory import GuestMemory
from gpiovirt.uapi.virtio_ring import (
    VRING_AVAIL_ALIGN_SIZE,
    VRING_DESC_ALIGN_SIZE,
    VRING_DESC_F_INDIRECT,
    VRING_DESC_F_NEXT,
    VRING_DESC_F_WRITE,
    VRING_SIZE_MAX,
    VRING_USED_ALIGN_SIZE,
    vring_avail_size,
    vring_desc,
    vring_used_elem,
    vring_used_size,
)

__all__ = [
    "Answer",
    "Chain",
    "InFlightLog",
    "Ring",
    "Segment",
    "Virtqueue",
    "ran_before",
    "used_index",
]

_DESCRIPTORS_MAX = 64  # of one chain; virtio-v1.2 2.7.4.1: a device may have a reasonable limit
_READABLE_MAX = 16  # bytes kept of a request: enough to see that it is too long for any message

_read_bytes = [Struct(f"{size}s").unpack_from for size in range(_READABLE_MAX + 1)]
_read_desc = vring_desc.unpack_from
_descriptor_pair = Struct("<QIHHQIHH")
_read_pair = Struct("32s").unpack_from
_write_used_elem = vring_used_elem.pack_into


Segment = tuple[int, int]
"""(guest address, size in bytes), all of it in memory when the chain was taken"""


_Shape = tuple[int, memoryview, int, Callable[[memoryview, int], tuple[bytes]], int, int, tuple[Segment, ...]]
"""(head, memory, where its request is, what reads it, where its answer goes, the room there, as segments)"""

_SHAPES_MAX = 4096  # a driver has one for each line that it uses


class Chain(NamedTuple):
    """One buffer from the driver: the start of its readable part, and its writable part.

    With `error`, it was malformed: the parts are those before the fault.
    """

    head: int
    readable: bytes
    writable: tuple[Segment, ...]
    error: str


class Ring(NamedTuple):
    """Where a virtqueue is, in the front-end's (user) addresses."""

    size: int
    descriptors: int
    available: int
    used: int


class InFlightLog(Protocol):
    """Remembers across a restart which chains have been taken and not completed."""

    def clear(self) -> None:
        """The ring begins anew."""

    def recover(self, used_idx: int) -> list[int]:
        """Heads in flight, in the order they were taken, by the used index found in the ring."""

    def take(self, head: int) -> None:
        """A chain was taken."""

    def complete(self, head: int) -> None:
        """A chain is about to be shown as used."""

    def completed(self, head: int, used_idx: int) -> None:
        """The chain is shown as used, and the used index is now `used_idx`."""


def ran_before(memory: GuestMemory, ring: Ring, last_avail_idx: int) -> bool:
    """Whether a ring to start at `last_avail_idx` was served before; PeerError if it is impossible.

    Indices wrap round to 0, but the last entry of the used ring is 0 only in the zeroed memory that a
    driver begins with: every answer is longer. virtio-v1.2 4.1.5.1.3
    """
    if last_avail_idx:
        return True
    used = memory.at_user_address(ring.used, vring_used_size(ring.size), VRING_USED_ALIGN_SIZE)
    return any(vring_used_elem.unpack_from(used, 4 + vring_used_elem.size * (ring.size - 1)))


def used_index(memory: GuestMemory, ring: Ring) -> int:
    """How far the previous server of the ring got, if it answered in order; PeerError for a bad ring."""
    used = memory.at_user_address(ring.used, vring_used_size(ring.size), VRING_USED_ALIGN_SIZE)
    return used.cast("H")[1]


Answer = Callable[[bytes, int, str], bytes]
"""(start of the readable part, bytes that can be written, fault of the chain or "") -> response"""


class Virtqueue:
    """The device's end of a queue.

    No notification is ever suppressed: that takes a full memory barrier each time, even on x86, or both
    sides would wait for ever. `fence` is such a barrier, for machines on which loads among themselves, or
    stores, do not stay in order: aarch64 (membarrier, or dmb ish), not x86.
    A queue is served either in order by serve(), or by pop() and complete() in any order; what these
    have in flight is also kept in `log`, if there is one.
    """

    def __init__(
        self,
        memory: GuestMemory,
        ring: Ring,
        last_avail_idx: int = 0,
        *,
        indirect: bool = False,
        log: InFlightLog | None = None,
        fence: Callable[[], object] | None = None,
    ) -> None:
        if sys.byteorder != "little":
            raise HostError("virtqueues need a little-endian machine")
        if not 0 < ring.size <= VRING_SIZE_MAX or ring.size & (ring.size - 1):
            raise PeerError(f"queue size {ring.size} is not a power of two up to {VRING_SIZE_MAX}")
        self._ring = ring
        self._size = ring.size
        self._mask = ring.size - 1
        self._indirect = indirect
        self._fence = fence
        self._log = log
        self._in_flight: set[int] = set()
        self._resubmit: deque[int] = deque()
        self.use(memory)
        self.used_idx = self.called_idx = self._used16[1]
        self.last_avail_idx = self._seen_avail_idx = last_avail_idx & 0xFFFF
        if log is not None and ran_before(memory, ring, last_avail_idx):
            heads = [head for head in log.recover(self.used_idx) if head < self._size]
            self.last_avail_idx = self._seen_avail_idx = (self.used_idx + len(heads)) & 0xFFFF
            self._resubmit.extend(heads)
        elif log is not None:
            log.clear()
        self._used16[0] = 0

    def use(self, memory: GuestMemory) -> None:
        """The memory table changed: find the ring in it anew."""
        size = self._size
        self._memory = memory
        self._shapes: dict[bytes, _Shape] = {}
        self._table = memory.at_user_address(self._ring.descriptors, 16 * size, VRING_DESC_ALIGN_SIZE)
        available = memory.at_user_address(
            self._ring.available, vring_avail_size(size), VRING_AVAIL_ALIGN_SIZE
        )
        # struct clears a field before it stores it; a cast view loads and stores 16 bits at once
        self._available16 = available.cast("H")
        self._used = memory.at_user_address(self._ring.used, vring_used_size(size), VRING_USED_ALIGN_SIZE)
        self._used16 = self._used.cast("H")

    @property
    def logged(self) -> bool:
        """Whether chains in flight come back when the queue is started again."""
        return self._log is not None

    def _look(self) -> bool:
        """Whether there are chains that pop() has not seen."""
        last = self.last_avail_idx
        seen = self._available16[1]
        if seen == last:
            return False
        if (seen - last) & 0xFFFF > self._size:
            raise PeerError(f"available index jumped from {last} to {seen} in a queue of {self._size}")
        self._seen_avail_idx = seen
        if self._fence is not None:
            self._fence()
        return True

    def _next_head(self) -> int:
        last = self.last_avail_idx
        head = self._available16[2 + (last & self._mask)]
        if head >= self._size:
            raise PeerError(f"available ring names descriptor {head} in a queue of {self._size}")
        self.last_avail_idx = (last + 1) & 0xFFFF
        return head

    def serve(self, answer: Answer, budget: int) -> bool:
        """Answer the available chains, in order, at most `budget`; True: there may be more."""
        available16, mask = self._available16, self._mask
        for _ in range(budget):
            last = self.last_avail_idx
            if last == self._seen_avail_idx:
                new = (available16[1] - last) & 0xFFFF
                if self._fence is None and new <= self._size:  # what _look() does then, without a call
                    if not new:
                        return False
                    self._seen_avail_idx = (last + new) & 0xFFFF
                elif not self._look():
                    return False
            head = available16[2 + (last & mask)]
            shape = self._shape(head)
            if shape is None:
                self._answer_any(self._walk(self._next_head()), answer)
                continue
            self.last_avail_idx = (last + 1) & 0xFFFF
            _, view, start, read, to, room, _ = shape
            try:
                reply = answer(read(view, start)[0], room, "")
            except BaseException:
                self._show_used(head, 0)
                raise
            written = len(reply)
            if written > room:
                written = room
                reply = reply[:room]
            view[to : to + written] = reply
            used_idx = self.used_idx
            _write_used_elem(self._used, 4 + ((used_idx & mask) << 3), head, written)
            if self._fence is not None:
                self._fence()
            self._used16[1] = self.used_idx = (used_idx + 1) & 0xFFFF
        return True

    def _shape(self, head: int) -> _Shape | None:
        """The shape of a chain if it is like nearly all: a small request and room for the answer.

        A driver uses the same buffers again and again, so that descriptors need not be parsed each
        time: the same bytes at the same place mean the same.
        """
        if head >= self._mask:
            return None
        (pair,) = _read_pair(self._table, head << 4)
        shape = self._shapes.get(pair)
        return shape if shape is not None and shape[0] == head else self._learn(head, pair)

    def _learn(self, head: int, pair: bytes) -> _Shape | None:
        memory = self._memory
        address, length, flags, index, to, room, room_flags, _ = _descriptor_pair.unpack(pair)
        if (
            flags != VRING_DESC_F_NEXT
            or index != head + 1
            or room_flags != VRING_DESC_F_WRITE
            or length > _READABLE_MAX
            or not memory.contains(address, 1)
        ):
            return None
        start = memory.start
        end = memory.end
        if address + length > end or to < start or to + room > end:
            return None
        segments = ((to, room),) if room else ()
        shape = head, memory.view, address - start, _read_bytes[length], to - start, room, segments
        if len(self._shapes) >= _SHAPES_MAX:
            self._shapes.clear()
        self._shapes[pair] = shape
        return shape

    def _answer_any(self, chain: Chain, answer: Answer) -> None:
        reply = b""
        try:
            reply = answer(chain.readable, sum(size for _, size in chain.writable), chain.error)
        finally:
            self.complete(chain, reply)

    def pop(self) -> Chain | None:
        """Take the next chain, if there is one, to be completed at any later time."""
        if self.last_avail_idx == self._seen_avail_idx:
            if self._resubmit:
                return self._take(self._resubmit.popleft(), again=True)
            if not self._look():
                return None
        return self._take(self._next_head())

    def _take(self, head: int, again: bool = False) -> Chain:
        if head in self._in_flight:
            raise PeerError(f"descriptor {head} was made available again before it was used")
        self._in_flight.add(head)
        if self._log is not None and not again:
            self._log.take(head)
        shape = self._shape(head)
        if shape is None:
            return self._walk(head)
        return Chain(head, shape[3](shape[1], shape[2])[0], shape[6], "")

    def _walk(self, head: int) -> Chain:
        """Any chain: any number of segments, indirect or not."""
        table: memoryview | bytes = self._table
        num = self._size
        index = head
        readable = b""
        writable: list[Segment] = []
        error = f"chain of more than {_DESCRIPTORS_MAX} descriptors, or a loop"
        for _ in range(_DESCRIPTORS_MAX):
            if index >= num:
                error = f"descriptor {index} is past the end of a table of {num}"
                break
            address, length, flags, index = _read_desc(table, index << 4)
            if flags & VRING_DESC_F_INDIRECT:
                error = self._indirect_error(address, length, flags, table)
                if error:
                    break
                error = f"indirect chain of more than {_DESCRIPTORS_MAX} descriptors, or a loop"
                table = self._memory.read(address, length)
                num = length // vring_desc.size
                index = 0
                continue
            if not self._memory.contains(address, length):
                error = f"{length} bytes at {address:#x} are outside of memory"
                break
            if flags & VRING_DESC_F_WRITE:
                if length:
                    writable.append((address, length))
            elif writable:
                error = "a readable descriptor after a writable one"
                break
            else:
                readable += self._memory.read(address, min(length, _READABLE_MAX - len(readable)))
            if not flags & VRING_DESC_F_NEXT:
                error = ""
                break
        return Chain(head, readable, tuple(writable), error)

    def _indirect_error(self, address: int, length: int, flags: int, table: memoryview | bytes) -> str:
        """The fault of a descriptor that names an indirect table, or "". virtio-v1.2 2.7.5.3"""
        if not self._indirect:
            return "indirect descriptors were not negotiated"
        if table is not self._table:
            return "an indirect table within an indirect table"
        if flags & VRING_DESC_F_NEXT:
            return "an indirect table that is not the last of its chain"
        if not length or length % vring_desc.size or length > vring_desc.size * self._size:
            return f"an indirect table of {length} bytes"
        if not self._memory.contains(address, length):
            return f"an indirect table outside of memory, at {address:#x}"
        return ""

    def complete(self, chain: Chain, data: bytes) -> int:
        """Return a chain with as much of `data` as fits in its writable part; returns how much did."""
        written = 0
        for address, size in chain.writable:
            left = len(data) - written
            if left <= size:
                self._memory.write(address, data[written:] if written else data)
                written += left
                break
            self._memory.write(address, data[written : written + size])
            written += size
        head = chain.head
        self._in_flight.discard(head)
        if self._log is not None:
            self._log.complete(head)
        self._show_used(head, written)
        if self._log is not None:
            self._log.completed(head, self.used_idx)
        return written

    def _show_used(self, head: int, written: int) -> None:
        used_idx = self.used_idx
        _write_used_elem(self._used, 4 + ((used_idx & self._mask) << 3), head, written)
        if self._fence is not None:
            self._fence()
        self._used16[1] = self.used_idx = (used_idx + 1) & 0xFFFF

    def should_call(self) -> bool:
        """Whether the guest is to be notified of what was completed since this was last asked."""
        old = self.called_idx
        used_idx = self.used_idx
        if used_idx == old:
            return False
        self.called_idx = used_idx
        return True
