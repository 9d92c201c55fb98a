# SPDX-License-Identifier: MIT
"""The custodian's end of the recorder, the process that writes down what happens to chips: `gpiovirt log`.

Nothing here waits for it. What it cannot be told now it is told later; one that is stopped is replaced; what
it has not read by then is still in the chips' rings.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from gpiovirt.core.record import What
from gpiovirt.daemon.chip import KeptChip
from gpiovirt.errors import HostError
from gpiovirt.host.child import Child, is_stopped
from gpiovirt.host.packets import Channel
from gpiovirt.host.reactor import Reactor
from gpiovirt.virtual.ring import readable_copy

__all__ = ["Recorder", "Settings"]

_log = logging.getLogger(__name__)

_AGAIN_S = 0.1  # it is behind: it is told then
_PATIENCE_S = 10.0  # that it may be behind
_DELAYS_S = (0.1, 0.5, 2.0, 10.0, 60.0)
_LIVED_S = 10.0
_NOTES_MAX = 1000
_CANNOT = 3


class Settings(NamedTuple):
    """Where the record is kept, by whom, and how much of it."""

    directory: str
    uid: int
    gid: int
    megabytes: int
    days: int


class Recorder:
    """Tells the recorder of chips and of what is done to them; `chips` are all that there are."""

    def __init__(self, settings: Settings, reactor: Reactor) -> None:
        self.chips: Callable[[], Iterable[KeptChip]] = tuple
        self._settings = settings
        self._reactor = reactor
        self._child: Child | None = None
        self._channel: Channel | None = None
        self._known: set[str] = set()
        """Chips that the process knows, or is about to be told of"""
        self._due: dict[str, KeptChip | None] = {}
        """Chips that it is to be told of, None of those that it is to forget"""
        self._notes: deque[dict[str, Any]] = deque(maxlen=_NOTES_MAX)
        self._notes_lost = 0
        self._is_waiting = False
        self._behind_since_s = 0.0
        self._failures = 0
        self._started_s = 0.0
        self._has_ended = False

    def begin(self) -> None:
        """Start it; a failure is logged, and it is tried again."""
        try:
            _make_directory(self._settings)
            self._start()
        except HostError as error:
            _log.error("what happens to chips is not recorded: %s", error)
            self._start_later()

    def _start(self) -> None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise HostError.of("cannot start the recorder", error) from error
        settings = self._settings
        self._started_s = time.monotonic()
        with theirs:
            try:
                self._child = Child(
                    ["-m", "gpiovirt.recorder.main", str(theirs.fileno()), *map(str, settings)],
                    self._reactor,
                    self._on_end,
                    fds=[theirs.fileno()],
                )
            except HostError:
                ours.close()
                raise
        self._channel = Channel(ours)
        self._known.clear()
        self._due = {chip.name: chip for chip in self.chips() if chip.ring()}
        self._tell()

    def _on_end(self, status: int) -> None:
        self._forget_child()
        if status == _CANNOT:  # it has said why
            self._has_ended = True
            return
        if not self._has_ended:
            _log.warning("the recorder has ended; it is started again")
            self._start_later()

    def _start_later(self) -> None:
        self._failures = 0 if time.monotonic() - self._started_s > _LIVED_S else self._failures + 1
        delay_s = _DELAYS_S[min(self._failures, len(_DELAYS_S)) - 1 if self._failures else 0]
        self._reactor.call_later(delay_s, lambda: None if self._has_ended or self._child else self.begin())

    def _forget_child(self) -> None:
        self._child = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def end(self) -> None:
        """End it, when it has read what there is."""
        self._has_ended = True
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._child is not None:
            if is_stopped(self._child.pid):
                self._child.kill()
            self._child.end()
            self._child = None

    @property
    def pid(self) -> int:
        """0 while there is none."""
        return self._child.pid if self._child else 0

    # what it is told

    def tell(self, chip: KeptChip) -> None:
        """The chip is served, or is another."""
        if chip.ring():
            self._due[chip.name] = chip
            self._tell()

    def forget(self, chip: KeptChip) -> None:
        """There is no such chip any more."""
        self._due.pop(chip.name, None)
        if chip.name in self._known:
            self._due[chip.name] = None
            self._tell()

    def note(
        self, what: What, chip: str, uid: int = -1, pid: int = 0, text: str = "", value: int = 0
    ) -> None:
        """Somebody has made, changed or deleted a chip, or forced a line."""
        if len(self._notes) == _NOTES_MAX:
            self._notes_lost += 1
        self._notes.append(
            {
                "do": "note",
                "what": int(what),
                "chip": chip,
                "uid": uid,
                "pid": pid,
                "text": text,
                "value": value,
                "time_ns": time.time_ns(),
            }
        )
        self._tell()

    def _tell(self) -> None:
        if self._channel is None or self._is_waiting:
            return
        try:
            if self._notes_lost:
                self._channel.send({"do": "lost", "count": self._notes_lost})
                self._notes_lost = 0
            while self._notes:
                self._channel.send(self._notes[0])
                self._notes.popleft()
            while self._due:
                name, chip = next(iter(self._due.items()))
                self._tell_of(name, chip)
                del self._due[name]
            self._behind_since_s = 0.0
        except BlockingIOError:
            self._wait()
        except OSError:  # it has ended, and will be started again
            return

    def _tell_of(self, name: str, chip: KeptChip | None) -> None:
        assert self._channel is not None
        if chip is None:
            self._channel.send({"do": "drop", "name": name})
            self._known.discard(name)
            return
        ring = chip.ring()
        if ring is None:
            return
        body = {"do": "chip", "name": name, "lines": chip.names()}
        try:
            copy = readable_copy(ring[0])
        except HostError as error:
            _log.error("%s: %s", name, error, extra=chip.about)
            return
        try:
            self._channel.send(body, [copy, ring[1]])
        finally:
            os.close(copy)
        self._known.add(name)

    def _wait(self) -> None:
        """It is behind, or stopped."""
        now_s = time.monotonic()
        self._behind_since_s = self._behind_since_s or now_s
        late = now_s - self._behind_since_s > _PATIENCE_S
        if self._child is not None and (late or is_stopped(self._child.pid)):
            _log.error("the recorder does not listen, and is replaced")
            self._behind_since_s = 0.0
            self._child.kill()
            return
        self._is_waiting = True
        self._reactor.call_later(_AGAIN_S, self._go_on)

    def _go_on(self) -> None:
        self._is_waiting = False
        self._tell()


def _make_directory(settings: Settings) -> None:
    """The recorder's own, in ours; a link in its place is not followed."""
    try:
        os.makedirs(settings.directory, 0o700, exist_ok=True)
        fd = os.open(settings.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError.of(f"cannot use {settings.directory}", error) from error
    try:
        if os.geteuid() == 0:
            os.fchown(fd, settings.uid, settings.gid)
        os.fchmod(fd, 0o700)
    except OSError as error:
        raise HostError.of(f"cannot give {settings.directory} to the recorder", error) from error
    finally:
        os.close(fd)
