# SPDX-License-Identifier: MIT
"""The server of the page: where it listens, who may connect, and the end of it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import h11
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpiovirt.api.http import Server
from gpiovirt.api.routes import create_app
from gpiovirt.control import control_socket
from gpiovirt.control.access import Identity
from gpiovirt.errors import HostError
from gpiovirt.host.tcp_peer import uid_of_peer
from gpiovirt.web.access import Sessions
from gpiovirt.web.guard import Guard, Origin, session_of
from gpiovirt.web.limited import LimitedClient
from gpiovirt.web.recordings import Recordings
from gpiovirt.web.routes import Shown, router

__all__ = ["PORT", "Connection", "OwnConnection", "files", "listen", "make_server"]

PORT = 8413
_PORTS = 20
_CONNECTIONS_MAX = 256
_PER_ADDRESS = 32
_PER_USER = 96  # of this machine, as a proxy is one
_LOOPBACK = ("127.0.0.1", "::1")
_LOOK_S = 4.0
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}


class Connection(H11Protocol):
    """A connection: so many at most, and one that neither asks nor reads for a while is closed."""

    open: ClassVar[set[Connection]] = set()
    by_origin: ClassVar[Counter[str]] = Counter()
    _origin = ""
    _timer: asyncio.TimerHandle | None = None
    _seen: object = None

    def whose(self, sock: socket.socket) -> str:
        """Whom a connection counts for: an address, or a user of this machine; HostError: not served."""
        address: str = sock.getpeername()[0]
        return f"uid {uid_of_peer(sock)}" if address in _LOOPBACK else address

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Serve it, or hang up."""
        try:
            sock = transport.get_extra_info("socket")
            self._origin = self.whose(sock)
            most = _PER_USER if self._origin.startswith("uid") else _PER_ADDRESS
            is_served = len(self.open) < _CONNECTIONS_MAX and self.by_origin[self._origin] < most
        except (OSError, HostError):  # it is gone, or is to go
            is_served = False
        if not is_served:
            transport.abort()
            return
        self.open.add(self)
        self.by_origin[self._origin] += 1
        super().connection_made(transport)
        self._timer = self.loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        """A peer that owes us something, and has not moved since the last look, is let go."""
        unsent = self.transport.get_write_buffer_size()
        is_due = self.conn.their_state in (h11.IDLE, h11.SEND_BODY) or unsent
        seen = (self.cycle, self.conn.their_state, unsent)
        if is_due and seen == self._seen:
            self.transport.abort()
            return
        self._seen = seen
        self._timer = self.loop.call_later(_LOOK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if self._timer is not None:
            self._timer.cancel()
        if self in self.open:
            self.open.discard(self)
            self.by_origin[self._origin] -= 1
            super().connection_lost(exc)


class OwnConnection(Connection):
    """A connection from this machine, by the user whose process this is, or root."""

    def whose(self, sock: socket.socket) -> str:
        """As the kernel says; whoever forwards a port for the user is theirs, too."""
        if (uid := uid_of_peer(sock)) not in (0, os.getuid()):
            raise HostError(f"uid {uid} is another user")
        return f"uid {uid}"


def files() -> Mapping[str, tuple[bytes, str]]:
    """The files of the page, by path."""
    folder = Path(__file__).with_name("page")
    found = {
        f"/{path.name}": (path.read_bytes(), _TYPES[path.suffix])
        for path in folder.iterdir()
        if path.suffix in _TYPES
    }
    return {"/": found["/index.html"], **found}


def listen(host: str, port: int | None) -> socket.socket:
    """A listening socket; without a port, the first that is free from PORT on; HostError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last: OSError | None = None
    for number in [port] if port is not None else range(PORT, PORT + _PORTS):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, number))
            sock.listen(128)
            return sock
        except OSError as error:
            sock.close()
            last = error
    raise HostError.of(f"cannot listen on {host}:{port or PORT}", last or OSError())


def make_server(
    sessions: Sessions,
    origin: Origin,
    loop: asyncio.AbstractEventLoop,
    is_own: bool = True,
    only: str | None = None,
    certificate: tuple[str, str] | None = None,
    recordings: Recordings | None = None,
) -> tuple[Server, Shown]:
    """The server, and what its pages share; `is_own`: it serves processes of our user only."""

    async def connect(scope: Scope) -> LimitedClient:
        path = control_socket()
        if path is None:
            raise HostError(
                "gpiovirtd does not run here; start it with: gpiovirtd (or systemctl start gpiovirtd)"
            )
        return await LimitedClient.for_rights(path, session_of(scope).rights)

    app = create_app(connect)
    shown = Shown(connect, loop, os.getuid(), only, recordings)
    app.state.shown = shown
    app.include_router(router)
    identity = Identity(os.getuid(), frozenset({os.getgid(), *os.getgroups()}))

    def end() -> None:
        app.state.streams.ending.set()
        shown.ending.set()
        shown.holds.release_all()

    guarded: ASGIApp = Guard(app, origin, sessions, files(), identity)
    keys = {} if certificate is None else {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
    protocol = OwnConnection if is_own else Connection
    return Server(guarded, end, protocol, is_idle_end=False, **keys), shown
