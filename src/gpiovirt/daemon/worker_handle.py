# SPDX-License-Identifier: MIT
"""The custodian's end of a worker: starts it, finds it again, talks to it, replaces it when it dies or hangs.

Nothing here waits for a worker: questions have a deadline, what it says has a budget per turn, and one
that is killed is not waited for.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from errno import EMFILE
from itertools import count
from typing import Any, NamedTuple, Protocol

from gpiovirt.core.deadline import Cancel
from gpiovirt.core.task import Future, TooLateError, wait_for
from gpiovirt.core.text import printable
from gpiovirt.daemon.fork_server import ForkServer
from gpiovirt.errors import HostError, PeerError
from gpiovirt.host.child import is_stopped, process_start
from gpiovirt.host.packets import Channel, Message, close_files, is_closable
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener, SocketListener

__all__ = ["Answer", "WorkerHandle", "WorkerOwner"]

_log = logging.getLogger(__name__)

_START_S = 5.0  # a worker that is not ready by then is replaced; it counts from when it can be forked
_FORK_S = 0.25  # if it has said nothing by then, it may be stopped, or there may be no fork server
_DIES_S = 2.0  # a killed one has ended by then, or hangs in the kernel
_LIVED_S = 10.0  # one that lived this long is replaced at once
_DELAYS_S = (0.0, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0)
_PING_S = 0.3  # between pings of a worker that is in use
_PONG_S = 0.5  # one that has not answered by then hangs
_MESSAGES_PER_TURN = 16
_FILES_MAX = 1 << 12  # at the hand-over; later it sends fewer
_FILES_OF_ANSWER = 2  # a line that it lends
_WHY_MAX = 500


class Answer(NamedTuple):
    """A worker's answer to a question; its files are the asker's."""

    body: Mapping[str, Any]
    fds: list[int]


class _Question(NamedTuple):
    answer: Future[Answer]
    brings_files: bool


class WorkerOwner(Protocol):
    """What a worker serves."""

    simulates: bool

    def serve(self) -> tuple[dict[str, Any], list[int]]:
        """The spec of a new worker, and the files that it needs."""

    def on_hand_over(self, spec: dict[str, Any], fds: list[int]) -> None:
        """A worker from before us has this; PeerError if that cannot be. It takes files out."""

    def on_ready(self) -> None:
        """It is served from now on."""

    def on_failed(self, message: str) -> None:
        """A worker cannot serve it."""

    def on_told(self, body: Mapping[str, Any]) -> None:
        """Handle what the worker says unasked."""

    def on_lost(self) -> None:
        """The worker is gone."""

    def start_again(self) -> None:
        """Get another worker, by start(); HostError if that fails."""


class _State(Enum):
    """The state of the conversation: what a worker may say next depends on nothing else."""

    GONE = "gone"
    MEETS = "meets"  # it says what it has
    TAKES = "takes"  # it has been told what to serve
    READY = "ready"


class WorkerHandle:
    """One worker, by the path of its hand-over socket."""

    def __init__(
        self, name: str, path: str, owner: WorkerOwner, reactor: Reactor, forkserver: ForkServer
    ) -> None:
        self._name = name
        self._about = {"chip": name}
        self._path = path
        self._owner = owner
        self._reactor = reactor
        self._forkserver = forkserver
        self._state = _State.GONE
        self._listener: SocketListener | None = None
        self._channel: Channel | None = None
        self._pidfd = -1
        self._cancel: Cancel | None = None
        self._asked: dict[int, _Question] = {}
        self._tags = count(1)
        self._pings: Cancel | None = None
        self._ended: Future[None] = Future()
        self._ended.set(None)
        self._started_s = 0.0
        self._forks = 0
        self._words = 0
        self._failures = 0
        self._is_closed = False
        self.pid = 0
        self.is_found = False
        self.restarts = 0

    @property
    def is_ready(self) -> bool:
        """Whether it serves."""
        return self._state is _State.READY

    @property
    def is_starting(self) -> bool:
        """Whether one has been asked for, and has not failed yet."""
        return self._state in (_State.MEETS, _State.TAKES)

    @property
    def waits_to_be_forked(self) -> bool:
        """Whether one has been asked for of a fork server that has not begun yet."""
        return self.is_starting and not self.is_found and not self._forkserver.is_there()

    # beginning

    def find(self) -> bool:
        """Connect to a worker that exists already, if any."""
        self._know_by_record()
        try:
            self._connect(_FILES_MAX)
        except HostError:
            if self._pidfd >= 0:  # it lives, but cannot be reached
                self._kill()
            return False
        self._cancel = self._reactor.call_later(_FORK_S, self._on_slow)
        self.is_found = True
        return True

    def start(self) -> None:
        """Start a worker; HostError if that fails."""
        if self._state is not _State.GONE:
            return
        if self._listener is not None:
            self._listener.close()  # a message for one that never came may wait in it, for the next to take
            self._listener = None
        self._listener = PathListener(self._path, Access(mode=0o600), socket.SOCK_SEQPACKET, replace=True)
        self._stop_waiting()
        self._started_s = time.monotonic()
        self._forks = self._forkserver.spawn(self._listener.socket, self._owner.simulates)
        self._connect(_FILES_OF_ANSWER)
        self._cancel = self._reactor.call_later(_FORK_S, self._on_slow)

    def _connect(self, files_max: int) -> None:
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise HostError.of(f"cannot reach the worker of {self._name}", error) from error
        try:
            channel = Channel(sock, files_max, tell_pid=True)
            sock.connect(self._path)
        except OSError as error:
            sock.close()
            raise HostError.of(f"cannot reach the worker of {self._name}", error) from error
        self._channel = channel
        self._state = _State.MEETS
        self._reactor.add_reader(channel.fileno(), self._receive, self._lose)

    def _on_slow(self) -> None:
        """It is slow on a busy machine; or it is stopped, or there is no fork server, any more or yet."""
        self._cancel = None
        is_heard = self.catch_up()
        if not is_heard and not self._may_answer():
            self._lose()
        elif not self.is_starting or self._cancel is not None:
            return
        elif not is_heard and self.waits_to_be_forked:
            self._started_s = time.monotonic()
            self._cancel = self._reactor.call_later(_FORK_S, self._on_slow)
        else:
            self._cancel = self._reactor.call_later(_START_S - _FORK_S, self._on_late)

    def _may_answer(self) -> bool:
        return not is_stopped(self.pid) if self.is_found else self._forkserver.is_at_work(self._forks)

    def _on_late(self) -> None:
        self._cancel = None
        if self.catch_up():
            if self.is_starting and self._cancel is None:  # it was kept waiting by us
                self._cancel = self._reactor.call_later(_START_S, self._on_late)
            return
        self._owner.on_failed(f"its worker is not ready after {_START_S:g} s")
        self._lose()

    def start_keeper(self) -> socket.socket:
        """Start a keeper of a VM's session; returns the channel to it. HostError if that fails."""
        return self._forkserver.start_keeper()

    # what it says

    def catch_up(self) -> bool:
        """Read what it has said by now, in case it is us who are late; returns whether there was anything."""
        words = self._words
        self._receive()
        return self._words != words

    def _receive(self) -> None:
        try:
            for _ in range(_MESSAGES_PER_TURN):
                if self._channel is None or (message := self._channel.receive()) is None:
                    return
                self._hear(message)
        except EOFError:
            self._lose()
        except (PeerError, HostError, OSError, KeyError, TypeError, ValueError, IndexError) as error:
            _log.error("%s: protocol error from its worker: %s", self._name, error, extra=self._about)
            self._lose()

    def _hear(self, message: Message) -> None:
        body, fds, pid = message
        self._words += 1
        if self.pid != pid:
            try:
                self._know(pid, process_start(pid))
            except HostError as error:
                close_files(fds)
                self._owner.on_failed(str(error))
                self._lose()
                return
            self._record()
        try:
            match self._state, body:
                case _State.MEETS, {"spec": None} if not self.is_found:
                    wanted, files = self._owner.serve()
                    self._state = _State.TAKES
                    self.send({"do": "serve", "spec": wanted}, files)
                case _State.MEETS, {"spec": dict(spec)} if self.is_found:
                    self._owner.on_hand_over(spec, fds)
                    self._on_ready()
                case _State.TAKES, {"ready": True}:
                    self._on_ready()
                case ((_State.MEETS | _State.TAKES), {"failed": str(why)}):
                    self._owner.on_failed(printable(why[:_WHY_MAX]))
                    self._lose()
                case _State.READY, {"tag": int(tag)}:
                    self._on_answer(tag, body, fds)
                case _State.READY, {"event": str()} | {"use": dict()}:
                    self._owner.on_told(body)
                case _State.READY, {"spent": True}:
                    self._lose()
                case _:
                    raise PeerError(f"nothing of this kind is expected while it {self._state.value}")
        finally:
            if close_files(fds):  # that were not taken
                raise PeerError("files of a kind that it should not have")

    def _on_answer(self, tag: int, body: Mapping[str, Any], fds: list[int]) -> None:
        question = self._asked.pop(tag, None)
        if question is None:  # nobody waits for it any more
            return
        taken: list[int] = []
        if question.brings_files and all(map(is_closable, fds)):
            taken, fds[:] = fds.copy(), []
        question.answer.set(Answer(body, taken))

    def _on_ready(self) -> None:
        self._stop_waiting()
        self._state = _State.READY
        if self._channel is not None:
            self._channel.take_at_most(_FILES_OF_ANSWER)
        self._owner.on_ready()

    # what it is told

    def send(self, body: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message; a worker that does not take it is replaced."""
        if self._channel is not None:
            try:
                self._channel.send(body, fds)
            except OSError as error:
                _log.error("%s: cannot send to its worker: %s", self._name, error.strerror, extra=self._about)
                self._reactor.soon(self._lose)

    async def ask(self, timeout_s: float, brings_files: bool = False, **question: Any) -> Answer:
        """Its answer; HostError if there is no worker, or if it does not answer in time, and is replaced.

        Files come with an answer that `brings_files`, and they can be closed; with others, none do.
        """
        if not self.is_ready:
            raise HostError(f"{self._name} has no worker at the moment; try again")
        tag = next(self._tags)
        answer: Future[Answer] = Future()
        self._asked[tag] = _Question(answer, brings_files)
        self.send({**question, "tag": tag})
        try:
            return await wait_for(answer, self._reactor.deadlines, _in(timeout_s))
        except TooLateError:
            self.catch_up()
            if answer.is_done:
                return answer.result()
            if self._asked.pop(tag, None) is not None:
                _log.error("%s: its worker does not answer, and is replaced", self._name, extra=self._about)
                self._lose()
            raise HostError(f"the worker of {self._name} does not answer") from None

    def watch_over(self, on: bool) -> None:
        """Ping it now and then while it is in use."""
        if not on and self._pings is not None:
            self._pings()
            self._pings = None
        elif on and self._pings is None and self.is_ready:
            self._pings = self._reactor.call_later(_PING_S, self._ping)

    def _ping(self) -> None:
        self._pings = None
        if not self.is_ready:
            return
        tag = next(self._tags)
        answer: Future[Answer] = Future()
        self._asked[tag] = _Question(answer, False)
        words = self._words
        self.send({"do": "ping", "tag": tag})

        def late() -> None:
            self.catch_up()
            if self._asked.pop(tag, None) is None:
                return
            if self._words != words:  # more than is read at once: any message shows that it lives
                self._pings = self._reactor.call_later(_PING_S, self._ping)
            else:
                _log.error("%s: its worker hangs, and is replaced", self._name, extra=self._about)
                self._lose()

        cancel = self._reactor.call_later(_PONG_S, late)

        def pong() -> None:
            cancel()
            if self._pings is cancel and self.is_ready:
                self._pings = self._reactor.call_later(_PING_S, self._ping)

        self._pings = cancel
        answer.then(lambda: self._reactor.soon(pong))

    # end

    def _lose(self) -> None:
        """The worker is gone, or as good as that."""
        if self._state is _State.GONE and self._channel is None:
            return
        lived_s = time.monotonic() - self._started_s
        self._kill()
        if self._is_closed:
            return
        self._failures = 0 if lived_s > _LIVED_S else self._failures + 1
        delay_s = _DELAYS_S[min(self._failures, len(_DELAYS_S) - 1)]
        self.restarts += 1
        _log.warning("%s: its worker has ended; another is started", self._name, extra=self._about)
        self._owner.on_lost()
        if not self._is_closed and self._cancel is None:
            self._cancel = self._reactor.call_later(delay_s, self._start_again)

    def _start_again(self) -> None:
        self._cancel = None
        if self._state is not _State.GONE:
            return
        try:
            self._owner.start_again()
        except HostError as error:
            _log.error("%s: %s", self._name, error, extra=self._about)
            self.try_again()

    def try_again(self) -> None:
        """It could not be started: try again later."""
        if self._state is _State.GONE and self._cancel is None and not self._is_closed:
            self._failures += 1
            delay_s = _DELAYS_S[min(self._failures, len(_DELAYS_S) - 1)]
            self._cancel = self._reactor.call_later(delay_s, self._start_again)

    def _stop_waiting(self) -> None:
        if self._cancel is not None:
            self._cancel()
            self._cancel = None

    def _kill(self) -> None:
        """Hang up and SIGKILL it; `ended` says when it is gone."""
        self._state = _State.GONE
        self.is_found = False
        self._stop_waiting()
        self.watch_over(False)
        if self._channel is not None:
            self._reactor.remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None
        if self._pidfd >= 0:
            pidfd, pid, self._pidfd = self._pidfd, self.pid, -1
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            self._ended = _Death(self._name, pid, pidfd, self._reactor).ended
        self.pid = 0
        asked, self._asked = self._asked, {}
        for question in asked.values():
            question.answer.fail(HostError(f"the worker of {self._name} has ended"))

    async def stop(self) -> None:
        """Kill it, and return when its files are closed, or after a while."""
        self._kill()
        await self._ended

    def close(self) -> None:
        """End the worker for good."""
        self._is_closed = True
        self._kill()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for path in (self._path, self._pid_path):
            with suppress(OSError):
                os.unlink(path)

    # which process it is

    @property
    def _pid_path(self) -> str:
        return f"{self._path}.pid"

    def _know(self, pid: int, started: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError as error:
            raise EOFError from error
        except OSError as error:
            raise HostError.of("cannot watch its worker", error) from error
        if (found := process_start(pid)) != started:
            os.close(pidfd)
            if not found and os.path.exists(f"/proc/{pid}"):  # which needs no spare fd
                raise HostError.of("cannot watch its worker", OSError(EMFILE, os.strerror(EMFILE)))
            raise EOFError
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._pidfd, self.pid = pidfd, pid

    def _record(self) -> None:
        """For a gpiovirtd that finds it and gets no answer."""
        with suppress(OSError), open(self._pid_path, "w", encoding="ascii") as file:
            file.write(f"{self.pid} {process_start(self.pid)}\n")

    def _know_by_record(self) -> None:
        with (
            suppress(OSError, ValueError, EOFError, HostError),
            open(self._pid_path, encoding="ascii") as file,
        ):
            pid, started = map(int, file.read(64).split())
            if pid > 1 and started:
                self._know(pid, started)


class _Death:
    """A killed process: its end, or a timeout, ends the wait for it."""

    def __init__(self, name: str, pid: int, pidfd: int, reactor: Reactor) -> None:
        self.ended: Future[None] = Future()
        self._pidfd = pidfd
        self._reactor = reactor
        self._name, self._pid = name, pid
        self._cancel = reactor.call_later(_DIES_S, self._on_late)
        reactor.add_reader(pidfd, self._on_end)

    def _on_end(self) -> None:
        self._cancel()
        self._reactor.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.ended.set(None)

    def _on_late(self) -> None:
        _log.error("%s: its worker (pid %d) does not end; it is left behind", self._name, self._pid)
        self.ended.set(None)


def _in(delay_s: float) -> int:
    return time.monotonic_ns() + int(delay_s * 1e9)
