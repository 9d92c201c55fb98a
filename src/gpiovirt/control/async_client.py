# SPDX-License-Identifier: MIT
"""gpiovirt.control.client for an asyncio loop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from gpiovirt.control.access import Identity
from gpiovirt.control.client import result_of, unreachable
from gpiovirt.errors import HostError
from gpiovirt.host.packets import PACKET_MAX, decode, encode

__all__ = ["AsyncClient"]

_ANSWER_S = 10.0
_CONNECT_S = 5.0
_AGAIN_S = 0.01


class AsyncClient:
    """A connection to a daemon, for one task, on behalf of `acting_for`.

    HostError if it cannot be had, RefusedError for what it refuses.
    """

    def __init__(self, sock: socket.socket, acting_for: Identity) -> None:
        self._socket = sock
        self._as = {"uid": acting_for.uid, "gids": sorted(acting_for.gids)}

    @classmethod
    async def connect(cls, path: str, acting_for: Identity) -> AsyncClient:
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
            raise HostError(f"gpiovirtd does not answer within {_ANSWER_S:g} s") from None
        except OSError as error:
            sock.close()
            raise unreachable(path, error) from error
        except BaseException:
            sock.close()
            raise

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    async def call(self, do: str, **arguments: Any) -> Any:
        """Ask for something; the answer."""
        loop = asyncio.get_running_loop()
        request = encode({"do": do, **arguments, "as": self._as})
        try:
            async with asyncio.timeout(_ANSWER_S):
                await loop.sock_sendall(self._socket, request)
                return result_of(await self._receive())
        except TimeoutError:
            raise HostError(f"gpiovirtd does not answer within {_ANSWER_S:g} s") from None
        except OSError as error:
            raise HostError.of("gpiovirtd does not listen", error) from error

    async def _receive(self) -> dict[str, Any]:
        packet = await asyncio.get_running_loop().sock_recv(self._socket, PACKET_MAX)
        if not packet:
            raise HostError("gpiovirtd has ended")
        return decode(packet)

    async def chips(self) -> list[dict[str, Any]]:
        """All chips that may be seen, by name."""
        chips: list[dict[str, Any]] = []
        while True:
            answer = await self.call("list", after=chips[-1]["name"] if chips else "")
            chips += answer["chips"]
            if not answer["more"]:
                return chips

    async def event(self) -> dict[str, Any] | None:
        """After call("watch"): the next event, None when the daemon ends. A cancelled wait loses none."""
        try:
            return await self._receive()
        except (OSError, HostError):
            return None
