# SPDX-License-Identifier: MIT
"""Instructions of commands, in millions: what small machines feel, and the same on any x86_64

Counted by valgrind's callgrind, user space only; `run` is not, as valgrind does not know open_tree(2).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

from benchmarks.harness import GPIOVIRT, Row, environment

_COMMANDS = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "gpiovirt --version": (sys.executable, *GPIOVIRT, "--version"),
    "gpiovirt list": (sys.executable, *GPIOVIRT, "list"),
}


def _instructions(command: tuple[str, ...]) -> int:
    with tempfile.NamedTemporaryFile("r", prefix="gpiovirt-bench-") as out:
        counted = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", *command]
        subprocess.run(counted, check=True, capture_output=True, env=environment())
        (total,) = (line.split()[1] for line in out if line.startswith("totals:"))
    return int(total)


def rows() -> list[Row]:
    figures = {name: f"{_instructions(command) / 1e6:.0f}" for name, command in _COMMANDS.items()}
    return [Row("instructions, millions", figures)]
