# SPDX-License-Identifier: MIT
"""Fuzz what a worker that was there before gpiovirtd hands over to it, and says afterwards."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import harness
from gpiovirt.core.task import Future, start
from gpiovirt.daemon.chip import KeptChip
from gpiovirt.daemon.directories import Directories
from gpiovirt.daemon.fork_server import ForkServer
from gpiovirt.daemon.store import Record, new_incarnation
from gpiovirt.errors import HostError
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.received import send
from gpiovirt.host.terminal import new_terminal
from gpiovirt.sources.finder import LineAddress
from gpiovirt.virtual.definition import Definition
from gpiovirt.virtual.memory import new_memory
from gpiovirt.virtual.ring import new_ring

INVARIANT = "a worker's word is taken or ends it; the custodian goes on, with no file more that can be closed"
LINES = 2
WORDS: list[Any] = [
    *(None, True, -1, 0, 1, 1 << 70, 2.5, "", "gone", "kernel", "lent", "\0", "\x1b[2J", [], {}, [{}]),
    *({"kind": "gone"}, {"lines": []}, "output", "requested", "x" * 300, {"lines": 1, "vm": 0}),
]
KEYS = [
    "spec",
    "ready",
    "failed",
    "tag",
    "event",
    "use",
    "spent",
    "lines",
    "vm",
    "keeper",
    "status",
    "offset",
]
_FOLDER = tempfile.TemporaryDirectory(prefix="gpiovirt-fuzz-")
Packet = tuple[bytes, list[str]]


class _Nobody(ForkServer):
    """No worker can be had."""

    def spawn(self, listener: socket.socket, simulates: bool) -> int:  # noqa: ARG002
        raise HostError("cannot start a worker")

    def keep(self, channel: socket.socket) -> None:  # noqa: ARG002
        raise HostError("cannot start a keeper")


class _Faults(logging.Handler):
    """What a worker does wrong is an error; what has a traceback is one of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            raise AssertionError(record.getMessage()) from record.exc_info[1]


logging.getLogger("gpiovirt").addHandler(_Faults())
logging.getLogger("gpiovirt").propagate = False


def _spec(choose: random.Random, has_ring: bool, has_tty: bool) -> dict[str, Any]:
    """A good one, but for what is changed in it."""
    line = {"name": "a", "kind": "gone", "output": False}
    spec: dict[str, Any] = {"lines": [dict(line) for _ in range(LINES)], "vm": False, "keeper": False}
    spec["record"], spec["tty"] = has_ring, has_tty
    for _ in range(choose.randrange(3)):
        where: dict[str, Any] = choose.choice([spec, *spec["lines"]]) if spec.get("lines") else spec
        if isinstance(where, dict):
            where[choose.choice([*where, "x"])] = choose.choice(WORDS)
        if not isinstance(spec.get("lines"), list):
            break
    return spec


def _script(choose: random.Random) -> list[Packet]:
    script: list[Packet] = []
    if choose.randrange(4):
        good, recorded = ["memory", "listener"], ["memory", "ring", "eventfd", "listener"]
        whole = ["memory", "ring", "eventfd", "tty", "listener"]
        bad = [[], ["memory"], ["pipe", "file"], ["file"] * 9, ["memory", "listener", "eventfd", "ring"]]
        bad += [["memory", "file", "listener"], ["tty", "tty"]]
        files = choose.choice([good, recorded, whole, ["memory", "tty", "listener"]] * 3 + bad)
        has_ring = choose.choice([True, False, "ring" in files, "ring" in files])
        has_tty = choose.choice([True, False, "tty" in files, "tty" in files])
        script.append((json.dumps({"spec": _spec(choose, has_ring, has_tty)}).encode(), files))
    for _ in range(choose.randrange(5)):
        if choose.randrange(8) == 0:
            packet = bytes(choose.randrange(256) for _ in range(choose.randrange(1, 60)))
        else:
            body = {key: choose.choice(WORDS) for key in choose.sample(KEYS, choose.randrange(1, 4))}
            packet = json.dumps(body).encode()
        files = choose.choices(["memory", "listener", "pipe", "file"], k=choose.choice([0, 0, 0, 1, 2]))
        script.append((packet, files))
    return script


def _open(kind: str) -> int:
    if kind == "memory":
        return new_memory("plc", LINES, 0)
    if kind == "listener":
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.bind(b"")
            sock.listen(1)
            return sock.detach()
    if kind == "ring":
        return new_ring("plc", LINES)
    if kind == "tty":
        return new_terminal()
    if kind == "eventfd":
        return os.eventfd(0)
    if kind == "pipe":
        return os.pipe()[0]
    return os.open("/dev/null", os.O_RDWR)


def _be_worker(listener: socket.socket, script: list[Packet]) -> None:
    with suppress(OSError):
        sock, _ = listener.accept()
        for packet, files in script:
            send(sock, packet, [_open(kind) for kind in files])
        while sock.recv(1 << 16):
            pass


def _num_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def once(choose: random.Random) -> Counter[str]:
    script = _script(choose)
    known = set(map(int, os.listdir("/proc/self/fd")))
    before = len(known)
    reactor = Reactor()
    directories = Directories(f"{_FOLDER.name}/run")
    directories.make()
    definition = Definition.parse("plc", "s 0-1")
    addresses = tuple(LineAddress("s", LINES, offset) for offset in range(LINES))
    record = Record(definition, addresses=addresses, incarnation=new_incarnation())
    chip = KeptChip(
        record,
        directories,
        reactor,
        _Nobody(reactor, os.getuid(), os.getgid()),
        lambda *_: None,
        lambda: None,
    )
    path = f"{directories.workers}/plc"
    with suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(1)
        worker = os.fork()
        if not worker:
            _be_worker(listener, script)
            os._exit(0)
    try:
        assert chip.handle.find()
        reactor.run_until(Future(), 10_000_000)
        taken = bool(chip.lines)
        if taken:
            assert len(chip.lines) == len(chip.held()) + LINES
        status = start(chip.status(0.02))
        reactor.run_until(status, 100_000_000)
        assert status.is_done
        assert status.result() is None or taken
        chip.close_now()
        reactor.run_until(Future(), 5_000_000)
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
    # what may make who closes it wait for ever is left open
    strange = sum(kind in ("pipe", "file") for _, files in script for kind in files)
    deadline_s = time.monotonic() + 5
    while (
        _num_files() > before + strange + 1 and time.monotonic() < deadline_s
    ):  # the worker's end is heard of
        reactor.run_until(Future(), 5_000_000)
    reactor.close()
    assert _num_files() <= before + strange, (script, os.listdir("/proc/self/fd"))
    for fd in set(map(int, os.listdir("/proc/self/fd"))) - known:
        with suppress(OSError):
            os.close(fd)
    return Counter({"handed over": taken})


if __name__ == "__main__":
    sys.exit(harness.main(INVARIANT, once))
