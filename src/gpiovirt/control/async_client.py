# SPDX-License-Identifier: MIT
"""gpiovirt.control.client for an asyncio loop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Self, TypeVar

from gpiovirt.control.access import Identity
from gpiovirt.control.client import unreachable
from gpiovirt.errors import GpiovirtError, HostError
from gpiovirt.host.packets import PACKET_MAX, decode, encode
from gpiovirt.protocols.control.answers import (
    ChipDetails,
    ChipState,
    Event,
    SourceState,
    decode_event,
    result_of,
)
from gpiovirt.protocols.control.requests import List, Request, Show, Sources, encode_request

__all__ = ["AsyncClient"]

_ANSWER_S = 10.0
_CONNECT_S = 5.0
_AGAIN_S = 0.01
_T = TypeVar("_T")


class AsyncClient:
    """A connection to a daemon, for one task, on behalf of `acting_for` (None: of this process' own user).

    HostError if it cannot be had, RefusedError for what it refuses.
    """

    def __init__(self, sock: socket.socket, acting_for: Identity | None = None) -> None:
        self._socket = sock
        self._acting_for = acting_for

    @classmethod
    async def connect(cls, path: str, acting_for: Identity | None = None) -> Self:
        """Reach the daemon's control socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PACKET_MAX)
        try:
            async with asyncio.timeout(_CONNECT_S):
                while True:
                    try:
                        sock.connect(path)
                    except BlockingIOError:  # too many are waiting to be accepted; there is no other notice
                        await asyncio.sleep(_AGAIN_S)
                    else:
                        return cls(sock, acting_for)
        except TimeoutError:
            sock.close()
            raise HostError(f"gpiovirtd accepts no connection within {_CONNECT_S:g} s") from None
        except OSError as error:
            sock.close()
            raise unreachable(path, error) from error
        except BaseException:
            sock.close()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    async def ask(self, request: Request[_T], patience_s: float = _ANSWER_S) -> _T:
        """Ask for something; the answer. What starts a worker takes up to ANSWER_S of the other client."""
        loop = asyncio.get_running_loop()
        packet = encode(encode_request(request, self._acting_for))
        try:
            async with asyncio.timeout(patience_s):
                await loop.sock_sendall(self._socket, packet)
                return request.answer(result_of(await self._receive()))
        except TimeoutError:
            raise HostError(f"gpiovirtd does not answer within {patience_s:g} s") from None
        except OSError as error:
            raise HostError.of("gpiovirtd does not listen", error) from error

    async def _receive(self) -> dict[str, Any]:
        packet = await asyncio.get_running_loop().sock_recv(self._socket, PACKET_MAX)
        if not packet:
            raise HostError("gpiovirtd has ended")
        return decode(packet)

    async def chips(self) -> list[ChipState]:
        """All chips that may be seen, by name."""
        chips: list[ChipState] = []
        while True:
            page = await self.ask(List(chips[-1].name if chips else ""))
            chips += page.chips
            if not page.more:
                return chips

    async def show(self, name: str) -> ChipDetails:
        """A chip, its lines, and who has it open."""
        asked = Show(name)
        told = await self.ask(asked)
        while (then := asked.next(told)) is not None:
            asked, told = then, told.and_then(await self.ask(then))
        return told

    async def sources(self) -> list[SourceState]:
        """All chips that lines can be taken of."""
        chips: list[SourceState] = []
        while True:
            page = await self.ask(Sources(len(chips)))
            chips += page.chips
            if not page.more:
                return chips

    async def event(self) -> Event | None:
        """After asking for Watch: the next event, None when the daemon ends. A cancelled wait loses none."""
        try:
            return decode_event(await self._receive())
        except (OSError, GpiovirtError):
            return None
