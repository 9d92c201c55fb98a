# SPDX-License-Identifier: MIT
"""What the page asks: chips, levels over time, what happens, and hands on lines. It comes from the page only,
and may change with it; the API for programs is beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gpiovirt import __version__
from gpiovirt.api.problem import ProblemError
from gpiovirt.api.stream import MEDIA_TYPE
from gpiovirt.control.access import user_name
from gpiovirt.control.async_client import AsyncClient
from gpiovirt.errors import GpiovirtError
from gpiovirt.protocols.control.answers import RefusedError
from gpiovirt.protocols.control.requests import Force, Look, Rearm, State
from gpiovirt.protocols.log import Ask, Done
from gpiovirt.waveform.thin import Piece
from gpiovirt.web import chips, record
from gpiovirt.web.access import Session
from gpiovirt.web.clock import ns_of, us_of
from gpiovirt.web.guard import session_of
from gpiovirt.web.holds import Holds
from gpiovirt.web.live import Hub, message
from gpiovirt.web.recordings import Recordings
from gpiovirt.web.simulators import Simulators

__all__ = ["Shown", "router"]

_BEAT_S = 2.0
_LEFT_S = 3.0
"""For so long a session whose pages have gone keeps the lines that it holds: a page may be loaded again"""
_SLOW_S = 20.0
_STREAMS_MAX = 8  # of a session
_US_MAX = 1 << 52
_COLUMNS_MAX = 4096
_AT_ONCE = 2  # questions about the record

router = APIRouter(prefix="/web", include_in_schema=False)
Microseconds = Annotated[int, Query(ge=-_US_MAX, le=_US_MAX)]


class Shown:
    """What all pages share."""

    def __init__(
        self,
        connect: Callable[[Scope], Awaitable[AsyncClient]],
        loop: asyncio.AbstractEventLoop,
        uid: int,
        only: str | None = None,
        recordings: Recordings | None = None,
    ) -> None:
        """`only` is the name of the one simulator to show, and nothing else then; so are `recordings`."""
        self.connect = connect
        self.uid = uid
        self.is_local = only is not None or recordings is not None
        self.hub = Hub(loop)
        self.follower = None if self.is_local else record.Follower(self.hub)
        self.simulators = Simulators(self.hub, only)
        self.recordings = recordings
        self.holds = Holds()
        self.questions = asyncio.Semaphore(_AT_ONCE)
        self.ending = asyncio.Event()


def _shown(request: Request) -> Shown:
    shown: Shown = request.app.state.shown
    return shown


def _session(request: Request) -> Session:
    return session_of(request.scope)


Pages = Annotated[Shown, Depends(_shown)]
Asker = Annotated[Session, Depends(_session)]


@router.get("/hello")
async def hello(pages: Pages, session: Asker) -> dict[str, Any]:
    """Who is served, and by what clock."""
    return {
        "version": __version__,
        "user": user_name(pages.uid),
        "drive": session.rights.drive,
        "now": us_of(time.time_ns()),
        "origin_ms": us_of(0) / -1000,
        "only": pages.is_local,
        "view": None if pages.recordings is None else {"end": pages.recordings.end_ns // 1000},
    }


@router.get("/differences")
async def show_differences(pages: Pages, _session: Asker) -> dict[str, Any] | None:
    """Of two recordings."""
    return None if pages.recordings is None else pages.recordings.compared()


@router.get("/chips")
async def list_chips(request: Request, pages: Pages, session: Asker) -> dict[str, Any]:
    """Everything that there is to see now."""
    found: list[dict[str, Any]] = []
    daemon: dict[str, Any] = {"there": False, "why": "", "manager": False}
    if pages.recordings is not None:
        return {"daemon": daemon, "chips": pages.recordings.chips(), "now": us_of(time.time_ns())}
    if not pages.is_local:
        try:
            async with await pages.connect(request.scope) as client:
                daemon["manager"] = session.rights.manage and (await client.ask(State())).manager
                daemon["there"] = True
                held = {chip.name: pages.holds.of(session, chip.name) for chip in await client.chips()}
                found = await chips.told(client, session.rights.drive, held)
        except GpiovirtError as error:
            daemon["why"] = str(error)
    if session.rights.chips is None:
        simulated = await run_in_threadpool(pages.simulators.chips)
        if not session.rights.drive:
            for chip in simulated:
                for line in chip["lines"]:
                    line["can"] = []
        found += simulated
    return {"daemon": daemon, "chips": found, "now": us_of(time.time_ns())}


async def _name(request: Request, pages: Shown, session: Session, key: str) -> str | None:
    """The name of one of gpiovirtd's chips that they see; None of a simulated one; GpiovirtError."""
    name = chips.name_of(key)
    if name is None:
        if session.rights.chips is not None:
            raise ProblemError(403, "this token is for some chips only")
        return None
    if pages.is_local:
        raise ProblemError(404, "this page shows simulated or recorded chips only")
    async with await pages.connect(request.scope) as client:
        await client.ask(Look(name))
    return name


