# SPDX-License-Identifier: MIT
"""Runs in a guest: how long an output stays on when the consumer that drives it ends, or may not go on.

    python -m tests.guest.endings_program TIMES [ENDING...]

Prints, for each ending, its name and the times in ms from the event until gpio-sim itself says that the line
is low. `sim` is a gpio-sim of 8 lines; gpiovirtd has a chip of the first four, under the rules of RULES.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gpiovirt.protocols.control.requests import Delete, New
from gpiovirt.testing.daemon import Daemon
from gpiovirt.testing.vmm import Vmm
from tests.guest.daemon_program import world

__all__ = ["ENDINGS", "TIMEOUT_MS"]

TIMEOUT_MS = 300
MOTOR, HEART, DOOR = 0, 1, 2
BARE = 4
OPTIONS = {"0": "direction=output,safe=low", "1": "safe=low"}
RULES = {
    "interlock": [{"only_while": {"line": "0", "is": {"2": 0}}}],
    "watchdog": {"line": "1", "timeout_ms": TIMEOUT_MS},
}
_LOOK_S = 0.0002
_MOST_S = 10.0

CONSUMER = """
    import gpiod, sys, time
    from gpiod.line import Direction, Value
    chip, first = sys.argv[1], int(sys.argv[2])
    high = gpiod.LineSettings(direction=Direction.OUTPUT, output_value=Value.ACTIVE)
    with gpiod.request_lines(chip, {(first, first + 1): high}, consumer="plc") as request:
        print("on", flush=True)
        beat = 1
        while True:
            time.sleep(0.02)
            beat ^= 1
            request.set_value(first + 1, Value(beat))
            if sys.argv[1:]:
                time.sleep(0.2)
                break
"""


class Machine:
    """A daemon with the chip, and the program that drives its line."""

    def __init__(self, folder: Path) -> None:
        self.daemon = Daemon(folder, ["--no-files"])
        self._make()

    def _make(self) -> None:
        with self.daemon.client() as client:
            client.ask(New("sim 0-3", "plc", OPTIONS, RULES, vm=True))

    def start(self, line: int = MOTOR) -> subprocess.Popen[str]:
        """The program, which has switched the line on: of the chip, or of gpio-sim itself."""
        command = [sys.executable, "-c", textwrap.dedent(CONSUMER)]
        run = [sys.executable, "-m", "gpiovirt", "run", "--chip", "plc", "--"]
        device = Path("/dev") / world(BARE).parent.name
        program = subprocess.Popen(
            [*command, str(device), str(line)]
            if line == BARE
            else [*run, *command, "/dev/gpiochip0", str(line)],
            env=self.daemon.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert program.stdout is not None
        assert program.stdout.readline() == "on\n"
        assert self.is_on(line)
        return program

    def is_on(self, line: int = MOTOR) -> bool:
        return (world(line) / "value").read_bytes()[:1] == b"1"

    def until_safe_ms(self, event: Callable[[], object], line: int = MOTOR) -> float:
        """From the event on."""
        fd = os.open(world(line) / "value", os.O_RDONLY)
        try:
            started = time.monotonic()
            event()
            while os.pread(fd, 1, 0) == b"1":
                assert time.monotonic() - started < _MOST_S, "it is never safe"
                time.sleep(_LOOK_S)
            return (time.monotonic() - started) * 1000
        finally:
            os.close(fd)

    @property
    def worker(self) -> int:
        return int(self.daemon.show("plc").chip.worker)

    @property
    def supervisor(self) -> int:
        holder = self.daemon.show("plc").lines[MOTOR].holder
        assert holder is not None
        return holder.pid

    def recover(self) -> None:
        """The chip anew: a worker that dies often is started anew later and later."""
        if self.daemon.process.poll() is not None:
            self.daemon.start()
        with self.daemon.client() as client:
            client.ask(Delete("plc", True))
        self._make()


def _signal(number: int, *pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it has ended with the one before
            os.kill(pid, number)


def _of_program(machine: Machine, pids: Callable[[int], list[int]], number: int = signal.SIGKILL) -> float:
    """The time until safe when a signal gets to these processes."""
    program = machine.start()
    targets = pids(program.pid)
    try:
        return machine.until_safe_ms(lambda: _signal(number, *targets))
    finally:
        with suppress(ProcessLookupError):
            program.kill()
        program.communicate()
        if machine.daemon.process.pid in targets:
            machine.daemon.process.wait()
        machine.recover()


def _bare(machine: Machine) -> float:
    """What the kernel alone takes: the program has the line of gpio-sim, which is low without a holder."""
    program = machine.start(BARE)
    try:
        return machine.until_safe_ms(program.kill, BARE)
    finally:
        program.communicate()


def _stopped(machine: Machine) -> float:
    """Beyond the time-out of the watchdog, whose last beat was up to 20 ms before."""
    return _of_program(machine, lambda pid: [pid], signal.SIGSTOP) - TIMEOUT_MS


def _door(machine: Machine) -> float:
    program = machine.start()
    pull = world(DOOR) / "pull"
    try:
        return machine.until_safe_ms(lambda: pull.write_text("pull-up"))
    finally:
        pull.write_text("pull-down")
        program.kill()
        program.communicate()
        machine.recover()


def _vmm(machine: Machine) -> float:
    """A VMM, whose guest has switched the line on, is killed."""
    pid = os.fork()
    chip = machine.daemon.show("plc").chip
    if pid == 0:
        vmm = Vmm()
        vmm.connect(str(chip.vm))
        vmm.start()
        vmm.driver.direction_output(MOTOR, 1)
        signal.pause()
    while not machine.is_on():
        time.sleep(0.01)
    time.sleep(0.05)
    try:
        return machine.until_safe_ms(lambda: _signal(signal.SIGKILL, pid))
    finally:
        os.waitpid(pid, 0)
        machine.recover()


ENDINGS: dict[str, Callable[[Machine], float]] = {
    "without gpiovirt: program killed": _bare,
    "program killed": lambda machine: _of_program(machine, lambda pid: [pid]),
    "its supervisor killed": lambda machine: _of_program(machine, lambda _: [machine.supervisor]),
    "both killed": lambda machine: _of_program(machine, lambda pid: [pid, machine.supervisor]),
    "program and worker killed": lambda machine: _of_program(machine, lambda pid: [pid, machine.worker]),
    "worker and program killed": lambda machine: _of_program(machine, lambda pid: [machine.worker, pid]),
    "supervisor and worker killed": lambda machine: _of_program(
        machine, lambda _: [machine.supervisor, machine.worker]
    ),
    "program and gpiovirtd killed": lambda machine: _of_program(
        machine, lambda pid: [pid, machine.daemon.process.pid]
    ),
    "a condition ceases to hold": _door,
    "stopped: beyond the watchdog's time": _stopped,
    "VMM killed": _vmm,
}


def main() -> None:
    times, *names = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder))
        for name in names or ENDINGS:
            seen = [ENDINGS[name](machine) for _ in range(int(times))]
            print(name, *(f"{ms:.1f}" for ms in seen), sep="\t", flush=True)
        with machine.daemon.client() as client:
            client.ask(Delete("plc", True))
        machine.daemon.stop()


if __name__ == "__main__":
    main()
