# SPDX-License-Identifier: MIT
"""operations of a guest on its chip, in us as its own clock sees them: median (p99).

*C* is `benchmarks/vm_floor.c`, a back-end without any logic; *polling* is `--poll-us 200`. UML is User
Mode Linux on one CPU; QEMU is without KVM, and its version here gives guests no edges.
"""

from __future__ import annotations

import os
import shutil

from benchmarks.harness import Row
from benchmarks.vm import timed

OPERATIONS = {
    "get": "get of one line",
    "set": "set of one line",
    "many": "get of eight lines in one request",
    "edge": "set on a wired line to its edge event read",
}


def _rows(vmm: str, operations: list[str], cpus: tuple[int, int]) -> list[Row]:
    kinds: dict[str, list[str]] = {"C": [], "gpiovirt": []}
    if cpus[0] != cpus[1]:
        kinds["gpiovirt polling"] = ["--poll-us", "200"]
    times = timed(kinds, operations, vmm, cpus)
    where = "one CPU" if cpus[0] == cpus[1] else "two CPUs"
    rows = []
    for operation in operations:
        figures = {
            kind: f"{times[kind, operation].median_us:.0f} ({times[kind, operation].p99_us:.0f})"
            for kind in kinds
        }
        floor = times["C", operation].median_us
        figures["gpiovirt / C"] = f"{times['gpiovirt', operation].median_us / floor:.2f}"
        if "gpiovirt polling" in kinds:
            figures["polling / C"] = f"{times['gpiovirt polling', operation].median_us / floor:.2f}"
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