@router.get("/waves")
async def waves(
    request: Request,
    pages: Pages,
    session: Asker,
    chip: str,
    since: Microseconds,
    until: Microseconds,
    columns: Annotated[int, Query(ge=1, le=_COLUMNS_MAX)] = 1000,
) -> dict[str, Any]:
    """Levels of a chip's lines, no more than so many columns can show."""
    if until <= since:
        raise ProblemError(422, "until: it is before since")
    since_ns, until_ns = max(ns_of(since), 0), max(ns_of(until), 1)
    name = await _name(request, pages, session, chip)
    if name is None:
        source = pages.recordings or pages.simulators
        found = await run_in_threadpool(source.pieces, chip, since_ns, until_ns, columns)
    else:
        async with pages.questions:
            found = await run_in_threadpool(record.pieces, name, since_ns, until_ns, columns)
    return {"lines": {offset: _flat(pieces) for offset, pieces in found.items()}}


def _flat(pieces: list[Piece]) -> list[int]:
    return [
        number for piece in pieces for number in (us_of(piece.begin_ns), us_of(piece.end_ns), piece.level)
    ]


@router.get("/log")
async def log(
    request: Request,
    pages: Pages,
    session: Asker,
    chip: str = "",
    since: Microseconds = -_US_MAX,
    until: Microseconds = _US_MAX,
    kinds: Annotated[str, Query(max_length=400)] = "",
) -> dict[str, Any]:
    """Who did what."""
    words = frozenset(kinds.split(",")) if kinds else frozenset(done.value for done in Done)
    if session.rights.chips is not None and not chip:
        raise ProblemError(422, "chip: this token is for some chips only; choose one")
    name = await _name(request, pages, session, chip) if chip else ""
    if name is None or pages.is_local:
        raise ProblemError(404, "there is no record of simulated chips; put a virtual chip before them")
    ask = Ask(name, (), max(ns_of(since), 0), max(ns_of(until), 0))
    async with pages.questions:
        found, is_more = await run_in_threadpool(record.records, ask, words)
    return {"records": found, "more": is_more}


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    chip: str = Field(max_length=256)
    offset: int = Field(ge=0, lt=1 << 16)


class Drive(_Order):
    """A level, or null: let it go."""

    level: Literal[0, 1] | None


class Pull(_Order):
    """What becomes of a simulated line."""

    do: Literal["pull", "stick", "unstick"]
    level: Literal[0, 1] = 0


class Forced(_Order):
    """A level for so long, or null: no longer."""

    level: Literal["low", "high"] | None
    for_ms: int = Field(10_000, ge=1, le=86_400_000)


class Rearmed(BaseModel):
    """A chip."""

    model_config = ConfigDict(extra="forbid", strict=True)

    chip: str = Field(max_length=256)


async def _virtual(request: Request, pages: Shown, session: Session, key: str) -> str:
    name = await _name(request, pages, session, key)
    if name is None:
        raise ProblemError(422, "that is for chips of gpiovirtd; pull a simulated line")
    return name


