# SPDX-License-Identifier: MIT
"""A process beside the custodian, started with it, started anew when it dies, ended with it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from gpiovirt.daemon.timers import Timers
from gpiovirt.host import libc
from gpiovirt.host.reactor import Reactor

__all__ = ["Companion"]

_log = logging.getLogger(__name__)

_DELAYS_S = (0.1, 0.5, 2.0, 10.0)
_LIVED_S = 10
_CANNOT = 3  # its exit status when there is no use in trying again


class Companion:
    """`python -m MODULE ARGUMENTS`; its name is for messages.

    `serves` tells whether it does by now; `clean` takes away what it leaves when it is killed.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        serves: Callable[[], bool],
        clean: Callable[[], None],
    ) -> None:
        self.name = name
        self._serves = serves
        self._clean = clean
        self._command = [sys.executable, "-m", module, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._failures = 0
        self._ended = False

    def begin(self, reactor: Reactor, timers: Timers) -> None:
        """Start it, and keep it there."""
        self._reactor = reactor
        self._timers = timers
        self._start()

    def _start(self) -> None:
        if self._ended:
            return
        self._started_s = time.monotonic()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_parent
        )
        self._pidfd = os.pidfd_open(self._process.pid)
        self._reactor.add_reader(self._pidfd, self._on_end)

    @property
    def is_settled(self) -> bool:
        """It serves, or cannot."""
        return self._ended or self._serves()

    def _on_end(self) -> None:
        if self._forget() == _CANNOT:
            self._ended = True  # it has said why
            return
        lived_s = time.monotonic() - self._started_s
        self._failures = 0 if lived_s > _LIVED_S else self._failures + 1
        _log.warning("%s has ended; it is started again", self.name)
        self._timers.call_later(_DELAYS_S[min(self._failures, len(_DELAYS_S) - 1)], self._start)

    def _forget(self) -> int:
        self._reactor.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        assert self._process is not None
        return self._process.wait()

    def end(self) -> None:
        """End it, and wait till it has."""
        self._ended = True
        if self._pidfd >= 0:
            assert self._process is not None
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(3)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._forget()
        self._clean()


def _end_with_parent() -> None:
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGTERM)
