# SPDX-License-Identifier: MIT
"""A process that keeps a VM's session, so that this outlives the process that serves it.

It never looks at what it keeps. It takes each message of the VMM out of the socket and sends its answers,
when it has taken note of what became of the session by it: whoever dies, a message is dealt with once.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from gpiovirt.errors import PeerError
from gpiovirt.exports.vm.front_end import finish, is_first
from gpiovirt.exports.vm.session import SOCKET, Answer, Update, receive_packet, send_packet

__all__ = ["Keeper"]

_FILES_MAX = 100


class Keeper:
    """Keeps one session for whoever speaks at the other end of `channel`."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._channel.setblocking(True)
        self._files: dict[str, int] = {}
        self._state = ""
        self._vmm: socket.socket | None = None

    def run(self) -> None:
        """Until there is nobody at the other end."""
        with suppress(EOFError, OSError):
            while True:
                packet, fds = receive_packet(self._channel)
                try:
                    update = Update.decode(packet, fds)
                except PeerError:  # of one that was taken over; what it sent stays its own fault
                    continue
                send_packet(self._channel, self._do(update).encode())

    def _do(self, update: Update) -> Answer:
        if update.state is None:
            return Answer(update.number, "", self._state, self._files)
        self._drop([*update.dropped, *update.put])
        if len(self._files) + len(update.put) > _FILES_MAX:
            raise EOFError
        self._files.update(update.put)
        self._state = update.state
        if SOCKET in update.put:
            self._vmm = socket.socket(fileno=os.dup(update.put[SOCKET]))
        reason = ""
        if self._vmm is not None and is_first(self._vmm, update.message):
            reason = finish(self._vmm, update.message, update.answers)
        for answer in update.answers:
            for fd in answer.fds:
                os.close(fd)
        return Answer(update.number, reason)

    def _drop(self, names: list[str]) -> None:
        """A file whose owner does not let go of it holds us up, and so this session only."""
        for name in names:
            fd = self._files.pop(name, None)
            if fd is not None:
                os.close(fd)
            if name == SOCKET and self._vmm is not None:
                self._vmm.close()
                self._vmm = None
