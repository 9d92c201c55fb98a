# SPDX-License-Identifier: MIT
"""The process that forks workers and keepers, as gpiovirtd sees it: started, asked, replaced."""

from __future__ import annotations

import logging
import socket
import time
from contextlib import suppress

from gpiovirt.errors import HostError
from gpiovirt.host.child import Child, is_stopped
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.received import send

__all__ = ["ForkServer"]

_log = logging.getLogger(__name__)

_AGAIN_S = 2.0  # one that lived this long is started again at once
_BEGIN_S = 60.0  # one that does not fork by then hangs: a slow board without bytecode imports for 10 s


class ForkServer:
    """The process that forks workers: exists from begin() on, or from when it is first needed.

    `uid` and `gid` are what the workers become.
    """

    def __init__(self, reactor: Reactor, uid: int, gid: int) -> None:
        self._reactor = reactor
        self._ids = (str(uid), str(gid))
        self._socket: socket.socket | None = None
        self._started_s = 0.0
        self._is_there = False
        self._child: Child | None = None

    def begin(self) -> None:
        """Start it before it is needed: that takes longer than a chip may be without a worker."""
        if self._socket is None:
            try:
                self._start()
            except HostError as error:
                _log.error("%s", error)

    def spawn(self, listener: socket.socket, simulates: bool) -> int:
        """Ask for a worker whose hand-over socket is `listener`; the pid asked, or HostError."""
        self._fork(b"simulator" if simulates else b"chip", listener)
        return self.pid

    def start_keeper(self) -> socket.socket:
        """Ask for a keeper of a VM's session; returns the channel to it. HostError if that fails."""
        ours, theirs = _channel("cannot start a keeper")
        with theirs:
            try:
                self._fork(b"keeper", theirs)
            except BaseException:
                ours.close()
                raise
        return ours

    def is_at_work(self, pid: int) -> bool:
        """Whether this process is still the fork server, and able to fork."""
        return pid == self.pid and not self._trouble()

    def is_there(self) -> bool:
        """Whether it forks what it is asked for: until it has imported that, requests wait."""
        if not self._is_there and self._socket is not None:
            with suppress(OSError):
                self._is_there = bool(self._socket.recv(1, socket.MSG_DONTWAIT))
        return self._is_there

    def _trouble(self) -> str:
        """What keeps it from forking, and will go on doing so."""
        if self._child is None:
            return ""
        if is_stopped(self._child.pid):
            return "is stopped"
        late = time.monotonic() - self._started_s > _BEGIN_S and not self.is_there()
        return f"has not begun in {_BEGIN_S:g} s" if late else ""

    def _fork(self, packet: bytes, its: socket.socket) -> None:
        if trouble := self._trouble():
            _log.error("the fork server %s; it is replaced", trouble)
            self.close()
        for attempt in (1, 2):
            sock = self._socket or self._start()
            try:
                send(sock, packet, [its.fileno()], socket.MSG_DONTWAIT)
                return
            except OSError as error:
                self.close()
                if attempt == 2:
                    raise HostError.of("cannot start a worker", error) from error

    def _start(self) -> socket.socket:
        ours, theirs = _channel("cannot start a worker")
        with theirs:
            try:
                level = str(_log.getEffectiveLevel())
                self._child = Child(
                    ["-m", "gpiovirt.worker.forkserver", str(theirs.fileno()), *self._ids, level],
                    self._reactor,
                    lambda _: self._on_end(ours),
                    fds=[theirs.fileno()],
                    stays=True,  # it ends with its socket
                )
            except HostError:
                ours.close()
                raise
        self._socket = ours
        self._is_there = False
        self._started_s = time.monotonic()
        return ours

    def _on_end(self, sock: socket.socket) -> None:
        if self._socket is sock:  # and not one that has been replaced by now
            self.close()
            if time.monotonic() - self._started_s > _AGAIN_S:  # do not retry for ever if none survives
                self.begin()

    @property
    def pid(self) -> int:
        """0 while there is none."""
        return self._child.pid if self._child else 0

    def close(self) -> None:
        """End it; its workers stay."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._child is not None:
            self._child.kill()
            self._child = None


def _channel(what_fails: str) -> tuple[socket.socket, socket.socket]:
    """Our end, and that of a process to be started; HostError."""
    try:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise HostError.of(what_fails, error) from error
