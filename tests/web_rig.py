# SPDX-License-Identifier: MIT
"""A running `gpiovirt web`, and somebody who comes in by its link, or tries to."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

__all__ = ["Answer", "Web"]


class Answer(NamedTuple):
    """A response; `body` is the JSON, if it is JSON, or the text."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Web:
    """The process, until the end of the `with` block; keywords go to subprocess.Popen."""

    def __init__(
        self, *arguments: str, python: Sequence[str] = (sys.executable,), what: str = "web", **popen: Any
    ) -> None:
        command = [*python, "-m", "gpiovirt", what, "--no-browser", "--port", "0", *arguments]
        if "--listen" in arguments:
            command[-len(arguments) - 2 : -len(arguments)] = []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **popen)
        assert self.process.stdout is not None
        self._is_at(self.process.stdout.readline().strip())

    @classmethod
    def at(cls, url: str) -> Web:
        """One that somebody else has started."""
        made = cls.__new__(cls)
        made._is_at(url)
        return made

    def _is_at(self, url: str) -> None:
        self.url = url
        self.host = self.url.partition("//")[2].partition("/")[0]
        self.port = int(self.host.rpartition(":")[2]) if ":" in self.host else 0
        self.token = self.url.partition("#token=")[2]
        self.session: dict[str, str] = {}

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.process.terminate()
        self.process.communicate(timeout=20)

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def __call__(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str | None] | None = None
    ) -> Answer:
        """One request, with what log_in() has got; a header that is None is left out."""
        said = {"Host": self.host, **self.session, **(headers or {})}
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in said.items():
                if value is not None:
                    connection.putheader(name, value)
            if content is not None:
                connection.putheader("Content-Type", "application/json")
                connection.putheader("Content-Length", str(len(content)))
            connection.endheaders(content)
            response = connection.getresponse()
            raw = response.read().decode()
            told = dict(response.getheaders())
            kind = told.get("content-type", "")
            return Answer(response.status, told, json.loads(raw) if "json" in kind and raw else raw)
        finally:
            connection.close()

    def log_in(self, token: str | None = None) -> Answer:
        """Come in; the requests that follow are those of this session."""
        answer = self("POST", "/web/login", {"token": self.token if token is None else token})
        if answer.status == 200:
            cookie = answer.headers["set-cookie"].partition(";")[0]
            self.session = {"Cookie": cookie, "X-Gpiovirt-Key": answer.body["key"]}
        return answer

    @contextmanager
    def live(self) -> Iterator[BinaryIO]:
        """The stream of what happens."""
        head = "".join(f"{name}: {value}\r\n" for name, value in self.session.items())
        with self.connect() as sock, sock.makefile("rb") as file:
            sock.sendall(f"GET /web/live HTTP/1.1\r\nHost: {self.host}\r\n{head}\r\n".encode())
            assert b" 200 " in file.readline()
            while file.readline().strip():
                pass
            yield file

    def memory_kb(self) -> int:
        """What the process has resident."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            return next(int(row.split()[1]) for row in file if row.startswith("VmRSS"))

    def is_running(self) -> bool:
        """It has not ended."""
        return self.process.poll() is None and os.path.exists(f"/proc/{self.process.pid}")
