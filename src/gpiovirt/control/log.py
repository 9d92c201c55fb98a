# SPDX-License-Identifier: MIT
"""Client for the record of gpiovirtd's chips; gpiovirt.protocols.log has what is said."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from typing import Any

from gpiovirt.control import record_socket
from gpiovirt.errors import HostError, PeerError
from gpiovirt.host.unix_socket import limit_waits
from gpiovirt.protocols.control.answers import decode_answer, result_of
from gpiovirt.protocols.log import Ask, End, LogRecord, Span, decode_records, decode_spans, encode_ask

__all__ = ["LogClient"]

_ANSWER_S = 60
_LINE_MAX = 1 << 24


class LogClient:
    """One question about the record. HostError if nobody answers, RefusedError for what is refused."""

    def __init__(self, ask: Ask, path: str | None = None) -> None:
        path = path or record_socket()
        if path is None:
            raise HostError("no gpiovirtd keeps a record here; start it (without --no-record)")
        self._ask = ask
        self.end: End | None = None
        """What it said last"""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        limit_waits(self._socket, _ANSWER_S, socket.SO_RCVTIMEO, socket.SO_SNDTIMEO)
        try:
            self._socket.connect(path)
            self._socket.sendall(json.dumps(encode_ask(ask)).encode() + b"\n")
        except BrokenPipeError:
            pass  # it has said why before it hung up
        except OSError as error:
            self._socket.close()
            if error.errno == errno.ECONNREFUSED:
                raise HostError("gpiovirtd has ended; start it again") from error
            raise HostError.of(f"cannot ask for the record at {path}", error) from error
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> LogClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; from another thread or a signal, parts() ends then."""
        self._file.close()
        self._socket.close()

    def stop(self) -> None:
        """Have parts() end."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def parts(self) -> Iterator[tuple[LogRecord, ...]]:
        """Records, as they come; an empty part comes after those that were there already."""
        while True:
            told = self._line()
            if told is None:
                return
            match told:
                case {"records": list(records)}:
                    part = decode_records(records)
                    if not part and self._ask.follow:
                        limit_waits(self._socket, 0, socket.SO_RCVTIMEO)
                    yield part
                case {"end": end}:
                    self.end = decode_answer(End, end)
                    return
                case _:
                    result_of(told)
                    raise PeerError("the record's process breaks the protocol")

    def records(self) -> Iterator[LogRecord]:
        """One by one."""
        for part in self.parts():
            yield from part

    def spans(self) -> Iterator[Span]:
        """Where `columns` was asked for: those; what comes before them is left out, so ask without `last`."""
        while (told := self._line()) is not None and "end" not in told:
            match told:
                case {"spans": list(spans)}:
                    yield from decode_spans(spans)
                case _:
                    result_of(told)
                    raise PeerError("the record's process breaks the protocol")

    def _line(self) -> dict[str, Any] | None:
        try:
            line = self._file.readline(_LINE_MAX)
        except BlockingIOError:
            raise HostError(f"the record's process does not answer within {_ANSWER_S} s") from None
        except (OSError, ValueError) as error:
            if self._ask.follow:
                return None
            raise HostError(f"the record's process does not answer: {error}") from error
        if not line:
            if self._ask.follow:
                return None
            raise HostError("the record's process has ended")
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            raise PeerError("the record's process breaks the protocol")
        return told
