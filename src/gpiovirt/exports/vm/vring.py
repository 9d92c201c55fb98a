# SPDX-License-Identifier: MIT
"""One ring of a connection: the files the VMM gave for it, and the queue while it runs."""

from __future__ import annotations

import os

from gpiovirt.host.notifier import Notifier
from gpiovirt.host.reactor import Reactor
from gpiovirt.protocols.virtqueue import Ring, Virtqueue

__all__ = ["Vring"]


class Vring:
    """It owns its files; `waiting` is a start, (ring, last available index), that waits for another ring."""

    __slots__ = ("_fds", "_reactor", "call", "err", "kick", "queue", "waiting")

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._fds: dict[Notifier, int] = {}
        self.kick: int | None = None
        self.call: Notifier | None = None
        self.err: Notifier | None = None
        self.queue: Virtqueue | None = None
        self.waiting: tuple[Ring, int] | None = None

    def set_kick(self, fd: int | None) -> None:
        if self.kick is not None:
            self._reactor.remove_reader(self.kick)
            os.close(self.kick)
        self.kick = fd

    def set_call(self, fd: int | None) -> None:
        self.call = self._another(self.call, fd)

    def set_err(self, fd: int | None) -> None:
        self.err = self._another(self.err, fd)

    def _another(self, former: Notifier | None, fd: int | None) -> Notifier | None:
        notifier = None
        if fd is not None:
            try:
                notifier = Notifier(fd)
            except BaseException:
                os.close(fd)
                raise
            self._fds[notifier] = fd
        if former is not None:
            former.close()
            os.close(self._fds.pop(former))
        return notifier

    def close(self) -> None:
        self.queue = None
        self.set_kick(None)
        self.set_call(None)
        self.set_err(None)
