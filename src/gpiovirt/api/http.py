# SPDX-License-Identifier: MIT
"""uvicorn at a Unix socket: each request knows its peer, no user takes all connections, idle is asleep."""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpiovirt.control.access import Identity, identity_of

__all__ = ["Connection", "Server"]

_PER_USER = 64
_HEAD_MAX = 1 << 14
_IDLE_S = 300.0
_END_S = 2


class Connection(H11Protocol):
    """A connection; its peer is in the state of each request's scope, as `peer`, or there is no request."""

    connected: ClassVar[Counter[int]] = Counter()
    """Connections by user"""

    peer: Identity | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask the kernel who it is."""
        try:
            peer = identity_of(transport.get_extra_info("socket"))
        except OSError:
            transport.abort()
            return
        if peer.uid != 0 and self.connected[peer.uid] >= _PER_USER:
            transport.abort()
            return
        self.peer = peer
        self.connected[peer.uid] += 1
        self.app_state = {**self.app_state, "peer": peer}
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if self.peer is not None:
            self.connected[self.peer.uid] -= 1
            super().connection_lost(exc)


class Server(uvicorn.Server):
    """Serves `app` until SIGTERM, or (`is_idle_end`) until nobody has been connected for a while."""

    def __init__(
        self,
        app: ASGIApp,
        when_ending: Callable[[], object],
        http: type[H11Protocol] = Connection,
        is_idle_end: bool = True,
        **more: Any,
    ) -> None:
        """`more` is for uvicorn."""
        super().__init__(
            uvicorn.Config(
                app,
                http=http,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_END_S,
                h11_max_incomplete_event_size=_HEAD_MAX,
                **more,
            )
        )
        # what these import late: who serves may not be allowed to read where they are installed
        self.config.load()
        self.config.get_loop_factory()
        for late in ("anyio._backends._asyncio", "pydantic.dataclasses"):
            importlib.import_module(late)
        self._when_ending = when_ending
        self._is_idle_end = is_idle_end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exit = asyncio.Event()

    async def main_loop(self) -> None:
        """Sleep, where uvicorn looks ten times a second."""
        self._loop = asyncio.get_running_loop()
        was_idle = False
        while not self.should_exit:
            try:
                async with asyncio.timeout(_IDLE_S if self._is_idle_end else None):
                    await self._exit.wait()
            except TimeoutError:
                idle = not self.server_state.connections
                if idle and was_idle:
                    break
                was_idle = idle
        self._when_ending()

    def end(self) -> None:
        """Serve no more; called in its loop."""
        self.should_exit = True
        self._exit.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._exit.set)
