# SPDX-License-Identifier: MIT
"""From the death of whoever drives an output until it is low, in ms, by gpio-sim's word: median (worst) of 9

User Mode Linux with one CPU. The program is Python; *without gpiovirt* it has the line of gpio-sim itself,
which the kernel frees. *Beyond the watchdog's time*: a program that is stopped, less the time-out.
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from benchmarks.harness import HERE, Row
from guests.guest import uml

ROOT = HERE.parent
TIMES = 9


def rows() -> list[Row]:
    subprocess.run([ROOT / "guests/build", "uml"], check=True, stdout=subprocess.DEVNULL)
    told = uml(
        f"cd {ROOT} && guests/gpio-sim sim 8 >/dev/null && "
        f"{sys.executable} -m tests.guest.endings_program {TIMES}",
        timeout_s=600,
    ).check()
    found = []
    for row in told.splitlines():
        name, *texts = row.split("\t")
        times = list(map(float, texts))
        found.append(Row(name, {"until safe": f"{median(times):.1f} ({max(times):.1f})"}))
    return found
