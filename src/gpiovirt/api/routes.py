# SPDX-License-Identifier: MIT
"""The HTTP API: what the control protocol has, as resources.

It decides nothing: every request asks the daemon on behalf of who is connected, who is in the ASGI scope's
state as `peer`; the server puts it there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.openapi.utils import get_openapi
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpiovirt import __version__
from gpiovirt.api import levels, metrics
from gpiovirt.api.callers import Connect, Daemon, Name, Peer, peer_of, reach
from gpiovirt.api.model import (
    AccessChange,
    ChipDetails,
    ChipSummary,
    Consumer,
    DaemonState,
    LineState,
    Source,
    chip_details,
    chip_summary,
    consumers,
    daemon_state,
    line_states,
    source,
)
from gpiovirt.api.problem import Fault, Problem, ProblemError, install, problem_of_chip, responses
from gpiovirt.api.stream import MEDIA_TYPE as EVENT_STREAM
from gpiovirt.api.stream import EventStream, Streams, encode
from gpiovirt.configuration.model import Chip, InvalidChipError
from gpiovirt.control.access import gid_of, parse_mode, uid_of
from gpiovirt.control.client import ANSWER_S
from gpiovirt.errors import UsageError
from gpiovirt.protocols.control import answers as protocol
from gpiovirt.protocols.control.answers import RefusedError
from gpiovirt.protocols.control.requests import Delete, Look, Own, Save, State, Watch

__all__ = ["Connect", "create_app", "peer_of"]

_BODY_MAX = 1 << 17
_AT_ONCE = 8

_DESCRIPTION = """\
Virtual GPIO chips of this machine, at the Unix socket `/run/gpiovirt/api.sock`.

Callers are identified by kernel peer credentials; there are no passwords or tokens: root and members of
the group `gpiovirt` make, change and delete chips; a chip's owner and group, as its mode says, see and use
it; others see nothing of it.
"""

_STREAM = {
    "description": "Server-sent events (WHATWG HTML, 9.2): the event's name, and the event as JSON.",
    "content": {EVENT_STREAM: {"schema": {"type": "string"}}},
}
_LOCATION = {"Location": {"description": "The chip's path.", "schema": {"type": "string"}}}

router = APIRouter()


@router.get("/chips", tags=["chips"], responses=responses(403))
async def list_chips(daemon: Daemon) -> list[ChipSummary]:
    """All chips that you may see, by name."""
    return await run_in_threadpool(lambda told: [chip_summary(chip) for chip in told], await daemon.chips())


@router.post(
    "/chips",
    tags=["chips"],
    status_code=201,
    responses={
        201: {
            "description": "The chip is live. With `lifetime=connection`, this is the first event, `made`, "
            "of a stream of server-sent events.",
            "headers": _LOCATION,
            "content": {EVENT_STREAM: {"schema": {"type": "string"}}},
        },
        **responses(400, 403, 409, 413, 422, 429),
    },
    response_model=ChipSummary,
)
async def make_chip(
    request: Request,
    chip: Chip,
    peer: Peer,
    lifetime: Annotated[
        Literal["connection"] | None,
        Query(
            description="connection: the answer is a stream of the chip's events, the chip is deleted when "
            "that ends."
        ),
    ] = None,
) -> Response:
    """Make a chip. It is live when this is answered."""
    streams: Streams = request.app.state.streams
    wanted = await run_in_threadpool(chip.wanted)
    client = await reach(request)
    holds = False
    try:
        if lifetime is not None:
            streams.take(peer.uid)
            holds = True
            wanted = wanted._replace(lifetime="connection")
        try:
            told = await client.ask(wanted, ANSWER_S)
        except RefusedError as error:
            raise problem_of_chip(error, chip) from error
        made = (await run_in_threadpool(chip_summary, told)).model_dump()
        headers = {"location": f"/chips/{quote(chip.name)}"}
        if lifetime is None:
            client.close()
            return JSONResponse(made, 201, headers)
        await client.ask(Watch(chip.name))
    except BaseException:
        client.close()
        if holds:
            streams.give(peer.uid)
        raise
    return EventStream(client, streams, peer.uid, 201, headers, encode("made", made), chip.name)


@router.get("/chips/{name}", tags=["chips"], responses=responses(403, 404))
async def show_chip(name: Name, daemon: Daemon) -> ChipDetails:
    """A chip, its lines, and who has it open."""
    return await run_in_threadpool(chip_details, await daemon.show(name))


@router.put("/chips/{name}", tags=["chips"], responses=responses(400, 403, 404, 409, 413, 422))
async def change_chip(
    name: Name,
    chip: Chip,
    daemon: Daemon,
    force: Annotated[bool, Query(description="Even if that takes away or changes a line in use.")] = False,
) -> ChipSummary:
    """Make another chip of this one, all or nothing; lines that are in both are not touched.

    Without `owner` or `group`, these stay. A chip keeps its name. A line that somebody holds does not become
    another, unless forced: then whoever holds it loses it.
    """
    await daemon.ask(Look(name))
    if chip.name != name:
        what = f"it is {chip.name!r} here, and {name!r} in the path; a chip keeps its name"
        raise ProblemError(422, f"name: {what}", errors=[Fault(path="name", detail=what)])
    wanted = await run_in_threadpool(chip.wanted)
    try:
        told = await daemon.ask(wanted.as_change()._replace(force=force), ANSWER_S)
    except RefusedError as error:
        raise problem_of_chip(error, chip) from error
    return await run_in_threadpool(chip_summary, told)


@router.delete(
    "/chips/{name}",
    tags=["chips"],
    status_code=204,
    response_class=Response,
    responses=responses(403, 404, 409, 422),
)
async def delete_chip(
    name: Name,
    daemon: Daemon,
    force: Annotated[bool, Query(description="Even if one of its lines is in use.")] = False,
) -> Response:
    """Delete a chip; its lines go to their safe states."""
    await daemon.ask(Delete(name, force))
    return Response(status_code=204)


@router.patch("/chips/{name}/access", tags=["chips"], responses=responses(400, 403, 404, 413, 422))
async def change_access(name: Name, access: AccessChange, daemon: Daemon) -> ChipSummary:
    """Say who may use a chip: its owner, group and mode, as of a file."""
    told = await daemon.ask(await run_in_threadpool(_own, name, access))
    return await run_in_threadpool(chip_summary, told)


def _own(name: str, access: AccessChange) -> Own:
    ids = {}
    for key, text, id_of, argument in (
        ("owner", access.owner, uid_of, "uid"),
        ("group", access.group, gid_of, "gid"),
    ):
        try:
            ids[argument] = id_of(text)
        except UsageError as error:
            raise InvalidChipError([f"{key}: {error}"]) from error
    return Own(name, mode=parse_mode(access.mode), **ids)


@router.post("/chips/{name}/save", tags=["chips"], responses=responses(403, 404, 422))
async def save_chip(
    name: Name,
    daemon: Daemon,
    permanent: Annotated[bool, Query(description="false: it is gone then.")] = True,
) -> ChipSummary:
    """Have a chip there after a reboot, too."""
    told = await daemon.ask(Save(name, permanent))
    return await run_in_threadpool(chip_summary, told)


@router.get("/chips/{name}/lines", tags=["chips"], responses=responses(403, 404))
async def list_lines(name: Name, daemon: Daemon) -> list[LineState]:
    """A chip's lines, by offset; none while it waits for them."""
    return line_states(await daemon.show(name))


