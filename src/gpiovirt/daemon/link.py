# SPDX-License-Identifier: MIT
"""The custodian's end of a worker: it is started, found again, spoken to, and started anew when it dies."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from gpiovirt.daemon.timers import Timers
from gpiovirt.errors import HostError, PeerError
from gpiovirt.host.channel import Channel
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener, SocketListener

__all__ = ["Forkserver", "Link", "Served"]

_log = logging.getLogger(__name__)

_DIES_S = 2.0
_START_S = 10  # a worker that is not ready by then is started anew
_LIVED_S = 10  # one that lived so long is started anew at once
_DELAYS_S = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0, 5.0)


class Forkserver:
    """The process that forks workers, started when it is first needed, or gone.

    `uid` and `gid` are what the workers become.
    """

    def __init__(self, uid: int, gid: int) -> None:
        self._ids = (str(uid), str(gid))
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self, listener: socket.socket, simulates: bool) -> None:
        """Fork a worker whose hand-over socket is `listener`; HostError if that cannot be."""
        self._fork(b"simulator" if simulates else b"chip", listener)

    def keep(self, channel: socket.socket) -> None:
        """Fork a keeper of a VM's session, which is spoken to at the other end of `channel`; likewise."""
        self._fork(b"keeper", channel)

    def _fork(self, packet: bytes, its: socket.socket) -> None:
        for attempt in (1, 2):
            sock = self._socket or self._start()
            try:
                socket.send_fds(sock, [packet], [its.fileno()], socket.MSG_NOSIGNAL)
                return
            except OSError as error:
                self.close()
                if attempt == 2:
                    raise HostError.of("cannot start a worker", error) from error

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "gpiovirt.daemon.forkserver", str(theirs.fileno()), *self._ids]
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._socket = ours
        return ours

    @property
    def pid(self) -> int:
        """0 while there is none."""
        return self._process.pid if self._process else 0

    def close(self) -> None:
        """End it; its workers go on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Served(Protocol):
    """What a worker is there for."""

    simulates: bool

    def serve(self) -> tuple[dict[str, Any], list[int]]:
        """What a new worker is told, and the files it needs."""

    def on_hand_over(self, spec: dict[str, Any], fds: list[int]) -> None:
        """A worker that was there before us has this; PeerError if that cannot be."""

    def on_ready(self) -> None:
        """It is served from now on."""

    def on_failed(self, message: str) -> None:
        """A worker cannot serve it."""

    def on_message(self, body: dict[str, Any]) -> None:
        """Whatever else the worker says."""

    def on_lost(self) -> None:
        """The worker is gone."""

    def begin_again(self) -> None:
        """Have another worker, by start(); HostError if that cannot be."""


class Link:
    """One worker, by the path of its hand-over socket."""

    def __init__(
        self, name: str, path: str, served: Served, reactor: Reactor, timers: Timers, forkserver: Forkserver
    ) -> None:
        self._name = name
        self._about = {"chip": name}
        self._path = path
        self._served = served
        self._reactor = reactor
        self._timers = timers
        self._forkserver = forkserver
        self._listener: SocketListener | None = None
        self._channel: Channel | None = None
        self._pidfd = -1
        self._cancel: Callable[[], None] | None = None
        self._started_s = 0.0
        self._failures = 0
        self._closed = False
        self.pid = 0
        self.is_ready = False
        self.is_found = False
        self.restarts = 0

    def find(self) -> bool:
        """Speak to a worker that is there already, if one is."""
        try:
            self._connect()
        except HostError:
            return False
        self.is_found = True
        return True

    def start(self) -> None:
        """Start a worker; HostError if it cannot be."""
        if self._listener is None:
            # whoever died before it could serve left the socket
            self._listener = PathListener(self._path, Access(mode=0o600), socket.SOCK_SEQPACKET)
        self._started_s = time.monotonic()
        self._forkserver.spawn(self._listener.socket, self._served.simulates)
        self._connect()

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._channel = Channel(sock, tell_pid=True)
            sock.connect(self._path)
        except OSError as error:
            sock.close()
            self._channel = None
            raise HostError.of(f"cannot reach the worker of {self._name}", error) from error
        self._cancel = self._timers.call_later(_START_S, self._on_late)
        self._reactor.add_reader(self._channel.fileno(), self._receive)

    def start_keeper(self) -> socket.socket:
        """Start a keeper of a VM's session; the channel to it. HostError if it cannot be."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._forkserver.keep(theirs)
            except BaseException:
                ours.close()
                raise
        return ours

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back once; returns what prevents that."""
        return self._timers.call_later(delay_s, callback)

    def replace(self) -> None:
        """Have another worker in place of the one there is."""
        self._lose()

    def _on_late(self) -> None:
        self._cancel = None
        self._served.on_failed(f"its worker does not get ready in {_START_S} s")
        self._lose()

    def _receive(self) -> None:
        try:
            while self._channel is not None and (message := self._channel.receive()) is not None:
                try:
                    self._hear(message.body, message.fds, message.pid)
                finally:
                    for fd in message.fds:  # that were not taken
                        os.close(fd)
        except EOFError:
            self._lose()
        except (PeerError, KeyError, TypeError, ValueError, IndexError) as error:
            _log.error("%s: its worker makes no sense: %s", self._name, error, extra=self._about)
            self._lose()

    def _hear(self, body: dict[str, Any], fds: list[int], pid: int) -> None:
        if self._pidfd < 0:
            self._know(pid)
        match body:
            case {"spec": None}:
                wanted, files = self._served.serve()
                self.send({"do": "serve", "spec": wanted}, files)
            case {"spec": dict(spec)}:
                self._served.on_hand_over(spec, fds)
                self._on_ready()
            case {"ready": True}:
                self._on_ready()
            case {"failed": str(message)}:
                self._served.on_failed(message)
            case _:
                self._served.on_message(body)

    def _know(self, pid: int) -> None:
        self.pid = pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise EOFError from error

    def _on_ready(self) -> None:
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        self.is_ready = True
        self._served.on_ready()

    def send(self, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Say something; a worker that does not hear is started anew."""
        if self._channel is not None:
            try:
                self._channel.send(body, fds)
            except OSError as error:
                _log.error(
                    "%s: its worker does not hear us: %s", self._name, error.strerror, extra=self._about
                )
                self._lose()

    def _lose(self) -> None:
        """The worker is gone, or as good as that."""
        lived_s = time.monotonic() - self._started_s
        self.end_worker()
        if self._closed:
            return
        self._failures = 0 if lived_s > _LIVED_S else self._failures + 1
        delay_s = _DELAYS_S[min(self._failures, len(_DELAYS_S) - 1)]
        self.restarts += 1
        _log.warning("%s: its worker has ended; another is started", self._name, extra=self._about)
        self._served.on_lost()
        if not self._closed:
            self._cancel = self._timers.call_later(delay_s, self._start_again)

    def _start_again(self) -> None:
        self._cancel = None
        try:
            self._served.begin_again()
        except HostError as error:
            _log.error("%s: %s", self._name, error, extra=self._about)
            self._cancel = self._timers.call_later(_DELAYS_S[-1], self._start_again)

    def end_worker(self) -> None:
        """Kill the worker, if there is one."""
        self.is_ready = False
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        if self._channel is not None:
            self._reactor.remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            # its files are closed by then, and what they held can be had
            poll = select.poll()  # select(2) has no room for fds past 1023
            poll.register(self._pidfd, select.POLLIN)
            if not poll.poll(_DIES_S * 1000):
                _log.error("%s: its worker (pid %d) does not end", self._name, self.pid, extra=self._about)
            os.close(self._pidfd)
            self._pidfd = -1
        self.pid = 0

    def close(self) -> None:
        """End the worker for good."""
        self._closed = True
        self.end_worker()
        if self._listener is not None:
            self._listener.close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)
