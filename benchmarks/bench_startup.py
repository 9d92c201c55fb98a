# SPDX-License-Identifier: MIT
"""What `gpiovirt run` adds to the start of a program, in ms; and a bare start of Python beside it."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from benchmarks.harness import GPIOVIRT, HERE, Row, environment


def _start_ms(command: list[str]) -> float:
    started = time.perf_counter()
    source = {"PYTHONPATH": str(HERE.parent / "src")}
    subprocess.run(command, check=True, env=environment() | source, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


def rows() -> list[Row]:
    commands = {
        "true": ["true"],
        "python -c pass": [sys.executable, "-c", "pass"],
        "gpiovirt --version": [*GPIOVIRT, "--version"],
        "gpiovirt run -- true": [*GPIOVIRT, "run", "--sim", "a:8", "--", "true"],
        "the same, the system's Python": [
            "/usr/bin/python3",
            "-m",
            "gpiovirt",
            "run",
            "--sim",
            "a:8",
            "--",
            "true",
        ],
    }
    seen: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(30):
        for name, command in commands.items():
            seen[name].append(_start_ms(command))
    medians = {name: median(times) for name, times in seen.items()}
    added = {
        f"added{whose}": f"{medians[name] - medians['true']:.1f}"
        for whose, name in (("", "gpiovirt run -- true"), (", the system's", "the same, the system's Python"))
    }
    return [Row("start-up", {name: f"{ms:.1f}" for name, ms in medians.items()} | added)]
