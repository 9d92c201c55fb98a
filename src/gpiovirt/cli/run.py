# SPDX-License-Identifier: MIT
"""gpiovirt run: a program on virtual chips."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from gpiovirt.cli import chips
from gpiovirt.control import ENVIRONMENT, listen_at, socket_name
from gpiovirt.errors import HostError, UsageError
from gpiovirt.exports.process.launch import launch

if TYPE_CHECKING:
    from gpiovirt.boards import Board
    from gpiovirt.control.sim_server import SimServer
    from gpiovirt.core.guards.driver import Happening
    from gpiovirt.exports.process.hot_plug import HotPlug
    from gpiovirt.exports.process.launch import Extras
    from gpiovirt.exports.process.supervisor import Supervisor

EPILOG = """\
The program sees the virtual chips as /dev/gpiochip0, 1, ... in the order given, and no other GPIO;
without --chip it sees the simulated chips, those of --board by the numbers that they have there. LINES of
--chip may also be lines of kernel chips, given by the chip's label, gpiochipN or path, or by the line's
name. gpiovirt becomes the program: exit status, signals and terminal are the program's own. What the
program leaves running keeps its chips; that is said after a second, or ended by --kill-children. From the
program or from outside, `gpiovirt sim` pulls and watches the simulated lines.

examples:
  gpiovirt run --sim sim-a:8 -- gpioinfo
  gpiovirt run --sim sim-a:8 --sim sim-b:DOOR,LAMP --chip 'plc=sim-a 0 3, sim-b 0-1' -- ./plc
  gpiovirt run --web --board pi5 -- python3 my_gpiozero_app.py
  gpiovirt run --board pi4 --sysfs-gpio -- node onoff-app.js
  gpiovirt run --sim panel:DOOR,LAMP --record out.vcd -- ./plc
  gpiovirt run --sim a:2 --wire a:0=a:1 -- python3 loopback_test.py
"""
USAGE = (
    "gpiovirt run [--board BOARD] [--sim LABEL:LINES]... [--wire A:0=B:1]... [--hog A:0=WHO[:HOW]]...\n"
    "                    [--chip NAME=LINES]... [--line NAME:LINE=OPTIONS]... [--rules [NAME=]FILE]...\n"
    "                    [--wait SECONDS] [--record FILE] [--web] [--sysfs-gpio [BASE]] [--gpio-sim]\n"
    "                    [--uname RELEASE] [--kill-children] [-v] -- PROGRAM [ARGUMENT]..."
)

_BASE_MAX = 1 << 20
_RELEASE = re.compile(r"[0-9]+(\.[0-9]+)*[A-Za-z0-9.+~_-]{0,40}", re.ASCII)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    chips.add_board(parser)
    chips.add_options(parser)
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="say why the program's GPIO calls are refused, and which rules trip",
    )
    parser.add_argument(
        "--record",
        metavar="FILE",
        help="write the levels of the lines to a VCD file, from the program's first request on",
    )
    parser.add_argument(
        "--web", action="store_true", help="show the simulated lines in a browser, and drive them there"
    )
    parser.add_argument(
        "--sysfs-gpio",
        metavar="BASE",
        nargs="?",
        type=int,
        const=0,
        help="have the program see /sys/class/gpio, too; its lines have numbers from BASE (0) on",
    )
    parser.add_argument(
        "--gpio-sim",
        action="store_true",
        help="have the program see the kernel's gpio-sim and gpio-aggregator, to make chips of its own with",
    )
    parser.add_argument(
        "--uname",
        metavar="RELEASE",
        default="",
        help="have the program see a kernel of this release, as 6.17.0",
    )
    parser.add_argument(
        "--kill-children",
        action="store_true",
        help="when the program ends, kill the processes that it leaves behind",
    )
    parser.add_argument("program", metavar="PROGRAM", nargs="...", help="the program and its arguments")


def main(options: argparse.Namespace) -> int:
    """Become the program."""
    argv = options.program[options.program[:1] == ["--"] :]
    if not argv:
        raise UsageError("no program to run; end with: -- PROGRAM [ARGUMENT]...")
    if options.uname and not _RELEASE.fullmatch(options.uname):
        raise UsageError(f"--uname {options.uname!r}: write a release as uname -r prints it, such as 6.17.0")
    made = chips.ChipSet(options)
    record = None
    if options.web:
        if not made.simulator.chips:
            raise UsageError("--web shows simulated chips; for those of gpiovirtd: gpiovirt web")
        from gpiovirt.cli.web import need_libraries

        need_libraries()
    if options.record:
        from gpiovirt.cli.record import open_recording

        record = open_recording(options.record)
    name = socket_name(os.getuid(), os.getpid())
    has_simulator = made.simulator.chips or options.gpio_sim
    listener = _listen(name) if has_simulator else None
    servers: list[SimServer] = []

    def prepare(supervisor: Supervisor) -> None:
        if options.verbose:
            supervisor.on_refusal = lambda text: sys.stderr.write(f"gpiovirt: {text}\n")
            made.on_rule(_tell_rule)
        made.attach(supervisor.reactor)
        if record is not None:
            from gpiovirt.cli.record import record_run

            record_run(record, made, supervisor)
        if listener is not None:
            from gpiovirt.control.sim_server import SimServer

            servers.append(SimServer(made.simulator, supervisor.reactor, listener))
            if options.web:
                from gpiovirt.cli.web import show_simulator

                show_simulator(name)

    environment = {**os.environ, **_revision(made.board)}
    if listener is not None:
        environment[ENVIRONMENT] = name
    openables = made.openables()
    guise = made.guise()._replace(release=f"{options.uname}\n".encode() if options.uname else b"")
    extras = _extras(options, made, [*openables], servers)
    launch(
        *(argv, openables, made.deadlines, prepare, environment, guise, extras),
        kill_children=options.kill_children,
    )


def _listen(name: str) -> int | None:
    """The simulator's socket, which is there before the program; None, and why, if it cannot be had."""
    try:
        return listen_at(name)
    except HostError as error:
        sys.stderr.write(f"gpiovirt: {error}; `gpiovirt sim` does not work on this program\n")
        return None


