# SPDX-License-Identifier: MIT
"""Client for gpiovirtd's control socket, DIRECTORY/control; gpiovirt.protocols.control has what is said."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from gpiovirt.control import control_socket
from gpiovirt.errors import GpiovirtError, HostError
from gpiovirt.host.packets import PACKET_MAX, decode, encode
from gpiovirt.host.unix_socket import limit_waits
from gpiovirt.protocols.control.answers import ChipDetails, ChipState, Event, decode_event, result_of
from gpiovirt.protocols.control.requests import List, Request, Show, Watch, encode_request

__all__ = ["ANSWER_S", "Client", "not_running", "unreachable"]

ANSWER_S = 30  # a new chip takes up to 25, while the process that forks workers is still starting
_T = TypeVar("_T")


def not_running() -> HostError:
    """Why there is nobody to be asked."""
    return HostError("gpiovirtd does not run here; start it with: gpiovirtd (or systemctl start gpiovirtd)")


def unreachable(path: str, error: OSError) -> HostError:
    """Why nobody can be asked at `path`."""
    if error.errno == errno.ECONNREFUSED:
        return HostError(f"gpiovirtd has ended (nobody listens at {path}); start it again")
    return HostError.of(f"cannot reach gpiovirtd at {path}", error)


def _too_late() -> HostError:
    error = HostError(f"gpiovirtd does not answer within {ANSWER_S} s; is it stopped?")
    error.errno = errno.ETIMEDOUT
    return error


class Client:
    """A connection to a daemon. HostError if it cannot be had, RefusedError for what it refuses."""

    def __init__(self, path: str | None = None, acting_for: tuple[int, Iterable[int]] | None = None) -> None:
        """`acting_for` is the (uid, gids) of who asks through us."""
        path = path or control_socket()
        if path is None:
            raise not_running()
        self._acting_for = acting_for
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._patience(ANSWER_S)
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

    def ask(self, request: Request[_T]) -> _T:
        """Ask for something; the answer. HostError if that takes too long."""
        try:
            self._socket.send(encode(encode_request(request, self._acting_for)), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            raise _too_late() from None
        except ConnectionError:
            pass  # it has said why before it hung up
        except OSError as error:
            raise HostError.of("cannot send to gpiovirtd", error) from error
        return request.answer(result_of(self._receive()))

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

    def chips(self) -> list[ChipState]:
        """All chips that we may see, by name."""
        chips: list[ChipState] = []
        while True:
            page = self.ask(List(chips[-1].name if chips else ""))
            chips += page.chips
            if not page.more:
                return chips

    def show(self, name: str) -> ChipDetails:
        """A chip, its lines, and who has it open."""
        asked = Show(name)
        told = self.ask(asked)
        while (then := asked.next(told)) is not None:
            asked, told = then, told.and_then(self.ask(then))
        return told

    def watch(self, name: str | None = None) -> Iterator[Event]:
        """Every event from now on, until the daemon ends."""
        self.ask(Watch(name))
        self._patience(0)
        return self._events()

    def _events(self) -> Iterator[Event]:
        while True:
            try:
                yield decode_event(self._receive())
            except GpiovirtError:
                return
