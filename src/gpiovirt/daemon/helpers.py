# SPDX-License-Identifier: MIT
"""Processes beside the custodian: started with it or when needed, anew when they die, ended with it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence

from gpiovirt.errors import HostError
from gpiovirt.host.child import Child
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener, Peer

__all__ = ["ConfigurationRun", "HelperProcess", "SocketActivatedHelper"]

_log = logging.getLogger(__name__)

_DELAYS_S = (0.1, 0.5, 2.0, 10.0)
_LIVED_S = 10
CANNOT = 3
"""Exit status of a helper when trying again is of no use"""


class HelperProcess:
    """`python -m MODULE ARGUMENTS`; its name is for messages.

    `serves` tells whether it serves by now; `clean` removes what it leaves behind when killed.
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
        self._arguments = ["-m", module, *arguments]
        self._fds: Sequence[int] = ()
        self._child: Child | None = None
        self._failures = 0
        self._ended = False

    def begin(self, reactor: Reactor) -> None:
        """Start it, and restart it when it ends; first remove what a killed or stopped one left behind."""
        self._reactor = reactor
        self._clean()
        self._start()

    def _start(self) -> None:
        if self._ended:
            return
        self._started_s = time.monotonic()
        try:
            self._child = Child(self._arguments, self._reactor, self._on_end, fds=self._fds)
        except HostError as error:
            _log.error("%s: %s", self.name, error)
            self._start_later()

    @property
    def is_settled(self) -> bool:
        """It serves, or cannot."""
        return self._ended or self._serves()

    def _on_end(self, status: int) -> None:
        self._child = None
        if status == CANNOT:
            self._ended = True  # it has said why
            return
        _log.warning("%s has ended; it is started again", self.name)
        self._start_later()

    def _start_later(self) -> None:
        lived_s = time.monotonic() - self._started_s
        self._failures = 0 if lived_s > _LIVED_S else self._failures + 1
        delay_s = _DELAYS_S[min(self._failures, len(_DELAYS_S)) - 1 if self._failures else 0]
        self._reactor.call_later(delay_s, self._start_again)

    def _start_again(self) -> None:
        self._start()

    def end(self) -> None:
        """End it, and wait until it has ended."""
        self._ended = True
        if self._child is not None:
            self._child.end()
            self._child = None
        self._clean()


class SocketActivatedHelper(HelperProcess):
    """A helper that serves clients of `path` and acts for them; it is started by the first connection.

    Its arguments are followed by its socket's fd, and the uid and gid that it is to become. It ends with
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
        """Listen for it, in place of any process that listens there for a gpiovirtd that was killed."""
        self._reactor = reactor
        try:
            self._listener = PathListener(self._path, Access(mode=0o666), replace=True)
        except HostError as error:
            _log.error("%s cannot be started: %s", self.name, error)
            self._ended = True
            return
        fd = self._listener.socket.fileno()
        self._fds = (fd,)
        self._arguments += [str(fd), str(self._uid), str(self._gid)]
        self._await()

    def is_peer(self, peer: Peer) -> bool:
        """Whether this is the process that we started, as the right user."""
        return self._child is not None and (peer.pid, peer.uid) == (self._child.pid, self._uid)

    def _await(self) -> None:
        if self._listener is not None and not self._ended:
            self._reactor.add_reader(self._fds[0], self._on_connection)

    def _on_connection(self) -> None:
        self._reactor.remove_reader(self._fds[0])
        self._start()

    def _start_again(self) -> None:
        self._await()

    def _on_end(self, status: int) -> None:
        if status == 0:
            self._child = None
            self._failures = 0
            self._await()
            return
        super()._on_end(status)
        if self._ended:
            self._close()

    def _close(self) -> None:
        if self._listener is not None:
            self._reactor.remove_reader(self._fds[0])
            self._listener.close()
            self._listener = None


class ConfigurationRun:
    """`python ARGUMENTS`, once, which applies the files in `directory`; its output goes to our log.

    A process of its own, since the custodian must not import what reads files.
    """

    def __init__(self, directory: str, arguments: Sequence[str], run: str) -> None:
        self._directory = directory
        self._arguments = ["-m", *arguments]
        self._environment = {**os.environ, "GPIOVIRT_RUNTIME_DIR": run}
        self._child: Child | None = None

    @property
    def has_files(self) -> bool:
        """Whether there is anything to apply."""
        try:
            return any(name.endswith(".toml") for name in os.listdir(self._directory))
        except FileNotFoundError:
            return False
        except OSError as error:
            _log.error("cannot read the configuration in %s: %s", self._directory, error.strerror)
            return False

    @property
    def has_directory(self) -> bool:
        """Whether its being empty means something."""
        return os.path.isdir(self._directory)

    def begin(self, reactor: Reactor) -> None:
        """Start it; a failure is logged."""
        try:
            self._child = Child(self._arguments, reactor, self._on_end, env=self._environment, stdout=2)
        except HostError as error:
            _log.error("the configuration is not applied: %s", error)

    @property
    def is_settled(self) -> bool:
        """It has ended, or was never started."""
        return self._child is None

    def _on_end(self, status: int) -> None:
        self._child = None
        if status:
            _log.error("not all of %s could be applied (exit status %d)", self._directory, status)

    def end(self) -> None:
        """Stop waiting for it."""
        if self._child is not None:
            self._child.kill()
            self._child.end()
            self._child = None
