# SPDX-License-Identifier: MIT
"""One thread's loop: callbacks for files that are ready, for deadlines, and for signals that end it.

Callbacks must bear being called for nothing. One that raises is logged and not called again.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from typing import Protocol

__all__ = ["Clocked", "Reactor", "Waits"]

_log = logging.getLogger(__name__)

Callback = Callable[[], object]

_BATCH = 32  # files of one turn; poll() allocates for as many


class Clocked(Protocol):
    """Something that wants to be told when time has passed."""

    def next_deadline_ns(self) -> int | None:
        """When, on CLOCK_MONOTONIC; None: not at all."""

    def on_deadline(self, now_ns: int) -> None:
        """It has."""


class Waits(Protocol):
    """What calls back when a file is readable."""

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call back while `fd` is readable or hung up."""

    def remove_reader(self, fd: int) -> None:
        """Call back no more; to be called before the fd is closed."""


class Reactor:
    """Never wakes for nothing; with `poll_us`, it looks for so long for more after each event."""

    def __init__(self, clocked: Clocked, poll_us: int = 0) -> None:
        self._clocked = clocked
        self.poll_us = poll_us
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._on_fault: dict[int, Callback] = {}
        self._soon: list[Callback] = []
        self._running = True
        self.stopped_by = 0

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call back while `fd` is readable or hung up."""
        self._add(fd, callback, select.EPOLLIN)

    def add_edge_reader(self, fd: int, callback: Callback, on_fault: Callback) -> None:
        """Call back each time that something is written to `fd`; it need not be read.

        A callback that returns true has more to do, and is called again soon. One that raises is
        logged, and then `on_fault` is called.
        """
        self._on_fault[fd] = on_fault
        self._add(fd, callback, select.EPOLLIN | select.EPOLLET)

    def add_hangup(self, fd: int, callback: Callback) -> None:
        """Call back when the other end of `fd` is closed, and only then."""
        self._add(fd, callback, 0)

    def _add(self, fd: int, callback: Callback, events: int) -> None:
        self._epoll.register(fd, events)
        self._readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        """Call back no more; to be called before the fd is closed."""
        self._on_fault.pop(fd, None)
        if self._readers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def soon(self, callback: Callback) -> None:
        """Call back once, when those have had their turn that are ready."""
        self._soon.append(callback)

    def stop(self) -> None:
        """Have run() return."""
        self._running = False

    def stop_on(self, signals: Iterable[signal.Signals]) -> None:
        """Have run() return when one of these signals comes; `stopped_by` is the first one then."""
        woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakes)
        for number in signals:
            signal.signal(number, self._on_signal)

        def drain() -> None:
            os.read(woken, 64)

        self.add_reader(woken, drain)

    def _on_signal(self, number: int, _frame: object) -> None:
        self.stopped_by = self.stopped_by or number
        self.stop()

    def run(self) -> None:
        """Serve until stop()."""
        poll = self._epoll.poll
        next_deadline_ns = self._clocked.next_deadline_ns
        readers = self._readers
        spin_until_ns = 0
        while self._running:
            timeout_s = self._timeout_s() if self._soon or next_deadline_ns() is not None else None
            if self.poll_us and timeout_s != 0 and time.monotonic_ns() < spin_until_ns:
                timeout_s = 0
            ready = poll(timeout_s, _BATCH)
            for fd, _ in ready:
                callback = readers.get(fd)
                if callback is not None:
                    try:
                        if callback():
                            self._call_again(fd, callback)
                    except Exception:
                        self._drop(fd, callback)
            if self._soon:
                soon, self._soon = self._soon, []
                for callback in soon:
                    try:
                        callback()
                    except Exception:
                        _log.exception("a fault of ours in %r", callback)
            if self.poll_us and ready:
                spin_until_ns = time.monotonic_ns() + self.poll_us * 1000

    def _call_again(self, fd: int, callback: Callback) -> None:
        def again() -> None:
            if self._readers.get(fd) is callback:
                try:
                    if callback():
                        self.soon(again)
                except Exception:
                    self._drop(fd, callback)

        self.soon(again)

    def _drop(self, fd: int, callback: Callback) -> None:
        _log.exception("a fault of ours in %r; fd %d is served no more", callback, fd)
        on_fault = self._on_fault.get(fd)
        if on_fault is not None:
            on_fault()
            return
        try:
            self.remove_reader(fd)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.ENOENT):
                raise

    def _timeout_s(self) -> float | None:
        """Until the next deadline; those that have passed are served."""
        if self._soon:
            return 0
        while (deadline_ns := self._clocked.next_deadline_ns()) is not None:
            now_ns = time.monotonic_ns()
            if deadline_ns > now_ns:
                return (deadline_ns - now_ns) / 1e9
            self._clocked.on_deadline(now_ns)
        return 0 if self._soon or not self._running else None

    def close(self) -> None:
        """Forget all files; they stay open."""
        self._readers.clear()
        self._epoll.close()
