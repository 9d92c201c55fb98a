# SPDX-License-Identifier: MIT
"""Processes that a program leaves behind: told of, or killed.

They are known by the mount namespace that the program was given, and by its filter, which the usher does not
have; one that has left the namespace is not found.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress

from gpiovirt.core.text import printable
from gpiovirt.exports.process.supervisor import Supervisor

__all__ = ["watch_for_survivors"]

_GRACE_S = 1.0  # children may end by themselves, as those of a pipe do
_AGAIN_S = 0.02
_ROUNDS = 250  # what forks faster than it can be killed for so long is not killed
_NAMED_MAX = 5


def watch_for_survivors(supervisor: Supervisor, pidfd: int, namespace: int, kill: bool) -> None:
    """When the program of `pidfd` has ended, kill all in its mount namespace, or say once what lives on."""
    rounds = 0

    def on_end() -> None:
        supervisor.reactor.remove_reader(pidfd)
        os.close(pidfd)
        if kill:
            kill_all()
        else:
            supervisor.reactor.call_later(_GRACE_S, tell)

    def kill_all() -> None:
        nonlocal rounds
        rounds += 1
        left = list(_survivors(namespace))
        for pid in left:
            _kill(pid, namespace)
        if left and rounds < _ROUNDS:
            supervisor.reactor.call_later(_AGAIN_S, kill_all)

    def tell() -> None:
        left = list(_survivors(namespace))
        if not left:
            return
        named = [f"{_name(pid)} (pid {pid})" for pid in left[:_NAMED_MAX]]
        more = f" and {len(left) - _NAMED_MAX} more" if len(left) > _NAMED_MAX else ""
        sys.stderr.write(
            f"gpiovirt: the program has ended, and these live on with its chips: {', '.join(named)}{more}; "
            "--kill-children would end them\n"
        )

    supervisor.reactor.add_reader(pidfd, on_end)


def _survivors(namespace: int) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdecimal() and _is_left(name, namespace):
            yield int(name)


def _is_left(pid: int | str, namespace: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino == namespace and _filters(pid) > _filters("self")
    except OSError:  # it has ended, or is somebody else's
        return False


def _filters(pid: int | str) -> int:
    """How many seccomp filters a process has; proc_pid_status(5)."""
    with open(f"/proc/{pid}/status", "rb") as status:
        _, _, after = status.read().partition(b"\nSeccomp_filters:\t")
    return int(after.partition(b"\n")[0] or 0)


def _kill(pid: int, namespace: int) -> None:
    """Unless the number is another process's by now."""
    with suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if _is_left(pid, namespace):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def _name(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
        return printable(comm.read().strip())
    return "a process"
