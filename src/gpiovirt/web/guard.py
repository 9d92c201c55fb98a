# SPDX-License-Identifier: MIT
"""Everything that a request has to pass before anybody looks at what it asks.

The host that it names (a name that was made to lead here is none of ours), the page that it comes from, who
sends it, and whether they may. What it passes finds the Session in its scope's state.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpiovirt.api.problem import MEDIA_TYPE, ProblemError
from gpiovirt.control.access import Identity
from gpiovirt.web.access import Session, Sessions

__all__ = ["KEY_HEADER", "Guard", "Origin", "session_of"]

KEY_HEADER = "x-gpiovirt-key"
_BODY_MAX = 1 << 12
_TOKEN_MAX = 200
_READING = {"GET", "HEAD"}
_DRIVING = re.compile(r"/web/|/chips/[^/]+/levels$")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Origin:
    """Where we are reached: `scheme` and, with their ports, the hosts."""

    def __init__(self, scheme: str, hosts: Collection[str], port: int) -> None:
        self.is_safe = scheme == "https"
        self.hosts = {host.lower() for host in hosts}
        self.origins = {f"{scheme}://{host}" for host in self.hosts}
        # a cookie has no port; with TLS, no other host can set it
        self.cookie = f"{'__Host-' if self.is_safe else ''}gpiovirt-{port}"


def session_of(scope: Scope) -> Session:
    """Whose request it is; ProblemError."""
    session = scope.get("state", {}).get("session")
    if not isinstance(session, Session) or session.is_over():
        raise ProblemError(401, "come in by the link that `gpiovirt web` prints, or with a token")
    return session


class Guard:
    """Around an application; `public` are the files that anybody gets, with their types."""

    def __init__(
        self,
        app: ASGIApp,
        origin: Origin,
        sessions: Sessions,
        public: Mapping[str, tuple[bytes, str]],
        identity: Identity,
    ) -> None:
        self._app = app
        self._origin = origin
        self._sessions = sessions
        self._public = public
        self._identity = identity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it pass, or say why not."""
        if scope["type"] != "http":
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(key.encode(), value.encode()) for key, value in _HEADERS.items()]
                if not any(key == b"cache-control" for key, _ in message["headers"]):
                    ours.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message["headers"], *ours]}
            await send(message)

        try:
            answer = await self._pass(scope, receive)
        except ProblemError as error:
            answer = problem_response(error)
        await (answer or self._app)(scope, receive, send_safely)

    async def _pass(self, scope: Scope, receive: Receive) -> Response | None:
        """None: it may go on."""
        headers = _headers_of(scope)
        self._check_origin(headers)
        path, method = scope["path"], scope["method"]
        if path in self._public and method in _READING:
            content, media_type = self._public[path]
            return Response(content, 200, {"cache-control": "no-cache"}, media_type)
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise ProblemError(403, "another page may not ask for this")
        if path == "/web/login":
            return await self._log_in(method, receive)
        session = self._session(headers)
        if method not in _READING and not _may(session, path):
            raise ProblemError(403, "this token may only look")
        state = scope.setdefault("state", {})
        state.update(session=session, peer=self._identity)
        return None

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        if headers.get("host", "").lower() not in self._origin.hosts:
            raise ProblemError(421, "this host is not served here; use the link as it was printed")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in self._origin.origins:
            raise ProblemError(403, "a page from elsewhere may not ask for this")

    def _session(self, headers: Mapping[str, str]) -> Session:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        found = None
        if scheme.lower() == "bearer" and len(token) <= _TOKEN_MAX:
            found = self._sessions.of_token(token.strip())
            if found is None:
                raise ProblemError(401, "that token is wrong, revoked, or has ended")
        elif cookie := _cookie(headers.get("cookie", ""), self._origin.cookie):
            found = self._sessions.find(cookie, headers.get(KEY_HEADER, ""))
        if found is None:
            raise ProblemError(401, "come in by the link that `gpiovirt web` prints, or with a token")
        return found

    async def _log_in(self, method: str, receive: Receive) -> Response:
        if method != "POST":
            raise ProblemError(405, "POST a token")
        token = _token(await _body(receive))
        session = None if token is None else self._sessions.log_in(token)
        if session is None:
            raise ProblemError(
                403, "that link has been used, or the token is wrong, revoked, or has ended; get another one"
            )
        answer = Response(json.dumps({"key": session.key}), 200, None, "application/json")
        answer.set_cookie(
            self._origin.cookie,
            session.cookie,
            path="/",
            secure=self._origin.is_safe,
            httponly=True,
            samesite="strict",
        )
        return answer


def _may(session: Session, path: str) -> bool:
    """Whether they may change something there."""
    return session.rights.drive if _DRIVING.match(path) else session.rights.manage


def problem_response(error: ProblemError) -> Response:
    """It, as any problem of the API."""
    content = json.dumps(error.problem.model_dump(exclude_none=True))
    return Response(content, error.problem.status, None, MEDIA_TYPE)


def _headers_of(scope: Scope) -> dict[str, str]:
    """The one of each name; ProblemError if one that matters is there twice."""
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1")
        if name in found and name in ("host", "origin", "authorization", "cookie", KEY_HEADER):
            raise ProblemError(400, f"the header {name} is there twice")
        found[name] = value.decode("latin-1")
    return found


def _cookie(header: str, name: str) -> str:
    try:
        morsel = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ProblemError(400, "the body has no end")
        body += message.get("body", b"")
        if len(body) > _BODY_MAX:
            raise ProblemError(413, f"the body is longer than {_BODY_MAX} bytes")
        if not message.get("more_body", False):
            return bytes(body)


def _token(body: bytes) -> str | None:
    try:
        told: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    token = told.get("token") if isinstance(told, dict) else None
    return token if isinstance(token, str) and len(token) <= _TOKEN_MAX else None
