# SPDX-License-Identifier: MIT
"""Random sequences on the files of gpio-sim and gpio-aggregator, and what came of each step.

python -m tests.guest.configfs_program FIRST COUNT   prints a line for each step, of so many seeds.
It is run on the kernel's in a guest, and on ours.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.guest.attempts import tried, write_at_once

STEPS = 80
SETTLE_S = 0.03
CONFIG = Path("/sys/kernel/config")
SIM, AGGREGATOR = CONFIG / "gpio-sim", CONFIG / "gpio-aggregator"
DRIVER = Path("/sys/bus/platform/drivers/gpio-aggregator")
DEVICES = Path("/sys/devices/platform")
# linux/gpio.h: GPIO_GET_CHIPINFO_IOCTL, GPIO_V2_GET_LINEINFO_IOCTL
CHIP_INFO, LINE_INFO = 0x8044B401, 0xC100B405
LINES = ["line0", "line1", "line2", "line7", "line00", "linex"]
LEVELS: Sequence[Sequence[str]] = (["a", "b"], ["x", "y"], LINES)
VALUES = {
    "live": ["1", "1", "1", "0", "y", "n", "on", "2", ""],
    "num_lines": ["1", "4", "8", "0x2", "010", "0", "-1", "1025", "4294967296", "x", " 3", "3 "],
    "label": ["p", "p", "q", " p ", "", "p\0x"],
    "name": ["DOOR", "LAMP", " DOOR", "", "x y"],
    "valid": ["0", "1", "x", "off"],
    "direction": ["input", "output-high", "output-low", "output", ""],
    "active_low": ["0", "1", "x"],
    "key": ["p", "gpio-sim.0:node0", "gpio-sim.0:node0", "DOOR", "nowhere", ""],
    "offset": ["0", "0", "1", "7", "-1", "-2", "65534", "65535", "2147483648", "x"],
    "dev_name": ["x"],
    "chip_name": ["x"],
    "pull": ["pull-up", "pull-down", "up", ""],
    "value": ["1"],
}
FILES = {
    SIM: (["live", "dev_name"], ["num_lines", "label", "chip_name"], ["name", "valid"]),
    AGGREGATOR: (["live", "dev_name"], ["key", "name", "offset"], []),
}
NEW_DEVICES = [
    "p 0",
    "p 0-1 q 0",
    "gpio-sim.0:node0 0,2",
    "DOOR nowhere",
    "p",
    "",
    "p 512",
    "DOOR p 1",
    "q 9",
]
HOG_FILES = ["name", "direction", "active_low"]


class Walk:
    """One sequence."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def step(self) -> str:
        what = self.random.choice(
            ["sim"] * 8 + ["aggregator"] * 3 + ["new_device", "delete_device", "line", "line", "list"]
        )
        done = f"{what} {getattr(self, what)()}"
        time.sleep(SETTLE_S if "live" in done or "new_device" in done else 0)
        return f"{done} {chips()}"

    def _write(self, path: Path, text: str) -> object:
        return tried(lambda: write_at_once(path, text))

    def _pick(self, top: Path, levels: Sequence[Sequence[str]]) -> Path:
        """A directory below a driver's, mostly one that is there."""
        for names in levels:
            there = sorted(name for name in os.listdir(top) if (top / name).is_dir()) if top.is_dir() else []
            top /= self.random.choice(there if there and self.random.random() < 0.85 else names)
        return top

    def sim(self) -> object:
        depth = self.random.choice([1, 1, 1, 2, 2, 2, 3, 3, 4])
        path = self._pick(SIM, [*LEVELS, ["hog", "hog", "hog", "dog"]][:depth])
        if depth == 4 and path.name == "hog":
            with suppress(OSError):
                if (path.parents[2] / "live").read_text() == "1\n" and not path.exists():
                    return "left out"  # the kernel would fail an assertion later
        files = HOG_FILES if depth == 4 else FILES[SIM][depth - 1]
        return path.relative_to(SIM), self._change(path, files)

    def aggregator(self) -> object:
        depth = self.random.choice([1, 1, 2, 2, 2])
        path = self._pick(AGGREGATOR, [["d", "d", "d", "_sysfs.0"], LINES][:depth])
        return path.relative_to(AGGREGATOR), self._change(path, FILES[AGGREGATOR][depth - 1])

    def _change(self, path: Path, files: Sequence[str]) -> object:
        there = path.is_dir()
        what = self.random.choice(
            ["mkdir", "rmdir", *["read", "write", "write", "write"] * (2 if there else 1)]
        )
        if not there and self.random.random() < 0.6:
            what = "mkdir"
        if what == "mkdir":
            return what, tried(path.mkdir)
        if what == "rmdir":
            return what, tried(path.rmdir)
        name = self.random.choice([*files, *["live" if "live" in files else files[0]] * 2])
        if what == "read":
            return what, name, tried((path / name).read_bytes)
        text = self.random.choice(VALUES[name]) + self.random.choice(["", "", "\n"])
        if not text:
            return "nothing"
        return what, name, text, self._write(path / name, text)

    def new_device(self) -> object:
        text = self.random.choice(NEW_DEVICES) + "\n"
        return text, self._write(DRIVER / "new_device", text)

    def delete_device(self) -> object:
        name = f"{self.random.choice(['gpio-aggregator.'] * 4 + ['gpio-sim.', ''])}{self.random.randrange(3)}"
        return name, self._write(DRIVER / "delete_device", name)

    def line(self) -> object:
        """A simulated line's files."""
        where = sorted(DEVICES.glob("gpio-sim.*/gpiochip*/sim_gpio*"))
        if not where:
            return "none"
        line, name = self.random.choice(where), self.random.choice(["pull", "pull", "value"])
        if self.random.random() < 0.5:
            return line.relative_to(DEVICES), name, tried((line / name).read_bytes)
        text = self.random.choice(VALUES[name])
        return line.relative_to(DEVICES), name, text, self._write(line / name, text) if text else ""

    def list(self) -> object:
        found = []
        for top in (SIM, AGGREGATOR):
            for folder, folders, files in os.walk(top):
                found.append(f"{Path(folder).relative_to(CONFIG)}: {sorted(folders)} {sorted(files)}")
        return sorted(found)


