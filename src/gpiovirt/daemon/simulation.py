# SPDX-License-Identifier: MIT
"""The simulated chips of a daemon: they live in a process of their own, which outlives the daemon's."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from gpiovirt.daemon.chip import Directories
from gpiovirt.daemon.link import Forkserver, Link
from gpiovirt.errors import PeerError
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener, SocketListener

__all__ = ["Simulation"]

_log = logging.getLogger(__name__)


class Simulation:
    """Simulated chips, as [label, names], and wires between them."""

    simulates = True

    def __init__(
        self,
        chips: Sequence[tuple[str, Sequence[str]]],
        wires: Sequence[tuple[str, str]],
        directories: Directories,
        reactor: Reactor,
        forkserver: Forkserver,
    ) -> None:
        self.labels = {label for label, _ in chips}
        self._spec: dict[str, Any] = {
            "chips": [[label, list(names)] for label, names in chips],
            "wires": [list(wire) for wire in wires],
        }
        self._directory = directories.sources
        self._listeners: list[SocketListener] = []
        path = f"{directories.workers}/:simulator"
        self.link = Link("the simulator", path, self, reactor, forkserver)
        self._on_ready: Callable[[], None] | None = None

    def start(self, on_ready: Callable[[], None]) -> None:
        """Have the chips, the ones that are there already if they are the same."""
        self._on_ready = on_ready
        if not self.labels:
            on_ready()
            return
        if not self.link.find():
            self.begin_again()

    def _listen(self) -> None:
        self._listeners = [
            PathListener(f"{self._directory}/{label}", Access(mode=0o600), socket.SOCK_SEQPACKET)
            for label, _ in self._spec["chips"]
        ]

    def serve(self) -> tuple[dict[str, Any], list[int]]:
        """What a new worker is told, and the files it needs."""
        return self._spec, [listener.socket.fileno() for listener in self._listeners]

    def on_hand_over(self, spec: dict[str, Any], fds: list[int]) -> None:
        """A simulator that was there before us."""
        if spec != self._spec:
            raise PeerError("it simulates other chips than are wanted now")
        if len(fds) != len(self._spec["chips"]):
            raise PeerError("it does not have the files that it should")
        self._listeners = [SocketListener(socket.socket(fileno=fd)) for fd in fds]
        fds.clear()

    def on_ready(self) -> None:
        """The chips are there."""
        ready, self._on_ready = self._on_ready, None
        if ready is not None:
            ready()

    def on_failed(self, message: str) -> None:
        """They cannot be."""
        _log.error("the simulator: %s", message)

    def on_message(self, body: dict[str, Any]) -> None:
        """It has nothing else to say."""

    def on_lost(self) -> None:
        """Their state is lost; the sockets stay, and who comes to them waits."""

    def begin_again(self) -> None:
        """Start the simulator."""
        if not self._listeners:
            self._listen()
        self.link.start()

    def close(self) -> None:
        """Be no more."""
        if not self.labels:
            return
        self.link.close()
        for listener in self._listeners:
            listener.close()
        for label in self.labels:
            with suppress(FileNotFoundError):
                os.unlink(f"{self._directory}/{label}")
