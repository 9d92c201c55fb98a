# SPDX-License-Identifier: MIT
"""What a worker may say to the custodian, and what comes of all else: its end, and nobody else's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gpiovirt.core.task import Future, start
from gpiovirt.daemon import worker_handle
from gpiovirt.daemon.worker_handle import Answer, WorkerHandle
from gpiovirt.errors import HostError, PeerError
from gpiovirt.host.child import process_start
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener
from tests.fake_worker import FakeForkServer, FakeWorker, fds_open, serve_until


def obedient(worker: FakeWorker, body: dict[str, Any], _fds: list[int]) -> None:
    """Serves, and answers all."""
    if body["do"] == "serve":
        worker.say({"ready": True})
    elif "tag" in body:
        worker.say({"tag": body["tag"]})


class Owner:
    """Notes what it is told."""

    simulates = False

    def __init__(self) -> None:
        self.ready = self.lost = 0
        self.failed: list[str] = []
        self.told: list[Any] = []
        self.handed: list[Any] = []
        self.handle: WorkerHandle

    def serve(self) -> tuple[dict[str, Any], list[int]]:
        return {}, []

    def on_hand_over(self, spec: dict[str, Any], fds: list[int]) -> None:
        self.handed.append(spec)
        if spec.get("bad"):
            raise PeerError("no")

    def on_ready(self) -> None:
        self.ready += 1

    def on_failed(self, message: str) -> None:
        self.failed.append(message)

    def on_told(self, body: Any) -> None:
        self.told.append(body)

    def on_lost(self) -> None:
        self.lost += 1

    def start_again(self) -> None:
        self.handle.start()


class World:
    """A handle, its owner, and the fork server that it asks."""

    def __init__(self, folder: Path) -> None:
        self.reactor = Reactor()
        self.forkserver = FakeForkServer(self.reactor, obedient)
        self.owner = Owner()
        self.path = str(folder / "plc")
        self.handle = self.owner.handle = WorkerHandle(
            "plc", self.path, self.owner, self.reactor, self.forkserver
        )

    def until(self, condition: Any) -> None:
        serve_until(self.reactor, condition)

    def start(self) -> FakeWorker:
        self.handle.start()
        self.until(lambda: self.handle.is_ready)
        return self.forkserver.of("plc")

    def ask(self, timeout_s: float = 5, **question: Any) -> Answer:
        answer: Future[Answer] = start(self.handle.ask(timeout_s, **question))
        self.until(lambda: answer.is_done)
        return answer.result()

    def close(self) -> None:
        self.handle.close()
        self.forkserver.close_all()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_a_worker_is_told_what_to_serve_and_answers(world: World) -> None:
    worker = world.start()
    assert worker.told[0] == {"do": "serve", "spec": {}}
    assert world.ask(do="status").body.keys() == {"tag"}
    assert world.handle.pid == worker.pid


@pytest.mark.parametrize(
    "packet",
    [
        b"garbage",
        b"[]",
        b"[" * 100_000,
        b'{"spec": {}}',
        b'{"ready": true}',
        b'{"failed": "now"}',
        b'{"event": 7}',
        b'{"tag": "1"}',
        b'{"tag": ' + b"9" * 5000 + b"}",
        b"{}",
    ],
)
def test_a_worker_that_makes_no_sense_is_replaced(world: World, packet: bytes) -> None:
    worker = world.start()
    worker.say_packet(packet)
    world.until(lambda: world.owner.ready == 2)
    assert world.owner.lost == 1
    world.until(lambda: worker.is_dead)
    assert world.ask(do="status")


def test_files_beside_answers_that_bring_none_are_closed(world: World) -> None:
    def brings_files(worker: FakeWorker, body: dict[str, Any], fds: list[int]) -> None:
        if "tag" in body:
            pipe = os.pipe()
            worker.say({"tag": body["tag"]}, pipe)
            for fd in pipe:
                os.close(fd)
        else:
            obedient(worker, body, fds)

    world.forkserver.does = brings_files
    worker = world.start()
    before = fds_open()
    for _ in range(20):
        assert world.ask(do="status").fds == []
    world.handle.watch_over(True)
    world.until(lambda: worker.is_told("ping"))
    world.until(lambda: fds_open() <= before)


def test_a_worker_brings_no_more_files_than_an_answer_has(world: World) -> None:
    worker = world.start()
    before = fds_open()
    null = [os.open("/dev/null", os.O_RDONLY)] * 200
    for _ in range(100):
        worker.say_packet(b"+", null)
    os.close(null[0])
    world.until(lambda: world.owner.ready == 2)
    assert fds_open() < before + 50


def test_a_worker_that_brings_what_nobody_can_close_is_replaced_at_once(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with open(os.open(tmp_path / "file", os.O_RDONLY)) as file:
        worker = world.start()
        worker.say({"tag": 99}, [file.fileno()])
        world.until(lambda: world.owner.ready == 2)


def test_who_takes_an_answers_files_gets_only_those_that_it_can_close(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def lends(worker: FakeWorker, body: dict[str, Any], fds: list[int]) -> None:
        if body["do"] == "lend":
            with open(tmp_path / "file") as file:
                worker.say({"tag": body["tag"]}, [file.fileno()] * 2)
        else:
            obedient(worker, body, fds)

    world.forkserver.does = lends
    world.start()
    assert world.ask(brings_files=True, do="lend").fds == []
    world.until(lambda: world.owner.ready == 2)


def test_a_flood_holds_up_nobody_else(world: World) -> None:
    worker = world.start()
    packet = json.dumps({"event": "x", "n": "y" * 50}).encode()

    def flood() -> None:
        for _ in range(50):
            worker.say_packet(packet)
        world.reactor.call_later(0, flood)

    turns: list[int] = []

    def count() -> None:
        turns.append(len(world.owner.told))
        world.reactor.call_later(0.001, count)

    flood()
    count()
    world.until(lambda: len(world.owner.told) > 2000)
    most = max(after - before for before, after in pairwise(turns))
    assert most < 500


def test_why_a_worker_fails_is_short_and_printable(world: World) -> None:
    def fails(worker: FakeWorker, body: dict[str, Any], _fds: list[int]) -> None:
        worker.say({"failed": "\x1b]0;OWNED\x07\n" + "x" * 100_000})

    world.forkserver.does = fails
    world.handle.start()
    world.until(lambda: world.owner.failed)
    assert world.owner.failed[0].isprintable()
    assert len(world.owner.failed[0]) < 1000
    world.forkserver.does = obedient
    world.until(lambda: world.owner.ready)


def test_a_worker_that_repeats_that_it_fails_is_heard_once(world: World) -> None:
    def fails(worker: FakeWorker, _body: dict[str, Any], _fds: list[int]) -> None:
        for _ in range(100):
            worker.say({"failed": "no"})

    world.forkserver.does = fails
    world.handle.start()
    world.until(lambda: len(world.forkserver.workers["plc"]) > 1)
    assert len(world.owner.failed) <= 2


def test_a_worker_that_does_not_answer_is_replaced(world: World) -> None:
    def mute(worker: FakeWorker, body: dict[str, Any], fds: list[int]) -> None:
        if body["do"] == "serve":
            obedient(worker, body, fds)

    world.forkserver.does = mute
    former = world.start()
    world.forkserver.does = obedient
    with pytest.raises(HostError, match="does not answer"):
        world.ask(0.05, do="status")
    world.until(lambda: world.handle.is_ready)
    assert world.forkserver.of("plc") is not former
    world.until(lambda: former.is_dead)


def test_a_worker_in_use_that_hangs_is_replaced(world: World) -> None:
    former = world.start()
    former.does = lambda *_: None
    world.handle.watch_over(True)
    world.until(lambda: world.owner.ready == 2)
    assert former.is_told("ping")
    world.until(lambda: former.is_dead)


def test_a_worker_that_dies_is_replaced(world: World) -> None:
    world.start().die()
    world.until(lambda: world.owner.ready == 2)
    assert world.handle.restarts == 1


def test_who_asked_a_worker_that_dies_is_told_at_once(world: World) -> None:
    worker = world.start()
    worker.does = lambda *_: None
    answers = [start(world.handle.ask(30, do="status")) for _ in range(200)]
    worker.die()
    world.until(lambda: all(answer.is_done for answer in answers))
    for answer in answers:
        with pytest.raises(HostError, match="has ended"):
            answer.result()


def test_the_time_of_a_worker_begins_when_it_can_be_forked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow board its fork server imports for longer than a worker may take."""
    monkeypatch.setattr(worker_handle, "_FORK_S", 0.02)
    monkeypatch.setattr(worker_handle, "_START_S", 0.2)
    world.forkserver.imports = True
    world.forkserver.does = lambda *_: None
    world.handle.start()
    world.reactor.run_until(Future(), int(0.5e9))
    assert (world.owner.lost, world.owner.failed) == (0, [])
    world.forkserver.finish_importing()
    world.until(lambda: world.owner.lost)
    assert world.owner.failed == ["its worker is not ready after 0.2 s"]


