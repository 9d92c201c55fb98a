# SPDX-License-Identifier: MIT
"""Parameters of the HTTP API's operations: who asks, and the daemon, asked on their behalf."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Path, Request
from starlette.types import Scope

from gpiovirt.api.problem import ProblemError
from gpiovirt.control.access import Identity
from gpiovirt.control.async_client import AsyncClient

__all__ = ["Connect", "Daemon", "Name", "Peer", "peer_of", "reach"]

Name = Annotated[str, Path(description="The chip's name.")]


Connect = Callable[[Scope], Awaitable[AsyncClient]]
"""Reaches gpiovirtd on behalf of whoever sent the request"""


def peer_of(scope: Scope) -> Identity:
    """Who sent a request; ProblemError."""
    peer = scope.get("state", {}).get("peer")
    if not isinstance(peer, Identity):
        raise ProblemError(403, "the caller cannot be identified")
    return peer


def _peer(request: Request) -> Identity:
    return peer_of(request.scope)


Peer = Annotated[Identity, Depends(_peer)]


async def reach(request: Request) -> AsyncClient:
    """A connection to gpiovirtd on behalf of whoever sent the request."""
    connect: Connect = request.app.state.connect
    return await connect(request.scope)


async def _ask(request: Request) -> AsyncIterator[AsyncClient]:
    async with await reach(request) as client:
        yield client


Daemon = Annotated[AsyncClient, Depends(_ask)]
