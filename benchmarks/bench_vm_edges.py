# SPDX-License-Identifier: MIT
"""edges that reach a guest, of those that the world makes at a rate; and what an idle `serve` costs.

A virtio GPIO line can tell of one edge at a time, and remembers one more: what a machine that stands
still for longer swallows is lost with any back-end. *stalls* is how often the world itself was late
by more than two edges.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Row, built
from benchmarks.vm import backend, guest_on
from gpiovirt.control.simulator import SimClient, socket_name

SECONDS = 2


def _edges(rate: int) -> Row:
    cpus = sorted(os.sched_getaffinity(0))
    count, stalls = rate * SECONDS, 0
    with (
        tempfile.TemporaryDirectory() as folder,
        backend("gpiovirt", f"{folder}/sock", cpus[-1]) as process,
        guest_on("UML", f"{folder}/sock", cpus[-1]) as guest,
        SimClient(socket_name(os.getuid(), process.pid)) as sim,
    ):
        guest.run(f"{built('vm_edges')} /dev/gpiochip0 >/run/edges 2>&1 &").check()
        guest.run("until grep -q vm_edges /proc/interrupts; do :; done").check()
        os.sched_setaffinity(0, {cpus[0]})
        began = time.monotonic()
        for i in range(count):
            while (left := began + i / rate - time.monotonic()) > 0:
                time.sleep(left / 2)
            stalls += time.monotonic() - began - i / rate > 2 / rate
            sim.pull("a:3", "down" if i & 1 else "up")
        os.sched_setaffinity(0, cpus)
        arrived, doubled = guest.run("sleep 1.3; cat /run/edges").check().split()
    figures = {"edges": str(count), "arrived": arrived, "of the wrong kind": doubled, "stalls": str(stalls)}
    return Row(f"{rate} edges a second, UML", figures)


def _idle() -> Row:
    with (
        tempfile.TemporaryDirectory() as folder,
        backend("gpiovirt", f"{folder}/sock", None) as process,
        guest_on("UML", f"{folder}/sock", max(os.sched_getaffinity(0))) as guest,
    ):
        guest.run("gpiomon gpiochip0 3 >/dev/null 2>&1 & gpioget gpiochip0 2; sleep 0.5").check()
        log = f"{folder}/strace"
        subprocess.run(
            ["timeout", "2", "strace", "-f", "-o", log, "-p", str(process.pid)],
            check=False,
            capture_output=True,
        )
        attached = ("unfinished", "resumed", "detached")
        lines = Path(log).read_text().splitlines()
        calls = [line for line in lines if not any(word in line for word in attached)]
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        )
    resident = f"{int(status['VmRSS'].split()[0]) / 1024:.1f}"
    return Row(
        "`serve` with a guest that waits", {"system calls in 2 s": str(len(calls)), "Rss, MB": resident}
    )


def rows() -> list[Row]:
    return [_edges(500), _edges(2000), _idle()]
