# SPDX-License-Identifier: MIT
"""One ring of a connection: how it notifies and is notified, and the queue while it runs."""

from __future__ import annotations

from gpiovirt.host.notifier import Notifier
from gpiovirt.host.reactor import Reactor
from gpiovirt.protocols.virtqueue import Ring, Virtqueue

__all__ = ["Vring"]


class Vring:
    """It uses files, and owns none; `waiting` is a start, (ring, last available index), after another's."""

    __slots__ = ("_reactor", "call", "err", "kick", "queue", "waiting")

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self.kick: int | None = None
        self.call: Notifier | None = None
        self.err: Notifier | None = None
        self.queue: Virtqueue | None = None
        self.waiting: tuple[Ring, int] | None = None

    def set_kick(self, fd: int | None) -> None:
        if self.kick is not None:
            self._reactor.remove_reader(self.kick)
        self.kick = fd

    def set_call(self, call: Notifier | None) -> None:
        if self.call is not None:
            self.call.close()
        self.call = call

    def set_err(self, err: Notifier | None) -> None:
        if self.err is not None:
            self.err.close()
        self.err = err

    def close(self) -> None:
        """Before its files are closed."""
        self.queue = None
        self.set_kick(None)
        self.set_call(None)
        self.set_err(None)
