# SPDX-License-Identifier: MIT
"""The back-end's side of vhost-user, sans-IO. QEMU: docs/interop/vhost-user.rst

Bytes and fds (as plain numbers) go in, events and replies come out; mapping memory and owning fds is
up to the caller, which does the I/O.
"""

from __future__ import annotations

from gpiovirt.protocols.vhost_user.backend import Backend
from gpiovirt.protocols.vhost_user.events import (
    AddMemory,
    CloseConnection,
    CloseFds,
    CreateInflight,
    Event,
    MapMemory,
    MemoryRegion,
    Refused,
    RemoveMemory,
    ResetDevice,
    SetBackendRequestFd,
    SetCall,
    SetErr,
    SetFeatures,
    SetInflight,
    SetKick,
    SetStatus,
    StartRing,
    StopRing,
)
from gpiovirt.protocols.vhost_user.framing import Outgoing, size_of
from gpiovirt.protocols.vhost_user.inflight import SplitRingLog, inflight_size, log_area, record_area
from gpiovirt.protocols.vhost_user.session import INFLIGHT, REQUEST, memory_file, ring_file

__all__ = [
    "INFLIGHT",
    "REQUEST",
    "AddMemory",
    "Backend",
    "CloseConnection",
    "CloseFds",
    "CreateInflight",
    "Event",
    "MapMemory",
    "MemoryRegion",
    "Outgoing",
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
    "SplitRingLog",
    "StartRing",
    "StopRing",
    "inflight_size",
    "log_area",
    "memory_file",
    "record_area",
    "ring_file",
    "size_of",
]
