# SPDX-License-Identifier: MIT
"""Containers of runc: an ioctl beside `run`, in us (p99); a start, in ms; and what one costs, in MB."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.harness import COUNT, GPIOVIRT, ROUNDS, Row, Times, built, environment
from gpiovirt.testing.bundle import make_bundle, make_root
from gpiovirt.testing.daemon import Daemon

SIMS = ["--sim", "a:8", "--wire", "a:0=a:1", "--no-files", "--no-api"]
STARTS = 15


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        root = make_root(folder / "root")
        shutil.copy(built("client"), root / "client")
        with Daemon(folder, SIMS) as daemon:
            machine = _Machine(folder, root, {**environment(), **daemon.environment})
            machine.gpiovirt("new", "plc", "a 0-3", "--line", "2=safe=low")
            return [
                *(_ioctls(machine, operation, client) for operation, client in OPERATIONS.items()),
                _starts(machine),
                _safe(machine, daemon),
                _memory(machine, daemon),
            ]


OPERATIONS = {
    "GET_VALUES of one line": "get",
    "SET_VALUES of one line": "set",
    "GET_LINE and close": "request",
}


class _Machine:
    def __init__(self, folder: Path, root: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self.root = root
        self.variables = variables
        self._number = 0

    def gpiovirt(self, *arguments: str) -> None:
        subprocess.run([*GPIOVIRT, *arguments], env=self.variables, stdout=subprocess.DEVNULL, check=True)

    def bundle(self, program: Sequence[str], chip: str = "") -> Path:
        self._number += 1
        made = make_bundle(self.folder / f"bundle{self._number}", self.root, program)
        if chip:
            self.gpiovirt("oci", "edit", "--chip", chip, str(made))
        return made

    def run(self, bundle: Path, runtime: str = "runc") -> str:
        command = [runtime, "run", "--bundle", str(bundle), f"bench-{os.getpid()}"]
        return subprocess.check_output(command, env=self.variables, text=True)


def _ioctls(machine: _Machine, operation: str, client: str) -> Row:
    """Beside `run`, in turn, on a chip of one worker; nothing is pinned."""
    inside = machine.bundle(["/client", client, str(COUNT), "/dev/gpiochip0"], "plc")
    outside = [*GPIOVIRT, "run", "--chip", "plc", "--", built("client"), client, str(COUNT), "/dev/gpiochip0"]
    seen: dict[str, list[Times]] = {"run": [], "container": []}
    for _ in range(ROUNDS):
        said = subprocess.check_output(outside, env=machine.variables, text=True)
        for name, text in (("run", said), ("container", machine.run(inside))):
            middle_ns, tail_ns, _ = text.split()
            seen[name].append(Times(int(middle_ns) / 1000, int(tail_ns) / 1000))
    us = {name: median(times.median_us for times in all_of) for name, all_of in seen.items()}
    figures = {
        name: f"{us[name]:.1f} ({median(times.p99_us for times in all_of):.0f})"
        for name, all_of in seen.items()
    }
    ratios = [c.median_us / r.median_us for r, c in zip(seen["run"], seen["container"], strict=True)]
    return Row(operation, {**figures, "container / run": f"{median(ratios):.2f}"})


def _starts(machine: _Machine) -> Row:
    """Of `true`: a container without a chip, one that was edited before, and one that the wrapper edits."""
    wrapper = str(Path(GPIOVIRT[0]).with_name("gpiovirt-runc"))
    plain = machine.bundle(["true"])
    edited = machine.bundle(["true"], "plc")
    asking = machine.bundle(["true"], "plc")
    original = (asking / "config.json").read_bytes()
    ways = {
        "runc": (plain, "runc"),
        "wrapper, no chip": (plain, wrapper),
        "runc, edited": (edited, "runc"),
        "wrapper, a chip": (asking, wrapper),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(STARTS):
        for name, (bundle, runtime) in ways.items():
            (asking / "config.json").write_bytes(original)
            began_s = time.monotonic()
            machine.run(bundle, runtime)
            took[name].append((time.monotonic() - began_s) * 1000)
    return Row("start and end of `true`, ms", {name: f"{median(ms):.0f}" for name, ms in took.items()})


def _safe(machine: _Machine, daemon: Daemon) -> Row:
    """From the SIGKILL of a container's only process until the world sees its output's safe state."""
    bundle = machine.bundle(["gpioset", "--mode=signal", "gpiochip0", "2=1"], "plc")
    took_ms = []
    for number in range(STARTS):
        name = f"bench-{os.getpid()}-{number}"
        command = ["runc", "run", "--bundle", str(bundle), name]
        with subprocess.Popen(command, env=machine.variables) as process, daemon.simulator() as world:
            while not world.get("a:2"):
                time.sleep(0.005)
            state = json.loads(subprocess.check_output(["runc", "state", name], text=True))
            began_s = time.monotonic()
            os.kill(state["pid"], signal.SIGKILL)
            while world.get("a:2"):
                pass
            took_ms.append((time.monotonic() - began_s) * 1000)
            process.wait(20)
    figures = {"median": f"{median(took_ms):.1f}", "largest": f"{max(took_ms):.1f}"}
    return Row(f"a killed container's output is safe, ms (of {STARTS})", figures)


def _memory(machine: _Machine, daemon: Daemon) -> Row:
    """What is private to the supervisor of a container, once it has served."""
    name = f"bench-{os.getpid()}"
    program = ["sh", "-c", "gpioinfo >/dev/null; gpioset --mode=signal gpiochip0 2=1"]
    bundle = machine.bundle(program, "plc")
    command = ["runc", "run", "--bundle", str(bundle), name]
    with subprocess.Popen(command, env=machine.variables) as process:
        daemon.wait_for(lambda: any(line.used for line in daemon.show("plc").lines))
        consumers = daemon.show("plc").consumers
        private = {consumer.pid: _private_mb(consumer.pid) for consumer in consumers}
        subprocess.run(["runc", "kill", name, "KILL"], check=True)
        process.wait(20)
    return Row("private memory of a container's supervisor, MB", {"one": f"{max(private.values()):.1f}"})


def _private_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024
