# SPDX-License-Identifier: MIT
"""Serve a simulator to other processes; gpiovirt.control.simulator has the protocol and its client."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from gpiovirt.core.line import Clock
from gpiovirt.core.train import bounce, pulses
from gpiovirt.errors import GpiovirtError, UsageError
from gpiovirt.host.unix_socket import peer_of

if TYPE_CHECKING:
    from gpiovirt.core.deadline import Cancel
    from gpiovirt.core.task import Future
    from gpiovirt.host.reactor import Waits
    from gpiovirt.sources.simulator import LevelChange, Simulator

__all__ = ["SimServer"]

_MAX_MESSAGE = 1 << 16
_CONNECTIONS = 16  # that wait to be accepted
_LINES_PER_PAGE = 200
_BACKLOG_MAX = 100_000
_AGAIN_NS = 2_000_000
_LEVELS = {"up": 1, "down": 0, "high": 1, "low": 0, "1": 1, "0": 0}


def _level(text: str) -> int:
    if text not in _LEVELS:
        raise UsageError(f"a line is high or low (up or down, 1 or 0), not {text!r}")
    return _LEVELS[text]


def _encode(message: dict[str, Any]) -> bytes:
    import json  # when first needed: the start of every program waits for this module

    return json.dumps(message).encode()


def _decode(message: bytes) -> Any:
    import json

    return json.loads(message)


class Plugs(Protocol):
    """Has simulated chips come and go."""

    def make_chip(self, label: str, names: Sequence[str]) -> Future[list[str]]:
        """Make one; the names of its devices, of which it has one. OSError if that cannot be."""

    def remove_chip(self, key: str) -> Future[None]:
        """Remove one that was made so; UsageError if it was not."""


class SimServer:
    """Serves a simulator on the reactor of its process, over a socket that listens, which it owns."""

    def __init__(self, simulator: Simulator, reactor: Waits, listener: int) -> None:
        self._simulator = simulator
        self._reactor = reactor
        self._watchers: dict[socket.socket, _Backlog] = {}
        self.plugs: Plugs | None = None
        self._listener = socket.socket(fileno=listener)
        self._listener.listen(_CONNECTIONS)  # once more: it is now this process whom peers see
        reactor.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        with suppress(OSError):
            connection, _ = self._listener.accept()
            if peer_of(connection).uid not in (0, os.getuid()):
                connection.close()
                return
            connection.setblocking(False)
            self._reactor.add_reader(connection.fileno(), lambda: self._receive(connection))

    def _receive(self, connection: socket.socket) -> None:
        try:
            message = connection.recv(_MAX_MESSAGE)
            if not message:
                raise ConnectionResetError
            reply = self._reply(connection, message)
            if reply is not None:
                connection.send(_encode(reply))
        except BlockingIOError:
            pass
        except OSError:
            self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        self._reactor.remove_reader(connection.fileno())
        backlog = self._watchers.pop(connection, None)
        if backlog is not None:
            backlog.close()
            if not self._watchers:
                self._simulator.observers.remove(self._on_change)
        connection.close()

    def _reply(self, connection: socket.socket, message: bytes) -> dict[str, Any] | None:
        """What a command gives; None: that comes later."""
        try:
            command = _decode(message)
            match command:
                case {"do": "list", **rest}:
                    return self._page(rest.get("first", 0))
                case {"do": "watch"}:
                    if not self._watchers:
                        self._simulator.observers.append(self._on_change)
                    if connection not in self._watchers:
                        self._watchers[connection] = _Backlog(connection, self._simulator)
                    return {}
                case {"do": "sync"}:
                    if connection not in self._watchers:
                        return {}
                    self._watchers[connection].put({})  # after all that there has been
                    return None
                case {"do": "make", "chip": str(chip), "names": [*names]} if all(
                    isinstance(name, str) for name in names
                ):
                    return self._when_done(connection, self._plugging().make_chip(chip, names))
                case {"do": "remove", "chip": str(chip)}:
                    return self._when_done(connection, self._plugging().remove_chip(chip))
                case {"do": "plug", "chip": str(chip)}:
                    self._simulator.plug(chip)
                    return {}
                case {"do": "unplug", "chip": str(chip)}:
                    self._simulator.unplug(chip)
                    return {}
                case {"line": str(text)}:
                    return self._of_line(connection, command, *self._simulator.find_line(text))
            raise UsageError("a command this simulator does not know")
        except (GpiovirtError, OSError) as error:
            return {"error": str(error)}
        except (ValueError, RecursionError, OverflowError) as error:
            return {"error": f"not a message: {error}"}

    def _of_line(
        self, connection: socket.socket, command: dict[str, Any], chip: str, offset: int
    ) -> dict[str, Any] | None:
        simulator = self._simulator
        match command:
            case {"do": "get"}:
                return {"level": simulator.level(chip, offset)}
            case {"do": "pull", "level": str(level)}:
                simulator.pull(chip, offset, _level(level))
            case {"do": "toggle"}:
                simulator.pull(chip, offset, simulator.pulled(chip, offset) ^ 1)
            case {"do": "stick", "level": str(level)}:
                simulator.stick(chip, offset, _level(level))
            case {"do": "unstick"}:
                simulator.stick(chip, offset, None)
            case {"do": "pulse", "width_ns": int(width), "times": int(times), "period_ns": int(period)}:
                idle = simulator.pulled(chip, offset)
                self._play(connection, chip, offset, pulses(idle, width, times, period))
                return None
            case {"do": "bounce", "level": str(level), "for_ns": int(for_ns), "every_ns": int(every_ns)}:
                to = _level(level) if level else simulator.pulled(chip, offset) ^ 1
                self._play(connection, chip, offset, bounce(to, for_ns, every_ns))
                return None
            case _:
                raise UsageError("a command this simulator does not know")
        return {}

    def _plugging(self) -> Plugs:
        if self.plugs is None:
            raise UsageError("chips come and go only where the program was started with --gpio-sim")
        return self.plugs

    def _when_done(
        self, connection: socket.socket, future: Future[list[str]] | Future[None]
    ) -> dict[str, Any] | None:
        """Answer then: with the devices, if there are any."""

        def tell() -> None:
            try:
                reply: dict[str, Any] = {"devices": future.result() or []}
            except (GpiovirtError, OSError) as error:
                reply = {"error": str(error)}
            with suppress(OSError):  # whoever asked is gone
                connection.send(_encode(reply))

        future.then(tell)
        return None

    def _play(
        self, connection: socket.socket, chip: str, offset: int, steps: Iterator[tuple[int, int]]
    ) -> None:
        """Pull a line for a while, and answer at the end of that."""

        def at_end() -> None:
            with suppress(OSError):  # whoever asked is gone
                connection.send(_encode({}))

        self._simulator.play(chip, offset, steps, at_end)

    def _page(self, first: object) -> dict[str, Any]:
        """As many lines as a packet holds whatever their names are."""
        if type(first) is not int or first < 0:
            raise UsageError("first: expected a number of lines")
        page = list(islice(self._lines(first), _LINES_PER_PAGE + 1))
        return {"lines": page[:_LINES_PER_PAGE], "more": len(page) > _LINES_PER_PAGE}

    def _lines(self, first: int) -> Iterator[dict[str, Any]]:
        for label, chip in self._simulator.chips.items():
            skipped = min(first, chip.info.num_lines)
            first -= skipped
            for offset in range(skipped, chip.info.num_lines):
                info = chip.line_info(offset)
                yield {
                    "chip": label,
                    "offset": offset,
                    "name": info.name,
                    "direction": info.direction.name.lower(),
                    "consumer": info.consumer,
                    "level": self._simulator.level(label, offset),
                    "pulled": self._simulator.pulled(label, offset),
                    "stuck": self._simulator.stuck(label, offset),
                    "unplugged": not chip.is_there,
                }

    def _on_change(self, change: LevelChange) -> None:
        message = change._asdict()
        for backlog in self._watchers.values():
            backlog.put(message)


class _Backlog:
    """What a watcher is to be told and has no room for: so much, and then how many changes it has lost."""

    __slots__ = ("_cancel", "_connection", "_lost", "_simulator", "_waiting")

    def __init__(self, connection: socket.socket, simulator: Simulator) -> None:
        self._connection = connection
        self._simulator = simulator
        self._waiting: deque[dict[str, Any]] = deque()
        self._lost = 0
        self._cancel: Cancel | None = None

    def put(self, message: dict[str, Any]) -> None:
        """Tell it, in order and as soon as there is room."""
        if self._waiting or self._lost:
            if len(self._waiting) >= _BACKLOG_MAX or self._lost:
                self._lost += 1
            else:
                self._waiting.append(message)
        elif not self._send(message):
            self._waiting.append(message)
            self._again_soon()

    def _send(self, message: dict[str, Any]) -> bool:
        """False: there is no room. It may be gone, which its reader will notice."""
        try:
            self._connection.send(_encode(message))
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def _again_soon(self) -> None:
        due_ns = self._simulator.now(Clock.MONOTONIC) + _AGAIN_NS
        self._cancel = self._simulator.deadlines.call_at(due_ns, self._flush)

    def _flush(self) -> None:
        self._cancel = None
        waiting = self._waiting
        while waiting:
            if not self._send(waiting[0]):
                self._again_soon()
                return
            waiting.popleft()
        if self._lost:
            if self._send({"lost": self._lost}):
                self._lost = 0
            else:
                self._again_soon()

    def close(self) -> None:
        """It is gone."""
        if self._cancel is not None:
            self._cancel()
