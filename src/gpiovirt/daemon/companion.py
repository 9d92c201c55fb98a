# SPDX-License-Identifier: MIT
"""A process beside the custodian, started with it or when needed, anew when it dies, ended with it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from gpiovirt.errors import HostError
from gpiovirt.host import libc
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener, Peer

__all__ = ["Agent", "Companion"]

_log = logging.getLogger(__name__)

_DELAYS_S = (0.1, 0.5, 2.0, 10.0)
_LIVED_S = 10
_CANNOT = 3  # its exit status when there is no use in trying again


class Companion:
    """`python -m MODULE ARGUMENTS`; its name is for messages.

    `serves` tells whether it does by now; `clean` takes away what it leaves when it is killed.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        serves: Callable[[], bool],
        clean: Callable[[], None],
    ) -> None:
        self.name = name
        self._serves = serves
        self._clean = clean
        self._command = [sys.executable, "-m", module, *arguments]
        self._fds: Sequence[int] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._failures = 0
        self._ended = False

    def begin(self, reactor: Reactor) -> None:
        """Start it, and keep it there."""
        self._reactor = reactor
        self._start()

    def _start(self) -> None:
        if self._ended:
            return
        self._started_s = time.monotonic()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=libc.end_with_parent,
            pass_fds=self._fds,
        )
        self._pidfd = os.pidfd_open(self._process.pid)
        self._reactor.add_reader(self._pidfd, self._on_end)

    @property
    def is_settled(self) -> bool:
        """It serves, or cannot."""
        return self._ended or self._serves()

    def _on_end(self) -> None:
        self._on_status(self._forget())

    def _on_status(self, status: int) -> None:
        if status == _CANNOT:
            self._ended = True  # it has said why
            return
        lived_s = time.monotonic() - self._started_s
        self._failures = 0 if lived_s > _LIVED_S else self._failures + 1
        _log.warning("%s has ended; it is started again", self.name)
        self._reactor.call_later(_DELAYS_S[min(self._failures, len(_DELAYS_S) - 1)], self._begin_again)

    def _begin_again(self) -> None:
        self._start()

    def _forget(self) -> int:
        self._reactor.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        assert self._process is not None
        return self._process.wait()

    def end(self) -> None:
        """End it, and wait till it has."""
        self._ended = True
        if self._pidfd >= 0:
            assert self._process is not None
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(3)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._forget()
        self._clean()


class Agent(Companion):
    """A companion that serves whoever connects to `path`, and asks for them; it is started when one does.

    Its arguments are followed by its socket's fd, and by the uid and gid that it is to become. It ends with
    status 0 when it is not needed.
    """

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], path: str, uid: int, gid: int
    ) -> None:
        super().__init__(name, module, arguments, lambda: True, self._close)
        self._path = path
        self._uid = uid
        self._gid = gid
        self._listener: PathListener | None = None

    def begin(self, reactor: Reactor) -> None:
        """Listen for it."""
        self._reactor = reactor
        try:
            self._listener = PathListener(self._path, Access(mode=0o666))
        except HostError as error:
            _log.error("%s cannot be had: %s", self.name, error)
            self._ended = True
            return
        fd = self._listener.socket.fileno()
        self._fds = (fd,)
        self._command += [str(fd), str(self._uid), str(self._gid)]
        self._await()

    def is_peer(self, peer: Peer) -> bool:
        """This is the process that we started, as the user that it is to be."""
        if self._process is None or self._pidfd < 0:
            return False
        return (peer.pid, peer.uid) == (self._process.pid, self._uid)

    def _await(self) -> None:
        if self._listener is not None and not self._ended:
            self._reactor.add_reader(self._fds[0], self._on_connection)

    def _on_connection(self) -> None:
        self._reactor.remove_reader(self._fds[0])
        self._start()

    def _begin_again(self) -> None:
        self._await()

    def _on_status(self, status: int) -> None:
        if status == 0:
            self._failures = 0
            self._await()
            return
        super()._on_status(status)
        if self._ended:
            self._close()

    def _close(self) -> None:
        if self._listener is not None:
            self._reactor.remove_reader(self._fds[0])
            self._listener.close()
            self._listener = None
