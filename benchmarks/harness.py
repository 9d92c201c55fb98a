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
AGGREGATE = ("--sim", "b:2", "--chip", "plc=a 0-1, b 0-1")
COUNT = 5000
ROUNDS = 7


class Row(NamedTuple):
    """A line of the table: what was measured, and its figures by column."""

    operation: str
    figures: dict[str, str]


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


def rounds(commands: Mapping[str, Sequence[str]], pinned: bool) -> dict[str, Times]:
    """Several rounds of all commands in turn; of each, the median of its medians and of its p99s."""
    seen: dict[str, list[Times]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            seen[name].append(timed(command, pinned))
    return {
        name: Times(median(t.median_us for t in times), median(t.p99_us for t in times))
        for name, times in seen.items()
    }


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
        times = rounds(commands, pinned)
        figures = {name: f"{t.median_us:.1f} ({t.p99_us:.0f})" for name, t in times.items()}
        figures["gpiovirt / C, full"] = f"{times['gpiovirt'].median_us / times['C, full'].median_us:.2f}"
        rows.append(Row(f"{operation}, {'one CPU' if pinned else 'unpinned'}", figures))
    return rows
