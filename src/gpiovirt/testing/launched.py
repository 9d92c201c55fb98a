# SPDX-License-Identifier: MIT
"""Start a program under `gpiovirt run`, and be there before it is.

The program is held at a gate until its lines are watched: nothing that it does is missed. What it prints goes
to files, and to this process's own output when it is over.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from gpiovirt.control.simulator import SimClient, socket_of
from gpiovirt.errors import HostError, UsageError
from gpiovirt.testing.levels import Levels

__all__ = ["Launched", "launch"]

_START_S = 20
_POLL_S = 0.005
_CLOSE_S = 5
_WITH_LINES = ("--sim", "--board", "--chip", "--gpio-sim")
_READ_MAX = 1 << 20
_GATE = 'read -r _ <"$0" && exec "$@"'


class Launched:
    """A program, the connections to its simulator, and the files that its output is in."""

    client: SimClient
    levels: Levels
    lines_then: list[dict[str, Any]]
    name: str

    def __init__(self, command: Sequence[str], folder: str, popen: Mapping[str, Any]) -> None:
        self.lock = threading.Lock()
        """For `client`"""
        self._folder = folder
        self._files = {name: f"{folder}/{name}" for name in ("stdout", "stderr") if name not in popen}
        self._closes: list[Callable[[], object]] = []
        with ExitStack() as stack:
            files = {name: stack.enter_context(open(path, "wb")) for name, path in self._files.items()}
            usual: dict[str, Any] = {"stdin": subprocess.DEVNULL, "text": True, "start_new_session": True}
            self.process: subprocess.Popen[Any] = subprocess.Popen(command, **{**usual, **files, **popen})

    def at_close(self, callback: Callable[[], object]) -> None:
        """Have it called then."""
        self._closes.append(callback)

    def connect(self) -> None:
        """To its simulator; UsageError or HostError if it has none."""
        self.name = self._await_simulator()
        try:
            self.client = SimClient(self.name)
            self._closes.append(self.client.close)
            self.levels = Levels(self.name, self.client.lines)
            self._closes.append(self.levels.close)
            self.lines_then = self.client.lines()
        except HostError:  # it may have ended before it began
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_CLOSE_S)
            self._check_running()
            raise

    def _await_simulator(self) -> str:
        """The name of its socket; UsageError or HostError, with what `gpiovirt run` said."""
        deadline = time.monotonic() + _START_S
        while True:
            with suppress(HostError):
                return socket_of(self.process.pid)
            self._check_running()
            if time.monotonic() > deadline:
                raise HostError(f"the program's simulator was not there within {_START_S} s")
            time.sleep(_POLL_S)

    def _check_running(self) -> None:
        """UsageError or HostError, with what `gpiovirt run` said, if it has ended."""
        if self.process.poll() is not None:
            said = self.read("stderr").strip().removeprefix("gpiovirt: ")
            kind = UsageError if self.process.returncode == 2 else HostError
            raise kind(said or f"gpiovirt run has ended with status {self.process.returncode}")

    def read(self, name: str) -> str:
        """The end of what it has printed; "" if that goes elsewhere."""
        if name not in self._files:
            return ""
        try:
            with open(self._files[name], "rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(size - _READ_MAX, 0))
                return file.read(_READ_MAX).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """End the program and its session; once."""
        end(self.process)
        while self._closes:
            self._closes.pop()()
        for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
            stream.write(self.read(name))
        self._files.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a program and what it has started in its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait(_CLOSE_S)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.close()


def launch(program: Sequence[str], options: Sequence[str], popen: Mapping[str, Any]) -> Launched:
    """Run `program` with these options of `gpiovirt run`; UsageError, HostError if that cannot be."""
    _check_program(program, popen)
    if not any(option.startswith(_WITH_LINES) for option in options):
        raise UsageError("no chips; make one with --sim LABEL:COUNT, as in --sim sim-a:8, or with --board")
    folder = tempfile.mkdtemp(prefix="gpiovirt-test-")
    gate = f"{folder}/gate"
    os.mkfifo(gate)
    opens = os.open(gate, os.O_RDWR | os.O_CLOEXEC)
    command = [
        sys.executable,
        "-m",
        "gpiovirt",
        "run",
        *options,
        "--",
        "/bin/sh",
        "-c",
        _GATE,
        gate,
        *program,
    ]
    try:
        launched = Launched(command, folder, popen)
        try:
            launched.connect()
            os.write(opens, b"\n")
            # until then there is the gate's line, which the program may come to later than we
            launched.at_close(lambda: os.close(opens))
        except BaseException:
            launched.close()
            raise
    except BaseException:
        os.close(opens)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return launched


def _check_program(program: Sequence[str], popen: Mapping[str, Any]) -> None:
    """UsageError unless it can be found, which a shell would say later."""
    if isinstance(program, str) or not program:
        raise UsageError(f"{program!r} is not a program and its arguments; write them as a list")
    path = (popen.get("env") or os.environ).get("PATH")
    directory = popen.get("cwd") or "."
    there = os.path.join(directory, program[0]) if "/" in program[0] else program[0]
    if shutil.which(there, path=path) is None:
        raise UsageError(f"cannot run {program[0]!r}: no such program")
