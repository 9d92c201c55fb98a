# SPDX-License-Identifier: MIT
"""A custodian that was stopped for a while, or whose fork server is: no worker is killed that is healthy."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpiovirt.core.task import Future
from gpiovirt.daemon import fork_server, worker_handle
from gpiovirt.daemon.fork_server import ForkServer
from gpiovirt.daemon.worker_handle import WorkerHandle
from gpiovirt.host.packets import Channel
from gpiovirt.host.reactor import Reactor


def turn(reactor: Reactor, lasting_s: float) -> None:
    reactor.run_until(Future(), int(lasting_s * 1e9))


class Forks(ForkServer):
    """Forks nobody: a test is the worker."""

    at_work = True
    spawned = 0

    def spawn(self, listener: socket.socket, simulates: bool) -> int:
        self.listener = listener
        self.spawned += 1
        return 1

    def is_at_work(self, pid: int) -> bool:
        return self.at_work

    def is_there(self) -> bool:
        return True


class Owner:
    simulates = False

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.handle: WorkerHandle | None = None

    def serve(self) -> tuple[dict[str, Any], list[int]]:
        return {}, []

    def on_hand_over(self, spec: dict[str, Any], fds: list[int]) -> None:
        raise NotImplementedError

    def on_ready(self) -> None:
        self.happened.append("ready")

    def on_failed(self, message: str) -> None:
        self.happened.append(message)

    def on_told(self, body: Mapping[str, Any]) -> None:
        self.happened.append("told")

    def on_lost(self) -> None:
        self.happened.append("lost")

    def start_again(self) -> None:
        assert self.handle is not None
        self.handle.start()


class Custodian:
    """A handle and its worker, both here; no time passes for it but in turn()."""

    def __init__(self, folder: Path) -> None:
        self.reactor = Reactor()
        self.forks = Forks(self.reactor, os.getuid(), os.getgid())
        self.owner = Owner()
        self.handle = WorkerHandle("plc", str(folder / "plc"), self.owner, self.reactor, self.forks)
        self.owner.handle = self.handle
        self.handle.start()
        self.handle._know = lambda pid, started: setattr(self.handle, "pid", pid)  # type: ignore[method-assign]
        sock, _ = self.forks.listener.accept()
        self.worker = Channel(sock)

    def turn(self, lasting_s: float = 0.02) -> None:
        turn(self.reactor, lasting_s)

    def get_ready(self, before: Sequence[str] = ()) -> None:
        self.worker.send({"spec": None})
        self.turn()
        self.worker.send({"ready": True})
        self.turn()
        assert self.owner.happened == [*before, "ready"]
        self.heard()

    def heard(self) -> list[dict[str, Any]]:
        messages = []
        while (message := self.worker.receive()) is not None:
            messages.append(message.body)
        return messages


@pytest.fixture
def custodian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Custodian]:
    for name in ("_START_S", "_FORK_S", "_PING_S", "_PONG_S"):
        monkeypatch.setattr(worker_handle, name, {"_START_S": 0.2}.get(name, 0.1))
    made = Custodian(tmp_path)
    yield made
    made.worker.close()
    made.handle.close()
    made.reactor.close()


def test_a_worker_that_waits_for_a_stopped_custodian_is_heard_out(custodian: Custodian) -> None:
    custodian.turn(0.11)  # past _FORK_S
    custodian.worker.send({"spec": None})
    time.sleep(0.2)  # stopped, and _START_S is over
    custodian.turn()
    assert [body["do"] for body in custodian.heard()] == ["serve"]
    custodian.worker.send({"ready": True})
    time.sleep(0.25)
    custodian.turn()
    assert custodian.owner.happened == ["ready"]


def test_a_pong_is_heard_behind_more_than_is_heard_at_once(custodian: Custodian) -> None:
    custodian.get_ready()
    custodian.handle.watch_over(True)
    custodian.turn(0.12)
    (ping,) = custodian.heard()
    for _ in range(40):
        custodian.worker.send({"event": "x"})
    custodian.worker.send({"tag": ping["tag"]})
    time.sleep(0.2)
    custodian.turn(0.15)
    assert "lost" not in custodian.owner.happened
    assert custodian.owner.happened.count("told") == 40
    assert [body["do"] for body in custodian.heard()] == ["ping"]  # it goes on asking


def test_a_worker_that_says_nothing_hangs(custodian: Custodian, caplog: pytest.LogCaptureFixture) -> None:
    custodian.get_ready()
    custodian.handle.watch_over(True)
    custodian.turn(0.25)
    assert custodian.owner.happened == ["ready", "lost"]
    assert "hangs, and is replaced" in caplog.text


@pytest.mark.parametrize("at_work", [False, True])
def test_nobody_waits_long_for_a_fork_server_that_is_gone(custodian: Custodian, at_work: bool) -> None:
    custodian.forks.at_work = at_work
    custodian.turn(0.15)
    assert set(custodian.owner.happened) == (set() if at_work else {"lost"})


def test_a_worker_meets_who_started_it_and_not_who_waited_for_another(
    custodian: Custodian, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before it was never forked."""
    monkeypatch.setattr(worker_handle, "_START_S", 20.0)
    custodian.worker.close()
    custodian.forks.at_work = False
    while custodian.forks.spawned < 3:
        custodian.turn(0.01)
    custodian.forks.at_work = True
    sock, _ = custodian.forks.listener.accept()
    custodian.worker = Channel(sock)
    custodian.get_ready(["lost", "lost"])


