# SPDX-License-Identifier: MIT
"""Workers that say what a test has them say, and a fork server that starts them.

What each says comes from a process of its own: that is who a worker is for the custodian, and whom it kills.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpiovirt.core.task import sleep, start
from gpiovirt.daemon.fork_server import ForkServer
from gpiovirt.errors import HostError
from gpiovirt.host.packets import close_files
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.received import receive, send

__all__ = ["FakeForkServer", "FakeWorker", "fds_open", "serve_until"]

_PACKET = 1 << 18
_FILES = 250
_FORK_SERVER = 1  # what goes for its pid

Behaviour = Callable[["FakeWorker", dict[str, Any], list[int]], None]


def serve_until(reactor: Reactor, condition: Callable[[], object], timeout_s: float = 15) -> None:
    """Serve until it holds; AssertionError if it does not."""

    async def wait() -> None:
        while not condition():
            await sleep(reactor.deadlines, time.monotonic_ns() + 2_000_000)

    reactor.run_until(start(wait()), int(timeout_s * 1e9))
    assert condition()


def fds_open() -> int:
    """How many files this process has."""
    return len(os.listdir("/proc/self/fd"))


class FakeWorker:
    """A worker at its hand-over socket; `does` is called with all that it is told."""

    def __init__(self, listener: socket.socket, reactor: Reactor, does: Behaviour, meets: Any = None) -> None:
        self.told: list[dict[str, Any]] = []
        self.does = does
        self.spec: dict[str, Any] = {}
        self.files: list[int] = []
        self._meets = meets
        self._reactor = reactor
        self._listener = listener
        self._socket: socket.socket | None = None
        self._mouth: socket.socket | None = None
        self.pid = 0
        listener.setblocking(False)
        reactor.add_reader(listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            self._socket, _ = self._listener.accept()
        except BlockingIOError:
            return
        self._stop_listening()
        self._mouth, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if not self.pid:
            _relay(theirs, self._socket)
        theirs.close()
        self._reactor.add_reader(self._socket.fileno(), self._hear)
        if self._meets is None:
            self.say({"spec": None})
        else:
            self._meets(self)

    def _stop_listening(self) -> None:
        if self._listener.fileno() >= 0:
            self._reactor.remove_reader(self._listener.fileno())
            self._listener.close()

    def _hear(self) -> None:
        assert self._socket is not None
        files: list[int] = []
        packet = b"+"
        while packet == b"+":
            try:
                packet, fds, _ = receive(self._socket, _PACKET, _FILES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                packet, fds = b"", []
            files += fds
        if not packet:
            self._reactor.remove_reader(self._socket.fileno())
            return
        body = json.loads(packet)
        self.told.append(body)
        self.does(self, body, files)

    def say(self, body: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """As the worker; nothing, if it was killed."""
        self.say_packet(json.dumps(body).encode(), fds)

    def say_packet(self, packet: bytes, fds: Sequence[int] = ()) -> None:
        """Whatever it is."""
        assert self._mouth is not None
        with suppress(OSError):
            send(self._mouth, packet, fds, socket.MSG_DONTWAIT)

    def is_told(self, what: str) -> bool:
        return any(body.get("do") == what for body in self.told)

    @property
    def is_dead(self) -> bool:
        """It was killed."""
        return bool(os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))

    def die(self) -> None:
        """As by kill -9."""
        assert self.pid
        os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        if self._socket is not None:
            self._reactor.remove_reader(self._socket.fileno())
            self._socket.close()

    def close(self) -> None:
        if self._mouth is not None and self._socket is not None:
            if self._socket.fileno() >= 0:
                self._reactor.remove_reader(self._socket.fileno())
            self._mouth.close()
            self._socket.close()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self._stop_listening()
        close_files(self.files)


def _relay(source: socket.socket, target: socket.socket) -> None:
    """What comes from the test goes to the custodian, as ours."""
    try:
        low, high = sorted((source.fileno(), target.fileno()))
        os.closerange(3, low)
        os.closerange(low + 1, high)
        os.closerange(high + 1, 4096)
        while True:
            packet, fds, _ = receive(source, _PACKET, _FILES)
            if not packet:
                break
            with suppress(OSError):
                send(target, packet, fds)
            for fd in fds:
                os.close(fd)
    finally:
        os._exit(0)


class FakeForkServer(ForkServer):
    """Starts fake workers, which do as `does`; `is_broken`: it can start none; `imports`: none yet."""

    def __init__(self, reactor: Reactor, does: Behaviour) -> None:
        super().__init__(reactor, os.getuid(), os.getgid())
        self.does = does
        self.workers: dict[str, list[FakeWorker]] = {}
        self.keepers: list[socket.socket] = []
        self.is_broken = False
        self.imports = False
        self._waits: list[tuple[str, socket.socket]] = []
        self._fake_reactor = reactor

    def spawn(self, listener: socket.socket, simulates: bool) -> int:
        if self.is_broken:
            raise HostError("cannot start a worker: no more processes")
        self._waits.append((Path(listener.getsockname()).name.removeprefix("."), listener.dup()))
        if not self.imports:
            self.finish_importing()
        return _FORK_SERVER

    def finish_importing(self) -> None:
        """It begins, with what it has been asked for by now."""
        self.imports = False
        for name, listener in self._waits:
            made = FakeWorker(listener, self._fake_reactor, self.does)
            self.workers.setdefault(name, []).append(made)
        self._waits.clear()

    def is_at_work(self, pid: int) -> bool:
        return pid == _FORK_SERVER

    def is_there(self) -> bool:
        return not self.imports

    def start_keeper(self) -> socket.socket:
        if self.is_broken:
            raise HostError("cannot start a keeper: no more processes")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.keepers.append(theirs)
        return ours

    def of(self, name: str) -> FakeWorker:
        """The last one started for that chip."""
        return self.workers[name][-1]

    def close_all(self) -> None:
        for workers in self.workers.values():
            for worker in workers:
                worker.close()
        for keeper in self.keepers:
            keeper.close()
        for _, listener in self._waits:
            listener.close()
