# SPDX-License-Identifier: MIT
"""A child process, by its pidfd: the loop reports its end, nothing polls for it, no pid is reused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from gpiovirt.errors import HostError
from gpiovirt.host import libc
from gpiovirt.host.reactor import Reactor

__all__ = ["Child", "has_ended", "is_stopped", "process_start"]

_END_S = 3.0


def process_start(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 if there is none. proc_pid_stat(5): starttime"""
    try:
        return int(_status(pid)[19])
    except (OSError, IndexError, ValueError):
        return 0


def is_stopped(pid: int) -> bool:
    """Whether it is stopped, by SIGSTOP or the like; false if there is no such process."""
    try:
        return _status(pid)[0] == "T"
    except (OSError, IndexError):
        return False


def has_ended(pid: int) -> bool:
    """Whether there is no such process, or nothing of it but its exit status."""
    try:
        return _status(pid)[0] in "ZX"
    except (OSError, IndexError):
        return True


def _status(pid: int) -> list[str]:
    """The fields from its state on."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


class Child:
    """`python ARGUMENTS`, started now; `on_end` is called with its exit status. HostError if that fails.

    It gets SIGTERM when we end, unless it `stays`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        reactor: Reactor,
        on_end: Callable[[int], object],
        *,
        fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
        stays: bool = False,
    ) -> None:
        self._reactor = reactor
        self._on_end = on_end
        try:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                env=env,
                pass_fds=fds,
                start_new_session=True,
                preexec_fn=None if stays else libc.end_with_parent,
            )
        except (OSError, subprocess.SubprocessError) as error:
            failure = error if isinstance(error, OSError) else OSError(str(error))
            raise HostError.of(f"cannot start {' '.join(arguments[:2])}", failure) from error
        self.pid = self._process.pid
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as error:
            self._process.kill()
            self._process.wait()
            raise HostError.of(f"cannot watch {' '.join(arguments[:2])}", error) from error
        reactor.add_reader(self._pidfd, self._ended)

    def _ended(self) -> None:
        status = self._forget()
        self._on_end(status)

    def _forget(self) -> int:
        self._reactor.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        return self._process.wait()

    @property
    def runs(self) -> bool:
        """Whether it has not ended, as far as we know."""
        return self._pidfd >= 0

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal."""
        if self.runs:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def end(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough: it has ended when this returns, unless it cannot."""
        if not self.runs:
            return
        self.kill(signal.SIGTERM)
        for _ in range(2):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
                self._forget()
                return
            self.kill()
        self._reactor.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
