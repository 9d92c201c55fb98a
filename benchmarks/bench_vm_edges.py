# SPDX-License-Identifier: MIT
"""edges that a guest was not told of, or told of as the wrong kind; and what an idle `serve` costs.

The world makes edges at a rate, on one line or on eight in turn, never closer than the rate says. *C*
is `benchmarks/vm_floor.c`, which remembers one edge of a line that the guest is not ready to be told of:
what it loses, the guest was too slow for. UML is on one CPU with the back-end, the world on another; sums
over all rounds. *Late* is how often the world itself was late by more than half a period.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import Row, built
from benchmarks.vm import backend, guest_on
from gpiovirt.control.simulator import socket_of

SECONDS = 2
ROUNDS = 3


class _Seen(NamedTuple):
    lost: int
    doubled: int
    late: int


def _watched(kind: str, rate: int, lines: int) -> _Seen:
    cpus = sorted(os.sched_getaffinity(0))
    count = rate * SECONDS
    with (
        tempfile.TemporaryDirectory() as folder,
        backend(kind, f"{folder}/sock", cpus[-1]) as process,
        guest_on("UML", f"{folder}/sock", cpus[-1]) as guest,
    ):
        guest.run(f"{built('vm_edges')} /dev/gpiochip0 {lines} >/run/edges 2>&1 &").check()
        guest.run(f"until [ $(grep -c vm_edges /proc/interrupts) = {lines} ]; do :; done").check()
        name = f"{folder}/sock" if kind == "C" else socket_of(process.pid)
        world = ["taskset", "-c", str(cpus[0]), built("vm_world"), name, str(rate), str(count), str(lines)]
        late = subprocess.run(world, check=True, capture_output=True, text=True).stdout
        arrived, doubled = guest.run("sleep 3.3; cat /run/edges").check().split()
    return _Seen(count - int(arrived), int(doubled), int(late))


def _edges(rate: int, lines: int) -> Row:
    seen: dict[str, list[_Seen]] = {"C": [], "gpiovirt": []}
    for _ in range(ROUNDS):
        for kind, all_seen in seen.items():
            all_seen.append(_watched(kind, rate, lines))
    figures = {"edges": str(rate * SECONDS * ROUNDS)}
    for kind, rounds in seen.items():
        lost, doubled, late = (sum(column) for column in zip(*rounds, strict=True))
        figures |= {
            f"{kind}: lost": str(lost),
            f"{kind}: wrong kind": str(doubled),
            f"{kind}: late": str(late),
        }
    return Row(f"{rate} edges a second, {'one line' if lines == 1 else f'{lines} lines'}", figures)


def _idle() -> Row:
    with (
        tempfile.TemporaryDirectory() as folder,
        backend("gpiovirt", f"{folder}/sock", None) as process,
        guest_on("UML", f"{folder}/sock", max(os.sched_getaffinity(0))) as guest,
    ):
        guest.run("gpiomon gpiochip0 3 >/dev/null 2>&1 & gpioget gpiochip0 2; sleep 0.5").check()
        log = f"{folder}/strace"
        subprocess.run(
            ["timeout", "2", "strace", "-f", "-o", log, "-p", str(process.pid)],
            check=False,
            capture_output=True,
        )
        attached = ("unfinished", "resumed", "detached")
        lines = Path(log).read_text().splitlines()
        calls = [line for line in lines if not any(word in line for word in attached)]
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        )
    resident = f"{int(status['VmRSS'].split()[0]) / 1024:.1f}"
    return Row(
        "`serve` with a guest that waits", {"system calls in 2 s": str(len(calls)), "Rss, MB": resident}
    )


def rows() -> list[Row]:
    return [_edges(500, 1), _edges(2000, 1), _edges(2000, 8), _idle()]
