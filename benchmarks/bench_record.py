# SPDX-License-Identifier: MIT
"""The record of what happens to chips: what a change costs where it happens, and how many fit in a second.

*In the process* is a set of one simulated line through a virtual chip, in us; *gpiovirtd* is SET_VALUES of
one line of a chip that gpiovirtd keeps, in us; both are medians over the rounds, with a record and without in
turn. For the rates a process writes to a chip's ring in its worker's place, 64 lines in turn, as lines of a
simulator cannot be set so often; *lost* is what the record itself says that it lacks
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median

from benchmarks.harness import COUNT, GPIOVIRT, ROUNDS, Row, built, timed
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Direction, LineSettings
from gpiovirt.core.record import RingWriter, What, ring_size
from gpiovirt.host.clock import now_ns
from gpiovirt.host.mapping import map_shared
from gpiovirt.host.notifier import Notifier
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.seccomp import fetch_fd
from gpiovirt.protocols.control.requests import New
from gpiovirt.sources.simulator import Simulator
from gpiovirt.testing.daemon import Daemon
from gpiovirt.virtual.stack import StackedLine, VirtualChip

LINES = 64
SECONDS = 10
RATES = (20_000, 50_000, 100_000)
SETS = 100_000
BURST_S = 0.005


def rows() -> list[Row]:
    return [_in_the_process(), _through_gpiovirtd(), *_rates()]


def _in_the_process() -> Row:
    us: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for recorded in us:
            us[recorded].append(_set_us(recorded))
    return _compared(
        "set, in the process", [(without, with_) for without, with_ in zip(*us.values(), strict=True)]
    )


def _set_us(recorded: bool) -> float:
    simulator = Simulator(now_ns)
    source = simulator.add_chip("sim", ["A"])
    memory = memoryview(bytearray(ring_size(1)))
    ring = RingWriter(memory, 1, time.time_ns, time.monotonic_ns, lambda: None) if recorded else None
    reactor = Reactor()
    chip = VirtualChip("plc", [StackedLine("A", local=(source, 0))], now_ns, reactor, record=ring)
    holder = Holder("bench", HolderKind.PROGRAM, 1, 0)
    set_values = chip.request([0], [LineSettings(Direction.OUTPUT)], holder).set_values
    began = time.perf_counter()
    for number in range(SETS):
        set_values(1, number & 1)
    took = time.perf_counter() - began
    reactor.close()
    return took / SETS * 1e6


def _compared(what: str, pairs: list[tuple[float, float]]) -> Row:
    return Row(
        what,
        {
            "without a record": f"{median(without for without, _ in pairs):.2f}",
            "with one": f"{median(with_ for _, with_ in pairs):.2f}",
            "with / without": f"{median(with_ / without for without, with_ in pairs):.3f}",
        },
    )


def _through_gpiovirtd() -> Row:
    client = [built("client"), "set", str(COUNT), "/dev/gpiochip0"]
    pairs = []
    with ExitStack() as stack:
        daemons = []
        for arguments in (["--no-record"], []):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            sims = ["--sim", "sim:2", "--wire", "sim:0=sim:1", "--no-api", "--no-files"]
            daemon = stack.enter_context(Daemon(Path(folder), [*sims, *arguments]))
            with daemon.client() as asking:
                asking.ask(New("sim 0-1", name="plc"))
            daemons.append(daemon)
        for _ in range(2 * ROUNDS):
            took = []
            for daemon in daemons:
                command = [
                    *("env", f"GPIOVIRT_RUNTIME_DIR={daemon.run}", *GPIOVIRT),
                    *("run", "--chip", "plc", "--", *client),
                ]
                took.append(timed(command, pinned=False).median_us)
            pairs.append((took[0], took[1]))
    return _compared("SET_VALUES, gpiovirtd", pairs)


def _rates() -> list[Row]:
    found = []
    for rate in RATES:
        with tempfile.TemporaryDirectory() as folder:
            found.append(_rate(Path(folder), rate))
    return found


def _rate(folder: Path, rate: int) -> Row:
    with Daemon(folder, ["--sim", f"sim:{LINES}", "--no-api", "--no-files"]) as daemon:
        with daemon.client() as client:
            client.ask(New(f"sim 0-{LINES - 1}", name="plc"))
        time.sleep(1)
        recorder = daemon.recorder()
        before_s = _cpu_s(recorder)
        writer = os.fork()
        if not writer:
            _write(daemon.show("plc").chip.worker, rate)
        began = time.perf_counter()
        _, status = os.waitpid(writer, 0)
        took_s = time.perf_counter() - began
        if status:
            raise RuntimeError("the writer has failed")
        time.sleep(3)
        cpu_s = _cpu_s(recorder) - before_s
    recorded, lost = _counted(folder / "state/record")
    written = rate * SECONDS
    if recorded + lost != written:
        raise RuntimeError(f"{written} were written, {recorded} are recorded, and {lost} told to be lost")
    return Row(
        f"{rate} changes a second for {SECONDS} s",
        {
            "written a second": f"{written / took_s:.0f}",
            "recorded": str(recorded),
            "lost": str(lost),
            "CPU of the recorder": f"{cpu_s / took_s * 100:.0f} %",
            "bytes a change on disk": f"{_size(folder / 'state/record') / max(recorded, 1):.0f}",
        },
    )


def _write(worker: int, rate: int) -> None:
    """In a process of its own: what the worker does, so often."""
    try:
        files = Path(f"/proc/{worker}/fd")
        ring = min(int(path.name) for path in files.iterdir() if ":plc:record" in os.readlink(path))
        wakes = _wake_of(worker, ring)
        memory = map_shared(fetch_fd(worker, ring), ring_size(LINES))
        writer = RingWriter(memory, LINES, time.time_ns, time.monotonic_ns, Notifier(wakes).notify)
        write, level = writer.write_level, int(What.SET)
        a_burst = int(rate * BURST_S)
        due = time.perf_counter()
        number = 0
        for _ in range(int(SECONDS / BURST_S)):
            for _ in range(a_burst):
                write(number % LINES, level, number // LINES & 1)
                number += 1
            due += BURST_S
            if (early_s := due - time.perf_counter()) > 0:
                time.sleep(early_s)
        os._exit(0)
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
    os._exit(1)


def _wake_of(worker: int, ring: int) -> int:
    """The eventfd that came with the ring: the next file."""
    for fd in range(ring + 1, ring + 8):
        try:
            if "eventfd" in os.readlink(f"/proc/{worker}/fd/{fd}"):
                return fetch_fd(worker, fd)
        except OSError:
            continue
    raise RuntimeError("no eventfd")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _counted(directory: Path) -> tuple[int, int]:
    recorded = lost = 0
    for path in directory.glob("*.sqlite"):
        with closing(sqlite3.connect(path)) as connection:
            ((sets, missing),) = connection.execute(
                "SELECT count(*) FILTER (WHERE what = ?), "
                "coalesce(sum(value) FILTER (WHERE what = ?), 0) FROM entry",
                [What.SET, What.LOST],
            )
        recorded += sets
        lost += missing
    return recorded, lost


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.sqlite*"))