def chips() -> str:
    """What the character devices say."""
    told = []
    for path in sorted(Path("/dev").glob("gpiochip*"), key=lambda path: int(path.name[8:])):
        fd = os.open(path, os.O_RDWR)
        try:
            info = bytearray(68)
            fcntl.ioctl(fd, CHIP_INFO, info)
            label = bytes(info[32:64]).partition(b"\0")[0].decode()
            count = int.from_bytes(info[64:68], sys.byteorder)
            lines = [line(fd, offset) for offset in range(min(count, 8))]
        finally:
            os.close(fd)
        told.append(f"{path.name}[{label} {count} {' '.join(lines)}]")
    return " ".join(told)


def line(fd: int, offset: int) -> str:
    arg = bytearray(256)
    arg[64:68] = offset.to_bytes(4, sys.byteorder)
    fcntl.ioctl(fd, LINE_INFO, arg)
    name, consumer = (bytes(arg[at : at + 32]).partition(b"\0")[0].decode() for at in (0, 32))
    flags = ctypes.c_uint64.from_buffer(arg, 72).value
    return f"{name}/{consumer}/{flags:x}"


def clean() -> None:
    """Leave nothing."""
    for folder in AGGREGATOR.glob("_sysfs.*"):
        (DRIVER / "delete_device").write_text((folder / "dev_name").read_text())
    for top in (AGGREGATOR, SIM):
        for live in top.glob("*/live"):
            with suppress(OSError):
                live.write_text("0")
        folders = [Path(folder) for folder, _, _ in os.walk(top)]
        for folder in sorted(folders, reverse=True):
            if folder != top:
                folder.rmdir()
    assert not re.findall("gpiochip", " ".join(os.listdir("/dev")))


def main() -> None:
    """Print what comes of the sequences."""
    first, count = map(int, sys.argv[1:])
    for seed in range(first, first + count):
        walk = Walk(seed)
        for number in range(STEPS):
            print(seed, number, walk.step())
        clean()


if __name__ == "__main__":
    main()
