# SPDX-License-Identifier: MIT
"""A VMM that sends any message with any fds, and writes anything to the guest's memory and its kicks.

Invariant: nothing raises, and when the connection is closed no line is held and no fd or mapping is left.
"""

from __future__ import annotations

import mmap
import os
import random
import socket
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.harness import fail_on_faults, main
from gpiovirt.exports.vm.connection import Connection
from gpiovirt.exports.vm.keeping import Keeping
from gpiovirt.exports.vm.parked import Parked
from gpiovirt.exports.vm.state import state_size
from gpiovirt.host.clock import now_ns
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Peer
from gpiovirt.protocols.vhost_user import messages as m
from gpiovirt.protocols.vhost_user.messages import Request
from gpiovirt.sources.simulator import Simulator

RAM = 1 << 16
GUEST, USER = 0x1000, 0x70_0000
LINES = 4
FEATURES = 1 << 32 | 1 << 30 | 1


fail_on_faults()


WANTED = {
    Request.SET_MEM_TABLE: "memory",
    Request.ADD_MEM_REG: "memory",
    Request.SET_INFLIGHT_FD: "memory",
    Request.SET_VRING_KICK: "eventfd",
    Request.SET_VRING_CALL: "eventfd",
    Request.SET_VRING_ERR: "eventfd",
    Request.SET_BACKEND_REQ_FD: "socket",
}
HANDSHAKE = [
    *(Request.SET_FEATURES, Request.SET_MEM_TABLE),
    *(Request.SET_VRING_NUM, Request.SET_VRING_ADDR, Request.SET_VRING_CALL, Request.SET_VRING_KICK) * 3,
    *(Request.SET_VRING_ENABLE,) * 3,
]


def descriptors(rng: random.Random, request: int, memory: int) -> list[int]:
    """Fresh fds, mostly of the kind that the request takes; they are the caller's."""

    def make(kind: str) -> int:
        if kind == "memory":
            return os.dup(memory)
        if kind == "eventfd":
            return os.eventfd(rng.randrange(2))
        if kind == "short":
            return os.memfd_create("short")
        if kind == "socket":
            one, other = socket.socketpair()
            other.close()
            return one.detach()
        if kind == "pipe":
            reader, writer = os.pipe()
            os.close(reader)
            return writer
        return os.open(os.devnull, os.O_RDWR)

    wanted = next((kind for known, kind in WANTED.items() if known == request), None)
    if rng.random() < 0.9:
        return [make(wanted)] if wanted else []
    kinds = ["memory", "eventfd", "short", "socket", "pipe", "null"]
    return [make(rng.choice(kinds)) for _ in range(rng.choice([0, 1, 2, 3, 9]))]


