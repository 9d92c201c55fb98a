# SPDX-License-Identifier: MIT
"""The user's running simulators: their lines, what changes, and hands on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gpiovirt.boards import Board, load, names
from gpiovirt.control import pid_of_socket
from gpiovirt.control.simulator import SimClient, SimWatcher, running
from gpiovirt.core.text import printable
from gpiovirt.errors import GpiovirtError, UsageError
from gpiovirt.waveform.thin import Piece, thin
from gpiovirt.web.clock import of_monotonic, us_of
from gpiovirt.web.live import Hub
from gpiovirt.web.traces import Traces

__all__ = ["Simulators"]

_KEPT_MAX = 16
_COMMAND_MAX = 200
_DOING: dict[str, Callable[[SimClient, str, int], None]] = {
    "pull": lambda client, line, level: client.pull(line, level),
    "stick": lambda client, line, level: client.stick(line, level),
    "unstick": lambda client, line, _level: client.unstick(line),
}


class Simulators:
    """Those that run, and some that have run; every method may be called by any thread, and may wait."""

    def __init__(self, hub: Hub, only: str | None = None) -> None:
        """`only` is the name of the one socket to look at."""
        self._hub = hub
        self._only = only
        self._watched: dict[str, _Watched] = {}
        self._lock = threading.Lock()

    def chips(self) -> list[dict[str, Any]]:
        """All of their chips, for a page; looks for new ones."""
        with self._lock:
            for name in [self._only] if self._only else running():
                if name not in self._watched and len(self._watched) < 4 * _KEPT_MAX:
                    with suppress(GpiovirtError):
                        self._watched[name] = _Watched(name, self._hub)
            ended = [name for name, watched in self._watched.items() if watched.has_ended]
            for name in ended[:-_KEPT_MAX]:
                del self._watched[name]
            watched = list(self._watched.values())
        return [chip for each in watched for chip in each.chips()]

    @property
    def are_there(self) -> bool:
        """One was found at least."""
        return bool(self._watched)

    @property
    def are_over(self) -> bool:
        """There was one at least, and none runs any more."""
        return bool(self._watched) and all(each.has_ended for each in self._watched.values())

    def _find(self, key: str) -> tuple[_Watched, str]:
        for watched in list(self._watched.values()):
            if key.startswith(watched.key):
                return watched, key.removeprefix(watched.key)
        raise UsageError("that simulator is not there any more")

    def pieces(self, key: str, since_ns: int, until_ns: int, columns: int) -> dict[int, list[Piece]]:
        """What a picture of a chip's lines shows."""
        watched, chip = self._find(key)
        return watched.pieces(chip, since_ns, until_ns, columns)

    def do(self, key: str, offset: int, what: str, level: int) -> None:
        """Pull a line, have it stuck, or stuck no more; GpiovirtError."""
        watched, chip = self._find(key)
        if what not in _DOING:
            raise UsageError(f"a line can be: {', '.join(_DOING)}")
        with SimClient(watched.name) as client:
            _DOING[what](client, f"{chip}:{offset}", level)


class _Watched:
    """A simulator; a thread reads what changes in it."""

    def __init__(self, name: str, hub: Hub) -> None:
        self.name = name
        self.pid = pid_of_socket(name)
        self.key = f"sim:{name.rpartition('/')[2]}:"
        self.has_ended = False
        self._hub = hub
        self._traces = Traces()
        self._lock = threading.Lock()
        self._watcher = SimWatcher(name)
        self._command = _command_of(self.pid)
        self._lines: list[dict[str, Any]] = self._look()
        now_ns = time.time_ns()
        for line in self._lines:
            self._traces.begin(line["chip"], line["offset"], now_ns, line["level"])
        self._board = _board_of({line["chip"] for line in self._lines})
        threading.Thread(target=self._read, name=f"gpiovirt-sim-{self.pid}", daemon=True).start()

    def _look(self) -> list[dict[str, Any]]:
        with SimClient(self.name) as client:
            return client.lines()

    def _read(self) -> None:
        try:
            while True:
                change = self._watcher.read()
                if isinstance(change, int):
                    with self._lock:
                        self._traces.lose(time.time_ns())
                    self._hub.tell("lost", {"chip": self.key, "count": change})
                elif change is not None:
                    time_ns = of_monotonic(change.timestamp_ns)
                    with self._lock:
                        self._traces.add(change.chip, change.offset, time_ns, change.level)
                    key = self.key + change.chip
                    self._hub.note([(key, key, change.offset, us_of(time_ns), change.level)])
        except (GpiovirtError, OSError, TypeError):
            self.has_ended = True
            self._watcher.close()

    def chips(self) -> list[dict[str, Any]]:
        """For a page."""
        if not self.has_ended:
            with suppress(GpiovirtError):
                self._lines = self._look()
        by_chip: dict[str, list[dict[str, Any]]] = {}
        for line in self._lines:
            by_chip.setdefault(line["chip"], []).append(self._shown(line))
        return [self._chip(chip, lines) for chip, lines in by_chip.items()]

    def _chip(self, chip: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "key": self.key + chip,
            "kind": "simulated",
            "name": printable(chip),
            "state": "ended" if self.has_ended else "live",
            "trouble": "",
            "about": f"{self._command} (pid {self.pid})" if self._command else f"pid {self.pid}",
            "lines": lines,
            "rules": [],
            "headers": [] if self._board is None else _headers(self._board, chip, self.key),
        }

    def _shown(self, line: dict[str, Any]) -> dict[str, Any]:
        return {
            "offset": line["offset"],
            "name": printable(line["name"]),
            "direction": line["direction"],
            "level": line["level"],
            "consumer": printable(line["consumer"]),
            "holder": "",
            "used": bool(line["consumer"]),
            "can": [] if self.has_ended else ["pull", "stick"],
            "stuck": line.get("stuck"),
            "options": "",
            "forced": "",
            "there": not line.get("unplugged", False),
        }

    def pieces(self, chip: str, since_ns: int, until_ns: int, columns: int) -> dict[int, list[Piece]]:
        """Of one of its chips."""
        with self._lock:
            return {
                offset: [
                    Piece(since_ns, since_ns, trace.level_at(since_ns)),
                    *thin(trace, since_ns, until_ns, columns),
                ]
                for offset, trace in self._traces.of_chip(chip).items()
            }


def _command_of(pid: int) -> str:
    """What a process runs, as far as that is to be seen; who has it was asked by its socket."""
    with suppress(OSError), open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
        return printable(file.read(_COMMAND_MAX).replace("\0", " ").strip())
    return ""


def _board_of(labels: set[str]) -> Board | None:
    """The board with a header whose chips they are, if there is one; the one with most of them."""
    found: list[Board] = []
    for name in names():
        board = load(name)
        if board.headers and {chip.label for chip in board.chips} <= labels:
            found.append(board)
    return max(found, key=lambda board: len(board.chips), default=None)


def _headers(board: Board, chip: str, key: str) -> list[dict[str, Any]]:
    """Those that have a line of this chip, the first such chip of the board's showing them."""
    shown = []
    for header in board.headers:
        first = next((pin.chip.label for pin in header.pins if pin.chip), None)
        if first == chip:
            pins = [
                {"name": pin.name, "chip": key + pin.chip.label, "offset": pin.offset}
                if pin.chip
                else {"name": pin.name}
                for pin in header.pins
            ]
            shown.append({"board": board.name, "name": header.name, "pins": pins})
    return shown
