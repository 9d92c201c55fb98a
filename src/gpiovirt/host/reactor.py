# SPDX-License-Identifier: MIT
"""One thread's loop: callbacks for files that are ready, for deadlines, and for signals that end it.

Callbacks must tolerate spurious calls. A fault in one is logged and never ends the loop: its file is
passed to its `on_fault`, or rests for a while and is then served again. Deadlines have the same barrier.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from gpiovirt.core.deadline import Cancel, Deadlines
from gpiovirt.core.task import Future

if TYPE_CHECKING:
    from gpiovirt.host.spin import Spin

__all__ = ["Callback", "Reactor", "Waits"]

Callback = Callable[[], object]

_WAIT_MAX_S = 86400.0  # poll() takes no more than 24 days
_BATCH = 32  # files of one turn; poll() allocates for as many
_RESTS_S = (0.01, 0.1, 1.0)  # of a file whose callback keeps raising


def _log(message: str, *args: object) -> None:
    import logging  # when first needed: the first call of every program waits for this module

    logging.getLogger(__name__).exception(message, *args)


class Waits(Protocol):
    """An object that calls back when a file is readable."""

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call back while `fd` is readable or hung up."""

    def remove_reader(self, fd: int) -> None:
        """Stop calling back; call this before the fd is closed."""


class _Reader:
    __slots__ = ("callback", "events", "faults", "on_fault")

    def __init__(self, callback: Callback, events: int, on_fault: Callback | None) -> None:
        self.callback = callback
        self.events = events
        self.on_fault = on_fault
        self.faults = 0


