# SPDX-License-Identifier: MIT
"""`gpiovirt serve` under test, with the world's side of its simulated lines, its log and its kill switch."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO, Any

from gpiovirt.control.simulator import SimClient, socket_of
from gpiovirt.errors import HostError

__all__ = ["Service"]

_READY = "gpiovirt: serving "


class Service:
    """A running `gpiovirt serve ARGUMENTS`; it is killed at the end of the `with` block.

    Keywords go to subprocess.Popen. HostError, with its log, if it does not get ready.
    """

    def __init__(self, arguments: Sequence[str], **popen: Any) -> None:
        self._arguments = arguments
        self._popen = popen
        self._log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        try:
            self.start()
        except BaseException:
            self._log.close()
            raise

    def start(self) -> None:
        """Start it, again after kill() or stop()."""
        command = [sys.executable, "-m", "gpiovirt", "serve", *self._arguments]
        before = self.log().count(_READY)
        self.process = subprocess.Popen(command, stderr=self._log, text=True, **self._popen)
        self._wait(lambda: self.log().count(_READY) > before)
        self.sim = SimClient(socket_of(self.process.pid))

    def _wait(self, condition: Any, timeout_s: float = 10) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None and not condition():
                raise HostError(f"it has ended with status {self.process.returncode}: {self.log()}")
            if time.monotonic() > deadline:
                raise HostError(f"nothing of the kind in {timeout_s} s: {self.log()}")
            time.sleep(0.005)

    def log(self) -> str:
        """What it has written to standard error so far, over all its starts."""
        with open(f"/proc/self/fd/{self._log.fileno()}", encoding="utf-8") as again:
            return again.read()

    def wait_for_log(self, text: str) -> None:
        """Return once the log has this; HostError if it never does."""
        self._wait(lambda: text in self.log())

    def wait_for_consumer(self, line: str, consumer: str) -> None:
        """Return once a simulated line (CHIP:OFFSET) is held by such a consumer ("": by nobody)."""
        chip, _, offset = line.partition(":")

        def held() -> bool:
            (found,) = (
                other["consumer"]
                for other in self.sim.lines()
                if other["chip"] == chip and other["offset"] == int(offset)
            )
            return bool(consumer) == bool(found) and str(found).startswith(consumer)

        self._wait(held)

    def kill(self) -> None:
        """As by kill -9."""
        self.sim.close()
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As by `systemctl stop`; the exit status."""
        self.sim.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self._log.close()
