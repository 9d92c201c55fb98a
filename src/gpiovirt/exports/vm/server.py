# SPDX-License-Identifier: MIT
"""A chip's socket: one VM at a time, and the next one when it is gone."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

from gpiovirt.core.chip import Chip
from gpiovirt.core.line import LineSettings
from gpiovirt.errors import GpiovirtError, HostError
from gpiovirt.exports.vm.connection import Connection
from gpiovirt.exports.vm.state import State, StateFile, state_size
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener, Peer, SocketListener, peer_of

__all__ = ["VmServer"]

_log = logging.getLogger(__name__)

_WAITING_MAX = 4


class VmServer:
    """Serves `chip` to whoever connects to `listener`; both it and `state` are the server's from now on.

    `defaults` has what a guest cannot ask for, per line: bias, drive, debounce period, active-low.
    `shared` says that this process serves others, too.
    """

    def __init__(
        self,
        chip: Chip,
        listener: SocketListener,
        state: State,
        reactor: Reactor,
        defaults: Mapping[int, LineSettings],
        shared: bool = False,
    ) -> None:
        self.chip = chip
        self._shared = shared
        self._reactor = reactor
        self._defaults = defaults
        self._connection: Connection | None = None
        self._waiting: list[tuple[socket.socket, Peer]] = []
        self._state = state
        self._listener = listener
        reactor.add_reader(listener.socket.fileno(), self._accept)

    @classmethod
    def at_path(
        cls,
        chip: Chip,
        path: str,
        reactor: Reactor,
        access: Access,
        defaults: Mapping[int, LineSettings],
        shared: bool = False,
    ) -> VmServer:
        """A server at `path`, with its state in a file beside it. HostError if that is in use."""
        state = StateFile(path, state_size(chip.info.num_lines))
        try:
            listener = PathListener(path, access)
        except BaseException:
            state.close(keep=True)
            raise
        return cls(chip, listener, state, reactor, defaults, shared)

    @property
    def peer(self) -> Peer | None:
        """The VM that is served now."""
        return None if self._connection is None else self._connection.peer

    def _accept(self) -> None:
        try:
            sock = self._listener.accept()
        except HostError as error:
            _log.error("%s: %s", self.chip.info.name, error)
            return
        if sock is None:
            return
        peer = peer_of(sock)
        if self._connection is None:
            self._serve(sock, peer)
        elif len(self._waiting) < _WAITING_MAX:
            _log.info(
                "%s: %s waits, the chip is %s's; it is served when that is gone",
                self.chip.info.name,
                peer,
                self._connection.peer,
            )
            self._waiting.append((sock, peer))
            self._reactor.add_hangup(sock.fileno(), lambda: self._forget(sock))
        else:
            _log.warning("%s: %s was turned away: %d wait already", self.chip.info.name, peer, _WAITING_MAX)
            sock.close()

    def _forget(self, gone: socket.socket) -> None:
        """Who waited has given up."""
        self._waiting = [(sock, peer) for sock, peer in self._waiting if sock is not gone]
        self._reactor.remove_reader(gone.fileno())
        gone.close()

    def _serve(self, sock: socket.socket, peer: Peer) -> None:
        try:
            self._connection = Connection(
                sock,
                peer,
                self.chip,
                self._reactor,
                self._state.view,
                self._defaults,
                self._next,
                self._shared,
            )
        except GpiovirtError as error:
            _log.error("%s: %s cannot be served: %s", self.chip.info.name, peer, error)
            sock.close()

    def _next(self) -> None:
        self._connection = None
        if self._waiting:
            sock, peer = self._waiting.pop(0)
            self._reactor.remove_reader(sock.fileno())
            self._serve(sock, peer)

    def end(self) -> None:
        """Its guest has lost the chip, and so have those who wait."""
        while self._waiting:
            self._forget(self._waiting[0][0])
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """End: lines are released, the socket is gone. A guest that runs can go on when we are back."""
        self._reactor.remove_reader(self._listener.socket.fileno())
        self._listener.close()
        for sock, _ in self._waiting:
            self._reactor.remove_reader(sock.fileno())
            sock.close()
        goes_on = self._connection is not None and self._connection.may_go_on
        if self._connection is not None:
            self._connection.close(keep_state=goes_on)
        self._state.close(keep=goes_on)
