# SPDX-License-Identifier: MIT
"""gpiovirt run: a program on virtual chips."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpiovirt.cli import chips
from gpiovirt.control import ENVIRONMENT, socket_name
from gpiovirt.errors import HostError, UsageError
from gpiovirt.exports.process.launch import launch

if TYPE_CHECKING:
    from gpiovirt.boards import Board
    from gpiovirt.core.guards.driver import Happening
    from gpiovirt.exports.process.supervisor import Supervisor

EPILOG = """\
The program sees the virtual chips as /dev/gpiochip0, 1, ... in the order given, and no other GPIO;
without --chip it sees the simulated chips, those of --board by the numbers that they have there. LINES of
--chip may also be lines of kernel chips, given by the chip's label, gpiochipN or path, or by the line's
name. gpiovirt becomes the program: exit status, signals and terminal are the program's own. From the
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
    "                    [--wait SECONDS] [--record FILE] [--web] [--sysfs-gpio [BASE]] [-v]\n"
    "                    -- PROGRAM [ARGUMENT]..."
)

_BASE_MAX = 1 << 20


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
    parser.add_argument("program", metavar="PROGRAM", nargs="...", help="the program and its arguments")


def main(options: argparse.Namespace) -> int:
    """Become the program."""
    argv = options.program[options.program[:1] == ["--"] :]
    if not argv:
        raise UsageError("no program to run; end with: -- PROGRAM [ARGUMENT]...")
    if not options.sim and not options.chip and not options.board:
        raise UsageError(
            "no chips; make one with --sim LABEL:COUNT, as in --sim sim-a:8, or with --chip or --board"
        )
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

    def prepare(supervisor: Supervisor) -> None:
        if options.verbose:
            supervisor.on_refusal = lambda text: sys.stderr.write(f"gpiovirt: {text}\n")
            made.on_rule(_tell_rule)
        made.attach(supervisor.reactor)
        if record is not None:
            from gpiovirt.cli.record import record_run

            record_run(record, made, supervisor)
        if not made.simulator.chips:
            return
        from gpiovirt.control.sim_server import SimServer

        try:
            SimServer(made.simulator, supervisor.reactor, name)
        except HostError as error:
            sys.stderr.write(f"gpiovirt: {error}; `gpiovirt sim` does not work on this program\n")
            return
        if options.web:
            from gpiovirt.cli.web import show_simulator

            show_simulator(name)

    environment = {**os.environ, **_revision(made.board)}
    if made.simulator.chips:
        environment[ENVIRONMENT] = name
    serve_sysfs = None if options.sysfs_gpio is None else _sysfs(made, options.sysfs_gpio)
    launch(argv, made.openables(), made.deadlines, prepare, environment, made.guise(), serve_sysfs)


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
