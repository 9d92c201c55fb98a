# SPDX-License-Identifier: MIT
"""The memory that tracks what is in flight, shared with the front-end or in a file of our own.

Each queue has an area of it; a device's own record may follow. QEMU: docs/interop/vhost-user.rst,
"Inflight I/O tracking". Nothing found in it is trusted.
"""

from __future__ import annotations

from struct import Struct

from gpiovirt.errors import PeerError

__all__ = ["SplitRingLog", "inflight_size", "log_area", "record_area"]

_region = Struct("=QHHHH")  # QueueRegionSplit: features, version, desc_num, last_batch_head, used_idx
_desc = Struct("=B5xHQ")  # DescStateSplit: inflight, next, counter
_VERSION = 1
_LAST_BATCH_HEAD = 12  # offsets of fields
_USED_IDX = 14
_NEXT = 6
_COUNTER = 8
_REGION = _region.size
_DESC = _desc.size
_ALIGN = 64


def _area_size(queue_size: int) -> int:
    return (_region.size + _desc.size * queue_size + _ALIGN - 1) // _ALIGN * _ALIGN


def inflight_size(num_queues: int, queue_size: int, record_size: int = 0) -> int:
    """Bytes needed to track so many queues, with a record behind them."""
    return num_queues * _area_size(queue_size) + record_size


def log_area(memory: memoryview, index: int, queue_size: int) -> memoryview:
    """The part of the memory that is for queue `index`; PeerError if it is too small."""
    size = _area_size(queue_size)
    area = memory[index * size : (index + 1) * size]
    if len(area) < size:
        raise PeerError(f"inflight memory of {len(memory)} bytes is too small for queue {index}")
    return area


def record_area(memory: memoryview, num_queues: int, queue_size: int, record_size: int) -> memoryview:
    """The part of the memory behind the queues; PeerError if it is too small."""
    start = num_queues * _area_size(queue_size)
    area = memory[start : start + record_size]
    if len(area) < record_size:
        raise PeerError(f"inflight memory of {len(memory)} bytes has no room for the record")
    return area


class SplitRingLog:
    """InFlightLog of one split virtqueue, over its area of the memory."""

    def __init__(self, area: memoryview, queue_size: int) -> None:
        self._area = area
        self._area16 = area.cast("H")
        self._area64 = area.cast("Q")
        self._size = queue_size
        self._counter = 0

    def clear(self) -> None:
        self._area[:] = bytes(len(self._area))
        _region.pack_into(self._area, 0, 0, _VERSION, self._size, 0, 0)
        self._counter = 0

    def recover(self, used_idx: int) -> list[int]:
        """As InFlightLog; memory that is not this queue's counts as empty."""
        _, version, desc_num, last_batch_head, logged_used_idx = _region.unpack_from(self._area)
        if version != _VERSION or desc_num != self._size:
            self.clear()
            logged_used_idx = used_idx
        head = last_batch_head
        unlogged = (used_idx - logged_used_idx) & 0xFFFF
        for _ in range(unlogged if unlogged <= self._size else 0):
            if head >= self._size:
                break
            self._area[_REGION + _DESC * head] = 0
            head = self._area16[(_REGION + _DESC * head + _NEXT) // 2]
        self._area16[_USED_IDX // 2] = used_idx
        taken = []
        for head in range(self._size):
            inflight, _, counter = _desc.unpack_from(self._area, _REGION + _DESC * head)
            if inflight:
                taken.append((counter, head))
        self._counter = max(taken)[0] + 1 & 0xFFFF_FFFF_FFFF_FFFF if taken else 0
        return [head for _, head in sorted(taken)]

    def take(self, head: int) -> None:
        if head >= self._size:
            raise PeerError(f"descriptor {head} has no place in inflight memory for {self._size}")
        at = _REGION + _DESC * head
        self._area64[(at + _COUNTER) // 8] = self._counter
        self._counter = self._counter + 1 & 0xFFFF_FFFF_FFFF_FFFF
        self._area[at] = 1

    def complete(self, head: int) -> None:
        area16 = self._area16
        area16[(_REGION + _DESC * head + _NEXT) // 2] = area16[_LAST_BATCH_HEAD // 2]
        area16[_LAST_BATCH_HEAD // 2] = head

    def completed(self, head: int, used_idx: int) -> None:
        self._area[_REGION + _DESC * head] = 0
        self._area16[_USED_IDX // 2] = used_idx
