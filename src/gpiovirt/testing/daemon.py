# SPDX-License-Identifier: MIT
"""A gpiovirtd under test, in directories of its own, with its log, its control socket and its kill switch."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from gpiovirt.control import pid_of_socket
from gpiovirt.control.client import Client
from gpiovirt.control.simulator import SimClient, running
from gpiovirt.errors import HostError
from gpiovirt.host.packets import PACKET_MAX, decode, encode
from gpiovirt.protocols.control.answers import ChipDetails, result_of

__all__ = ["Daemon"]

_READY = "gpiovirtd: ready: "


class Daemon:
    """A running `gpiovirtd ARGUMENTS` below `folder`; it and its chips end with the `with` block.

    It reads no configuration unless `arguments` has --config; for commands, that is in `folder`/chips.d.
    Keywords go to subprocess.Popen. HostError, with its log, if it does not get ready.
    """

    def __init__(self, folder: Path, arguments: Sequence[str] = (), **popen: Any) -> None:
        self.run = folder / "run"
        self.state = folder / "state"
        self.config = folder / "chips.d"
        self._arguments = [
            *arguments,
            *(() if "--config" in arguments else ("--no-config",)),
            *("--run", str(self.run), "--state", str(self.state)),
        ]
        self._popen = popen
        self._path = folder / "log"
        self._log: IO[bytes] = self._path.open("ab")
        self.environment = {
            **popen.pop("env", os.environ),
            "GPIOVIRT_RUNTIME_DIR": str(self.run),
            "GPIOVIRT_CONFIG_DIR": str(self.config),
        }
        try:
            self.start()
        except BaseException:
            self._log.close()
            raise

    def start(self) -> None:
        """Start it, again after kill() or stop()."""
        before = self.log().count(_READY)
        self.process = subprocess.Popen(
            self._command(), stderr=self._log, stdout=self._log, env=self.environment, **self._popen
        )
        self.wait_for(lambda: self.log().count(_READY) > before)

    def start_by(self, execute: Callable[[list[str], dict[str, str]], None]) -> None:
        """Start it by `execute`, which is called in a new process and execs the command there."""
        before = self.log().count(_READY)
        self.process = subprocess.Popen(
            ["true"],
            stderr=self._log,
            stdout=self._log,
            close_fds=False,
            preexec_fn=lambda: execute(self._command(), self.environment),
        )
        self.wait_for(lambda: self.log().count(_READY) > before)

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "gpiovirt.cli.daemon", *self._arguments]

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 20) -> None:
        """Return once it holds; HostError, with the log, if it never does, or the daemon ends."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None and not condition():
                raise HostError(f"it has ended with status {self.process.returncode}: {self.log()}")
            if time.monotonic() > deadline:
                raise HostError(f"nothing of the kind in {timeout_s} s: {self.log()}")
            time.sleep(0.005)

    def log(self) -> str:
        """What it has written to standard error so far, over all its starts."""
        return self._path.read_text()

    def client(self, **options: Any) -> Client:
        """A connection to its control socket."""
        return Client(str(self.run / "control"), **options)

    def call(self, do: str, **what: Any) -> Any:
        """What its control socket answers to this request, be it one or not; RefusedError."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(self.run / "control"))
            sock.send(encode({"do": do, **what}))
            return result_of(decode(sock.recv(PACKET_MAX)))

    def show(self, name: str) -> ChipDetails:
        """All about a chip."""
        with self.client() as client:
            return client.show(name)

    def simulator(self) -> SimClient:
        """The world's side of its simulated lines."""
        return SimClient(self.simulator_socket())

    def simulator_socket(self) -> str:
        """Name of the abstract socket of its simulator."""
        (found,) = (
            name
            for name in running()
            if _environment(pid_of_socket(name)).get("GPIOVIRT_RUNTIME_DIR") == str(self.run)
        )
        return found

    def workers(self) -> list[int]:
        """Its workers' and its simulator's pids."""
        pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
        return [
            pid
            for pid in pids
            if _command_name(pid) == "gpiovirt-chip"
            and _environment(pid).get("GPIOVIRT_RUNTIME_DIR") == str(self.run)
        ]

    def recorder(self) -> int:
        """Its recorder's pid; 0: there is none at the moment."""
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, _, rest = path.read_text().partition(" (")
            except OSError:
                continue
            name, _, fields = rest.rpartition(") ")
            if name == "gpiovirt-record" and int(fields.split()[1]) == self.process.pid:
                return int(pid)
        return 0

    def kill(self) -> None:
        """As by kill -9: its workers go on."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """As by `systemctl stop`; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(20)

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.process.poll() is not None:
                self.start()
            self.stop(signal.SIGINT)
        finally:
            if self.process.poll() is None:
                self.kill()
            self._log.close()


def _command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _environment(pid: int) -> dict[str, str]:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition("=") for entry in os.fsdecode(raw).split("\0"))
    return {name: value for name, _, value in pairs}
