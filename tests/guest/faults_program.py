# SPDX-License-Identifier: MIT
"""Runs in a guest: our processes are killed and stopped, alone and in pairs; what gpio-sim saw of that.

    python -m tests.guest.faults_program CASE...

A case is a fault, or two of them, the second `_BETWEEN_S` after the first: `worker-KILL`,
`custodian-STOP,worker-KILL`; or `nothing`. A line of JSON for each, an Outcome, goes to standard output.

On `sim`, a gpio-sim of 8 lines, are two chips, each with its worker. On `plc` a program drives one line (it
and its supervisor are the ones to be hit), another program a second one, a VMM a third; on `other` another
program drives one. All are high, and to be low when they are safe. A sampler, ahead of all other processes,
looks all the time at what gpio-sim itself says of them. When that does not come to run either, the host has
given the guest no CPU: such time is taken off what is measured.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from gpiovirt.control import pid_of_socket
from gpiovirt.errors import GpiovirtError
from gpiovirt.protocols.control.requests import List, New
from gpiovirt.testing.daemon import Daemon
from gpiovirt.testing.service_manager import ServiceManager
from tests.guest.daemon_program import world

__all__ = ["TARGETS", "Outcome"]

TARGETS = (
    "program",
    "supervisor",
    "worker",
    "custodian",
    "fork-server",
    "simulator",
    "vmm",
    "control-files",
    "api",
)
_SERVES = {"supervisor", "worker", "custodian", "fork-server"}
LINES = {"program": 2, "bystander": 5, "vmm": 6, "other": 0}
"""gpio-sim's offsets of those who drive them"""

_BETWEEN_S = 0.02
_LOOK_S = 1.7  # whatever moves a line of its own accord has done so by then
_LOOK_BRIEFLY_S = 0.3  # where nobody is hit who serves lines
_MOST_S = 6.0  # after that a line that is to be safe is said never to be
_RESTART_S = 0.1  # RestartSec= of gpiovirtd.service

SAMPLER = """
    import os, sys, time
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    names = dict(one.split("=") for one in sys.argv[1:])
    fds = {name: os.open(path, os.O_RDONLY) for name, path in names.items()}
    known = dict.fromkeys(fds)
    last = time.monotonic()
    while True:
        now = time.monotonic()
        if now - last > 0.002:
            os.write(1, f"{now} stolen {last}\\n".encode())
        last = now
        for name, fd in fds.items():
            value = os.pread(fd, 1, 0)
            if value != known[name]:
                known[name] = value
                os.write(1, f"{time.monotonic()} {name} {value.decode()}\\n".encode())
        time.sleep(0.0005)
"""
BLINKER = """
    import gpiod, mmap, struct, sys, time
    from gpiod.line import Direction, Value
    blinks = int(sys.argv[1])
    settings = {offset: gpiod.LineSettings(direction=Direction.OUTPUT, output_value=Value.ACTIVE)
                for offset in {blinks, 1}}
    with open(sys.argv[2], "w+b") as file:
        file.truncate(16)
        last = memoryview(mmap.mmap(file.fileno(), 16)).cast("d")
    with gpiod.request_lines("/dev/gpiochip0", settings, consumer="blinker") as request:
        count = 1
        last[0] = time.monotonic()
        while True:
            request.set_value(blinks, Value(count & 1 or blinks == 1))
            if request.get_value(1) != Value.ACTIVE:
                sys.exit("a request was lost")
            now = time.monotonic()
            if now - last[0] > 0.004:
                print(last[0], now, flush=True)
            last[0] = now
            count += 1
            time.sleep(0.002)
"""
VMM = """
    import sys, time
    from gpiovirt.testing.vmm import Vmm
    vmm = Vmm()
    vmm.connect(sys.argv[1])
    vmm.start()
    vmm.driver.direction_output(2, 1)
    print("driven", flush=True)
    time.sleep(1e6)
"""


class Fault(NamedTuple):
    """What is done to whom."""

    target: str
    how: signal.Signals

    @classmethod
    def parse(cls, text: str) -> Fault:
        target, _, how = text.rpartition("-")
        return cls(target, signal.Signals[f"SIG{how}"])


class Outcome(NamedTuple):
    """What came of a case; times in ms."""

    case: str
    safe: dict[str, float | None]
    """Of those who died: from then until the line was low (None: never)"""
    moved: dict[str, float]
    """Of those who did not: when their lines moved"""
    other: float
    """The longest time that the other chip's program had no answer"""
    own: float | None
    """The same of the bystander on the same chip (None: it got none any more)"""


