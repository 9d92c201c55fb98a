# SPDX-License-Identifier: MIT
"""This tree beside another commit, each operation in turn, pinned to one CPU: medians, and ratios by round.

Only ratios mean anything: both run on the same Python at the same time. The processes of gpiovirtd are on
the CPU of the program, so that which CPU wakes which is the same for both.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles

from benchmarks.harness import HERE, Row, built, environment, scaled

ROUNDS = scaled(15)
CLIENTS = {"get": 3000, "set": 3000, "request": 800, "edge": 1500}
RUN = ("run", "--sim", "a:4", "--wire", "a:0=a:1", "--chip", "plc=a 0-3", "--")
KEPT = ("run", "--chip", "plc", "--")
COMMANDS = {
    "gpiovirt --version": ("--version",),
    "gpiovirt list": ("list",),
    "gpiovirt run -- true": ("run", "--sim", "a:4", "--", "true"),
}
READY_S = 30


class Tree:
    """A tree's commands, and its gpiovirtd with the simulated chip `s` and the virtual chip `plc`."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._environment = {
            **environment(),
            "PYTHONPATH": str(root / "src"),
            "GPIOVIRT_RUNTIME_DIR": f"{folder}/run",
            "GPIOVIRT_CONFIG_DIR": f"{folder}/chips.d",
        }
        compiled = [sys.executable, "-m", "compileall", "-q", f"{root}/src"]
        subprocess.run(compiled, check=True, env=environment())
        log = folder / "log"
        arguments = ["--sim", "s:8", "--wire", "s:0=s:1", "--no-config", "--run", f"{folder}/run"]
        with log.open("wb") as output:
            self._daemon = subprocess.Popen(
                self._pinned("gpiovirt.cli.daemon", *arguments, "--state", f"{folder}/state"),
                env=self._environment,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + READY_S
        while b"ready" not in log.read_bytes():
            if time.monotonic() > deadline or self._daemon.poll() is not None:
                raise SystemExit(f"gpiovirtd of {root} is not ready: {log.read_text()}")
            time.sleep(0.02)
        self.run("new", "plc", "s 0-3")

    def _pinned(self, module: str, *arguments: str) -> list[str]:
        return ["taskset", "-c", str(_cpu()), sys.executable, "-m", module, *arguments]

    def run(self, *arguments: str) -> str:
        """What a command of it prints."""
        command = self._pinned("gpiovirt", *arguments)
        done = subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True)
        return done.stdout

    def timed_us(self, operation: str) -> float:
        """How long one takes."""
        if operation in COMMANDS:
            return self._wall_us(*COMMANDS[operation])
        if operation == "new and delete":
            return self._wall_us("new", "other", "s 7") + self._wall_us("delete", "other")
        way, name = operation.split()
        client = [built("client"), name, str(CLIENTS[name]), "/dev/gpiochip0"]
        return int(self.run(*(RUN if way == "run:" else KEPT), *client).split()[0]) / 1000

    def _wall_us(self, *arguments: str) -> float:
        started = time.perf_counter()
        self.run(*arguments)
        return (time.perf_counter() - started) * 1e6

    def end(self) -> None:
        """End its gpiovirtd."""
        self._daemon.send_signal(signal.SIGTERM)
        self._daemon.wait()


def _cpu() -> int:
    return min(os.sched_getaffinity(0))


@contextmanager
def _checked_out(revision: str) -> Iterator[Path]:
    """A tree of that revision, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="gpiovirt-against-") as folder:
        git = ["git", "-C", str(HERE.parent)]
        found = subprocess.run([*git, "rev-parse", "-q", "--verify", f"{revision}^{{commit}}"], check=False)
        if found.returncode:
            raise SystemExit(f"no commit is called {revision}")
        subprocess.run([*git, "worktree", "add", "-q", "--detach", f"{folder}/tree", revision], check=True)
        try:
            yield Path(folder) / "tree"
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", f"{folder}/tree"], check=True)


def rows(revision: str) -> list[Row]:
    """A row for each operation; a ratio over 1 is slower here than there."""
    operations = [f"{way} {name}" for way in ("run:", "gpiovirtd:") for name in CLIENTS]
    with ExitStack() as stack:
        there = stack.enter_context(_checked_out(revision))
        trees = []
        for root in (HERE.parent, there):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            trees.append(Tree(root, folder))
            stack.callback(trees[-1].end)
        return [_row(operation, *trees) for operation in [*operations, "new and delete", *COMMANDS]]


def _row(operation: str, here: Tree, there: Tree) -> Row:
    print(f"{operation} ...", file=sys.stderr)
    pairs = [(here.timed_us(operation), there.timed_us(operation)) for _ in range(ROUNDS)]
    ratios = [ours / theirs for ours, theirs in pairs]
    low, middle, high = quantiles(ratios, n=4)
    return Row(
        operation,
        {
            "here, us": f"{median(ours for ours, _ in pairs):.1f}",
            "there, us": f"{median(theirs for _, theirs in pairs):.1f}",
            "here / there": f"{middle:.2f}",
            "middle half": f"{low:.2f} to {high:.2f}",
        },
        {"here / there": ratios},
    )
