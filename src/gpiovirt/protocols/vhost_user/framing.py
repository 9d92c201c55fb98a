# SPDX-License-Identifier: MIT
"""vhost-user messages out of a stream of bytes and fds, and answers into one.

QEMU: docs/interop/vhost-user.rst, "Message Specification"
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any, NamedTuple

from gpiovirt.errors import PeerError
from gpiovirt.protocols.vhost_user import messages as m

__all__ = ["Framing", "Message", "Outgoing", "size_of"]

_PAYLOAD_MAX = 4096  # more than any message has


class Outgoing(NamedTuple):
    """One message to send, and the fds to send with it; these stay the sender's."""

    data: bytes
    fds: tuple[int, ...]


def size_of(header: bytes | bytearray) -> int:
    """Size in bytes of the message that begins so; PeerError if no request does."""
    request, flags, size = m.header.unpack_from(header)
    if flags & m.VERSION_MASK != m.VERSION or flags & m.REPLY_MASK or size > _PAYLOAD_MAX:
        raise PeerError(f"no request: {request}, flags {flags:#x}, {size} bytes")
    return m.header.size + int(size)


class Message:
    """A message from the front-end; `fds` are those that nobody has taken yet."""

    __slots__ = ("fds", "need_reply", "payload", "request")

    def __init__(self, request: int, need_reply: bool, payload: bytes, fds: list[int]) -> None:
        self.request = request
        self.need_reply = need_reply
        self.payload = payload
        self.fds = fds

    def fields(self, struct: Struct) -> tuple[Any, ...]:
        """The payload's fields; it may be longer, as some front-ends' are."""
        if len(self.payload) < struct.size:
            raise PeerError(f"a payload of {len(self.payload)} bytes; it takes {struct.size}")
        return struct.unpack_from(self.payload)

    def take_fds(self, count: int) -> tuple[int, ...]:
        """Exactly this many fds; PeerError, and they stay, if there are more or fewer."""
        if len(self.fds) != count:
            raise PeerError(f"{len(self.fds)} fds came; it takes {count}")
        fds, self.fds = tuple(self.fds), []
        return fds


class Framing:
    """The bytes and fds of one connection, both ways."""

    def __init__(self) -> None:
        self._inbox = bytearray()
        self._fds: list[int] = []
        self.outbox: list[Outgoing] = []

    @property
    def bytes_wanted(self) -> int:
        """How many bytes of the message, or its header, are missing."""
        missing = m.header.size - len(self._inbox)
        if missing <= 0:
            missing += int(m.header.unpack_from(self._inbox)[2])
        return missing

    @property
    def fds_wanted(self) -> int:
        """How many more a message can have."""
        return m.FDS_MAX - len(self._fds)

    def receive(self, data: bytes, fds: Sequence[int]) -> Iterator[Message]:
        """The messages that are complete now; PeerError at an impossible one."""
        self._inbox += data
        self._fds += fds
        if len(self._fds) > m.FDS_MAX:
            raise PeerError(f"{len(self._fds)} fds with one message")
        while len(self._inbox) >= m.header.size:
            end = size_of(self._inbox)
            request, flags, _ = m.header.unpack_from(self._inbox)
            if len(self._inbox) < end:
                return
            payload = bytes(self._inbox[m.header.size : end])
            del self._inbox[:end]
            taken, self._fds = self._fds, []
            yield Message(request, bool(flags & m.NEED_REPLY_MASK), payload, taken)

    def unclaimed(self) -> tuple[int, ...]:
        """The fds of an incomplete message, for the caller to close."""
        fds, self._fds = tuple(self._fds), []
        return fds

    def reply(self, request: int, payload: bytes, fds: tuple[int, ...] = ()) -> None:
        """Queue an answer."""
        header = m.header.pack(request, m.VERSION | m.REPLY_MASK, len(payload))
        self.outbox.append(Outgoing(header + payload, fds))