def test_a_fork_server_that_ends_while_it_imports_is_asked_no_longer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_handle, "_FORK_S", 0.02)
    world.forkserver.imports = True
    world.handle.start()
    world.reactor.run_until(Future(), int(0.1e9))
    assert world.owner.lost == 0
    monkeypatch.setattr(world.forkserver, "is_at_work", lambda _: False)
    world.until(lambda: world.owner.lost)


def test_a_worker_that_cannot_be_started_is_started_when_it_can(world: World) -> None:
    worker = world.start()
    world.forkserver.is_broken = True
    worker.die()
    world.until(lambda: world.owner.lost)
    for _ in range(20):
        world.reactor.soon(lambda: None)
    world.forkserver.is_broken = False
    world.until(lambda: world.owner.ready == 2)


def test_who_wants_a_worker_without_a_file_to_spare_is_told_and_has_one_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = world.start()
    genuine = socket.socket

    def none_to_spare(*arguments: Any, **options: Any) -> socket.socket:
        if arguments:
            raise OSError(24, "Too many open files")
        return genuine(**options)

    with monkeypatch.context() as patch:
        patch.setattr("gpiovirt.daemon.worker_handle.socket.socket", none_to_spare)
        worker.die()
        world.until(lambda: world.owner.lost)
        serve_until(world.reactor, lambda: world.handle._failures > 2)
    world.until(lambda: world.owner.ready == 2)


