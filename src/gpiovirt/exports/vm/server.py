# SPDX-License-Identifier: MIT
"""A chip's socket: one VM at a time, and the next one when it is gone."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

from gpiovirt.core.chip import Chip
from gpiovirt.core.line import LineSettings
from gpiovirt.errors import GpiovirtError, HostError
from gpiovirt.exports.vm.connection import Connection
from gpiovirt.exports.vm.keeping import Keeping
from gpiovirt.exports.vm.parked import Parked
from gpiovirt.exports.vm.session import SOCKET
from gpiovirt.exports.vm.state import State, StateFile, state_size
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.received import Kind, kind_of, untouchable
from gpiovirt.host.unix_socket import Access, PathListener, Peer, SocketListener, peer_of

__all__ = ["VmServer"]

_log = logging.getLogger(__name__)

_WAITING_MAX = 4
_WAITING = "waiting:"


class VmServer:
    """Serves `chip` to whoever connects to `listener`; both it and `state` are the server's from now on.

    `defaults` has what a guest cannot ask for, per line: bias, drive, debounce period, active-low.
    `shared` says that this process serves others, too. When VMMs have sent too many files that cannot be
    closed, nobody further is served, and `on_spent` is called: another process is to take over. By `keeping`
    the session is kept for that one; there may be one of who served before.
    """

    def __init__(
        self,
        chip: Chip,
        listener: SocketListener,
        state: State,
        reactor: Reactor,
        defaults: Mapping[int, LineSettings],
        shared: bool = False,
        on_spent: Callable[[], None] | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        self.chip = chip
        self.on_peer: Callable[[], object] = lambda: None
        """Called when there is another VM that is served, or none"""
        self._on_spent = on_spent
        self._parked = Parked(self._spent)
        self._shared = shared
        self._reactor = reactor
        self._defaults = defaults
        self._connection: Connection | None = None
        self._waiting: dict[str, tuple[socket.socket, Peer]] = {}
        self._count = 0
        self._keeping = keeping or Keeping()
        self._state = state
        self._listener = listener
        self._listens = True
        self._resume()
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
        self._count += 1
        name = f"{_WAITING}{os.getpid()}.{self._count}"
        self._keeping.note({name: sock.fileno()})  # before anything else: it is no longer in the backlog
        peer = peer_of(sock)
        if self._connection is None:
            self._serve(name, sock, peer)
        elif len(self._waiting) < _WAITING_MAX:
            _log.info(
                "%s: %s waits, since %s has the chip; it is served when that is gone",
                self.chip.info.name,
                peer,
                self._connection.peer,
            )
            self._wait(name, sock, peer)
        else:
            _log.warning("%s: %s was turned away: %d wait already", self.chip.info.name, peer, _WAITING_MAX)
            self._turn_away(name, sock)

    def _wait(self, name: str, sock: socket.socket, peer: Peer) -> None:
        self._waiting[name] = sock, peer
        self._reactor.add_hangup(sock.fileno(), lambda: self._forget(name))

    def _forget(self, name: str) -> None:
        """Who waited has given up."""
        sock, _ = self._take(name)
        self._turn_away(name, sock)

    def _turn_away(self, name: str, sock: socket.socket) -> None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # first: who dies with it open may not get to close it
        self._keeping.note({}, [name])
        sock.close()

    def _take(self, name: str) -> tuple[socket.socket, Peer]:
        sock, peer = self._waiting.pop(name)
        self._reactor.remove_reader(sock.fileno())
        return sock, peer

    def _connect(self, sock: socket.socket, peer: Peer) -> Connection:
        return Connection(
            sock,
            peer,
            self.chip,
            self._reactor,
            self._state.view,
            self._defaults,
            self._next,
            self._parked,
            self._keeping,
            self._shared,
        )

    def _serve(self, name: str, sock: socket.socket, peer: Peer) -> None:
        try:
            self._connection = self._connect(sock, peer)
        except GpiovirtError as error:
            _log.error("%s: %s cannot be served: %s", self.chip.info.name, peer, error)
            self._turn_away(name, sock)
            return
        self._connection.begin(name)
        self.on_peer()

    def _resume(self) -> None:
        """Go on with what is kept of whoever served before."""
        state, files = self._keeping.load()
        strange = untouchable(files.values())
        self._parked.park(strange)
        if strange or any(kind_of(files[name]) is not Kind.SOCKET for name in files if _is_socket(name)):
            _log.error("%s: the kept state of its VM is malformed", self.chip.info.name)
            return
        for name in [name for name in files if name.startswith(_WAITING)]:
            sock = _connected(files.pop(name))
            self._wait(name, sock, peer_of(sock))
        if SOCKET in files:
            sock = _connected(files.pop(SOCKET))
            peer = peer_of(sock)
            connection = self._connection = self._connect(sock, peer)
            try:
                connection.resume(state, files)
                return
            except GpiovirtError as error:
                _log.error("%s: %s can no longer be served: %s", self.chip.info.name, peer, error)
        self._next()

    def use_keeper(self, channel: socket.socket) -> None:
        """Another one, which knows nothing yet."""
        self._keeping.use(channel)
        if self._connection is not None:
            self._connection.note_all()
        self._keeping.note({name: sock.fileno() for name, (sock, _) in self._waiting.items()})

    def _spent(self) -> None:
        """Each VMM could have been a hostile one; what they sent stays open here for good."""
        _log.error(
            "%s: VMMs have sent %d files that cannot be closed; %s serves no more VMs",
            self.chip.info.name,
            self._parked.count,
            self._listener,
        )
        self._stop_listening()
        if self._on_spent is not None:
            self._on_spent()

    def _stop_listening(self) -> None:
        if self._listens:
            self._listens = False
            self._reactor.remove_reader(self._listener.socket.fileno())
            if self._on_spent is None:
                self._listener.close()
        for name in list(self._waiting):
            self._forget(name)

    def _next(self) -> None:
        self._connection = None
        self.on_peer()
        if self._waiting:
            name = next(iter(self._waiting))
            self._serve(name, *self._take(name))

    def end(self) -> None:
        """Its guest has lost the chip, and so have those who wait."""
        while self._waiting:
            self._forget(next(iter(self._waiting)))
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """End: lines are released, the socket is gone. A guest that runs can go on when we are back."""
        self._stop_listening()
        goes_on = self._connection is not None and self._connection.may_go_on
        if self._connection is not None:
            self._connection.close(keep_state=goes_on)
        self._keeping.close()
        self._state.close(keep=goes_on)


def _is_socket(name: str) -> bool:
    return name == SOCKET or name.startswith(_WAITING)


def _connected(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock
