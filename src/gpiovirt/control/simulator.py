# SPDX-License-Identifier: MIT
"""Drive a simulator in another process: a socket that leaves nothing behind, and its client.

Abstract Unix socket `gpiovirt/sim/UID/PID.TOKEN`, SOCK_SEQPACKET, one JSON object per packet. Only the
user who runs the simulator, and root, are served.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gpiovirt.control import ENVIRONMENT, SOCKETS, pid_of_socket
from gpiovirt.core.text import printable
from gpiovirt.errors import HostError, UsageError
from gpiovirt.host.unix_socket import limit_waits, peer_of

if TYPE_CHECKING:
    from gpiovirt.sources.simulator import LevelChange

__all__ = ["ENVIRONMENT", "SimClient", "SimWatcher", "running", "socket_of"]

_ANSWER_MAX = 1 << 20
_LINES_MAX = 1 << 20
_ANSWER_S = 3


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

    def _call(self, **command: str | int | list[str]) -> dict[str, Any]:
        try:
            self._socket.send(json.dumps(command).encode())
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
            decoded = json.loads(message)
        except (ValueError, RecursionError):
            decoded = None
        if not isinstance(decoded, dict):
            raise HostError("the simulator breaks the protocol")
        return decoded

    def pull(self, line: str, level: str | int) -> None:
        """Pull a line `up` or `down` (`high` or `low`, 1 or 0)."""
        self._call(do="pull", line=line, level=str(level))

    def toggle(self, line: str) -> None:
        """Pull a line to where it is not pulled."""
        self._call(do="toggle", line=line)

    def stick(self, line: str, level: str | int) -> None:
        """Have a line stuck at a level, whoever drives it, until unstick()."""
        self._call(do="stick", line=line, level=str(level))

    def unstick(self, line: str) -> None:
        """It is stuck no more."""
        self._call(do="unstick", line=line)

    def pulse(self, line: str, width_ms: float, times: int = 1, period_ms: float = 0) -> None:
        """Pull a line to where it is not pulled for a while, so often; returns when that is over."""
        period_ns = int(period_ms * 1e6)
        duration_s = times * max(period_ms, 2 * width_ms) / 1e3
        command = {"width_ns": int(width_ms * 1e6), "times": times, "period_ns": period_ns}
        self._call_for(duration_s, do="pulse", line=line, **command)

    def bounce(
        self, line: str, for_ms: float = 8, every_ms: float = 1, level: str | int | None = None
    ) -> None:
        """Change where a line is pulled (to `level`) as a contact that bounces; returns when it is over."""
        to = "" if level is None else str(level)
        command = {"for_ns": int(for_ms * 1e6), "every_ns": int(every_ms * 1e6)}
        self._call_for(for_ms / 1e3, do="bounce", line=line, level=to, **command)

    def unplug(self, chip: str) -> None:
        """Have a chip vanish: what its program has open of it hangs up."""
        self._call(do="unplug", chip=chip)

    def plug(self, chip: str) -> None:
        """It is back."""
        self._call(do="plug", chip=chip)

    def make(self, chip: str, names: Sequence[str]) -> str:
        """Make a simulated chip of so many lines with these names; the name of its device."""
        return str(self._call(do="make", chip=chip, names=list(names))["devices"][0])

    def remove(self, chip: str) -> None:
        """Have one vanish for good that was made so."""
        self._call(do="remove", chip=chip)

    def _call_for(self, duration_s: float, **command: str | int) -> None:
        """A command whose answer takes so long."""
        self._patience(_ANSWER_S + int(min(max(duration_s, 0), 1e6)))
        try:
            self._call(**command)
        finally:
            self._patience(_ANSWER_S)

    def get(self, line: str) -> int:
        """Physical level of a line."""
        return int(self._call(do="get", line=line)["level"])

    def lines(self) -> list[dict[str, Any]]:
        """All lines: chip, offset, name, direction, consumer, level, pulled, stuck, unplugged."""
        lines: list[dict[str, Any]] = []
        while len(lines) < _LINES_MAX:
            match self._call(do="list", first=len(lines)):
                case {"lines": [_, *_] as page, "more": True}:
                    lines += page
                case {"lines": list(page)}:  # the last, or one of an older simulator, which says all at once
                    return lines + page
                case _:
                    raise HostError("the simulator breaks the protocol")
        raise HostError("the simulator has lines without an end")

    def watch(self, timeout_s: float | None = None) -> Iterator[LevelChange]:
        """Every change of level from now on, until the simulator ends; commands still work meanwhile.

        TimeoutError if there is none for so long. HostError if this reads so slowly that changes were lost.
        """
        watcher = SimClient(self._name)
        watcher._call(do="watch")
        return watcher._changes(timeout_s)

    def _changes(self, timeout_s: float | None) -> Iterator[LevelChange]:
        from gpiovirt.sources.simulator import LevelChange  # `gpiovirt list` does without

        with self:
            self._patience(0)
            self._socket.settimeout(timeout_s)
            while True:
                try:
                    message = self._message()
                except TimeoutError:
                    raise TimeoutError(f"no line has changed for {timeout_s} s") from None
                except HostError:
                    return
                if "lost" in message:
                    raise HostError(f"{message['lost']} changes were lost: nobody read them in time")
                yield LevelChange(**message)


class SimWatcher(SimClient):
    """A connection that is told every change of level."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._call(do="watch")
        self._patience(0)

    def sync(self) -> None:
        """Have read() return None once it has returned all changes that there were until now."""
        try:
            self._socket.send(b'{"do": "sync"}')
        except OSError as error:
            raise HostError("the simulator has ended") from error

    def read(self) -> LevelChange | int | None:
        """The next change, how many were lost, or None after sync(); HostError when there will be no more."""
        from gpiovirt.sources.simulator import LevelChange

        message = self._message()
        if not message:
            return None
        return int(message["lost"]) if "lost" in message else LevelChange(**message)

    def shut_down(self) -> None:
        """Have read() fail in another thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