def _extras(
    options: argparse.Namespace, made: chips.ChipSet, devices: Sequence[str], servers: Sequence[SimServer]
) -> Extras | None:
    """What the program sees besides its chips."""
    if not options.gpio_sim and not options.uname and options.sysfs_gpio is None:
        return None
    from gpiovirt.exports.process.extras import Drivers, Shown

    drivers = None
    if options.gpio_sim:
        numbers = [int(device.removeprefix("gpiochip")) for device in devices]

        def plugged(platform: HotPlug) -> None:
            for server in servers:
                server.plugs = platform

        drivers = Drivers(made.simulator, made.shown(), numbers, lines_of, plugged)
    sysfs = None if options.sysfs_gpio is None else _sysfs(made, options.sysfs_gpio)
    return Shown(sysfs, drivers, options.uname)


def lines_of(text: str) -> Iterator[tuple[str, int | None]]:
    """Those that a text for new_device names, as the kernel reads it."""
    from gpiovirt.virtual.aggregator_grammar import parse
    from gpiovirt.virtual.grammar import NamedLine

    for item in parse(text):
        if isinstance(item, NamedLine):
            yield item.name, None
        else:
            yield from ((item.chip, offset) for offset in item.offsets)


def _sysfs(made: chips.ChipSet, base: int) -> Callable[[int, Supervisor], object]:
    """What serves /sys/class/gpio."""
    if not 0 <= base <= _BASE_MAX:
        raise UsageError(f"--sysfs-gpio {base}: lines are numbered from 0 to {_BASE_MAX} on")
    if len(made.openables()) != len(made.shown()):
        raise UsageError("--sysfs-gpio: chips of gpiovirtd cannot be shown in /sys/class/gpio")
    from gpiovirt.exports.process.sysfs import serve

    return lambda fuse, supervisor: serve(fuse, made.shown(), base, supervisor.reactor)


def _revision(board: Board | None) -> dict[str, str]:
    """How rpi-lgpio learns where it is if the kernel has no /proc/device-tree: none can be mounted there."""
    revision = board.device_tree.get("system/linux,revision") if board else None
    if revision is None or os.path.exists("/proc/device-tree") or "RPI_LGPIO_REVISION" in os.environ:
        return {}
    return {"RPI_LGPIO_REVISION": revision.hex().lstrip("0")}


def _tell_rule(chip: str, happening: Happening) -> None:
    if happening.what != "refused":  # which is told as any other refusal
        sys.stderr.write(f"gpiovirt: {chip}: {happening.what}: {happening.why}\n")
