# SPDX-License-Identifier: MIT
"""Memory of a supervisor, in MB; and what trapping costs a program that only imports the binding."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import GPIOVIRT, Row, environment
from gpiovirt.control.simulator import socket_of
from gpiovirt.testing import running


def _kilobytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise LookupError(field)


def _supervisor_of(program: int) -> int:
    """The process that serves the abstract socket of the program's simulator."""
    name = socket_of(program)
    inodes = {row.split()[-2] for row in Path("/proc/net/unix").read_text().splitlines() if name in row}
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(entry.readlink()) in {f"socket:[{inode}]" for inode in inodes}:
                return int(entry.parts[2])
        except OSError:
            continue
    raise LookupError("no supervisor")


def _traps(program: list[str]) -> int:
    """Notifications a supervisor receives for a program, counted by strace on its listener."""
    with tempfile.NamedTemporaryFile() as log:
        command = [
            "strace",
            "-f",
            "-e",
            "trace=ioctl",
            "-o",
            log.name,
            *GPIOVIRT,
            "run",
            "--sim",
            "a:8",
            "--",
        ]
        subprocess.run([*command, *program], check=True, env=environment(), capture_output=True)
        return Path(log.name).read_text().count("SECCOMP_IOCTL_NOTIF_SEND")


def rows() -> list[Row]:
    with running(["sleep", "30"], ["a:64"], env=environment()) as program:
        supervisor = _supervisor_of(program.process.pid)
        memory = {field: f"{_kilobytes(supervisor, field) / 1024:.1f}" for field in ("Rss", "Pss")}
    return [
        Row("memory of the supervisor", memory),
        Row(
            "traps",
            {
                "python -c 'import gpiod'": str(_traps([sys.executable, "-c", "import gpiod"])),
                "gpioget gpiochip0 0": str(_traps(["gpioget", "gpiochip0", "0"])),
            },
        ),
    ]
