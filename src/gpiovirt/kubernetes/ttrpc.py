# SPDX-License-Identifier: MIT
"""ttRPC over one stream with several connections, as NRI has it; bytes in, calls out, no I/O.

The stream carries frames: connection and length, both big-endian, and so many bytes of that connection.
A connection carries messages: length, stream, type, flags, and a Request or Response.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, NamedTuple

from gpiovirt.errors import PeerError
from gpiovirt.kubernetes.messages import TTRPC

__all__ = ["PLUGIN", "RUNTIME", "Answer", "Call", "Trunk"]

PLUGIN, RUNTIME = 1, 2
"""Connections: on the first the runtime calls, on the second we do"""
_frame = Struct(">II")
_message = Struct(">IIBB")
_REQUEST, _RESPONSE = 1, 2
_MESSAGE_MAX = 4 << 20
_FRAME_MAX = _MESSAGE_MAX + _message.size
_CHUNK = 4096
"""A runtime reads into so many bytes, and takes no larger frame"""


class Call(NamedTuple):
    """What is asked of us; its answer is for `stream`."""

    stream: int
    method: str
    payload: bytes


class Answer(NamedTuple):
    """What was answered to us; `error` is empty if it was done."""

    error: str
    payload: bytes


class Trunk:
    """One end of the stream."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._by_connection: dict[int, bytearray] = {PLUGIN: bytearray(), RUNTIME: bytearray()}
        self._stream = -1

    def receive(self, data: bytes) -> list[Call | Answer]:
        """What came with these bytes; PeerError if that is no such stream."""
        self._received += data
        found: list[Call | Answer] = []
        while len(self._received) >= _frame.size:
            connection, length = _frame.unpack_from(self._received)
            if length > _FRAME_MAX:
                raise PeerError(f"a frame of {length} bytes")
            if len(self._received) < _frame.size + length:
                break
            content = bytes(self._received[_frame.size : _frame.size + length])
            del self._received[: _frame.size + length]
            if (stream := self._by_connection.get(connection)) is not None:
                stream += content
                found += self._messages(stream)
        return found

    @staticmethod
    def _messages(stream: bytearray) -> list[Call | Answer]:
        found: list[Call | Answer] = []
        while len(stream) >= _message.size:
            length, number, kind, _ = _message.unpack_from(stream)
            if length > _MESSAGE_MAX:
                raise PeerError(f"a message of {length} bytes")
            if len(stream) < _message.size + length:
                break
            content = bytes(stream[_message.size : _message.size + length])
            del stream[: _message.size + length]
            if kind == _REQUEST:
                request = parse(TTRPC["Request"], content)
                found.append(Call(number, request.method, request.payload))
            elif kind == _RESPONSE:
                response = parse(TTRPC["Response"], content)
                failed = response.status.code != 0
                found.append(Answer((response.status.message or "failed") * failed, response.payload))
        return found

    def call(self, service: str, method: str, payload: bytes) -> bytes:
        """Bytes that ask for something."""
        self._stream += 2  # a client's are odd
        request = TTRPC["Request"](service=service, method=method, payload=payload)
        return _framed(RUNTIME, self._stream, _REQUEST, request.SerializeToString())

    @staticmethod
    def answer(stream: int, payload: bytes = b"", error: str = "") -> bytes:
        """Bytes that answer a call, or fail it."""
        response = TTRPC["Response"](payload=payload)
        if error:
            response.status.code = 9  # google.rpc.Code: FAILED_PRECONDITION
            response.status.message = error
        return _framed(PLUGIN, stream, _RESPONSE, response.SerializeToString())


def parse(kind: type[Any], content: bytes) -> Any:
    """A message; PeerError if it is none."""
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise PeerError(f"not a {kind.__name__}: {error}") from error


def _framed(connection: int, stream: int, kind: int, content: bytes) -> bytes:
    parts = [_message.pack(len(content), stream, kind, 0)]
    parts += [content[at : at + _CHUNK] for at in range(0, len(content), _CHUNK)]
    return b"".join(_frame.pack(connection, len(part)) + part for part in parts)
