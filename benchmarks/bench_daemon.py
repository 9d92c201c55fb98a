# SPDX-License-Identifier: MIT
"""gpiovirtd: making and deleting chips, in ms (median, p99); many chips, and what an idle one costs."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from benchmarks.harness import Row
from gpiovirt.control.client import Client
from gpiovirt.protocols.control.requests import Delete, New, State
from gpiovirt.testing.daemon import Daemon

CHIPS = 1000
ROUNDS = 100
IDLE_S = 5


def rows() -> list[Row]:
    return [*_one(), *_many()]


def _one() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, Daemon(Path(folder), ["--sim", "a:8"]) as daemon:
        drivers = daemon.run / "bus/platform/drivers/gpio-virt-agg"
        with daemon.client() as client:
            new = partial(client.ask, New("a 0-3", "x"))
            delete = partial(client.ask, Delete("x"))
            new_device = partial((drivers / "new_device").write_text, "a 0-3")
            delete_device = partial((drivers / "delete_device").write_text, "gpio-virt-agg.0")
            rows = [
                Row(
                    "gpiovirtd, a chip of 4 lines",
                    {
                        "fork and exit of a process like it": _ms(_fork_and_exit),
                        "new, control socket": _ms(new, after=delete),
                        "delete, control socket": _ms(delete, before=new),
                        "write to new_device": _ms(new_device, after=delete_device),
                    },
                )
            ]
    return rows


def _fork_and_exit() -> None:
    """The floor: a process of the size of a worker, forked by one like the fork server."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


def _ms(
    operation: Callable[[], object],
    after: Callable[[], object] = lambda: None,
    before: Callable[[], object] = lambda: None,
) -> str:
    times = []
    for _ in range(ROUNDS):
        before()
        started = time.perf_counter()
        operation()
        times.append((time.perf_counter() - started) * 1000)
        after()
    return f"{median(times):.1f} ({quantiles(times, n=100)[-1]:.1f})"


def _rollup(pid: int, field: str) -> int:
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith(field + ":"))


def _switches(pids: list[int]) -> int:
    """Voluntary context switches: each is a sleep that something ended."""
    rows = [row for pid in pids for row in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(row.split()[1]) for row in rows if row.startswith("voluntary_ctxt_switches"))


def _many() -> list[Row]:
    lines = f"a:{CHIPS}"
    with tempfile.TemporaryDirectory() as folder, Daemon(Path(folder), ["--sim", lines]) as daemon:
        with daemon.client() as client:
            started = time.perf_counter()
            for number in range(CHIPS):
                client.ask(New(name=f"chip{number}", definition=f"a {number}", permanent=True))
            made_s = time.perf_counter() - started
        workers = daemon.workers()
        proportional = sum(_rollup(pid, "Pss") for pid in workers) / len(workers)
        memory = {
            "memory of a worker, MB: PSS": f"{proportional / 1024:.2f}",
            "RSS": f"{median(_rollup(pid, 'Rss') for pid in workers) / 1024:.1f}",
            "gpiovirtd's, RSS": f"{_rollup(daemon.process.pid, 'Rss') / 1024:.1f}",
        }
        everybody = [*workers, daemon.process.pid]
        before = _switches(everybody)
        time.sleep(IDLE_S)
        woken = _switches(everybody) - before
        daemon.kill()
        found_s = _start(daemon)
        daemon.kill()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        started_s = _start(daemon)
        with daemon.client() as client:
            live = sum(chip.state == "live" for chip in client.chips())
    assert live == CHIPS
    return [
        Row(f"{CHIPS} chips of one line", memory),
        Row(
            f"{CHIPS} chips, seconds",
            {
                "to make them one by one": f"{made_s:.1f}",
                "gpiovirtd's start, their workers there": f"{found_s:.1f}",
                "its start after a reboot": f"{started_s:.1f}",
                f"wake-ups of all in {IDLE_S} idle s": str(woken),
            },
        ),
    ]


def _start(daemon: Daemon) -> float:
    started = time.perf_counter()
    daemon.start()
    while True:
        with Client(str(daemon.run / "control")) as client:
            if client.ask(State()).live == CHIPS:
                return time.perf_counter() - started
        time.sleep(0.05)
