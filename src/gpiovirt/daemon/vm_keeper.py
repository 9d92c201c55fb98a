# SPDX-License-Identifier: MIT
"""The custodian's end of a keeper, the process that keeps a VM's session: starts, watches, replaces it.

The service manager has a copy of the channel: the session survives if custodian and worker both die.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from gpiovirt.core.deadline import Cancel
from gpiovirt.errors import HostError
from gpiovirt.host.notify import keep_fds
from gpiovirt.host.reactor import Reactor

__all__ = ["KEEPER", "VmKeeper"]

_log = logging.getLogger(__name__)

_AGAIN_S = (0.1, 0.5, 2.0, 5.0)
KEEPER = "keeper"
"""The name of the channel, beside the chip's lines, with the service manager"""
_LIVED_S = 10.0  # one that lived this long is replaced at once


class VmKeeper:
    """`start` makes one and returns the channel to it; `on_another` is called when that is a new one."""

    def __init__(
        self, name: str, reactor: Reactor, start: Callable[[], socket.socket], on_another: Callable[[], None]
    ) -> None:
        self._name = name
        self._reactor = reactor
        self._start = start
        self._on_another = on_another
        self._channel: socket.socket | None = None
        self._cancel: Cancel | None = None
        self._failures = 0
        self._started_s = 0.0
        self.is_new = False
        """The worker has not been told about it"""

    def fileno(self) -> int | None:
        """The channel's fd, for workers; None while there is none."""
        return None if self._channel is None else self._channel.fileno()

    def begin(self) -> None:
        """Start one if there is none; HostError."""
        if self._channel is None:
            self.use(self._start())
            self._started_s = time.monotonic()

    def use(self, channel: socket.socket) -> None:
        """Use this one from now on: one from before us, or a new one."""
        self._forget()
        self._channel = channel
        keep_fds({f"{self._name}/{KEEPER}": channel.fileno()})
        self._reactor.add_hangup(channel.fileno(), self._on_gone)

    def _on_gone(self) -> None:
        """It has died, or the worker got no answer from it and shut the channel down."""
        self._forget()
        _log.warning("%s: the keeper of its VM is gone; another is started", self._name)
        if time.monotonic() - self._started_s > _LIVED_S:
            self._failures = 0
        self._try_again()

    def _try_again(self) -> None:
        delay_s = _AGAIN_S[min(self._failures, len(_AGAIN_S) - 1)]
        self._failures += 1
        self._cancel = self._reactor.call_later(delay_s, self._another)

    def _another(self) -> None:
        self._cancel = None
        try:
            self.begin()
        except HostError as error:
            _log.error("%s: %s", self._name, error)
            self._try_again()
            return
        self.is_new = True
        self._on_another()

    def _forget(self) -> None:
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        if self._channel is not None:
            self._reactor.remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def close(self) -> None:
        """It ends when its worker's end is closed, too."""
        if self._channel is not None:
            keep_fds({f"{self._name}/{KEEPER}": None})
        self._forget()
        self.is_new = False
