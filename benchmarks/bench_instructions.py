# SPDX-License-Identifier: MIT
"""Instructions of commands, in millions: what small machines feel, and the same on any machine

*x86_64*: of user space, counted by valgrind's callgrind, which knows no open_tree(2), so not of `run`.
*Cortex-A53*: of everything, the kernel's included, until the command ends: the time of an emulated board with
one such processor and Debian's kernel, on which an instruction takes a nanosecond; the least of five runs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

from benchmarks.harness import GPIOVIRT, Row, environment
from guests.boards import Board

_COMMANDS = {
    "python -c pass": ("python3", "-c", "pass"),
    "gpiovirt --version": ("gpiovirt", "--version"),
    "gpiovirt list": ("gpiovirt", "list"),
    "run, simulated": ("gpiovirt", "run", "--sim", "a:4", "--", "true"),
    "run, kernel's lines": ("gpiovirt", "run", "--chip", "x=gpiochip0 0-3", "--", "true"),
}
_CALLGRIND_CANNOT = "run"
_HERE = {"python3": (sys.executable,), "gpiovirt": (sys.executable, *GPIOVIRT)}
_CLOCK = ("-icount", "shift=0,sleep=off", "-smp", "1")
_TIMED = """\
import subprocess, sys, time
for _ in range(5):
    began_ns = time.monotonic_ns()
    subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
    print(time.monotonic_ns() - began_ns)
    time.sleep(1)
"""


def _by_callgrind(command: tuple[str, ...]) -> int:
    command = (*_HERE[command[0]], *command[1:])
    with tempfile.NamedTemporaryFile("r", prefix="gpiovirt-bench-") as out:
        counted = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", *command]
        subprocess.run(counted, check=True, capture_output=True, env=environment())
        (total,) = (line.split()[1] for line in out if line.startswith("totals:"))
    return int(total)


def _by_its_clock(board: Board, command: tuple[str, ...]) -> int:
    quoted = " ".join(f"'{word}'" for word in command)
    counts = board.run(f"python3 /tmp/timed.py {quoted}").check()
    return min(map(int, counts.split()))


def _millions(counts: dict[str, int]) -> dict[str, str]:
    return {name: f"{counts[name] / 1e6:.0f}" if name in counts else "" for name in _COMMANDS}


def rows() -> list[Row]:
    here = {
        name: _by_callgrind(command)
        for name, command in _COMMANDS.items()
        if not name.startswith(_CALLGRIND_CANNOT)
    }
    with Board("virt-arm64", extra_args=_CLOCK) as board:
        board.run(f"cat >/tmp/timed.py <<'END'\n{_TIMED}END\n").check()
        there = {name: _by_its_clock(board, command) for name, command in _COMMANDS.items()}
    return [Row("x86_64", _millions(here)), Row("Cortex-A53", _millions(there))]
