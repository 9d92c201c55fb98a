# SPDX-License-Identifier: MIT
"""gpiovirt serve: host chips in the foreground, for virtual machines, or have the kernel serve them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from signal import SIG_IGN, SIGHUP, SIGINT, SIGTERM, getsignal
from typing import TYPE_CHECKING

from gpiovirt.cli import chips
from gpiovirt.cli.main import add_poll_us
from gpiovirt.control.access import gid_of, parse_mode, uid_of
from gpiovirt.core.chip import Chip
from gpiovirt.core.task import start
from gpiovirt.errors import UsageError
from gpiovirt.host.machine import check_byte_order
from gpiovirt.host.unix_socket import Access
from gpiovirt.virtual.limits import check_poll_us

if TYPE_CHECKING:
    from gpiovirt.core.guards.driver import Happening

__all__ = ["configure", "main"]

_OFFLOAD_NS = 10_000_000_000

EPILOG = """\
A VM that connects to SOCKET (`gpiovirt vm-args` prints how) gets the whole chip as its own GPIO
controller. When it ends, its lines are released and the next VM is served. The chips live as long
as this command; SIGTERM, Ctrl-C and the end of its terminal (SIGHUP, unless under nohup) end it: it has
nothing to reload. `gpiovirt sim` drives the simulated lines from outside. gpiovirtd serves its own chips
to VMs itself: `gpiovirt new NAME LINES --vm`.

--kernel needs root and the kernel's driver gpio-aggregator, and takes lines of kernel chips only. The
chip is then a /dev/gpiochipN for every program; its path is printed, as `NAME /dev/gpiochipN`.

OPTIONS of --line is a list of: pull-up, pull-down, bias-disabled, open-drain, open-source, active-low,
debounce=TIME (e.g. 5ms or 500us), safe=low|high|input|hold, direction=input|output, min-on=TIME,
min-off=TIME, max-rate=HZ, name=NAME. A virtio GPIO driver cannot ask for most of these, so the chip has them.

examples:
  gpiovirt serve --sim sim-a:8 --vm sim-a=/run/user/1000/gpio.sock
  gpiovirt serve --sim sim-a:8 --sim sim-b:DOOR,LAMP --chip 'plc=sim-a 0 3, sim-b 0-1' \\
      --vm plc=/run/plc.sock --owner plc=alice:plc:0660 --line plc:DOOR=pull-up,debounce=5ms
  gpiovirt serve --chip 'plc=gpiochip0 0-3' --kernel plc --owner plc=alice:plc:0660
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    chips.add_options(parser, of_daemon=False)
    parser.add_argument(
        "--vm",
        metavar="NAME=SOCKET",
        action="append",
        default=[],
        help="serve the chip NAME to VMs that connect to SOCKET, by vhost-user (may be repeated)",
    )
    parser.add_argument(
        "--kernel",
        metavar="NAME",
        action="append",
        default=[],
        help="make the chip NAME a kernel chip, /dev/gpiochipN, through gpio-aggregator (may be repeated)",
    )
    parser.add_argument(
        "--owner",
        metavar="NAME=USER:GROUP:MODE",
        action="append",
        default=[],
        help="who may use the chip's socket or device; each part may be left out; the default mode is 0660",
    )
    add_poll_us(parser)
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="also log every message of the virtual machines"
    )