class Reactor:
    """Never wakes for nothing; with a `spin`, it may look for more before it sleeps."""

    def __init__(self, deadlines: Deadlines | None = None, spin: Spin | None = None) -> None:
        self.deadlines = deadlines or Deadlines()
        self.spin = spin
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._readers: dict[int, _Reader] = {}
        self._first: dict[int, Callable[[int], object]] = {}
        self._poll: select.poll | None = None
        self.polls = 0
        """How often all files but the first ones were polled; events are those of the last poll"""
        self._soon: list[Callback] = []
        self._running = True
        self.stopped_by = 0

    # files

    def add_reader(self, fd: int, callback: Callback, on_fault: Callback | None = None) -> None:
        """Call back while `fd` is readable or hung up; `on_fault`, if given, is called when that raises."""
        self._add(fd, _Reader(callback, select.EPOLLIN, on_fault))

    def add_edge_reader(self, fd: int, callback: Callback, on_fault: Callback) -> None:
        """Call back each time something is written to `fd`; it need not be read.

        A callback that returns true has more to do, and is called again soon. One that raises is
        logged, and then `on_fault` is called.
        """
        self._add(fd, _Reader(callback, select.EPOLLIN | select.EPOLLET, on_fault))

    def add_hangup(self, fd: int, callback: Callback) -> None:
        """Call back when the other end of `fd` is closed, and only then."""
        self._add(fd, _Reader(callback, 0, None))

    def add_first(self, fd: int, callback: Callable[[int], object]) -> None:
        """Call back before all others with poll(2)'s events: poll(2), not epoll, waits for `fd`."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._epoll, select.POLLIN)
        self._first[fd] = callback
        self._poll.register(fd, select.POLLIN)

    def remove_first(self, fd: int) -> None:
        """Stop calling back; call this before the fd is closed."""
        if self._poll is not None and self._first.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _add(self, fd: int, reader: _Reader) -> None:
        self._epoll.register(fd, reader.events)
        self._readers[fd] = reader
        self._callbacks[fd] = reader.callback

    def remove_reader(self, fd: int) -> None:
        """Stop calling back; call this before the fd is closed."""
        if self._readers.pop(fd, None) is not None and self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    # time

    def soon(self, callback: Callback) -> None:
        """Call back once, after the files that are ready have had their turn."""
        self._soon.append(callback)

    def call_later(self, delay_s: float, callback: Callback) -> Cancel:
        """Call back once, after a delay."""
        return self.deadlines.call_at(time.monotonic_ns() + int(delay_s * 1e9), callback)

    def coalesced(self, delay_s: float, callback: Callback) -> Callable[[], None]:
        """A function that has `callback` called a while later, once for all calls until then."""
        is_due = False

        def due() -> None:
            nonlocal is_due
            is_due = False
            callback()

        def call() -> None:
            nonlocal is_due
            if not is_due:
                is_due = True
                self.call_later(delay_s, due)

        return call

    # the loop

    def stop(self) -> None:
        """Have run() return."""
        self._running = False

    def stop_on(self, signals: Iterable[signal.Signals]) -> None:
        """Have run() return when one of these signals comes; `stopped_by` is then the first one."""
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

    def run_until(self, future: Future[Any], timeout_ns: int) -> None:
        """Serve until the future is done, and raise what it raises; or until the timeout or a signal."""
        self._running = not future.is_done
        future.then(self.stop)
        cancel = self.call_later(timeout_ns / 1e9, self.stop)
        self.run()
        cancel()
        self._running = not self.stopped_by
        if future.is_done:
            future.result()

    def run(self) -> None:
        """Serve until stop()."""
        poll = self._epoll.poll
        next_deadline_ns = self.deadlines.next_deadline_ns
        callbacks = self._callbacks
        looks = False
        while self._running:
            timeout_s = self._timeout_s() if self._soon or next_deadline_ns() is not None else None
            if looks:
                timeout_s = 0
            ready = (poll if self._poll is None else self._serve_first)(timeout_s, _BATCH)
            if looks and self.spin is not None:
                self.spin.looked(bool(ready))
            for fd, _ in ready:
                callback = callbacks.get(fd)
                if callback is not None:
                    try:  # as _serve, whose call alone costs a tenth of a turn
                        if callback():
                            self._call_again(fd, callback)
                    except Exception:
                        self._on_fault(fd, callback)
            if self._soon:
                soon, self._soon = self._soon, []
                for callback in soon:
                    self._call(callback)
            if self.spin is not None:
                looks = self.spin.turn(bool(ready))

    def _serve_first(self, timeout_s: float | None, most: int) -> list[tuple[int, int]]:
        """Wait, serving the first files, until there is anything else to do; returns what is ready then."""
        assert self._poll is not None
        poll, first, next_deadline_ns = self._poll.poll, self._first, self.deadlines.next_deadline_ns
        timeout_ms = None if timeout_s is None else timeout_s * 1000
        has_others = False
        while True:
            for fd, events in poll(timeout_ms):
                callback = first.get(fd)
                if callback is None:
                    has_others = True
                    continue
                try:
                    callback(events)
                except Exception:
                    _log("internal error in %r", callback)
            if has_others:
                self.polls += 1
                return self._epoll.poll(0, most)
            if timeout_ms is not None or self._soon or not self._running or next_deadline_ns() is not None:
                return []

    def serve_ready(self) -> None:
        """Serve what is ready now, except the first files: hang-ups before all else."""
        self.polls += 1
        ready = self._epoll.poll(0)
        if len(ready) > 1:
            ready.sort(key=lambda one: one[1] & select.EPOLLIN)
        for fd, _ in ready:
            callback = self._callbacks.get(fd)
            if callback is not None:
                self._serve(fd, callback)

    def _serve(self, fd: int, callback: Callback) -> None:
        """Call the callback, and again in the next turn if it says that there is more to do."""
        try:
            if callback():
                self._call_again(fd, callback)
        except Exception:
            self._on_fault(fd, callback)

    @staticmethod
    def _call(callback: Callback) -> None:
        try:
            callback()
        except Exception:
            _log("internal error in %r", callback)

    def _call_again(self, fd: int, callback: Callback) -> None:
        def again() -> None:
            if self._callbacks.get(fd) is callback:
                self._serve(fd, callback)

        self.soon(again)

    def _on_fault(self, fd: int, callback: Callback) -> None:
        """A callback has raised: the other end may be disconnected, but no other file is left unserved."""
        _log("internal error in %r", callback)
        reader = self._readers.get(fd)
        if reader is None or reader.callback is not callback:
            return
        if reader.on_fault is not None:
            self._call(reader.on_fault)
            return
        rest_s = _RESTS_S[min(reader.faults, len(_RESTS_S) - 1)]
        reader.faults += 1
        try:
            self._epoll.unregister(fd)
        except OSError as error:  # it was closed
            if error.errno not in (errno.EBADF, errno.ENOENT):
                raise
            del self._readers[fd], self._callbacks[fd]
            return
        del self._callbacks[fd]
        self.call_later(rest_s, lambda: self._resume(fd, reader))

    def _resume(self, fd: int, reader: _Reader) -> None:
        if self._readers.get(fd) is reader:
            del self._readers[fd]
            with suppress(OSError):  # closed without a word
                self._add(fd, reader)

    def _timeout_s(self) -> float | None:
        """Time until the next deadline; serves those that have passed."""
        if self._soon:
            return 0
        deadline_ns = self.deadlines.next_deadline_ns()
        if deadline_ns is None:
            return None
        now_ns = time.monotonic_ns()
        if deadline_ns > now_ns:
            return min((deadline_ns - now_ns) / 1e9, _WAIT_MAX_S)
        try:
            self.deadlines.on_deadline(now_ns)
        except Exception:
            _log("internal error at a deadline")
        return 0  # files get their turn, whatever is due by now

    def close(self) -> None:
        """Forget all files; they stay open."""
        self._readers.clear()
        self._callbacks.clear()
        self._epoll.close()
