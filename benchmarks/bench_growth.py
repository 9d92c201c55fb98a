# SPDX-License-Identifier: MIT
"""How it grows: a tenth of a load and the whole of it, and the exponent by which each figure grows.

0 is a cost that does not depend on the load, 1 one that is proportional to it. One process is all programs:
each has a connection of its own, as its supervisor would. *CPU* is that of the chips' workers and of the
simulator, in ms for 1,000 operations; times are in us of one operation, median (p99, p99.9)
"""

from __future__ import annotations

import math
import os
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.harness import QUICK, Row, scaled
from gpiovirt.control.held_lines import HeldLines
from gpiovirt.control.simulator import SimClient
from gpiovirt.protocols.control.requests import List, New
from gpiovirt.testing.daemon import Daemon
from gpiovirt.uapi import gpio as u

OPERATIONS = scaled(6000)
EDGES_S = 5 if QUICK in os.environ else 60
IN, OUT = u.GPIO_V2_LINE_FLAG_INPUT, u.GPIO_V2_LINE_FLAG_OUTPUT
EDGES = IN | u.GPIO_V2_LINE_FLAG_EDGE_RISING | u.GPIO_V2_LINE_FLAG_EDGE_FALLING

Figure = tuple[str, str, float]
"""(what, as it is shown, the number that is compared)"""


def _request(offset: int, flags: int) -> bytes:
    config = u.gpio_v2_line_config.pack(flags, 0, b"", b"")
    return u.gpio_v2_line_request.pack(struct.pack("=I", offset), b"bench", config, 1, 0, b"", 0)


def _cpu_s(pids: Sequence[int]) -> float:
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9


def _proportional_mb(pids: Sequence[int]) -> float:
    rows = (Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() for pid in pids)
    return sum(int(row.split()[1]) for of_pid in rows for row in of_pid if row.startswith("Pss:")) / 1024


