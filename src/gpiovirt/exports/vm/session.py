# SPDX-License-Identifier: MIT
"""What is said between the process that serves a VM and the one that keeps its session.

A packet each way, the files beside it. Neither side trusts the other to be in order.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpiovirt.errors import PeerError
from gpiovirt.host.received import receive, send
from gpiovirt.protocols.vhost_user import Outgoing

__all__ = ["SOCKET", "Answer", "SessionFiles", "Update", "receive_packet", "send_packet"]

SOCKET = "socket"
"""The file that is the VMM's connection"""

_PACKET_MAX = 1 << 16
_FDS_MAX = 200  # unix(7): 253; a session has 32 regions, 8 others, and some that wait


class Update(NamedTuple):
    """What has become of a session by a message, which is to be taken out of its socket and answered.

    Without `state`, what is kept is asked for.
    """

    number: int
    state: str | None = None
    put: Mapping[str, int] = {}
    dropped: Sequence[str] = ()
    message: bytes = b""
    answers: Sequence[Outgoing] = ()

    def encode(self) -> tuple[bytes, list[int]]:
        body = {
            "number": self.number,
            "state": self.state,
            "put": list(self.put),
            "dropped": list(self.dropped),
            "message": self.message.hex(),
            "answers": [[answer.data.hex(), len(answer.fds)] for answer in self.answers],
        }
        return json.dumps(body).encode(), [*self.put.values(), *(fd for a in self.answers for fd in a.fds)]

    @classmethod
    def decode(cls, packet: bytes, fds: Sequence[int]) -> Update:
        """PeerError for what is none; `fds` stay the caller's then."""
        left = list(fds)

        def take(count: object) -> tuple[int, ...]:
            if not isinstance(count, int) or not 0 <= count <= len(left):
                raise ValueError("too few files")
            taken, left[:] = tuple(left[:count]), left[count:]
            return taken

        try:
            body = json.loads(packet)
            names = [str(name) for name in body["put"]]
            update = cls(
                int(body["number"]),
                None if body["state"] is None else str(body["state"]),
                dict(zip(names, take(len(names)), strict=True)),
                [str(name) for name in body["dropped"]],
                bytes.fromhex(body["message"]),
                [Outgoing(bytes.fromhex(data), take(count)) for data, count in body["answers"]],
            )
            if left or len(update.put) != len(names):
                raise ValueError(f"{len(fds)} files")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise PeerError(f"not an update of a session: {error}") from error
        return update


class Answer(NamedTuple):
    """To the update of that number: why the VMM cannot be served on, or what is kept."""

    number: int
    reason: str = ""
    state: str = ""
    files: Mapping[str, int] = {}

    def encode(self) -> tuple[bytes, list[int]]:
        body = {
            "number": self.number,
            "reason": self.reason,
            "state": self.state,
            "names": list(self.files),
        }
        return json.dumps(body).encode(), list(self.files.values())

    @classmethod
    def decode(cls, packet: bytes, fds: Sequence[int]) -> Answer:
        """PeerError for what is none; `fds` stay the caller's then."""
        try:
            body = json.loads(packet)
            names = [str(name) for name in body["names"]]
            files = dict(zip(names, fds, strict=True))
            if len(files) != len(names):
                raise ValueError("a name twice")
            return cls(int(body["number"]), str(body["reason"]), str(body["state"]), files)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise PeerError(f"not an answer of a keeper: {error}") from error


def send_packet(channel: socket.socket, packet: tuple[bytes, list[int]]) -> None:
    """OSError if it cannot be sent now."""
    send(channel, *packet, socket.MSG_DONTWAIT)


def receive_packet(channel: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """The next packet and its files; EOFError when the other end is gone."""
    data, fds, more = receive(channel, _PACKET_MAX, _FDS_MAX, flags)
    if not data or more:
        raise EOFError
    return data, fds


class SessionFiles:
    """The files of a session by what they are for; it owns them, and knows which are new."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}
        self._changed: set[str] = set()

    def put(self, name: str, fd: int) -> None:
        """`fd` is ours from now on, and no other of that name."""
        self.drop(name)
        self._fds[name] = fd

    def drop(self, name: str) -> None:
        """Close a file, if it is there."""
        self._changed.add(name)
        fd = self._fds.pop(name, None)
        if fd is not None:
            os.close(fd)

    def drop_all(self, prefix: str) -> None:
        """Close all whose names begin so."""
        for name in [name for name in self._fds if name.startswith(prefix)]:
            self.drop(name)

    def changes(self) -> tuple[dict[str, int], list[str]]:
        """What was put and what dropped since this was last asked."""
        changed, self._changed = self._changed, set()
        put = {name: self._fds[name] for name in changed if name in self._fds}
        return put, [name for name in changed if name not in put]

    def everything(self) -> dict[str, int]:
        """All files that are there."""
        return dict(self._fds)
