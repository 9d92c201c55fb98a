# SPDX-License-Identifier: MIT
"""Events of gpiovirtd as a stream of server-sent events, and how many such streams there may be."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gpiovirt.api.problem import ProblemError
from gpiovirt.control.async_client import AsyncClient
from gpiovirt.protocols.control.answers import encode_answer

__all__ = ["MEDIA_TYPE", "EventStream", "Streams", "encode", "gone"]

MEDIA_TYPE = "text/event-stream"

_PER_USER = 16
_BEAT_S = 15.0


class Streams:
    """The streams there are; they end when `ending` is set."""

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self._by_user: Counter[int] = Counter()

    def take(self, uid: int) -> None:
        """One more for this user; ProblemError if they have too many."""
        if self._by_user[uid] >= _PER_USER:
            raise ProblemError(429, f"you have {_PER_USER} streams already; close one first")
        self._by_user[uid] += 1

    def give(self, uid: int) -> None:
        """One less."""
        self._by_user[uid] -= 1


class EventStream(Response):
    """What `client`, which watches, is told, after `first`; the connection to the daemon ends with it.

    With `owns`, it ends when that chip is deleted.
    """

    def __init__(
        self,
        client: AsyncClient,
        streams: Streams,
        uid: int,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        first: bytes = b"",
        owns: str = "",
    ) -> None:
        super().__init__(None, status, {"cache-control": "no-store", **(headers or {})}, MEDIA_TYPE)
        del self.headers["content-length"]
        self._client = client
        self._streams = streams
        self._uid = uid
        self._first = first
        self._owns = owns

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Serve until either end is gone."""
        tasks = [
            asyncio.create_task(part)
            for part in (self._tell(send), gone(receive), self._streams.ending.wait())
        ]
        telling, left, _ = tasks
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._client.close()
            self._streams.give(self._uid)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not left.done() or left.cancelled():
            with suppress(OSError):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        if not telling.cancelled():
            telling.result()

    async def _tell(self, send: Send) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        # at once, so that who reads knows that nothing will be missed
        await send(_body(self._first or b": watching\n\n"))
        while True:
            try:
                async with asyncio.timeout(_BEAT_S):
                    event = await self._client.event()
            except TimeoutError:
                await send(_body(b": still there\n\n"))
                continue
            if event is None:
                return
            await send(_body(encode(event.event, encode_answer(event))))
            if event.event == "deleted" and event.chip == self._owns:
                return


def encode(name: str, data: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def _body(content: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": True}


async def gone(receive: Receive) -> None:
    """Until whoever asked has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