def main(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    if not options.vm and not options.kernel:
        raise UsageError(
            "nothing to serve; give a chip to VMs with --vm NAME=SOCKET, or to the kernel with --kernel NAME"
        )
    check_poll_us(options.poll_us)
    if options.vm:
        check_byte_order()
    _refuse_chips_of_daemon(options.chip)
    made = chips.ChipSet(options)
    known: dict[str, Chip] = {**made.simulator.chips, **made.virtual}
    _check_kernel(options, made)
    vms = [_assigned("--vm", text, known) for text in options.vm]
    owners = [_assigned("--owner", text, [*known, *made.handed_over]) for text in options.owner]
    access = {name: _access(text) for name, text in owners}
    _start_logging(options.verbose)

    from gpiovirt.control import listen_at, socket_name
    from gpiovirt.control.sim_server import SimServer
    from gpiovirt.exports.kernel.offload import Offload
    from gpiovirt.exports.vm.server import VmServer
    from gpiovirt.host.notify import sd_notify
    from gpiovirt.host.reactor import Reactor
    from gpiovirt.host.spin import new_spin
    from gpiovirt.sources.finder import Finder

    reactor = Reactor(made.deadlines, new_spin(options.poll_us))
    made.attach(reactor)
    made.on_rule(_log_rule)
    # under nohup it stays
    reactor.stop_on((SIGTERM, SIGINT, *([SIGHUP] if getsignal(SIGHUP) is not SIG_IGN else [])))
    servers: list[VmServer | Offload] = []
    nodes: list[tuple[str, str]] = []
    said = [f"{name} at {path}" for name, path in vms]
    try:
        for name, its_lines in made.handed_over.items():
            told = partial(_print_node, name)
            offload = Offload(name, its_lines, Finder(), reactor, access.get(name), told)
            servers.append(offload)
            reactor.run_until(start(offload.begin()), _OFFLOAD_NS)
            if not offload.path:
                return 0
            nodes.append((name, offload.path))
            said.append(f"{name} as {offload.path}")
        for name, path in vms:
            servers.append(
                VmServer.at_path(
                    known[name],
                    path,
                    reactor,
                    access.get(name, Access()),
                    {},
                    shared=len(said) > 1,
                )
            )
        if made.simulator.chips:
            SimServer(made.simulator, reactor, listen_at(socket_name(os.getuid(), os.getpid())))
        sys.stderr.write(f"gpiovirt: serving {', '.join(said)}\n")
        sd_notify("READY=1", f"STATUS=serving {', '.join(said)}")
        for name, path in nodes:
            _print_node(name, path)
        reactor.run()
        sd_notify("STOPPING=1")
        if reactor.stopped_by == SIGHUP:
            with suppress(OSError):  # its terminal is gone
                os.write(2, b"gpiovirt: ended by SIGHUP; there is nothing to reload, start it again\n")
    finally:
        for server in servers:
            server.close()
    return 0


def _refuse_chips_of_daemon(texts: list[str]) -> None:
    """A name alone is a chip of gpiovirtd, which serves it to VMs itself."""
    for name in texts:
        if "=" not in name:
            raise UsageError(
                f"--chip {name!r}: to make a chip here write NAME=LINES, as in 'plc=sim-a 0 3'; gpiovirtd "
                f"serves its own chips to VMs itself: gpiovirt new {name} LINES --vm"
            )


def _log_rule(chip: str, happening: Happening) -> None:
    import logging

    logging.getLogger("gpiovirt.rules").warning("%s: %s: %s", chip, happening.what, happening.why)


def _print_node(name: str, path: str) -> None:
    with suppress(BrokenPipeError):  # the reader of the first ones may be gone when a chip is made again
        os.write(1, f"{name} {path}\n".encode())


def _check_kernel(options: argparse.Namespace, made: chips.ChipSet) -> None:
    """Refuse what a chip that is handed over to the kernel cannot have."""
    for name in options.kernel:
        if name in made.simulator.chips:
            raise UsageError(f"--kernel {name}: a simulated chip is unknown to the kernel; use --vm")
        if name not in made.handed_over:
            raise UsageError(f"--kernel {name}: no chip {name!r}; make it with --chip '{name}=gpiochip0 0-3'")
    for option, texts in (("--vm", options.vm), ("--line", options.line)):
        for text in texts:
            name = text.partition("=")[0]
            if name in made.handed_over or name.rpartition(":")[0] in made.handed_over:
                why = (
                    "the kernel holds its lines, by --kernel; make a chip of its own for the VM"
                    if option == "--vm"
                    else "a kernel chip keeps no options: they are set by whoever requests the line"
                )
                raise UsageError(f"{option} {text!r}: {why}")


def _start_logging(verbose: bool) -> None:
    import logging

    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, format="gpiovirt: %(message)s")


def _assigned(option: str, text: str, known: Collection[str]) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise UsageError(f"{option} {text!r}: write NAME=..., where NAME is a chip")
    _check_chip(option, text, name, known)
    return name, value


def _check_chip(option: str, text: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        there = ", ".join(known) or "none; make one with --sim LABEL:COUNT"
        raise UsageError(f"{option} {text!r}: no chip {name!r}; the chips are: {there}")


def _access(text: str) -> Access:
    """USER:GROUP:MODE"""
    user, _, rest = text.partition(":")
    group, _, mode = rest.partition(":")
    try:
        return Access(uid_of(user), gid_of(group), parse_mode(mode or "0660"))
    except UsageError as error:
        raise UsageError(f"--owner: {error}") from error
