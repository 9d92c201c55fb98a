# SPDX-License-Identifier: MIT
"""Random sequences on /sys/class/gpio, on a kernel's gpio-sim and on ours, and what came of each step.

python -m tests.guest.sysfs_program FIRST COUNT   prints a line for each step, of so many seeds.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.guest.attempts import tried, write_at_once

LINES = 8
STEPS = 60
SETTLE_S = 0.004
ROOT = Path("/sys/class/gpio")
WRITTEN = {
    "direction": ["in", "out", "low", "high", "up", ""],
    "value": ["0", "1", "2", "0x0", "x", "", "-1", "010", "1 "],
    "edge": ["none", "rising", "falling", "both", "neither"],
    "active_low": ["0", "1", "3", "x"],
}


def ours() -> Callable[[int, int], object]:
    """How a line is pulled: by our simulator."""
    from gpiovirt.control.simulator import SimClient, running

    client = SimClient(running()[0])
    return lambda line, level: client.pull(f"bank:{line}", level)


def kernels() -> Callable[[int, int], object]:
    """How a line is pulled: by gpio-sim."""
    config = Path("/sys/kernel/config/gpio-sim/sim")
    name = (config / "bank/chip_name").read_text().strip()
    device = Path("/sys/devices/platform", (config / "dev_name").read_text().strip(), name)

    def pull(line: int, level: int) -> None:
        (device / f"sim_gpio{line}/pull").write_text("pull-up" if level else "pull-down")

    return pull


class Walk:
    """One sequence."""

    def __init__(self, seed: int, base: int, pull: Callable[[int, int], object]) -> None:
        self.random = Random(seed)
        self.base = base
        self._pull = pull
        self.open: dict[int, int] = {}

    def step(self) -> str:
        line = self.random.randrange(3)
        what = self.random.choice(
            ["export", "unexport", "write", "write", "read", "read", "pull", "poll", "poll"]
        )
        return f"{line} {what} {getattr(self, what)(line)}"

    def path(self, line: int, name: str) -> Path:
        return ROOT / f"gpio{self.base + line}" / name

    def export(self, line: int) -> object:
        number = self.random.choice([str(self.base + line)] * 6 + ["x", "-1", str(self.base + 5000)])
        return "number" if not number.isdecimal() else "", tried(
            lambda: write_at_once(ROOT / "export", number)
        )

    def unexport(self, line: int) -> object:
        if line in self.open:
            os.close(self.open.pop(line))
        return tried(lambda: write_at_once(ROOT / "unexport", f"{self.base + line}\n"))

    def write(self, line: int) -> object:
        name = self.random.choice(list(WRITTEN))
        text = self.random.choice(WRITTEN[name]) + self.random.choice(["", "\n"])
        if not text:
            return ""
        answer = tried(lambda: write_at_once(self.path(line, name), text))
        time.sleep(SETTLE_S)
        return name, text, answer

    def read(self, line: int) -> object:
        name = self.random.choice(list(WRITTEN))
        return name, tried(lambda: self.path(line, name).read_bytes())

    def pull(self, line: int) -> object:
        level = self.random.randrange(2)
        self._pull(line, level)
        return level

    def poll(self, line: int) -> object:
        """Of a file that stays open, and is read then."""
        if line not in self.open:
            fd = tried(lambda: os.open(self.path(line, "value"), os.O_RDONLY))
            if not isinstance(fd, int):
                return fd
            self.open[line] = fd
        poll = select.poll()
        poll.register(self.open[line], select.POLLPRI | select.POLLERR)
        found = [events for _, events in poll.poll(0)]
        return found, tried(lambda: os.pread(self.open[line], 16, 0))

    def end(self) -> None:
        for line in range(3):
            self.unexport(line)
            self._pull(line, 0)


def main() -> None:
    """Print what comes of the sequences."""
    (base,) = (
        int((chip / "base").read_text())
        for chip in ROOT.glob("gpiochip*")
        if (chip / "ngpio").read_text() == f"{LINES}\n"
    )
    pull = ours() if "GPIOVIRT_SIM" in os.environ else kernels()

    def pulled(line: int, level: int) -> None:
        pull(line, level)
        time.sleep(SETTLE_S)

    first, count = map(int, sys.argv[1:])
    for seed in range(first, first + count):
        walk = Walk(seed, base, pulled)
        for number in range(STEPS):
            print(seed, number, walk.step())
        walk.end()


if __name__ == "__main__":
    main()
