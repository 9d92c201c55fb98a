# SPDX-License-Identifier: MIT
"""The state of a connection, as text from which another back-end can resume.

With it go the files that the front-end gave, by purpose. Nothing found in it is trusted.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from gpiovirt.errors import PeerError
from gpiovirt.protocols.guest_memory import check_regions
from gpiovirt.protocols.vhost_user.events import MemoryRegion

__all__ = ["INFLIGHT", "REQUEST", "SessionState", "VringState", "memory_file", "ring_file"]

REQUEST = "request"
INFLIGHT = "inflight"

_U64 = 1 << 64


def memory_file(region: MemoryRegion) -> str:
    """The name of a region's file; regions do not overlap."""
    return f"memory:{region.guest_address:x}"


def ring_file(use: str, index: int) -> str:
    """The name of a ring's file: its kick, call or err."""
    return f"{use}:{index}"


class VringState(NamedTuple):
    """A ring: its addresses (descriptors, available, used), and where it resumes if it is stopped."""

    size: int
    base: int
    ring: tuple[int, int, int] | None
    kick: bool
    enabled: bool
    running: bool


class SessionState(NamedTuple):
    """All that messages have set; `inflight` is (queues, queue size, bytes, offset)."""

    features: int
    protocol_features: int
    status: int
    regions: tuple[MemoryRegion, ...]
    vrings: tuple[VringState, ...]
    inflight: tuple[int, int, int, int] | None

    def encode(self) -> str:
        return json.dumps(self)

    @classmethod
    def decode(cls, text: str, num_queues: int, queue_size_max: int, memory_slots: int) -> SessionState:
        """PeerError unless it can be the state of a device with so many queues."""
        try:
            features, protocol_features, status, regions, vrings, inflight = json.loads(text)
            state = cls(
                _number(features),
                _number(protocol_features),
                _number(status),
                tuple(MemoryRegion(*_numbers(region, 4)) for region in regions),
                tuple(_vring(vring, queue_size_max) for vring in vrings),
                None if inflight is None else _four(inflight),
            )
        except (ValueError, TypeError, RecursionError) as error:
            raise PeerError(f"not a session's state: {error}") from error
        if len(state.vrings) != num_queues or len(state.regions) > memory_slots:
            raise PeerError(f"a session of {len(state.vrings)} queues and {len(state.regions)} regions")
        check_regions([region[:3] for region in state.regions])
        return state


def _number(value: object, end: int = _U64) -> int:
    if not isinstance(value, int) or not 0 <= value < end:
        raise ValueError(f"{value!r} is no number below {end:#x}")
    return int(value)


def _numbers(values: list[object], count: int) -> list[int]:
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers for {count}")
    return [_number(value) for value in values]


def _four(values: list[object]) -> tuple[int, int, int, int]:
    one, two, three, four = _numbers(values, 4)
    return one, two, three, four


def _vring(values: list[object], queue_size_max: int) -> VringState:
    size, base, ring, kick, enabled, running = values
    size = _number(size, queue_size_max + 1)
    if size & (size - 1):
        raise ValueError(f"ring size {size} is not a power of two")
    addresses = None
    if isinstance(ring, list):
        descriptors, available, used = _numbers(ring, 3)
        addresses = descriptors, available, used
    if running and not (size and addresses and kick):
        raise ValueError("a ring that runs without what it takes")
    return VringState(size, _number(base, 1 << 16), addresses, bool(kick), bool(enabled), bool(running))
