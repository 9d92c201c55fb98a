# SPDX-License-Identifier: MIT
"""A connection to gpiovirtd for whoever may do less than our user: other chips are not there for them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from gpiovirt.control.access import Identity
from gpiovirt.control.async_client import AsyncClient
from gpiovirt.protocols.control.answers import ChipState, DaemonState, Event, Page, RefusedError
from gpiovirt.protocols.control.requests import (
    Describe,
    Drive,
    List,
    Look,
    Read,
    Request,
    Show,
    Sources,
    State,
    Watch,
)
from gpiovirt.web.access import ALL, Rights

__all__ = ["LimitedClient"]

_T = TypeVar("_T")
_ANSWER_S = 10.0


class LimitedClient(AsyncClient):
    """Asks for what `rights` allow; RefusedError for what they do not."""

    rights: Rights = ALL

    def __init__(self, sock: socket.socket, acting_for: Identity | None = None) -> None:
        super().__init__(sock, acting_for)

    @classmethod
    async def for_rights(cls, path: str, rights: Rights) -> LimitedClient:
        """Reach the daemon."""
        client = await cls.connect(path)
        client.rights = rights
        return client

    async def ask(self, request: Request[_T], patience_s: float = _ANSWER_S) -> _T:
        """Ask; what is answered has nothing of other chips."""
        rights = self.rights
        if rights == ALL:
            return await super().ask(request, patience_s)
        match request:
            case Look() | Describe() | Show() | Read():
                if not rights.sees(request.name):
                    raise _no_chip(request.name)
            case Watch():
                if request.name is not None and not rights.sees(request.name):
                    raise _no_chip(request.name)
            case Drive():
                if not rights.sees(request.name):
                    raise _no_chip(request.name)
                if not rights.drive:
                    raise RefusedError("this token may only look", errno.EPERM)
            case List() | State():
                pass
            case Sources() if rights.chips is None:
                pass
            case _:
                if rights.chips is not None or not rights.manage:
                    raise RefusedError("this token does not manage chips", errno.EPERM)
        try:
            answer: Any = await super().ask(request, patience_s)
        except RefusedError as error:
            if rights.chips is not None and error.errno == errno.ENOENT:  # it names chips that there are
                raise _no_chip(getattr(request, "name", "")) from None
            raise
        if isinstance(answer, Page):
            seen = tuple(chip for chip in answer.chips if rights.sees(chip.name))
            if answer.more and not seen:  # the next page begins after the last that there was
                return cast(_T, await self.ask(List(answer.chips[-1].name)))
            answer = Page(seen, answer.more)
        elif isinstance(answer, DaemonState):
            chips = await self.chips() if rights.chips is not None else None
            answer = _counted(answer._replace(manager=answer.manager and rights.manage), chips)
        return cast(_T, answer)

    async def event(self) -> Event | None:
        """The next one of a chip that they see."""
        while (event := await super().event()) is not None and not self.rights.sees(event.chip):
            pass
        return event


def _counted(state: DaemonState, chips: Sequence[ChipState] | None) -> DaemonState:
    if chips is None:
        return state
    return state._replace(
        chips=len(chips),
        live=sum(chip.state == "live" for chip in chips),
        lines=sum(chip.num_lines for chip in chips),
        restarts=sum(chip.restarts for chip in chips),
        watchers=0,
    )


def _no_chip(name: str) -> RefusedError:
    return RefusedError(f"no chip {name!r}", errno.ENOENT)