# the fork server itself


@pytest.fixture
def forkserver() -> Iterator[tuple[ForkServer, Reactor]]:
    reactor = Reactor()
    made = ForkServer(reactor, os.getuid(), os.getgid())
    yield made, reactor
    made.close()
    deadline_s = time.monotonic() + 20
    while reactor._readers and time.monotonic() < deadline_s:  # until the end of each has been heard of
        turn(reactor, 0.02)


def wait_for(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_a_fork_server_that_is_stopped_is_replaced(
    forkserver: tuple[ForkServer, Reactor], caplog: pytest.LogCaptureFixture
) -> None:
    server, _ = forkserver
    with server.start_keeper():
        former = server.pid
        os.kill(former, signal.SIGSTOP)
        wait_for(lambda: not server.is_at_work(former))
        with server.start_keeper():
            assert server.pid != former
            assert server.is_at_work(server.pid)
    assert "is stopped; it is replaced" in caplog.text


def test_the_end_of_a_fork_server_does_not_end_its_successor(
    forkserver: tuple[ForkServer, Reactor], caplog: pytest.LogCaptureFixture
) -> None:
    """Which was started before that end was heard of."""
    server, reactor = forkserver
    with caplog.at_level(logging.ERROR), server.start_keeper():
        former = server.pid
        os.kill(former, signal.SIGKILL)
        wait_for(lambda: _has_ended(former))
        with server.start_keeper():
            successor = server.pid
            assert successor != former
            turn(reactor, 0.2)
            assert server.pid == successor


def test_a_fork_server_that_is_killed_is_there_again_before_it_is_needed(
    forkserver: tuple[ForkServer, Reactor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "_AGAIN_S", 0.0)
    server, reactor = forkserver
    server.begin()
    former = server.pid
    os.kill(former, signal.SIGKILL)
    turn(reactor, 0.2)
    assert server.pid not in (0, former)


def test_a_fork_server_says_when_it_begins(forkserver: tuple[ForkServer, Reactor]) -> None:
    server, reactor = forkserver
    server.begin()
    os.kill(server.pid, signal.SIGSTOP)
    first = server.pid
    turn(reactor, 0.05)
    assert not server.is_there()
    os.kill(first, signal.SIGCONT)
    wait_for(server.is_there)
    with server.start_keeper():
        assert server.pid == first


def test_a_fork_server_that_never_begins_is_replaced(
    forkserver: tuple[ForkServer, Reactor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server, _ = forkserver
    server.begin()
    former = server.pid
    with monkeypatch.context() as hanging:
        hanging.setattr(fork_server, "_BEGIN_S", 0.0)
        hanging.setattr(server, "is_there", lambda: False)
        assert not server.is_at_work(former)
        server.start_keeper().close()
        assert server.pid not in (0, former)
    assert "has not begun in 0 s; it is replaced" in caplog.text
    wait_for(server.is_there)
    assert server.is_at_work(server.pid)


def _has_ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
