# SPDX-License-Identifier: MIT
"""The way to a session's keeper, if there is one. No wait here is longer than a second."""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from gpiovirt.errors import PeerError
from gpiovirt.exports.vm.front_end import finish, is_first
from gpiovirt.exports.vm.session import Answer, Update, receive_packet, send_packet
from gpiovirt.host.received import kind_of
from gpiovirt.protocols.vhost_user import Outgoing

__all__ = ["Keeping"]

_log = logging.getLogger(__name__)

_ANSWER_S = 1.0


class Keeping:
    """Has messages finished by the keeper at the other end of `channel`, or without one by itself.

    A keeper that is gone, or does not answer, is given up: the channel is shut down, for all who have it.
    """

    def __init__(self, channel: socket.socket | None = None) -> None:
        self._channel = channel
        # answers to one who was here before us are still under way
        self._state = ""
        self._number = int.from_bytes(os.urandom(6), "little")

    def use(self, channel: socket.socket) -> None:
        """Another keeper, which knows nothing yet."""
        self.close()
        self._channel = channel

    def close(self) -> None:
        """Speak to it no more; what it keeps stays."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def load(self) -> tuple[str, dict[str, int]]:
        """What it keeps: a state, and files by name, now the caller's. ("", {}) for nothing."""
        answer = self._ask(Update(0))
        if answer is None:
            return "", {}
        self._state = answer.state
        return answer.state, dict(answer.files)

    def note(self, put: Mapping[str, int], dropped: Sequence[str] = (), state: str | None = None) -> None:
        """What has become of the session by itself; without `state`, that is as it was."""
        if state is not None:
            self._state = state
        if self._channel is not None:
            self._ask(Update(0, self._state, put, dropped))

    def finish(
        self,
        sock: socket.socket,
        state: str,
        changes: tuple[Mapping[str, int], Sequence[str]],
        message: bytes,
        answers: Sequence[Outgoing],
    ) -> str:
        """What has become of it by a message; returns why the VMM cannot be served on, or nothing."""
        self._state = state
        if self._channel is None:
            return finish(sock, message, answers)
        answer = self._ask(Update(0, state, *changes, message, answers))
        if answer is not None:
            return answer.reason
        # it took the message out before it answered, and these are its last two things to do
        return finish(sock, message, answers) if is_first(sock, message) else ""

    def _ask(self, update: Update) -> Answer | None:
        """None if there is nobody who answers."""
        if self._channel is None:
            return None
        self._number += 1
        try:
            send_packet(self._channel, update._replace(number=self._number).encode())
            return self._await(self._channel)
        except (OSError, EOFError, PeerError) as error:
            _log.warning("a VM's session is not kept for now: %s", error or "its keeper has ended")
            with suppress(OSError):
                self._channel.shutdown(socket.SHUT_RDWR)
            self.close()
            return None

    def _await(self, channel: socket.socket) -> Answer:
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        deadline = time.monotonic() + _ANSWER_S
        while poll.poll(max(deadline - time.monotonic(), 0) * 1000):
            answer = Answer.decode(*receive_packet(channel, socket.MSG_DONTWAIT))
            if answer.number == self._number:
                return answer
            for fd in answer.files.values():
                if kind_of(fd) is not None:
                    os.close(fd)
        raise PeerError(f"its keeper has not answered for {_ANSWER_S:g} s")
