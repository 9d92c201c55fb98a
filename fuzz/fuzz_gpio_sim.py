# SPDX-License-Identifier: MIT
"""Fuzz the files of gpio-sim and gpio-aggregator, by operations on paths and by raw requests of FUSE."""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import harness
from gpiovirt.cli.run import lines_of
from gpiovirt.protocols.attributes import FixedDirectory
from gpiovirt.protocols.fuse import FuseServer
from gpiovirt.protocols.gpio_aggregator import GpioAggregator
from gpiovirt.protocols.gpio_sim import GpioSim
from gpiovirt.uapi import fuse as u
from tests.file_tree import Board, Files

INVARIANT = (
    "any operation on any path is done or has an errno, a device is live exactly while the platform has its "
    "chips, and any request of FUSE has one whole answer or none"
)
NAMES = ["sim", "agg", "a", "b", "line0", "line1", "line007", "hog", "_sysfs.0", "x", "é", ""]
FILES = ["live", "dev_name", "num_lines", "label", "chip_name", "name", "valid", "direction", "active_low"]
FILES += ["key", "offset", "new_device", "delete_device"]
VALUES = [b"1", b"0", b"2\n", b"", b"\0", b"1024", b"99999999999999999999", b"on", b"input", b"output-high"]
VALUES += [b"gpio-sim.0:node0", b"gpio-sim.0:node0 0-2", b"gpio-aggregator.0\n", b"\xff\xfe", b" " * 4000]
OPERATIONS = ["mkdir", "mkdir", "mkdir", "rmdir", "read", "write", "write", "write", "list"]
OPCODES = [value for name, value in vars(u).items() if name.startswith("FUSE_") and value < 64]


def once(choose: random.Random) -> None:
    board = Board()
    aggregator = GpioAggregator(board, lines_of)
    sim = GpioSim(board)
    tree = FixedDirectory({"sim": sim, "agg": aggregator, **aggregator.driver_files().entries()})
    files, server = Files(tree), FuseServer(tree, 0, 0)
    for _ in range(choose.randrange(60)):
        if choose.random() < 0.2:
            request(choose, server)
            continue
        path = "/".join(choose.choices(NAMES, k=choose.randrange(1, 5)))
        operation = choose.choice(OPERATIONS)
        if operation in ("read", "write"):
            path = choose.choice([f"{path}/{choose.choice(FILES)}", choose.choice(FILES)])
        files.do(path, operation, choose.choice(VALUES))
        if choose.random() < 0.2:
            aggregator.retry()
        live = 0
        for where in ("sim", "agg"):
            for name in files.do(where, "list")[1].decode().split():
                live += files.do(f"{where}/{name}/live", "read")[1] == b"1\n"
        assert live == len(board.chips), (live, board.chips)


def request(choose: random.Random, server: FuseServer) -> None:
    body = choose.randbytes(choose.randrange(60))
    if choose.random() < 0.5:
        body = struct.pack("=II", 0, 0) * choose.randrange(2) + choose.choice(NAMES).encode() + b"\0"
    unique = choose.randrange(1 << 32)
    header = u.fuse_in_header.pack(0, choose.choice(OPCODES), unique, choose.randrange(8), 0, 0, 0, 0, 0)
    answer = server.receive((header + body)[: choose.choice([20, 10**6])])
    if answer is not None:
        size, error, told = u.fuse_out_header.unpack_from(answer)
        assert (size, told) == (len(answer), unique)
        assert error <= 0


if __name__ == "__main__":
    sys.exit(harness.main(INVARIANT, once))
