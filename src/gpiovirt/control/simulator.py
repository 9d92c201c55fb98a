# SPDX-License-Identifier: MIT
"""Drive a simulator in another process: a socket that leaves nothing behind, and its client.

Abstract Unix socket `gpiovirt/sim/UID/PID.TOKEN`, SOCK_SEQPACKET, one JSON object per packet. Only the
user who runs the simulator, and root, are served.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gpiovirt.control import ENVIRONMENT, SOCKETS, pid_of_socket, socket_name
from gpiovirt.core.text import printable
from gpiovirt.errors import GpiovirtError, HostError, UsageError
from gpiovirt.host.unix_socket import limit_waits, peer_of
from gpiovirt.sources.simulator import LevelChange, Simulator

if TYPE_CHECKING:
    from gpiovirt.host.reactor import Waits

__all__ = ["ENVIRONMENT", "SimClient", "SimServer", "running", "socket_name", "socket_of"]

_MAX_MESSAGE = 1 << 16
_ANSWER_MAX = 1 << 20
_ANSWER_S = 3
_LEVELS = {"up": 1, "down": 0, "1": 1, "0": 0}


def _encode(message: dict[str, Any]) -> bytes:
    import json  # when first needed: the start of every program waits for this module

    return json.dumps(message).encode()


def _decode(message: bytes) -> Any:
    import json

    return json.loads(message)


class SimServer:
    """Serves a simulator on the reactor of its process."""

    def __init__(self, simulator: Simulator, reactor: Waits, name: str) -> None:
        self._simulator = simulator
        self._reactor = reactor
        self._watchers: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            self._listener.bind("\0" + name)
        except OSError as error:
            raise HostError.of(f"cannot bind the abstract socket {name}", error) from error
        self._listener.listen(16)
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
            connection.send(_encode(self._reply(connection, message)))
        except BlockingIOError:
            pass
        except OSError:
            self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        self._reactor.remove_reader(connection.fileno())
        if connection in self._watchers:
            self._watchers.remove(connection)
            if not self._watchers:
                self._simulator.observers.remove(self._on_change)
        connection.close()

    def _reply(self, connection: socket.socket, message: bytes) -> dict[str, Any]:
        try:
            command = _decode(message)
            match command:
                case {"do": "pull", "line": str(line), "level": str(level)}:
                    if level not in _LEVELS:
                        raise UsageError(f"a line is pulled up or down, not {level!r}")
                    self._simulator.pull(*self._simulator.find_line(line), _LEVELS[level])
                    return {}
                case {"do": "get", "line": str(line)}:
                    return {"level": self._simulator.level(*self._simulator.find_line(line))}
                case {"do": "list"}:
                    return {"lines": list(self._lines())}
                case {"do": "watch"}:
                    if not self._watchers:
                        self._simulator.observers.append(self._on_change)
                    self._watchers.append(connection)
                    return {}
            raise UsageError("a command this simulator does not know")
        except GpiovirtError as error:
            return {"error": str(error)}
        except (ValueError, RecursionError) as error:
            return {"error": f"not a message: {error}"}

    def _lines(self) -> Iterator[dict[str, Any]]:
        for label, chip in self._simulator.chips.items():
            for offset in range(chip.info.num_lines):
                info = chip.line_info(offset)
                yield {
                    "chip": label,
                    "offset": offset,
                    "name": info.name,
                    "direction": info.direction.name.lower(),
                    "consumer": info.consumer,
                    "level": self._simulator.level(label, offset),
                }

    def _on_change(self, change: LevelChange) -> None:
        message = _encode(change._asdict())
        for watcher in self._watchers:
            with suppress(OSError):  # it is slow: it misses this one; gone: its reader closes it
                watcher.send(message)


def running() -> list[str]:
    """Names of the sockets of the simulators that this user may drive."""
    if ENVIRONMENT in os.environ:
        return [os.environ[ENVIRONMENT]]
    return _listening()


def socket_of(pid: int) -> str:
    """Name of the socket of the simulator that a program runs on; HostError if there is none (yet)."""
    for name in _listening():
        if pid_of_socket(name) == pid:
            return name
    raise HostError(f"no simulator runs for process {pid}")


def _listening() -> list[str]:
    mine = SOCKETS if os.getuid() == 0 else f"{SOCKETS}{os.getuid()}/"
    names = set()
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as table:
        for row in table:
            path = row.split()[-1]
            if path.startswith("@" + mine) and _is_owners(path[1:]):
                names.add(path[1:])
    return sorted(names)


def _is_owners(name: str) -> bool:
    """Whether the user in an abstract name is the one who listens there; anybody may take a name."""
    uid = name.removeprefix(SOCKETS).partition("/")[0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect("\0" + name)
            return uid == str(peer_of(sock).uid)
        except OSError:
            return False


class SimClient:
    """A connection to a simulator. HostError if that fails, UsageError if it refuses a command."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._patience(_ANSWER_S)
        # the program that asks may be so young that its simulator is not there yet
        patience_s = 1.0 if name == os.environ.get(ENVIRONMENT) else 0.0
        try:
            while self._socket.connect_ex("\0" + name) == errno.ECONNREFUSED and patience_s > 0:
                patience_s -= 0.01
                time.sleep(0.01)
            self._socket.getpeername()
        except OSError as error:
            self._socket.close()
            raise HostError(f"no simulator answers at {printable(name)}") from error
        if peer_of(self._socket).uid not in (0, os.getuid()) and os.getuid() != 0:
            self._socket.close()
            raise HostError(f"the socket {printable(name)} belongs to another user; not used")

    def _patience(self, seconds: int) -> None:
        limit_waits(self._socket, seconds, socket.SO_RCVTIMEO, socket.SO_SNDTIMEO)

    def __enter__(self) -> SimClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def _call(self, **command: str) -> dict[str, Any]:
        try:
            self._socket.send(_encode(command))
        except OSError as error:
            raise HostError("the simulator has ended") from error
        reply = self._message()
        if "error" in reply:
            raise UsageError(reply["error"])
        return reply

    def _message(self) -> dict[str, Any]:
        try:
            message = self._socket.recv(_ANSWER_MAX)
        except BlockingIOError:
            raise HostError(f"the simulator does not answer within {_ANSWER_S} s") from None
        except ConnectionError:
            message = b""
        if not message:
            raise HostError("the simulator has ended")
        try:
            decoded = _decode(message)
        except (ValueError, RecursionError):
            decoded = None
        if not isinstance(decoded, dict):
            raise HostError("the simulator breaks the protocol")
        return decoded

    def pull(self, line: str, level: str) -> None:
        """Pull a line `up` or `down`."""
        self._call(do="pull", line=line, level=level)

    def get(self, line: str) -> int:
        """Physical level of a line."""
        return int(self._call(do="get", line=line)["level"])

    def lines(self) -> list[dict[str, Any]]:
        """All lines: chip, offset, name, direction, consumer, level."""
        lines: list[dict[str, Any]] = self._call(do="list")["lines"]
        return lines

    def watch(self) -> Iterator[LevelChange]:
        """Every change of level from now on, until the simulator ends; commands still work meanwhile."""
        watcher = SimClient(self._name)
        watcher._call(do="watch")
        watcher._patience(0)
        return watcher._changes()

    def _changes(self) -> Iterator[LevelChange]:
        with self:
            while True:
                try:
                    yield LevelChange(**self._message())
                except HostError:
                    return
