# SPDX-License-Identifier: MIT
"""gpiovirt monitor: edges of lines, as they happen."""

from __future__ import annotations

import argparse
import json
import select
import time

from gpiovirt.cli.lines import Target, Targets, each_once
from gpiovirt.control.client import Client
from gpiovirt.control.held_lines import HeldLines
from gpiovirt.core.line import Direction, Edge, LineSettings
from gpiovirt.core.text import printable
from gpiovirt.errors import GpiovirtError
from gpiovirt.protocols.gpiochip.caller import encode_request

__all__ = ["configure", "main"]

EPILOG = """\
LINE is CHIP:NAME or CHIP:OFFSET of a chip of gpiovirtd. It is held as an input meanwhile, as by gpiomon: what
somebody else holds is refused, and `gpiovirt log CHIP --follow` shows what happens to it. Events that there
was no room for are told with their number.

examples:
  gpiovirt monitor plc:DOOR plc:STOP
  gpiovirt monitor plc:DOOR -n 1 --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("lines", metavar="LINE", nargs="+", help="CHIP:NAME or CHIP:OFFSET")
    parser.add_argument("--edge", choices=["rising", "falling", "both"], default="both", help="only such")
    parser.add_argument("-n", "--count", metavar="N", type=int, help="end after N edges")
    parser.add_argument("--json", action="store_true", help="print JSON, an object per line")


def main(options: argparse.Namespace) -> int:
    """Print edges until interrupted, or until `--count` of them."""
    with Client() as client:
        targets = Targets(client)
        wanted = [targets.line(text) for text in options.lines]
    each_once(wanted)
    settings = LineSettings(Direction.INPUT, edge=Edge[options.edge.upper()])
    poller = select.poll()
    held: dict[int, tuple[Target, HeldLines]] = {}
    last: dict[int, int] = {}
    for target in wanted:
        try:
            request = encode_request(target.line.offset, settings, "gpiovirt monitor", 0)
            line = HeldLines(target.chip.chip.device, request)
        except GpiovirtError as error:
            error.args = (f"{target}: {error}",)
            raise
        held[line.fileno()] = target, line
        poller.register(line.fileno(), select.POLLIN)
    left = options.count
    while left is None or left > 0:
        edges = []
        for fd, _ in poller.poll():
            for rising, timestamp_ns, seqno in held[fd][1].edges():
                edges.append((timestamp_ns, fd, rising, seqno - last.get(fd, 0) - 1))
                last[fd] = seqno
        for timestamp_ns, fd, rising, lost in sorted(edges)[:left]:
            _print(held[fd][0], timestamp_ns, rising, lost, options.json)
            left = None if left is None else left - 1
    return 0


def _print(target: Target, timestamp_ns: int, rising: bool, lost: int, as_json: bool) -> None:
    edge = "rising" if rising else "falling"
    at_ns = time.time_ns() - time.monotonic_ns() + timestamp_ns
    if as_json:
        line = target.line
        told = {"chip": target.chip.chip.name, "offset": line.offset, "name": line.name, "edge": edge}
        print(json.dumps({**told, "time_ns": at_ns, "timestamp_ns": timestamp_ns, "lost": lost}), flush=True)
        return
    if lost:
        print(f"{printable(str(target))} {lost} lost", flush=True)
    clock = time.strftime("%H:%M:%S", time.localtime(at_ns / 1e9))
    print(f"{clock}.{at_ns // 1000 % 1_000_000:06} {printable(str(target))} {edge}", flush=True)