def _operations(name: str, calls: Sequence[Callable[[], object]], pids: Sequence[int]) -> list[Figure]:
    """The calls in turn, until there have been enough."""
    times = []
    before_s = _cpu_s(pids)
    for number in range(OPERATIONS):
        began = time.perf_counter_ns()
        calls[number % len(calls)]()
        times.append((time.perf_counter_ns() - began) / 1000)
    cpu_ms = (_cpu_s(pids) - before_s) * 1e6 / OPERATIONS
    times.sort()
    middle, p99, p999 = median(times), times[-len(times) // 100], times[-len(times) // 1000]
    return [
        (f"{name}, us", f"{middle:.1f} ({p99:.0f}, {p999:.0f})", middle),
        (f"{name}, CPU", f"{cpu_ms:.1f}", cpu_ms),
    ]


def _took(
    what: str, call: Callable[[], object], times: int = 1, unit: str = "ms", per: float = 1e3
) -> Figure:
    """How long the call took, of each of the `times` that it does something."""
    began = time.perf_counter()
    call()
    each = (time.perf_counter() - began) * per / times
    return f"{what}, {unit}", f"{each:.1f}", each


def _lines(count: int) -> list[Figure]:
    """A chip of so many lines."""
    with ExitStack() as stack:
        daemon = _daemon(stack, count)
        client = stack.enter_context(daemon.client())
        figures = [_took("to make it", lambda: client.ask(New(f"s 0-{count - 1}", "plc")))]
        held = _hold(stack, daemon, "plc", count - 1, OUT)
        figures += _operations("get", [held.get], daemon.workers())
        figures += _operations("set", [lambda: held.set(1), lambda: held.set(0)], daemon.workers())
        return [*figures, _took("to show it", lambda: client.show("plc"))]


def _programs(count: int) -> list[Figure]:
    """So many programs that have a line of one chip each."""
    with ExitStack() as stack:
        daemon = _daemon(stack, count)
        with daemon.client() as client:
            client.ask(New(f"s 0-{count - 1}", "plc"))
        held: list[HeldLines] = []
        opened = (_hold(stack, daemon, "plc", offset, OUT) for offset in range(count))
        figures = [_took("to open and request, each", lambda: held.extend(opened), count, "us", 1e6)]
        figures += _operations("get by each in turn", [each.get for each in held], daemon.workers())
        return [*figures, *_operations("get by one of them", [held[0].get], daemon.workers())]


def _chips(count: int) -> list[Figure]:
    """So many chips of one line, of which a tenth is in use."""
    with ExitStack() as stack:
        daemon = _daemon(stack, count)
        client = stack.enter_context(daemon.client())
        chips = [New(f"s {number}", f"c{number}") for number in range(count)]
        figures = [_took("to make one", lambda: [*map(client.ask, chips)], count)]
        held = [_hold(stack, daemon, f"c{number}", 0, OUT) for number in range(0, count, 10)]
        workers = daemon.workers()
        figures += _operations("get by each in turn", [each.get for each in held], workers)
        memory_mb = _proportional_mb(workers) / count
        figures.append(("memory of each, MB", f"{memory_mb:.2f}", memory_mb))
        listing = _took("to list a page of them", lambda: [client.ask(List()) for _ in range(5)], 5)
        return [*figures, listing]


def _edges(count: int) -> list[Figure]:
    """Lines that have 50 edges a second each, all of one program."""
    with ExitStack() as stack:
        daemon = _daemon(stack, count)
        with daemon.client() as client:
            client.ask(New(f"s 0-{count - 1}", "plc"))
        held = [_hold(stack, daemon, "plc", offset, EDGES) for offset in range(count)]
        world = stack.enter_context(daemon.simulator())
        pids = daemon.workers()
        before_s = _cpu_s(pids)
        pulled, seen = _pull(world, held, count)
        cpu_ms = (_cpu_s(pids) - before_s) * 1e6 / max(pulled, 1)
    rate = pulled / EDGES_S
    return [
        ("edges a second", f"{rate:.0f}", rate),
        ("lost", str(pulled - seen), 0),
        ("CPU", f"{cpu_ms:.1f}", cpu_ms),
    ]


def _pull(world: SimClient, held: Sequence[HeldLines], count: int) -> tuple[int, int]:
    """Pull all lines up and down, 25 times a second, for a while; (how often, edges seen)."""
    pulled = seen = 0
    began = time.monotonic()
    for step in range(EDGES_S * 50):
        time.sleep(max(began + step / 50 - time.monotonic(), 0))
        for offset in range(count):
            world.pull(f"s:{offset}", "down" if step & 1 else "up")
            pulled += 1
        for each in held:
            seen += len(list(each.edges()))
    time.sleep(0.2)
    return pulled, seen + sum(len(list(each.edges())) for each in held)


def _daemon(stack: ExitStack, lines: int) -> Daemon:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    return stack.enter_context(Daemon(folder, ["--sim", f"s:{lines}"]))


def _hold(stack: ExitStack, daemon: Daemon, chip: str, offset: int, flags: int) -> HeldLines:
    held = HeldLines(str(daemon.run / "chips" / chip), _request(offset, flags))
    stack.callback(held.close)
    return held


LOADS: dict[str, tuple[Callable[[int], list[Figure]], int]] = {
    "lines in a chip": (_lines, 1000),
    "programs on a chip": (_programs, 500),
    "chips, a tenth in use": (_chips, 1000),
    "lines with 50 edges a second": (_edges, 200),
}


def rows() -> list[Row]:
    found = []
    for load, (measure, whole) in LOADS.items():
        few, many = measure(whole // 10), measure(whole)
        for (what, of_few, small), (_, of_many, large) in zip(few, many, strict=True):
            exponent = f"{math.log10(large / small):.2f}" if small and large else "-"
            found.append(
                Row(
                    f"{whole // 10} and {whole:,} {load}: {what}",
                    {"a tenth": of_few, "whole": of_many, "exponent": exponent},
                )
            )
    return found