def payload(rng: random.Random, request: int) -> bytes:
    """Mostly what the request takes, sometimes anything."""
    index = rng.choice([0, 0, 0, 1, 1, 2])
    size = rng.choice([4, 4, 8, 16, 64, 0, 3, 1 << 20])
    region = m.memory_region.pack(
        rng.choice([GUEST, GUEST, GUEST, 0, (1 << 64) - RAM]),
        rng.choice([RAM, RAM, RAM, RAM // 2, 0, 1 << 40]),
        rng.choice([USER, USER, USER, GUEST]),
        rng.choice([0, 0, 0, 0, 4096, 0x123, 1 << 63]),
    )
    ring = [USER + rng.randrange(0, 0x4000, 16) for _ in range(3)]
    known: dict[int, bytes] = {
        Request.SET_FEATURES: m.u64.pack(rng.choice([FEATURES, FEATURES, 1 << 32, 1 << 50])),
        Request.SET_PROTOCOL_FEATURES: m.u64.pack(rng.choice([0, 0x1FFFF, 1 << 3])),
        Request.SET_MEM_TABLE: m.memory_table.pack(rng.choice([1, 1, 1, 2, 9]), 0) + region,
        Request.ADD_MEM_REG: bytes(8) + region,
        Request.REM_MEM_REG: bytes(8) + region,
        Request.SET_VRING_NUM: m.vring_state.pack(index, size),
        Request.SET_VRING_BASE: m.vring_state.pack(index, rng.choice([0, 0, 1, 65535, 1 << 20])),
        Request.GET_VRING_BASE: m.vring_state.pack(index, 0),
        Request.SET_VRING_ENABLE: m.vring_state.pack(index, rng.choice([1, 1, 0])),
        Request.SET_VRING_ADDR: m.vring_addr.pack(index, 0, *ring, 0),
        Request.SET_VRING_KICK: m.u64.pack(index),
        Request.SET_VRING_CALL: m.u64.pack(index | rng.choice([0, 0, 0x100])),
        Request.SET_VRING_ERR: m.u64.pack(index),
        Request.GET_CONFIG: m.config_space.pack(rng.choice([0, 0, 4, 200]), rng.choice([8, 4, 1 << 31]), 0),
        Request.GET_INFLIGHT_FD: m.inflight.pack(0, 0, rng.choice([2, 1, 9]), rng.choice([64, 4, 0])),
        Request.SET_INFLIGHT_FD: m.inflight.pack(
            rng.choice([4096, 1 << 14, 1 << 30]), 0, 2, rng.choice([64, 4])
        ),
        Request.SET_STATUS: m.u64.pack(rng.randrange(256)),
    }
    said = (
        known.get(request, b"") if request in Request._value2member_map_ else rng.randbytes(rng.randrange(40))
    )
    return rng.choice([said] * 20 + [said[: rng.randrange(len(said) + 1)], rng.randbytes(rng.randrange(300))])


def once(rng: random.Random) -> None:
    """One connection from its beginning to its end."""
    were = set(map(int, os.listdir("/proc/self/fd")))
    before = len(were)
    simulator = Simulator(now_ns)
    chip = simulator.add_chip("s", ["A"] * LINES)
    reactor = Reactor(simulator.deadlines)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    ended: list[int] = []
    state = memoryview(bytearray(state_size(LINES)))
    parked = Parked(lambda: None)
    peer = Peer(1, 0, 0, "fuzz")
    connection = Connection(ours, peer, chip, reactor, state, {}, lambda: ended.append(1), parked, Keeping())
    connection.begin()
    memory = os.memfd_create("ram")
    os.ftruncate(memory, RAM)
    ram = mmap.mmap(memory, RAM)
    kept: list[int] = []
    requests = list(map(int, HANDSHAKE if rng.random() < 0.8 else []))
    requests += rng.choices(list(map(int, Request)), k=rng.randrange(60))
    for request in requests:
        if rng.random() < 0.3:
            # short descriptors, and indexes that are often near what they must be
            ram[:] = (rng.randbytes(64) + bytes(192)) * (RAM // 256)
        if rng.random() < 0.02:
            request = rng.randrange(60)
        content = payload(rng, request)
        header = m.header.pack(request, m.VERSION | rng.choice([0, m.NEED_REPLY_MASK]), len(content))
        fds = descriptors(rng, request, memory)
        try:
            socket.send_fds(theirs, [header + content], fds)
            theirs.recv(1 << 16)
        except OSError:
            pass
        if rng.random() < 0.3:
            kept += fds
        else:
            for fd in fds:
                os.close(fd)
        for fd in kept:
            try:
                os.write(fd, (1).to_bytes(8, "little"))
            except OSError:
                continue
        reactor.soon(lambda: reactor.soon(reactor.stop))
        reactor._running = True
        reactor.run()
        simulator.pull("s", rng.randrange(LINES), rng.randrange(2))
    theirs.close()
    connection.close(keep_state=rng.random() < 0.5)
    assert not any(chip.line_info(offset).used for offset in range(LINES)), "a line is held"
    for fd in kept:
        os.close(fd)
    reactor.close()
    ram.close()
    os.close(memory)
    left = len(os.listdir("/proc/self/fd"))
    assert left == before + parked.count, f"{left - before} fds are left, {parked.count} of them on purpose"
    for fd in list(map(int, os.listdir("/proc/self/fd"))):
        if fd not in were:
            with suppress(OSError):
                os.close(fd)


if __name__ == "__main__":
    sys.exit(main("connections of VMMs that send anything", once))
