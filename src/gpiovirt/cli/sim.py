# SPDX-License-Identifier: MIT
"""gpiovirt sim: the outside of simulated lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from gpiovirt.control import pid_of_socket
from gpiovirt.control.simulator import SimClient, running
from gpiovirt.core.text import nearest, printable
from gpiovirt.errors import HostError, NoSuchChipError, UsageError

EPILOG = """\
LINE is CHIP:OFFSET, CHIP:NAME, or a unique NAME. Run from a program started by `gpiovirt run`, the
command drives that program's chips; run from outside, it finds the running simulators of the same
user, and --pid chooses one of several.

examples:
  gpiovirt sim pull sim-a:3 up
  gpiovirt sim get DOOR
  gpiovirt sim watch
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--pid", type=int, help="process id of the program whose chips to use")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="what")
    pull = commands.add_parser("pull", help="pull a line up or down", description="pull a line up or down")
    pull.add_argument("line", metavar="LINE")
    pull.add_argument("level", choices=["up", "down", "high", "low", "1", "0"])
    get = commands.add_parser("get", help="print a line's level", description="print a line's level, 0 or 1")
    get.add_argument("line", metavar="LINE")
    commands.add_parser("list", help="print all lines", description="print all lines")
    watch = commands.add_parser(
        "watch",
        help="print every change of level",
        description="print every change of level until the program ends",
    )
    watch.add_argument("-n", "--num-changes", type=int, metavar="N", help="end after N changes")


def main(options: argparse.Namespace) -> int:
    """Do one command."""
    with connect(options.pid, getattr(options, "line", "")) as client:
        if options.what == "pull":
            client.pull(options.line, options.level)
        elif options.what == "get":
            print(client.get(options.line))
        elif options.what == "list":
            _print_lines(client)
        else:
            _watch(client, options.num_changes)
    return 0


def connect(pid: int | None, line: str) -> SimClient:
    """The running simulator that has this line ("": any), or that of process `pid`; HostError, UsageError."""
    return choose(pid, lambda lines: not line or any(line in _texts(each) for each in lines), line)


def choose(pid: int | None, has: Callable[[list[dict[str, Any]]], bool], what: str) -> SimClient:
    """The one running simulator with lines as `has` says, or that of process `pid`."""
    names = [name for name in running() if pid is None or pid_of_socket(name) == pid]
    if not names:
        where = "" if pid is None else f" for process {pid}"
        raise HostError(
            f"no simulator is running{where}; start one with: gpiovirt run --sim sim-a:8 -- PROGRAM"
        )
    if len(names) == 1:
        return SimClient(names[0])
    lines = {name: _lines(name) for name in names}
    having = [name for name in names if has(lines[name])]
    if len(having) == 1:
        return SimClient(having[0])
    pids = ", ".join(str(pid_of_socket(name)) for name in having or names)
    if having:
        has_it = f"have {what}" if what else "are running"
        raise UsageError(f"{len(having)} simulators {has_it}; choose one with --pid ({pids})")
    near = nearest(what, {text for each in lines.values() for line in each for text in _texts(line)})
    raise NoSuchChipError(f"none of {len(names)} running simulators ({pids}) has {what}{near}")


def _texts(line: dict[str, Any]) -> set[str]:
    """What a line may be called."""
    texts = {f"{line['chip']}:{line['offset']}"}
    return texts | {line["name"], f"{line['chip']}:{line['name']}"} if line["name"] else texts


def _lines(name: str) -> list[dict[str, Any]]:
    try:
        with SimClient(name) as client:
            return client.lines()
    except HostError:
        return []


def _print_lines(client: SimClient) -> None:
    for line in client.lines():
        where = f"{printable(line['chip'])}:{line['offset']}"
        name = printable(line["name"]) or "-"
        consumer = f'"{printable(line["consumer"])}"' if line["consumer"] else "unused"
        print(f"{where:16} {name:16} {line['level']}  {line['direction']:7} {consumer}")


def _watch(client: SimClient, num_changes: int | None) -> None:
    for count, change in enumerate(client.watch(), 1):
        level = "up" if change.level else "down"
        print(f"{change.timestamp_ns / 1e9:.6f} {printable(change.chip)}:{change.offset} {level}", flush=True)
        if count == num_changes:
            return
