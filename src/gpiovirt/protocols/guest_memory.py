# SPDX-License-Identifier: MIT
"""A guest's memory, as regions that are mapped here.

It owns the translation of guest and user addresses and its checks, but not the mapping.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from gpiovirt.errors import PeerError

__all__ = ["GuestMemory", "Region", "check_regions"]


class Region(NamedTuple):
    """Guest memory that is mapped here; `user_address` is where the front-end has it."""

    guest_address: int
    size: int
    user_address: int
    view: memoryview


def check_regions(spans: Sequence[tuple[int, int, int]]) -> None:
    """PeerError if spans (guest address, size, user address) are empty, overflow or overlap."""
    for guest_address, size, user_address in spans:
        if not size or max(guest_address, user_address) + size > 1 << 64:
            raise PeerError(f"memory region of {size:#x} bytes at {guest_address:#x} is empty or overflows")
    for column in (0, 2):
        ordered = sorted((span[column], span[1]) for span in spans)
        for (address, size), (following, _) in pairwise(ordered):
            if address + size > following:
                raise PeerError(f"memory regions at {address:#x} and {following:#x} overlap")


class GuestMemory:
    """The guest's memory, by its own (guest) and the front-end's (user) addresses."""

    __slots__ = ("_regions", "end", "start", "view")

    def __init__(self, regions: Sequence[Region]) -> None:
        """PeerError if regions overlap, overflow, or are mapped shorter than they claim to be."""
        check_regions([region[:3] for region in regions])
        for region in regions:
            if len(region.view) != region.size:
                raise PeerError(f"memory region at {region.guest_address:#x} is shorter than its size")
        self._regions = sorted(regions, key=lambda region: region.guest_address)
        self.start = self.end = 0  # the region last used
        self.view = memoryview(b"")

    def _find(self, address: int) -> bool:
        """Make the region of `address` the last used one; False if there is none."""
        for region in self._regions:
            if region.guest_address <= address < region.guest_address + region.size:
                self.start = region.guest_address
                self.end = region.guest_address + region.size
                self.view = region.view
                return True
        return False

    def contains(self, address: int, size: int) -> bool:
        """Whether all of a range is guest memory; it may span regions."""
        end = address + size
        while address < end:
            if not (self.start <= address < self.end or self._find(address)):
                return False
            address = self.end
        return True

    def read(self, address: int, size: int) -> bytes:
        """A copy of guest memory; PeerError outside of it."""
        parts = []
        end = address + size
        while address < end:
            if not (self.start <= address < self.end or self._find(address)):
                raise PeerError(f"guest address {address:#x} is outside of memory")
            stop = min(end, self.end)
            parts.append(self.view[address - self.start : stop - self.start])
            address = stop
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Write to guest memory; PeerError outside of it."""
        at = address - self.start
        size = len(data)
        if at >= 0 and address + size <= self.end:
            self.view[at : at + size] = data
            return
        if not self.contains(address, size):
            raise PeerError(f"guest address {address:#x} is outside of memory")
        done = 0
        while done < size:
            self.contains(address + done, 1)
            at = address + done - self.start
            part = data[done : done + self.end - self.start - at]
            self.view[at : at + len(part)] = part
            done += len(part)

    def at_user_address(self, address: int, size: int, align: int) -> memoryview:
        """View of a range by the front-end's address; PeerError if it is not aligned or not in one region."""
        if address % align:
            raise PeerError(f"ring address {address:#x} is not aligned to {align}")
        for region in self._regions:
            at = address - region.user_address
            if at >= 0 and at + size <= region.size:
                return region.view[at : at + size]
        raise PeerError(f"ring address {address:#x} and {size} bytes are not in one memory region")
