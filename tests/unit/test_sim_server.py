# SPDX-License-Identifier: MIT
"""What becomes of those who watch a simulator and do not read."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from gpiovirt.control import listen_at, sim_server
from gpiovirt.control.sim_server import SimServer
from gpiovirt.host.reactor import Reactor
from gpiovirt.sources.simulator import Simulator
from gpiovirt.testing import FakeClock


class Rig:
    """A served simulator in a time that is turned by hand, and a client that watches it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.reactor = Reactor()
        self.simulator = Simulator(self.clock)
        self.simulator.add_chip("a", ["DOOR", "LAMP"])
        name = f"gpiovirt/test/{os.getpid()}.{os.urandom(4).hex()}"
        self.server = SimServer(self.simulator, self.reactor, listen_at(name))
        self.client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.client.connect("\0" + name)
        self.reactor.serve_ready()
        self.say({"do": "watch"})
        assert self.read() == [{}]

    def say(self, command: dict[str, Any]) -> None:
        self.client.send(json.dumps(command).encode())
        self.reactor.serve_ready()

    def read(self) -> list[dict[str, Any]]:
        """All that is there."""
        found = []
        while True:
            try:
                found.append(json.loads(self.client.recv(1 << 16)))
            except BlockingIOError:
                return found

    def read_all(self) -> list[dict[str, Any]]:
        """As one who reads again and again."""
        found = self.read()
        while (due_ns := self.simulator.deadlines.next_deadline_ns()) is not None:
            self.clock.ns = due_ns
            self.simulator.deadlines.on_deadline(due_ns)
            found += self.read()
        return found

    def change(self, times: int) -> None:
        for _ in range(times):
            self.clock.ns += 1000
            self.simulator.pull("a", 0, self.simulator.level("a", 0) ^ 1)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.client.close()
    made.reactor.serve_ready()
    made.server._listener.close()
    made.reactor.close()


def test_who_reads_late_misses_nothing(rig: Rig) -> None:
    rig.change(5000)
    rig.say({"do": "sync"})
    *changes, synced = rig.read_all()
    assert synced == {}
    assert [change["level"] for change in changes] == [1, 0] * 2500
    times = [change["timestamp_ns"] for change in changes]
    assert times == sorted(times)


def test_who_reads_too_late_is_told_how_much_is_lost(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_server, "_BACKLOG_MAX", 100)
    rig.change(5000)
    *changes, lost = rig.read_all()
    assert 100 < len(changes) < 5000
    assert lost == {"lost": 5000 - len(changes)}
    rig.change(1)
    assert len(rig.read()) == 1


def test_who_never_reads_and_leaves_is_forgotten(rig: Rig) -> None:
    rig.change(5000)
    rig.client.close()
    rig.reactor.serve_ready()
    assert not rig.simulator.observers
    assert rig.simulator.deadlines.next_deadline_ns() is None
    rig.change(1)


def test_changes_of_an_unplugged_chip_are_told_when_it_is_back(rig: Rig) -> None:
    rig.change(1)
    rig.say({"do": "unplug", "chip": "a"})
    assert rig.read() == [{"chip": "a", "offset": 0, "level": 1, "timestamp_ns": rig.clock.ns}, {}]
    rig.simulator.pull("a", 0, 0)
    rig.simulator.pull("a", 1, 1)
    assert rig.read() == []
    rig.say({"do": "plug", "chip": "a"})
    assert [(said["offset"], said["level"]) for said in rig.read() if said] == [(0, 0), (1, 1)]