class Blinker:
    """A program that drives line 1 of a chip, and another one up and down, and how long it had no answer."""

    def __init__(self, daemon: Daemon, chip: str, offset: int, folder: Path) -> None:
        self._last = folder / f"{chip}.last"
        self._gaps = folder / f"{chip}.gaps"
        with self._gaps.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    *_run(chip),
                    *(sys.executable, "-c", textwrap.dedent(BLINKER), str(offset), str(self._last)),
                ],
                env=daemon.environment,
                stdout=out,
            )
        _until(lambda: self._last.exists() and self._answered_s() > 0)

    def _answered_s(self) -> float:
        raw = self._last.read_bytes()
        return memoryview(raw).cast("d")[0] if len(raw) == 16 else 0.0

    def is_answered(self) -> bool:
        """It goes on."""
        return self.process.poll() is None and time.monotonic() - self._answered_s() < 0.1

    def longest_ms(self, since_s: float, passed_ms: Callable[[float, float], float]) -> float:
        """Without an answer, since then."""
        gaps = [tuple(map(float, line.split())) for line in self._gaps.read_text().splitlines()]
        gaps.append((self._answered_s(), time.monotonic()))
        return max((passed_ms(max(begin, since_s), end) for begin, end in gaps if end > since_s), default=0)


class Machine:
    """All that is there, kept up as a service manager and users keep it up."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._manager = ServiceManager(folder)
        self.daemon = Daemon(folder, ["--sim", "s:2"], env=self._manager.environment())
        self._ended = threading.Event()
        self._keeping = threading.Thread(target=self._keep)
        self._keeping.start()
        with self.daemon.client() as client:
            safe = {str(offset): "safe=low" for offset in range(3)}
            client.ask(New(name="plc", definition="sim 2 5 6", options=safe, vm=True))
            client.ask(New(name="other", definition="sim 1 0", options={"1": "safe=low"}))
            client.ask(New(name="toy", definition="s 0"))
        self._samples = folder / "samples"
        names = [f"{name}={world(offset) / 'value'}" for name, offset in LINES.items()]
        with self._samples.open("ab") as out:
            self._sampler = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(SAMPLER), *names], stdout=out
            )
        self.other = Blinker(self.daemon, "other", 0, folder)
        self.bystander = Blinker(self.daemon, "plc", 1, folder)
        self._program: subprocess.Popen[bytes] | None = None
        self._supervisor = 0
        self._vmm: subprocess.Popen[str] | None = None

    # the service manager

    def _keep(self) -> None:
        """Be systemd: take files, and start gpiovirtd again when it has ended."""
        while not self._ended.wait(0.01):
            self._manager.receive()
            if self.daemon.process.poll() is not None and not self._ended.wait(_RESTART_S):
                with suppress(GpiovirtError):
                    self.daemon.start_by(self._hand_over)

    def _hand_over(self, argv: list[str], environment: dict[str, str]) -> None:
        self._manager.hand_over(argv, environment)

    # who is who

    def pid(self, target: str) -> int:
        """The process; 0 if there is none."""
        match target:
            case "program":
                return self._program.pid if self._program else 0
            case "supervisor":
                return self._supervisor
            case "worker":
                return int(self.daemon.show("plc").chip.worker)
            case "custodian":
                return self.daemon.process.pid
            case "fork-server":
                return _find(b"gpiovirt.worker.forkserver", b"gpiovirt-fork")
            case "simulator":
                return pid_of_socket(self.daemon.simulator_socket())
            case "vmm":
                return self._vmm.pid if self._vmm else 0
            case "control-files":
                return _find(b"gpiovirt.files.main")
            case "api":
                return _find(b"gpiovirt.api.main", b"gpiovirt-api")
        raise ValueError(target)

    def repair(self, needed: Iterable[str]) -> None:
        """Have again what the last case took away, as far as the next one needs it."""
        _until(lambda: self.daemon.process.poll() is None and _succeeds(self._is_live))
        if not self.bystander.is_answered():
            self.bystander.process.kill()
            self.bystander = Blinker(self.daemon, "plc", 1, self._folder)
        _until(self.other.is_answered)
        if not self._holds("program", self._program):
            self._start_program()
        if not self._holds("vmm", self._vmm):
            self._start_vmm()
        _until(
            lambda: set(self.levels().values()) == {"1"} or self.levels() | {"other": "1"} == self.levels()
        )
        for target in needed:
            if target == "api":
                _until(lambda: _succeeds(self._ask_api), 120)  # it has much to import
            _until(lambda t=target: _succeeds(lambda: self.pid(t)))  # type: ignore[misc]

    def _is_live(self) -> bool:
        with self.daemon.client() as client:
            return all(chip.state == "live" for chip in client.ask(List()).chips)

    def _holds(self, name: str, process: subprocess.Popen[Any] | None) -> bool:
        return process is not None and process.poll() is None and self.levels()[name] == "1"

    def _start_program(self) -> None:
        self._end(self._program)
        if self._supervisor:
            with suppress(ProcessLookupError):
                os.kill(self._supervisor, signal.SIGKILL)
        before = self._consumers()
        self._program = subprocess.Popen(
            [*_run("plc"), "gpioset", "--mode=signal", "gpiochip0", "0=1"], env=self.daemon.environment
        )
        _until(lambda: self.levels()["program"] == "1")
        (self._supervisor,) = self._consumers() - before

    def _consumers(self) -> set[int]:
        return {consumer.pid for consumer in self.daemon.show("plc").consumers}

    def _start_vmm(self) -> None:
        self._end(self._vmm)
        self._vmm = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(VMM), str(self.daemon.run / "vm/plc")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._vmm.stdout is not None
        assert self._vmm.stdout.readline() == "driven\n", self.daemon.log()

    @staticmethod
    def _end(process: subprocess.Popen[Any] | None) -> None:
        if process is not None:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def _ask_api(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(20)
            sock.connect(str(self.daemon.run / "api.sock"))
            sock.sendall(b"GET /chips HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b" 200 " in sock.recv(64)

    # what is seen

    def _moves(self) -> list[tuple[float, str, str]]:
        lines = self._samples.read_text().splitlines()
        return [(float(at), name, value) for at, name, value in map(str.split, lines)]

    def _passed_ms(self, begin_s: float, end_s: float) -> float:
        """In the guest: without what the host took from it."""
        stolen_s = sum(
            max(min(at, end_s) - max(float(since), begin_s), 0)
            for at, name, since in self._moves()
            if name == "stolen"
        )
        return round(1000 * max(end_s - begin_s - stolen_s, 0), 1)

    def levels(self) -> dict[str, str]:
        """As they are."""
        return {name: (world(offset) / "value").read_text().strip() for name, offset in LINES.items()}

    def suffer(self, case: str) -> Outcome:
        """Have the faults, and wait for what comes of them."""
        faults = [] if case == "nothing" else [Fault.parse(text) for text in case.split(",")]
        self.repair([fault.target for fault in faults])
        pids = [self.pid(fault.target) for fault in faults]
        os.truncate(self._samples, 0)
        dead: dict[str, float] = {}
        begin_s = time.monotonic()
        for number, (fault, pid) in enumerate(zip(faults, pids, strict=True)):
            if number:
                time.sleep(_BETWEEN_S)
            with suppress(ProcessLookupError):
                now_s = time.monotonic()
                os.kill(pid, fault.how)
                if fault.how is signal.SIGKILL and fault.target in ("program", "supervisor", "vmm"):
                    dead.setdefault("vmm" if fault.target == "vmm" else "program", now_s)
        targets = {fault.target for fault in faults}
        outcome = self._watch(case, begin_s, dead, _LOOK_S if targets & _SERVES else _LOOK_BRIEFLY_S)
        for fault, pid in zip(faults, pids, strict=True):
            if fault.how is signal.SIGSTOP:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        if "worker" in targets and "custodian" not in targets:
            self._forget_failures()
        return outcome

    def _forget_failures(self) -> None:
        """Workers that die again and again are started ever later, until gpiovirtd is executed again."""
        _until(lambda: _succeeds(self._is_live))
        before = self.daemon.log().count("ready: ")
        self.daemon.process.send_signal(signal.SIGHUP)
        _until(lambda: self.daemon.log().count("ready: ") > before)

    def _watch(self, case: str, begin_s: float, dead: dict[str, float], look_s: float) -> Outcome:
        safe: dict[str, float | None] = dict.fromkeys(dead)
        while True:
            time.sleep(0.05)
            passed_s = time.monotonic() - begin_s
            moves = self._moves()
            safe = dict.fromkeys(dead)
            for at, name, value in moves:
                if name in dead and value == "0":
                    safe[name] = self._passed_ms(dead[name], at)
            is_over = None not in safe.values() and self.bystander.is_answered()
            if passed_s > (look_s if is_over else _MOST_S):
                break
        moved = {
            name: self._passed_ms(begin_s, at)
            for at, name, value in reversed(moves)
            if name not in dead and value == "0" and name != "other"
        }
        own_ms = None
        if self.bystander.is_answered():
            own_ms = self.bystander.longest_ms(begin_s, self._passed_ms)
        return Outcome(case, safe, moved, self.other.longest_ms(begin_s, self._passed_ms), own_ms)

    def end(self) -> None:
        """Be no more."""
        self._ended.set()
        self._keeping.join()
        for process in (self._program, self._vmm, self.other.process, self.bystander.process, self._sampler):
            self._end(process)
        self.daemon.stop(signal.SIGINT)
        self._manager.close()


def _run(chip: str) -> list[str]:
    return [sys.executable, "-m", "gpiovirt", "run", "--chip", chip, "--"]


def _find(module: bytes, name: bytes = b"") -> int:
    """The process that runs a module, under this name if one is given; 0 if there is none."""
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            arguments = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            if module in arguments and Path(f"/proc/{entry}/comm").read_bytes().strip() in (name, b"python"):
                return int(entry)
    return 0


def _succeeds(attempt: Callable[[], object]) -> bool:
    try:
        return bool(attempt())
    except (OSError, GpiovirtError, ValueError):
        return False


def _until(condition: Callable[[], object], timeout_s: float = 30) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"nothing of the kind in {timeout_s} s")
        time.sleep(0.01)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        machine = Machine(Path(name))
        try:
            for case in sys.argv[1:]:
                print(json.dumps(machine.suffer(case)._asdict()), flush=True)
        finally:
            sys.stderr.write(machine.daemon.log())
            machine.end()


if __name__ == "__main__":
    main()