@router.get("/chips/{name}/consumers", tags=["chips"], responses=responses(403, 404))
async def list_consumers(name: Name, daemon: Daemon) -> list[Consumer]:
    """Who has a chip open."""
    return await run_in_threadpool(consumers, await daemon.show(name))


@router.get("/sources", tags=["daemon"], responses=responses(403))
async def list_sources(daemon: Daemon) -> list[Source]:
    """Chips to take lines of, for those who may."""
    return [source(told) for told in await daemon.sources()]


@router.get("/state", tags=["daemon"], responses=responses(403))
async def show_state(daemon: Daemon, peer: Peer) -> DaemonState:
    """The daemon, as you see it."""
    return await run_in_threadpool(daemon_state, await daemon.ask(State()), peer.uid)


@router.get(
    "/events",
    tags=["daemon"],
    response_class=Response,
    responses={200: _STREAM, **responses(403, 404, 422, 429)},
)
async def watch_events(
    request: Request,
    peer: Peer,
    chip: Annotated[str | None, Query(description="Only of this chip.")] = None,
) -> Response:
    """What happens to the chips that you may see, from now on.

    Of a chip: live, changed, owned, deleted, worker-ended; of a line: line-requested, line-released,
    line-config (by a consumer), line-gone and line-back (its source).
    """
    streams: Streams = request.app.state.streams
    streams.take(peer.uid)
    try:
        client = await reach(request)
        try:
            await client.ask(Watch(chip))
        except BaseException:
            client.close()
            raise
    except BaseException:
        streams.give(peer.uid)
        raise
    return EventStream(client, streams, peer.uid)


@router.get(
    "/metrics",
    tags=["daemon"],
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **responses(403),
    },
)
async def show_metrics(request: Request) -> Response:
    """Metrics of the chips that you may see."""
    async with await reach(request) as client:
        state = await client.ask(State())
        names = [chip.name for chip in await client.chips()]
    shares = [names[start::_AT_ONCE] for start in range(min(_AT_ONCE, len(names)))]
    shown = await asyncio.gather(*(_show(request, share) for share in shares))
    chips = sorted((chip for share in shown for chip in share), key=lambda told: told.chip.name)
    content = await run_in_threadpool(metrics.exposition, state, chips)
    return Response(content, media_type=metrics.MEDIA_TYPE)


async def _show(request: Request, names: Iterable[str]) -> list[protocol.ChipDetails]:
    found = []
    async with await reach(request) as client:
        for name in names:
            try:
                found.append(await client.show(name))
            except RefusedError:  # it was deleted meanwhile
                continue
    return found


class _LimitBody:
    """Reads a request's body before anybody is asked for, up to a limit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > _BODY_MAX:
                problem = ProblemError(413, f"the body is longer than {_BODY_MAX} bytes").problem
                response = Response(
                    json.dumps(problem.model_dump(exclude_none=True)),
                    413,
                    {"connection": "close"},
                    "application/problem+json",
                )
                await response(scope, receive, send)
                return
        told = False

        async def replay() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)


def create_app(connect: Connect) -> FastAPI:
    """An application that asks the daemon by `connect`; its `state.streams.ending` ends its streams."""
    app = FastAPI(
        title="gpiovirtd",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        responses=responses(500, 503),
    )
    app.state.connect = connect
    app.state.streams = Streams()
    app.include_router(router)
    app.include_router(levels.router)
    install(app)
    app.add_middleware(_LimitBody)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = document["components"]["schemas"]
    schemas.update(problem.pop("$defs"), Problem=problem)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]  # FastAPI's own: a path's parameter is never malformed
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    return document
