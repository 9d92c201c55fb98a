# SPDX-License-Identifier: MIT
"""What the benchmarks share: the C programs, runs pinned and unpinned, and rows of the table."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

HERE = Path(__file__).parent
GPIOVIRT = (str(Path(sys.executable).with_name("gpiovirt")),)
RUN = (*GPIOVIRT, "run", "--sim", "a:4", "--wire", "a:0=a:1")
RATIO = "gpiovirt / C, full"
AGGREGATE = ("--sim", "b:2", "--chip", "plc=a 0-1, b 0-1")
QUICK = "GPIOVIRT_BENCH_QUICK"
"""Set for a run that takes a few minutes, to see whether something is much slower"""


def scaled(count: int) -> int:
    """So many, or a third in a quick run."""
    return max(count // 3, 3) if QUICK in os.environ else count


COUNT = 5000
ROUNDS = scaled(7)


class Row(NamedTuple):
    """A line of the table: what was measured, its figures by column, and what some of them are medians of."""

    operation: str
    figures: dict[str, str]
    samples: dict[str, list[float]] = {}


class Times(NamedTuple):
    """Median and 99th percentile, in us."""

    median_us: float
    p99_us: float


@cache
def built(name: str) -> str:
    """The C program of that name, compiled once per run."""
    folder = tempfile.mkdtemp(prefix="gpiovirt-bench-")
    program = f"{folder}/{name}"
    subprocess.run(["gcc", "-O2", "-Wall", "-o", program, HERE / f"{name}.c"], check=True)
    return program


def environment() -> dict[str, str]:
    """As users have it: with bytecode."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def timed(command: Sequence[str], pinned: bool) -> Times:
    """What benchmarks/client.c, run by `command`, prints."""
    pin = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if pinned else []
    out = subprocess.run(
        [*pin, *command], capture_output=True, text=True, check=True, env=environment()
    ).stdout
    middle, tail, _ = out.split()
    return Times(int(middle) / 1000, int(tail) / 1000)


def rounds(commands: Mapping[str, Sequence[str]], pinned: bool) -> dict[str, list[Times]]:
    """What each command took in several rounds of all of them in turn."""
    seen: dict[str, list[Times]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            seen[name].append(timed(command, pinned))
    return seen


def middle(times: Sequence[Times]) -> Times:
    """The median of the rounds' medians, and of their p99s."""
    return Times(median(t.median_us for t in times), median(t.p99_us for t in times))


def ioctl_rows(operation: str, client: str, count: int = COUNT) -> list[Row]:
    """An operation of the character device beside its floors, pinned to one CPU and not."""
    arguments = [built("client"), client, str(count)]
    commands = {
        "C, bare": [built("floor"), "bare", *arguments, "/dev/null"],
        "C, full": [built("floor"), "full", *arguments, "/dev/null"],
        "gpiovirt": [*RUN, "--", *arguments, "/dev/gpiochip0"],
        "aggregate": [*RUN, *AGGREGATE, "--", *arguments, "/dev/gpiochip0"],
    }
    rows = []
    for pinned in (True, False):
        seen = rounds(commands, pinned)
        times = {name: middle(of_rounds) for name, of_rounds in seen.items()}
        figures = {name: f"{t.median_us:.1f} ({t.p99_us:.0f})" for name, t in times.items()}
        pairs = zip(seen["gpiovirt"], seen["C, full"], strict=True)
        ratios = [ours.median_us / floor.median_us for ours, floor in pairs]
        figures[RATIO] = f"{median(ratios):.2f}"
        rows.append(Row(f"{operation}, {'one CPU' if pinned else 'unpinned'}", figures, {RATIO: ratios}))
    return rows
