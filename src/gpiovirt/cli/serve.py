# SPDX-License-Identifier: MIT
"""gpiovirt serve: host chips in the foreground, for virtual machines."""

from __future__ import annotations

import argparse
import os
import sys
from signal import SIGHUP, SIGINT, SIGTERM

from gpiovirt.cli import chips
from gpiovirt.core.chip import Chip
from gpiovirt.core.line import AS_IS, Bias, Drive, LineSettings
from gpiovirt.errors import UsageError
from gpiovirt.host.unix_socket import Access

__all__ = ["configure", "main"]

EPILOG = """\
A VM that connects to SOCKET (`gpiovirt vm-args` prints how) gets the whole chip as its own GPIO
controller. When it ends its lines are released, and the next VM is served. The chips live as long
as this command; SIGTERM ends it. `gpiovirt sim` drives the simulated lines from outside.

HOW, of --line, is a list of: pull-up, pull-down, bias-disabled, open-drain, open-source, active-low,
debounce=TIME (as 5ms or 500us). A virtio GPIO device cannot ask for these, so the chip has them.

examples:
  gpiovirt serve --sim sim-a:8 --vm sim-a=/run/user/1000/gpio.sock
  gpiovirt serve --sim sim-a:8 --sim sim-b:DOOR,LAMP --chip 'plc=sim-a 0 3, sim-b 0-1' \\
      --vm plc=/run/plc.sock --owner plc=alice:plc:0660 --line plc:DOOR=pull-up,debounce=5ms
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    chips.add_options(parser)
    parser.add_argument(
        "--vm",
        metavar="NAME=SOCKET",
        action="append",
        default=[],
        help="serve the chip NAME to VMs that connect to SOCKET, by vhost-user (may be repeated)",
    )
    parser.add_argument(
        "--owner",
        metavar="NAME=USER:GROUP:MODE",
        action="append",
        default=[],
        help="who may connect to the chip's socket; each part may be left out, the mode is 0660 then",
    )
    parser.add_argument(
        "--line",
        metavar="NAME:LINE=HOW",
        action="append",
        default=[],
        help="how the chip's line (its offset or name) is to be when it is used (may be repeated)",
    )
    parser.add_argument(
        "--poll-us",
        type=int,
        default=0,
        metavar="N",
        help="look for more for N microseconds after each request, before sleeping: faster, at a CPU's cost",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log every message of the virtual machines, too"
    )


def main(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    if not options.vm:
        raise UsageError("nothing to serve; give a chip to VMs with --vm NAME=SOCKET")
    if not 0 <= options.poll_us <= 1_000_000:
        raise UsageError("--poll-us: 0 to 1000000")
    made = chips.ChipSet(options)
    known: dict[str, Chip] = {**made.simulator.chips, **made.virtual}
    vms = [_assigned("--vm", text, known) for text in options.vm]
    owners = [_assigned("--owner", text, known) for text in options.owner]
    access = {name: _access(text) for name, text in owners}
    lines = _lines(options.line, known)
    _start_logging(options.verbose)

    from gpiovirt.control.simulator import SimServer, socket_name
    from gpiovirt.exports.vm.server import VmServer
    from gpiovirt.host.notify import sd_notify
    from gpiovirt.host.reactor import Reactor

    reactor = Reactor(made, options.poll_us)
    made.attach(reactor)
    reactor.stop_on((SIGTERM, SIGINT, SIGHUP))
    servers: list[VmServer] = []
    try:
        for name, path in vms:
            servers.append(
                VmServer(known[name], path, reactor, access.get(name, Access()), lines.get(name, {}))
            )
        if made.simulator.chips:
            SimServer(made.simulator, reactor, socket_name(os.getuid(), os.getpid()))
        said = ", ".join(f"{name} at {path}" for name, path in vms)
        sys.stderr.write(f"gpiovirt: serving {said}\n")
        sd_notify("READY=1", f"STATUS=serving {said}")
        reactor.run()
        sd_notify("STOPPING=1")
    finally:
        for server in servers:
            server.close()
    return 0


def _start_logging(verbose: bool) -> None:
    import logging

    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, format="gpiovirt: %(message)s")


def _assigned(option: str, text: str, known: dict[str, Chip]) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise UsageError(f"{option} {text!r}: write NAME=..., NAME being a chip")
    _check_chip(option, text, name, known)
    return name, value


def _check_chip(option: str, text: str, name: str, known: dict[str, Chip]) -> None:
    if name not in known:
        there = ", ".join(known) or "none; make one with --sim LABEL:COUNT"
        raise UsageError(f"{option} {text!r}: no chip {name!r}; the chips are: {there}")


def _access(text: str) -> Access:
    """USER:GROUP:MODE"""
    user, _, rest = text.partition(":")
    group, _, mode = rest.partition(":")
    try:
        number = int(mode or "0660", 8)
    except ValueError:
        number = -1
    if not 0 <= number <= 0o777:
        raise UsageError(f"--owner: {mode!r} is no mode, as 0660 is one")
    return Access(_uid(user), _gid(group), number)


def _uid(user: str) -> int:
    import pwd

    if not user or user.isdecimal():
        return int(user or -1)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageError(f"--owner: there is no user {user!r}") from None


def _gid(group: str) -> int:
    import grp

    if not group or group.isdecimal():
        return int(group or -1)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"--owner: there is no group {group!r}") from None


_HOWS = {
    "pull-up": {"bias": Bias.PULL_UP},
    "pull-down": {"bias": Bias.PULL_DOWN},
    "bias-disabled": {"bias": Bias.DISABLED},
    "open-drain": {"drive": Drive.OPEN_DRAIN},
    "open-source": {"drive": Drive.OPEN_SOURCE},
    "active-low": {"active_low": True},
}
_UNITS = {"us": 1, "ms": 1000, "s": 1_000_000}


def _lines(texts: list[str], known: dict[str, Chip]) -> dict[str, dict[int, LineSettings]]:
    """The settings of --line, by chip and offset."""
    found: dict[str, dict[int, LineSettings]] = {}
    for text in texts:
        where, equals, how = text.partition("=")
        name, colon, line = where.rpartition(":")
        if not equals or not colon or not how:
            raise UsageError(f"--line {text!r}: write NAME:LINE=HOW, as in plc:3=pull-up,debounce=5ms")
        _check_chip("--line", text, name, known)
        settings = found.setdefault(name, {})
        offset = _offset(known[name], line, text)
        settings[offset] = _settings(settings.get(offset, AS_IS), how, text)
    return found


def _offset(chip: Chip, line: str, text: str) -> int:
    num_lines = chip.info.num_lines
    if line.isdecimal() and int(line) < num_lines:
        return int(line)
    offsets = [offset for offset in range(num_lines) if line and chip.line_info(offset).name == line]
    if len(offsets) != 1:
        what = f"{len(offsets)} lines" if offsets else "no line"
        raise UsageError(
            f"--line {text!r}: the chip has {what} {line!r}; its offsets are 0 to {num_lines - 1}"
        )
    return offsets[0]


def _settings(settings: LineSettings, how: str, text: str) -> LineSettings:
    for word in how.split(","):
        if word.startswith("debounce="):
            settings = settings._replace(debounce_period_us=_period_us(word[9:], text))
        elif word in _HOWS:
            settings = settings._replace(**_HOWS[word])  # type: ignore[arg-type]
        else:
            raise UsageError(f"--line {text!r}: {word!r} is none of {', '.join(_HOWS)}, debounce=TIME")
    return settings


def _period_us(period: str, text: str) -> int:
    digits = period.rstrip("ums")
    unit = _UNITS.get(period[len(digits) :])
    if not digits.isdecimal() or unit is None or int(digits) * unit >= 1 << 32:
        raise UsageError(f"--line {text!r}: {period!r} is no time, as 5ms or 500us are")
    return int(digits) * unit
