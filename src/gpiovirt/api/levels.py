# SPDX-License-Identifier: MIT
"""Levels of lines over HTTP: read whoever holds them, and set as any program would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request
from pydantic import Field

from gpiovirt.api.callers import Daemon, Name, Peer, reach
from gpiovirt.api.model import LineLevel
from gpiovirt.api.problem import ProblemError, responses
from gpiovirt.api.stream import Streams, gone
from gpiovirt.control.async_client import AsyncClient
from gpiovirt.protocols.control.answers import ChipDetails, LineState
from gpiovirt.protocols.control.requests import Drive, Read
from gpiovirt.uapi.gpio import GPIO_V2_LINES_MAX

__all__ = ["router"]

_CONSUMER = "gpiovirt http"
_HOLD_MAX_MS = 3_600_000

router = APIRouter()


@router.get("/chips/{name}/levels", tags=["lines"], responses=responses(403, 404, 422))
async def read_levels(
    name: Name,
    daemon: Daemon,
    line: Annotated[
        list[str], Query(description="A line's name or offset, as often as there are lines; all without.")
    ] = [],  # noqa: B006  (FastAPI copies it)
) -> list[LineLevel]:
    """What lines are, whoever holds them; they stay as they are."""
    return await _read(daemon, name, line)


@router.put("/chips/{name}/levels", tags=["lines"], responses=responses(400, 403, 404, 409, 413, 422, 429))
async def set_levels(
    request: Request,
    name: Name,
    levels: Annotated[
        dict[str, Annotated[int, Field(strict=True, ge=0, le=1)]],
        Body(min_length=1, max_length=GPIO_V2_LINES_MAX, description="By a line's name or offset."),
    ],
    peer: Peer,
    hold_ms: Annotated[
        int, Query(ge=0, le=_HOLD_MAX_MS, description="Hold the lines so long; then this is answered.")
    ] = 0,
) -> list[LineLevel]:
    """Set lines, all or none; the answer says what they are afterwards, or at the end of the hold.

    They are outputs meanwhile. Rules hold, and what somebody else holds is refused. Once the lines are let
    go, or the connection ends, they are as their options say: safe, or as they were last.
    """
    streams: Streams = request.app.state.streams
    if hold_ms:
        streams.take(peer.uid)
    try:
        async with await reach(request) as client:
            await client.ask(Drive(name, levels, _CONSUMER, hold=bool(hold_ms)))
            if not hold_ms:
                return await _read(client, name, levels)
            await _hold(request, streams, hold_ms / 1e3)
            told = await _read(client, name, levels)
            if not all(line.used for line in _lines(await client.show(name), levels)):
                raise ProblemError(409, f"{name}: the lines were lost meanwhile; was it changed?")
            return told
    finally:
        if hold_ms:
            streams.give(peer.uid)


async def _hold(request: Request, streams: Streams, seconds: float) -> None:
    """Until it is over, whoever asked has gone, or the server ends."""
    tasks = [asyncio.create_task(part) for part in (gone(request.receive), streams.ending.wait())]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(daemon: AsyncClient, name: str, lines: Iterable[str]) -> list[LineLevel]:
    """Of all lines if none is named."""
    levels = (await daemon.ask(Read(name, tuple(lines)))).levels
    shown = _lines(await daemon.show(name), lines)
    if len(shown) != len(levels):
        raise ProblemError(409, f"{name} was changed meanwhile; ask again")
    return [
        LineLevel.model_validate({**line._asdict(), "chip": name, "level": level})
        for line, level in zip(shown, levels, strict=True)
    ]


def _lines(told: ChipDetails, texts: Iterable[str]) -> list[LineState]:
    """Those that are called so; all if none is named."""
    by_name = {line.name: line for line in told.lines} | {str(line.offset): line for line in told.lines}
    wanted = [str(int(text)) if text.isdecimal() else text for text in texts]
    return [by_name[text] for text in wanted if text in by_name] if wanted else list(told.lines)
