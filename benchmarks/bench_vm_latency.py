# SPDX-License-Identifier: MIT
"""operations of a guest on its chip, in us by its own clock: median (p99); and how many in a second.

*C* is `benchmarks/vm_floor.c`, a back-end without any logic or checks; *Python* is `benchmarks/vm_floor.py`,
the same in Python; *gpiovirt* is `serve` as it comes, *asleep* with `--poll-us 1`, *polling* with `--poll-us
200`, all on the system's Python. UML is User Mode Linux on one CPU; QEMU is without KVM, and its version here
gives guests no edges. All are medians over the rounds, of which each has every kind; the ratios too.
"""

from __future__ import annotations

import os
import shutil
from statistics import median

from benchmarks.harness import Row
from benchmarks.vm import Timed, timed

OPERATIONS = {
    "get": "get of one line",
    "set": "set of one line",
    "many": "get of eight lines in one request",
    "edge": "set on a wired line to its edge event read",
}


def _figure(rounds: list[Timed]) -> str:
    return f"{median(one.median_us for one in rounds):.0f} ({median(one.p99_us for one in rounds):.0f})"


def _rows(vmm: str, operations: list[str], cpus: tuple[int, int]) -> list[Row]:
    kinds: dict[str, list[str]] = {"C": [], "Python": [], "gpiovirt": []}
    if cpus[0] != cpus[1]:
        kinds |= {"asleep": ["--poll-us", "1"], "polling": ["--poll-us", "200"]}
    times = timed(kinds, operations, vmm, cpus)
    where = "one CPU" if cpus[0] == cpus[1] else "two CPUs"
    rows = []
    for operation in operations:
        seen = {kind: times[kind, operation] for kind in kinds}
        figures = {kind: _figure(rounds) for kind, rounds in seen.items()}
        figures |= {
            f"{kind}, a second": str(round(median(one.per_second for one in rounds)))
            for kind, rounds in seen.items()
        }
        for kind in list(kinds)[1:]:
            pairs = zip(seen[kind], seen["C"], strict=True)
            figures[f"{kind} / C"] = (
                f"{median(ours.median_us / floor.median_us for ours, floor in pairs):.2f}"
            )
        rows.append(Row(f"{OPERATIONS[operation]}, {vmm}, {where}", figures))
    return rows


def rows() -> list[Row]:
    cpus = sorted(os.sched_getaffinity(0))
    one = cpus[-1]
    found = _rows("UML", ["get", "set", "many", "edge"], (one, one))
    if len(cpus) > 1:
        found += _rows("UML", ["get", "set", "many", "edge"], (one, cpus[0]))
        if shutil.which("qemu-system-x86_64"):
            found += _rows("QEMU", ["get", "set", "many"], (one, cpus[0]))
    return found
