# SPDX-License-Identifier: MIT
"""A program under test, running on simulated chips, with the outside of them at hand."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gpiovirt.control.simulator import SimClient, socket_of
from gpiovirt.errors import HostError

__all__ = ["Program", "running"]


class Program:
    """A running program. `sim` drives its simulated lines; `process` is the program itself."""

    def __init__(self, process: subprocess.Popen[str], sim: SimClient) -> None:
        self.process = process
        self.sim = sim

    def wait_for_level(self, line: str, level: int, timeout_s: float = 5) -> None:
        """Return once the line has that level; TimeoutError if it never does."""
        deadline = time.monotonic() + timeout_s
        while self.sim.get(line) != level:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{line} is still {level ^ 1} after {timeout_s} s")
            time.sleep(0.005)

    def wait_for_consumer(self, line: str, consumer: str, timeout_s: float = 5) -> None:
        """Return once that consumer holds the line ("": nobody does); TimeoutError if it never does."""
        label, _, offset = line.partition(":")
        deadline = time.monotonic() + timeout_s
        while True:
            (found,) = (
                other["consumer"]
                for other in self.sim.lines()
                if (other["chip"], other["offset"]) == (label, int(offset))
            )
            if found == consumer:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f'{line} is held by "{found}" after {timeout_s} s')
            time.sleep(0.005)


@contextmanager
def running(
    program: Sequence[str],
    sims: Sequence[str],
    chips: Sequence[str] = (),
    wires: Sequence[str] = (),
    **popen: Any,
) -> Iterator[Program]:
    """Run `program` on simulated chips, given as to `gpiovirt run`; it is killed at the end.

    Keywords go to subprocess.Popen. HostError if it ended before its simulator could be reached.
    """
    command = [sys.executable, "-m", "gpiovirt", "run"]
    for option, texts in (("--sim", sims), ("--chip", chips), ("--wire", wires)):
        for text in texts:
            command += [option, text]
    with subprocess.Popen([*command, "--", *program], text=True, **popen) as process:
        try:
            with _connect(process) as sim:
                yield Program(process, sim)
        finally:
            process.kill()


def _connect(process: subprocess.Popen[str]) -> SimClient:
    for _ in range(1000):
        try:
            return SimClient(socket_of(process.pid))
        except HostError:
            if process.poll() is not None:
                raise HostError(f"the program has ended with status {process.returncode}") from None
            time.sleep(0.005)
    raise HostError("the program's simulator does not answer")
