# SPDX-License-Identifier: MIT
"""What the VM benchmarks share: a back-end, ours or the C floor, and a guest that times operations on it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from benchmarks.harness import HERE, built, environment, scaled
from guests.guest import Guest, Qemu, Uml

ROUNDS = scaled(9)  # a guest's times differ from boot to boot, by where its memory is
COUNT = 1000

# as users have it: an interpreter that was built without optimizations takes a quarter more
PYTHON = "/usr/bin/python3"
SERVE = (PYTHON, "-m", "gpiovirt", "serve", "--sim", "a:16", "--wire", "a:0=a:1", "--vm")


class Timed(NamedTuple):
    """Of one round: median and 99th percentile in us, and operations in a second."""

    median_us: float
    p99_us: float
    per_second: int


@contextmanager
def backend(kind: str, path: str, cpu: int | None, *extra: str) -> Iterator[subprocess.Popen[bytes]]:
    """A floor, `C` or `Python`, or ours, listening at `path`; line 0 of its 16 is wired to line 1."""
    floors = {"C": [built("vm_floor"), path], "Python": [PYTHON, str(HERE / "vm_floor.py"), path]}
    command = floors.get(kind) or [*SERVE, f"a={path}", *extra]
    pin = [] if cpu is None else ["taskset", "-c", str(cpu)]
    source = {"PYTHONPATH": str(HERE.parent / "src")}
    with subprocess.Popen([*pin, *command], stderr=subprocess.DEVNULL, env=environment() | source) as process:
        try:
            while not os.path.exists(path):
                assert process.poll() is None, f"{command} has ended"
                time.sleep(0.01)
            time.sleep(0.1)
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


@contextmanager
def guest_on(vmm: str, path: str, cpu: int) -> Iterator[Guest]:
    """A guest on one CPU whose first chip is that of the back-end at `path`."""
    if vmm == "UML":
        with Uml(cpu=cpu, vhost_gpio=[path]) as uml:
            yield uml
    else:
        with Qemu(vhost_gpio=[path], host_root=True, mem="512M") as qemu:
            for task in os.listdir(f"/proc/{qemu.pid}/task"):
                os.sched_setaffinity(int(task), {cpu})
            yield qemu


def timed(
    kinds: Mapping[str, Sequence[str]], operations: Sequence[str], vmm: str, cpus: tuple[int, int]
) -> dict[tuple[str, str], list[Timed]]:
    """Rounds of all kinds in turn, by (kind, operation).

    `kinds` has extra arguments by name: `C` and `Python` are floors, all others are ours. `cpus` are the
    guest's and the back-end's.
    """
    seen: dict[tuple[str, str], list[Timed]] = {}
    for _ in range(ROUNDS):
        for kind, extra in kinds.items():
            with (
                tempfile.TemporaryDirectory() as folder,
                backend(kind, f"{folder}/sock", cpus[1], *extra),
                guest_on(vmm, f"{folder}/sock", cpus[0]) as guest,
            ):
                for operation in operations:
                    out = guest.run(f"{built('client')} {operation} {COUNT} /dev/gpiochip0").check()
                    middle, tail, rate = map(int, out.split())
                    seen.setdefault((kind, operation), []).append(Timed(middle / 1000, tail / 1000, rate))
    return seen
