# SPDX-License-Identifier: MIT
"""HTTP to a Unix socket, as any user of this machine: a test client of gpiovirtd's API."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

__all__ = ["Answer", "ApiClient", "connect_as"]


class Answer(NamedTuple):
    """A response; `body` is the JSON, if it is JSON, or the text."""

    status: int
    headers: Mapping[str, str]
    body: Any


def connect_as(path: str, user: str = "") -> socket.socket:
    """A connection to the socket at `path`, made by `user` with their groups; only root may be another."""
    with _being(user):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        return sock


@contextmanager
def _being(user: str) -> Iterator[None]:
    if not user:
        yield
        return
    entry = pwd.getpwnam(user)
    mine = os.geteuid(), os.getegid(), os.getgroups()
    os.setgroups(os.getgrouplist(user, entry.pw_gid))
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(mine[0])
        os.setegid(mine[1])
        os.setgroups(mine[2])


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, user: str) -> None:
        super().__init__("gpiovirt", timeout=40)
        self._path = path
        self._user = user

    def connect(self) -> None:
        self.sock = connect_as(self._path, self._user)
        self.sock.settimeout(self.timeout)


class ApiClient:
    """The API at `path`, as `user` sees it."""

    def __init__(self, path: str, user: str = "") -> None:
        self._path = path
        self._user = user

    def __call__(self, method: str, target: str, body: Any = None) -> Answer:
        """One request, on a connection of its own."""
        connection = _Connection(self._path, self._user)
        try:
            response = self._send(connection, method, target, body)
            content = response.read().decode()
            is_json = "json" in response.headers.get_content_type()
            return Answer(
                response.status, dict(response.headers), json.loads(content) if is_json else content
            )
        finally:
            connection.close()

    @contextmanager
    def stream(self, method: str, target: str, body: Any = None) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of a stream, once it has begun; AssertionError if it does not. The end closes it."""
        connection = _Connection(self._path, self._user)
        try:
            response = self._send(connection, method, target, body)
            if response.status >= 300:
                raise AssertionError(f"{response.status}: {response.read().decode()}")
            yield _events(response)
        finally:
            connection.close()

    @staticmethod
    def _send(
        connection: http.client.HTTPConnection, method: str, target: str, body: Any
    ) -> http.client.HTTPResponse:
        headers = {} if body is None else {"content-type": "application/json"}
        connection.request(method, target, None if body is None else json.dumps(body), headers)
        return connection.getresponse()


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        if line.startswith(b"data: "):
            event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
            yield event
