# SPDX-License-Identifier: MIT
"""The supervisor: the one loop that serves the sessions of programs, and the chips beside them.

One thread. poll(2) and not epoll waits for the listeners, since only poll passes on the kernel's
hint to wake us on the caller's CPU; everything slower waits in the epoll beneath it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from gpiovirt.core.deadline import Deadlines
from gpiovirt.exports.process.openable import Openable
from gpiovirt.exports.process.session import FileId, Session, Trap
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.seccomp import Listener, Notification

__all__ = ["Supervisor"]


class Supervisor:
    """Serves sessions on `reactor`, where chips may have files of their own watched.

    `on_refusal`, if it is set before a session is added, is told why calls of its programs fail.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self.reactor = Reactor(deadlines)
        self.on_refusal: Callable[[str], object] | None = None
        self.at_end: list[Callable[[], object]] = []
        """Called when no session is left"""
        self._sessions: set[Session] = set()

    def add(
        self,
        listener: Listener,
        nodes: Mapping[FileId, tuple[Openable, str]],
        on_unseen: Callable[[Notification], object] | None = None,
        traps: Mapping[tuple[int, int], Trap] = MappingProxyType({}),
    ) -> Session:
        """Serve the programs behind `listener`, until none of them is left; the rest is the session's."""
        session = Session(
            listener, nodes, self.reactor, self._on_end, self.on_refusal, on_unseen=on_unseen, traps=traps
        )
        self._sessions.add(session)
        return session

    def _on_end(self, session: Session) -> None:
        self._sessions.discard(session)
        if not self._sessions:
            self.reactor.stop()

    def run(self) -> None:
        """Serve until no session is left."""
        if self._sessions:
            self.reactor.run()
        for callback in self.at_end:
            callback()
