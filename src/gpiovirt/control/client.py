# SPDX-License-Identifier: MIT
"""Client for gpiovirtd's control socket.

SOCK_SEQPACKET at DIRECTORY/control, a JSON object a packet. A request is {"do": NAME, ...}; its answer is
{"ok": ...} or {"error": TEXT, "errno": NUMBER}, with "line": OFFSET beside it if it is about one line of a
chip. After "watch" events come, an object each.

    new       definition, name, options (texts by line), vm, poll_us, uid, gid, mode, driver,
              permanent, origin (the file that describes it),
              lifetime ("connection", or "process" with its pid and when it started),
              wait (be there, too, if lines are not yet)                               -> the chip
    delete    name, force
    change    name, what of `new` is to be otherwise, force                          -> the chip
    change-all  changes (objects, as of change), force: all or none                  -> the chips
    set       name, options (of some lines), replace (drop what they have), force    -> the chip
    own       name, uid, gid, mode (-1: as it is)                                    -> the chip
    list      after (a name)                                                         -> chips by name; more
    look      name                                                                   -> the chip
    describe  name                                                  -> the chip and its options
    show      name                                                                   -> the chip and its lines
    save      name, permanent, origin                                                -> the chip
    sources                                                                          -> chips to take lines of
    state                                                                            -> of the daemon
    watch     name (all, without)

No files are taken beside a request. Whoever asks on behalf of another adds "as": {"uid", "gids"}; only root,
the daemon's own user and the process of the HTTP API that the daemon started may.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpiovirt.control import runtime_directories
from gpiovirt.errors import GpiovirtError, HostError, UsageError
from gpiovirt.host.packets import PACKET_MAX, decode, encode
from gpiovirt.host.unix_socket import limit_waits

__all__ = ["Client", "RefusedError", "control_socket", "result_of", "unreachable"]

_ANSWER_S = 30  # deletions and new chips take up to a few


class RefusedError(UsageError):
    """The daemon says no; `errno` is what it says."""

    def __init__(self, message: str, number: int, line: int | None = None) -> None:
        super().__init__(message)
        self.errno = number
        self.line = line


def control_socket() -> str:
    """Path of the control socket of a daemon that runs; HostError if there is none."""
    for directory in runtime_directories():
        path = f"{directory}/control"
        if os.path.exists(path):
            return path
    raise HostError("gpiovirtd does not run here; start it with: gpiovirtd (or systemctl start gpiovirtd)")


def unreachable(path: str, error: OSError) -> HostError:
    """Why nobody can be asked at `path`."""
    if error.errno == errno.ECONNREFUSED:
        return HostError(f"gpiovirtd has ended (nobody listens at {path}); start it again")
    return HostError.of(f"cannot reach gpiovirtd at {path}", error)


def _too_late() -> HostError:
    error = HostError(f"gpiovirtd does not answer within {_ANSWER_S} s; is it stopped?")
    error.errno = errno.ETIMEDOUT
    return error


def result_of(answer: Mapping[str, Any]) -> Any:
    """What an answer says; RefusedError if that is no."""
    if "error" in answer:
        raise RefusedError(str(answer["error"]), int(answer.get("errno", errno.EIO)), answer.get("line"))
    return answer["ok"]


class Client:
    """A connection to a daemon. HostError if it cannot be had, RefusedError for what it refuses."""

    def __init__(self, path: str | None = None, acting_for: tuple[int, Sequence[int]] | None = None) -> None:
        """`acting_for` is the (uid, gids) of who asks through us."""
        path = path or control_socket()
        self._as = None if acting_for is None else {"uid": acting_for[0], "gids": list(acting_for[1])}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._patience(_ANSWER_S)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise unreachable(path, error) from error

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def fileno(self) -> int:
        """Readable when there is an event, or the daemon has ended."""
        return self._socket.fileno()

    def _patience(self, seconds: int) -> None:
        limit_waits(self._socket, seconds, socket.SO_RCVTIMEO, socket.SO_SNDTIMEO)

    def call(self, do: str, **arguments: Any) -> Any:
        """Ask for something; the answer. HostError if that takes too long."""
        request = {"do": do, **arguments}
        if self._as is not None:
            request["as"] = self._as
        try:
            self._socket.send(encode(request), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            raise _too_late() from None
        except ConnectionError:
            pass  # it has said why before it hung up
        except OSError as error:
            raise HostError.of("cannot send to gpiovirtd", error) from error
        return result_of(self._receive())

    def _receive(self) -> dict[str, Any]:
        try:
            try:
                packet = self._socket.recv(PACKET_MAX)
            except ConnectionResetError:  # what it said comes after that
                packet = self._socket.recv(PACKET_MAX)
        except BlockingIOError:
            raise _too_late() from None
        except OSError as error:
            raise HostError.of("gpiovirtd does not answer", error) from error
        if not packet:
            raise HostError("gpiovirtd has ended")
        return decode(packet)

    def chips(self) -> list[dict[str, Any]]:
        """All chips that we may see, by name."""
        chips: list[dict[str, Any]] = []
        while True:
            answer = self.call("list", after=chips[-1]["name"] if chips else "")
            chips += answer["chips"]
            if not answer["more"]:
                return chips

    def watch(self, name: str | None = None) -> Iterator[dict[str, Any]]:
        """Every event from now on, until the daemon ends."""
        self.call("watch", name=name)
        self._patience(0)
        return self._events()

    def _events(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                yield self._receive()
            except GpiovirtError:
                return
