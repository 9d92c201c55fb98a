# SPDX-License-Identifier: MIT
"""Fuzz gpiovirtd's control socket."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import fuzz_control_messages as messages
from fuzz import harness
from gpiovirt.core.task import Future
from gpiovirt.daemon.control import ControlServer
from gpiovirt.daemon.custodian import Custodian
from gpiovirt.daemon.directories import Directories
from gpiovirt.daemon.fork_server import ForkServer
from gpiovirt.daemon.simulation import Simulation
from gpiovirt.daemon.store import Store
from gpiovirt.errors import HostError
from gpiovirt.host.reactor import Reactor
from gpiovirt.protocols.control.requests import decode_request

INVARIANT = (
    "every packet is answered with an object that says ok, as its request is answered, or error, or ends its "
    "connection, and no other"
)
WORDS: list[Any] = [
    *(None, True, -1, 0, 3, 1 << 70, 2.5, "", "plc", "a/b", "\0", "\x1b[2J", "gpio-virt-agg.0", "nochip 0"),
    *("a 0-65534", "x" * 3000, [], {}, [{}], {"0": "safe=low"}, {"0": 1}, {"uid": 0, "gids": [0]}, "process"),
    *("connection", [{"name": "plc"}], "gpio-aggregator", 4294967295),
]
KEYS = [*messages.KEYS, "do"]
DOS = [*messages.REQUESTS, "dance", ""]
_FOLDER = tempfile.TemporaryDirectory(prefix="gpiovirt-fuzz-")


class NoForkserver(ForkServer):
    """No worker can be had."""

    def spawn(self, listener: socket.socket, simulates: bool) -> int:  # noqa: ARG002
        raise HostError("cannot start a worker")

    def keep(self, channel: socket.socket) -> None:  # noqa: ARG002
        raise HostError("cannot start a keeper")


def _world() -> tuple[Reactor, str]:
    run = f"{_FOLDER.name}/run"
    directories = Directories(run)
    directories.make()
    reactor = Reactor()
    forkserver = NoForkserver(reactor, os.getuid(), os.getgid())
    simulation = Simulation([], [], directories, reactor, forkserver)
    store = Store(f"{_FOLDER.name}/state", directories.passing)
    custodian = Custodian(directories, store, reactor, forkserver, simulation, {})
    ControlServer(directories.control, custodian, reactor, lambda _: False)
    return reactor, directories.control


_reactor, _path = _world()
harness.fail_on_faults()


def _packet(choose: random.Random) -> bytes:
    kind = choose.randrange(20)
    if kind == 0:
        return bytes(choose.randrange(256) for _ in range(choose.randrange(1, 60)))
    if kind == 1:
        return b"[" * choose.randrange(1, 5000)
    body = {key: choose.choice(WORDS) for key in choose.sample(KEYS, choose.randrange(6))}
    body["do"] = choose.choice(DOS)
    if choose.randrange(2):
        body.setdefault("name", choose.choice(("plc", "x")))
        body.setdefault("definition", "nochip 0-3, DOOR")
        body.setdefault("wait", True)
    return json.dumps(body).encode()


def _ask(sock: socket.socket, packet: bytes) -> dict[str, Any] | None:
    """The answer; None at the connection's end."""
    try:
        sock.send(packet)
    except BrokenPipeError:
        return None
    for _ in range(50):
        _reactor.run_until(Future(), 200_000)
        try:
            answer = sock.recv(1 << 18)
        except BlockingIOError:
            continue
        if not answer:
            return None
        told = json.loads(answer)
        if "event" not in told:
            assert isinstance(told, dict)
            return told
    raise AssertionError("no answer")


def once(choose: random.Random) -> None:
    sockets = []
    for _ in range(2):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(_path)
        sock.setblocking(False)
        sockets.append(sock)
    one, other = sockets
    for _ in range(choose.randrange(1, 8)):
        packet = _packet(choose)
        answer = _ask(one, packet)
        if answer is None:
            break
        assert ("ok" in answer) != ("error" in answer), (packet, answer)
        assert "internal error" not in str(answer.get("error")), (packet, answer)
        assert str(answer.get("error", "")).isprintable(), (packet, answer)
        if "ok" in answer:
            decode_request(json.loads(packet)).answer(answer["ok"])
    told = _ask(other, b'{"do": "state"}')
    assert told is not None
    assert "ok" in told
    for sock in sockets:
        sock.close()
    _reactor.run_until(Future(), 200_000)


if __name__ == "__main__":
    sys.exit(harness.main(INVARIANT, once))