@router.post("/drive", status_code=204, response_class=Response)
async def drive(request: Request, pages: Pages, session: Asker, order: Drive) -> None:
    """Hold a line as an output, until it is let go or no page looks any more."""
    name = await _virtual(request, pages, session, order.chip)
    if order.level is None:
        await run_in_threadpool(pages.holds.release, session, name, order.offset)
        return
    if not session.streams:
        raise ProblemError(422, "open /web/live first: a line is held while a page looks")
    try:
        await run_in_threadpool(pages.holds.drive, session, name, order.offset, order.level)
    except RefusedError:
        raise
    except GpiovirtError as error:
        raise ProblemError(409, str(error), error.errno) from error


@router.post("/sim", status_code=204, response_class=Response)
async def sim(request: Request, pages: Pages, session: Asker, order: Pull) -> None:
    """Pull a simulated line, or have it stuck."""
    if await _name(request, pages, session, order.chip) is not None:
        raise ProblemError(422, "that is for simulated chips; drive this line")
    try:
        await run_in_threadpool(pages.simulators.do, order.chip, order.offset, order.do, order.level)
    except GpiovirtError as error:
        raise ProblemError(409, str(error), error.errno) from error


@router.post("/force", status_code=204, response_class=Response)
async def force(request: Request, pages: Pages, session: Asker, order: Forced) -> None:
    """Force a line, or end that."""
    name = await _virtual(request, pages, session, order.chip)
    for_ms = 0 if order.level is None else order.for_ms
    async with await pages.connect(request.scope) as client:
        await client.ask(Force(name, str(order.offset), order.level, for_ms))


@router.post("/rearm", status_code=204, response_class=Response)
async def rearm(request: Request, pages: Pages, session: Asker, order: Rearmed) -> None:
    """Allow outputs again that a watchdog has made safe."""
    name = await _virtual(request, pages, session, order.chip)
    async with await pages.connect(request.scope) as client:
        await client.ask(Rearm(name))


@router.get("/live", response_class=Response)
async def live(pages: Pages, session: Asker) -> Response:
    """What happens, as it happens."""
    if session.streams >= _STREAMS_MAX:
        raise ProblemError(429, f"{_STREAMS_MAX} pages look already; close one first")
    return _Live(pages, session)


class _Live(Response):
    """A page's stream; the lines that it holds are let go some time after its end."""

    def __init__(self, pages: Shown, session: Session) -> None:
        super().__init__(None, 200, {"cache-control": "no-store"}, MEDIA_TYPE)
        del self.headers["content-length"]
        self._pages = pages
        self._session = session

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Serve until either end is gone, or the session is."""
        pages, session = self._pages, self._session
        session.streams += 1
        tasks = [
            asyncio.create_task(part) for part in (self._tell(send), _gone(receive), pages.ending.wait())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            session.streams -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            asyncio.get_running_loop().call_later(_LEFT_S, _leave, pages, session)

    async def _tell(self, send: Send) -> None:
        subscriber = self._pages.hub.subscribe(self._session.rights)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while not self._session.is_over():
                await _send_soon(send, message("now", us_of(time.time_ns())))
                ends = time.monotonic() + _BEAT_S
                while (left := ends - time.monotonic()) > 0:
                    try:
                        async with asyncio.timeout(left):
                            told = await subscriber.next()
                    except TimeoutError:
                        break
                    await _send_soon(send, told)
            await _send_soon(send, message("over", {}))
        except TimeoutError:
            return  # it does not read
        finally:
            self._pages.hub.unsubscribe(subscriber)
            if self._pages.follower is not None:
                self._pages.follower.stop_if_unwatched()


def _leave(pages: Shown, session: Session) -> None:
    if not session.streams:
        asyncio.get_running_loop().run_in_executor(None, pages.holds.release_all, session)


async def _send_soon(send: Send, content: bytes) -> None:
    """TimeoutError if whoever reads does not."""
    async with asyncio.timeout(_SLOW_S):
        await send({"type": "http.response.body", "body": content, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
