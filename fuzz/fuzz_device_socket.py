# SPDX-License-Identifier: MIT
"""Fuzz a chip's device socket: peers that send anything, with any file beside it."""

from __future__ import annotations

import os
import random
import socket
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import contextlib

from fuzz.fuzz_gpiochip import COMMANDS, HOLDER, NEIGHBOUR, plausible
from fuzz.harness import fail_on_faults, main
from gpiovirt.core.line import Direction, LineSettings
from gpiovirt.exports.device import DeviceServer
from gpiovirt.host.clock import now_ns
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener
from gpiovirt.protocols.gpiochip import wire
from gpiovirt.testing import Simulator
from gpiovirt.uapi import gpio as u

INVARIANT = "no fault of ours, no fd left, and a neighbour's line stays as it was"


fail_on_faults()


class Peer:
    """Connections, and what came over them."""

    def __init__(self, path: str, rng: random.Random) -> None:
        self._path = path
        self._rng = rng
        self.sockets: list[socket.socket] = []
        self.fds: list[int] = []

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        sock.connect(self._path)
        self.sockets.append(sock)

    def _file(self) -> int:
        kind = self._rng.choice(["pipe"] * 8 + ["reader", "broken", "null", "socket"])
        if kind == "null":
            return os.open(os.devnull, os.O_RDWR)
        if kind == "socket":
            one, other = socket.socketpair()
            other.close()
            return one.detach()
        reader, writer = os.pipe()
        if kind == "reader":
            os.close(writer)
            return reader
        if kind == "broken":
            os.close(reader)
        else:
            self.fds.append(reader)
        return writer

    def _packet(self) -> bytes:
        rng = self._rng
        if rng.random() < 0.25:
            packet = wire.encode_open(
                rng.choice(["gpiochip0", "", "x" * 31, "\u00e4"]), rng.choice(["", "container 1"])
            )
        else:
            cmd = rng.choice(COMMANDS)
            argument = plausible(rng, u.ioc_size(cmd))
            file = rng.choice([0, 0, 1, 1, 2, 3, rng.getrandbits(16)])
            packet = wire.encode_ioctl(rng.getrandbits(32), cmd, argument, rng.random() < 0.2, file)
            if rng.random() < 0.1:
                packet = wire.encode_close(file)
        if rng.random() < 0.1:
            packet = packet[: rng.randrange(1, len(packet) + 1)] + rng.randbytes(rng.choice([0, 0, 1, 2000]))
        return packet

    def send(self) -> None:
        rng = self._rng
        sock = rng.choice(self.sockets)
        files = [self._file() for _ in range(rng.choice([0, 1, 1, 1, 2, 9]))]
        packet = self._packet()
        with contextlib.suppress(OSError):
            try:
                socket.send_fds(sock, [packet], files)
            except PermissionError:  # the kernel knows that no files are wanted
                sock.send(packet)
        if files and rng.random() < 0.1:
            self.fds.append(files.pop())
        for fd in files:
            os.close(fd)

    def receive(self) -> None:
        for sock in list(self.sockets):
            try:
                packet, fds, _, _ = socket.recv_fds(sock, wire.PACKET_MAX, 4)
            except OSError:
                continue
            self.fds += fds
            if packet:
                wire.decode_answer(packet)

    def drop(self) -> None:
        if len(self.sockets) > 1:
            self.sockets.pop(self._rng.randrange(len(self.sockets))).close()
        if self.fds:
            os.close(self.fds.pop(self._rng.randrange(len(self.fds))))

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        for fd in self.fds:
            os.close(fd)


def turn(reactor: Reactor) -> None:
    """Let it do what there is to do."""
    reactor.soon(lambda: reactor.soon(reactor.stop))
    reactor._running = True
    reactor.run()


def once(rng: random.Random) -> None:
    before = len(os.listdir("/proc/self/fd"))
    simulator = Simulator(now_ns)
    chip = simulator.add_chip("s", [""] * 8)
    held = chip.request([NEIGHBOUR], [LineSettings(Direction.OUTPUT, output_value=1)], HOLDER)
    reactor = Reactor(simulator.deadlines)
    with tempfile.TemporaryDirectory() as folder:
        listener = PathListener(f"{folder}/chip", Access(), socket.SOCK_SEQPACKET)
        server = DeviceServer(chip, listener, reactor)
        peer = Peer(f"{folder}/chip", rng)
        peer.connect()
        for _ in range(rng.randrange(60)):
            if rng.random() < 0.1:
                peer.connect()
            peer.send()
            turn(reactor)
            peer.receive()
            simulator.pull("s", rng.randrange(8), rng.randrange(2))
            if rng.random() < 0.1:
                peer.drop()
        assert held.get_values(1) == 1
        assert simulator.level("s", NEIGHBOUR) == 1
        peer.close()
        for _ in range(3):
            turn(reactor)
        assert not server.files, "a file is open"
        assert [o for o in range(8) if chip.line_info(o).used] == [NEIGHBOUR], "a line is held"
        server.close()
        listener.close()
    reactor.close()
    left = len(os.listdir("/proc/self/fd"))
    assert left == before, f"{left - before} fds are left"


if __name__ == "__main__":
    sys.exit(main(INVARIANT, once))
