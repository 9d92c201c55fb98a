# SPDX-License-Identifier: MIT
"""Fuzz the character device's ioctl decoder."""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import harness
from gpiovirt.core.aggregate import Aggregate
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Direction, LineSettings
from gpiovirt.protocols.gpiochip import ChipFile, FifoShape, File
from gpiovirt.testing import FakeClock, Simulator
from gpiovirt.uapi import gpio as u

INVARIANT = "every ioctl is answered 0 or with a known errno, and a neighbour's line stays as it was"
COMMANDS = sorted({value for name, value in vars(u).items() if name.endswith("_IOCTL")})
ERRNOS = {0, 1, 16, 19, 22, 95}  # EPERM EBUSY ENODEV EINVAL EOPNOTSUPP
NEIGHBOUR = 5
HOLDER = Holder("neighbour", HolderKind.PROGRAM, 812, 1000)


class CountingFifo:
    """A Fifo that checks the size of what it gets."""

    def __init__(self, shape: FifoShape) -> None:
        assert 0 < shape.capacity <= 1024
        self.sizes = {shape.record_size} | ({104} if shape.record_size == 288 else set())

    def put(self, record: bytes) -> None:
        assert len(record) in self.sizes

    def hang_up(self) -> None:
        raise AssertionError("simulated lines stay")


class Run:
    """A chip with one line held by a neighbour, and the files opened on it so far."""

    def __init__(self) -> None:
        self.simulator = Simulator(FakeClock())
        source = self.simulator.add_chip("source", [""] * 8)
        chip = Aggregate("fuzzed", [(source, i) for i in range(8)], FakeClock())
        self.held = chip.request([NEIGHBOUR], [LineSettings(Direction.OUTPUT, output_value=1)], HOLDER)
        self.files: list[File] = [ChipFile(chip, "gpiochip0", CountingFifo, HOLDER) for _ in range(2)]

    def ioctl(self, number: int, file: int, argument: bytes) -> None:
        """One of the ioctls on one of the files, its argument cut or filled up to the right size."""
        cmd = COMMANDS[number % len(COMMANDS)]
        size = u.ioc_size(cmd)
        answer = self.files[file % len(self.files)].ioctl(cmd, argument[:size].ljust(size, b"\0"))
        assert answer.errno in ERRNOS, answer
        assert answer.reply is None or len(answer.reply) == size
        if answer.file is not None:
            assert answer.fd_at == size - 4
            self.files.append(answer.file)

    def check_neighbour(self) -> None:
        """The neighbour's line is still its own and still driven."""
        assert self.held.get_values(1) == 1
        assert self.simulator.level("source", NEIGHBOUR) == 1
        self.held.set_values(1, 0)
        assert self.simulator.level("source", NEIGHBOUR) == 0


def plausible(choose: random.Random, size: int) -> bytes:
    """An argument in which the right fields often hold sensible numbers."""
    raw = bytearray(size)
    for at in range(0, size - 3, 4):
        if choose.random() < 0.15:
            small = choose.choice([0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 63, 64, 0xFFFFFFFF, choose.getrandbits(13)])
            struct.pack_into("=I", raw, at, small)
    if size == u.gpio_v2_line_request.size:
        struct.pack_into("=I", raw, 560, choose.choice([1, 1, 2, 3, 64, 0]))
        struct.pack_into(
            "=Q", raw, 288, choose.choice([4, 8, 0, 4 | 16, 4 | 48, 8 | 64, choose.getrandbits(13)])
        )
        if choose.random() < 0.8:
            raw[296:560] = bytes(264)
            raw[564:588] = bytes(24)
    if size == u.gpiohandle_request.size:
        struct.pack_into("=I", raw, 356, choose.choice([1, 2, 64, 0]))
    return bytes(raw)


def once(choose: random.Random) -> None:
    run = Run()
    for _ in range(40):
        number = choose.randrange(len(COMMANDS))
        size = u.ioc_size(COMMANDS[number])
        argument = choose.randbytes(size) if choose.random() < 0.2 else plausible(choose, size)
        run.ioctl(number, choose.randrange(16), argument)
        if choose.random() < 0.2:
            run.simulator.pull("source", choose.randrange(8), choose.randrange(2))
        if len(run.files) > 2 and choose.random() < 0.3:
            run.files.pop().close()
    run.check_neighbour()


if __name__ == "__main__":
    sys.exit(harness.main(INVARIANT, once))