class TestFound:
    """A worker of a former custodian, which has all to say."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        made = World(tmp_path)
        yield made
        made.close()

    @staticmethod
    def find(world: World, spec: Any) -> FakeWorker:
        listener = PathListener(world.path, Access(mode=0o600), socket.SOCK_SEQPACKET)
        worker = FakeWorker(
            listener.socket,
            world.reactor,
            obedient,
            lambda it: it.say_packet(json.dumps(spec).encode()),
        )
        world.forkserver.workers.setdefault("plc", []).append(worker)
        assert world.handle.find()
        return worker

    def test_what_it_has_is_taken_over(self, world: World) -> None:
        self.find(world, {"spec": {"a": 1}})
        world.until(lambda: world.handle.is_ready)
        assert world.owner.handed == [{"a": 1}]

    @pytest.mark.parametrize(
        "said",
        [
            {"spec": None},
            {"spec": {"bad": 1}},
            {"spec": []},
            {"ready": True},
            {"use": {}},
            {"failed": "\x1b"},
        ],
    )
    def test_one_that_makes_no_sense_is_replaced(self, world: World, said: Any) -> None:
        worker = self.find(world, said)
        world.until(lambda: world.handle.is_ready)
        assert world.owner.lost == 1
        assert not world.handle.is_found
        world.until(lambda: worker.is_dead)

    def test_one_that_is_stopped_is_replaced_at_once(self, world: World) -> None:
        with (
            subprocess.Popen(["sleep", "60"]) as stopped,
            closing(PathListener(world.path, Access(mode=0o600), socket.SOCK_SEQPACKET)),
        ):
            stopped.send_signal(signal.SIGSTOP)
            Path(world.handle._pid_path).write_text(f"{stopped.pid} {process_start(stopped.pid)}")
            try:
                assert world.handle.find()
                serve_until(world.reactor, lambda: world.handle.is_ready, 3)
                assert world.owner.lost == 1
                assert stopped.wait(5) == -signal.SIGKILL
            finally:
                stopped.kill()
