# SPDX-License-Identifier: MIT
"""gpiovirt new: have gpiovirtd make a virtual chip."""

from __future__ import annotations

import argparse
import os

from gpiovirt.cli.main import add_poll_us
from gpiovirt.control.access import gid_of, parse_mode, uid_of
from gpiovirt.control.client import Client
from gpiovirt.errors import HostError, UsageError

__all__ = ["configure", "main"]

EPILOG = """\
LINES as written to new_device: lines by chip and offset, or by name. The chip is there when this command
ends, for `gpiovirt run --chip NAME`, and lasts until it is deleted or this machine boots again; to have it
then, too, save it (`gpiovirt save`). HOW, of --line, is a list of: pull-up, pull-down, bias-disabled,
open-drain, open-source, active-low, debounce=TIME; a VM cannot ask for these. A line of --safe is made
STATE (low, high or input) whenever nobody holds it; any other stays as it is.

examples:
  gpiovirt new plc 'START STOP e6050000.gpio 20-21' --owner alice --group plc --vm
  gpiovirt new test 'sim-a 0-3' --safe 0=low --while-me
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the chip's name and label")
    parser.add_argument("lines", metavar="LINES", help="lines of other chips, as 'sim-a 0 3, sim-b 0-1'")
    parser.add_argument("--owner", metavar="USER", default="", help="who owns the chip (root)")
    parser.add_argument("--group", metavar="GROUP", default="", help="its group (gpio, where there is one)")
    parser.add_argument("--mode", metavar="MODE", default="", help="who may use it (0660)")
    parser.add_argument("--vm", action="store_true", help="make a socket for virtual machines, too")
    add_poll_us(parser)
    parser.add_argument(
        "--line", metavar="LINE=HOW", action="append", default=[], help="how a line is to be for VMs"
    )
    parser.add_argument(
        "--safe", metavar="LINE=STATE", action="append", default=[], help="the safe state of a line"
    )
    parser.add_argument(
        "--rename", metavar="OFFSET=NAME", action="append", default=[], help="give a line another name"
    )
    lifetime = parser.add_mutually_exclusive_group()
    lifetime.add_argument(
        "--while", dest="creator", metavar="PID", type=int, help="delete the chip when that process ends"
    )
    lifetime.add_argument(
        "--while-me", action="store_true", help="delete it when the process that called gpiovirt ends"
    )


def main(options: argparse.Namespace) -> int:
    """Make it."""
    wanted = {
        "name": options.name,
        "definition": options.lines,
        "uid": uid_of(options.owner),
        "gid": gid_of(options.group),
        "mode": parse_mode(options.mode),
        "vm": options.vm,
        "poll_us": options.poll_us,
        "settings": _pairs("--line", options.line),
        "safe": _pairs("--safe", options.safe),
        "names": _pairs("--rename", options.rename),
    }
    creator = os.getppid() if options.while_me else options.creator
    with Client() as client:
        if creator is None:
            chip = client.call("new", **wanted)
        else:
            try:
                pidfd = os.pidfd_open(creator)
            except OSError as error:
                raise HostError.of(f"--while {creator}", error) from error
            chip = client.call("new", [pidfd], lifetime="process", **wanted)
    print(f"{chip['name']} {chip['device']} {chip['num_lines']} lines")
    if chip["vm"]:
        print(f"{chip['name']} for VMs: {chip['vm']} (gpiovirt vm-args qemu {chip['name']})")
    return 0


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"{option} {text!r}: write LINE=...")
        pairs[key] = value
    return pairs
