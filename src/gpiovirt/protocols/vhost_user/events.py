# SPDX-License-Identifier: MIT
"""What a front-end asks for. An event that carries an fd gives it away: close it when no longer needed."""

from __future__ import annotations

from typing import NamedTuple

from gpiovirt.protocols.virtqueue import Ring

__all__ = [
    "AddMemory",
    "CloseConnection",
    "CloseFds",
    "CreateInflight",
    "Event",
    "MapMemory",
    "MemoryRegion",
    "Refused",
    "RemoveMemory",
    "ResetDevice",
    "SetBackendRequestFd",
    "SetCall",
    "SetErr",
    "SetFeatures",
    "SetInflight",
    "SetKick",
    "SetStatus",
    "StartRing",
    "StopRing",
]


class MemoryRegion(NamedTuple):
    """Guest memory as the front-end describes it; not empty, and overlapping no other."""

    guest_address: int
    size: int
    user_address: int
    mmap_offset: int


class MapMemory(NamedTuple):
    """Forget all memory and map these regions, each from its fd; running rings must be located anew."""

    regions: tuple[MemoryRegion, ...]
    fds: tuple[int, ...]


class AddMemory(NamedTuple):
    region: MemoryRegion
    fd: int


class RemoveMemory(NamedTuple):
    """Unmap the region of this guest address, size and user address."""

    region: MemoryRegion


class SetFeatures(NamedTuple):
    """The driver's choice of the features offered."""

    features: int


class SetStatus(NamedTuple):
    """The device status; 0 is a reset, or (from QEMU) just a stop."""

    status: int


class SetKick(NamedTuple):
    """The fd that is readable when the guest kicks a ring."""

    vring: int
    fd: int


class SetCall(NamedTuple):
    """The fd to write 8 bytes to in order to call the guest; None: it polls."""

    vring: int
    fd: int | None


class SetErr(NamedTuple):
    """The fd to write 8 bytes to when a ring is broken; None: there is none."""

    vring: int
    fd: int | None


class StartRing(NamedTuple):
    """A ring is ready, to be served from `last_avail_idx`."""

    vring: int
    ring: Ring
    last_avail_idx: int


class StopRing(NamedTuple):
    """Stop a ring and tell Backend.ring_stopped() where, before the next event."""

    vring: int


class CreateInflight(NamedTuple):
    """Make shared memory of so many zero bytes and tell Backend.inflight_created(), before the next event."""

    num_queues: int
    queue_size: int
    size_bytes: int


class SetInflight(NamedTuple):
    """The front-end gives back (or confirms) the memory that it once got."""

    num_queues: int
    queue_size: int
    size_bytes: int
    mmap_offset: int
    fd: int


class SetBackendRequestFd(NamedTuple):
    """A socket for our requests; closing it removes the device from some front-ends."""

    fd: int


class ResetDevice(NamedTuple):
    """Back to the initial state; the rings have been stopped."""


class CloseFds(NamedTuple):
    """Fds that came where none belong."""

    fds: tuple[int, ...]


class Refused(NamedTuple):
    """A message that was refused, and why; the front-end is told if it asked for an answer."""

    request: str
    reason: str


class CloseConnection(NamedTuple):
    """The input is not vhost-user; nothing more can be parsed."""

    reason: str


Event = (
    AddMemory
    | CloseConnection
    | CloseFds
    | CreateInflight
    | MapMemory
    | Refused
    | RemoveMemory
    | ResetDevice
    | SetBackendRequestFd
    | SetCall
    | SetErr
    | SetFeatures
    | SetInflight
    | SetKick
    | SetStatus
    | StartRing
    | StopRing
)
