# SPDX-License-Identifier: MIT
"""gpiovirt show: one of gpiovirtd's chips in full."""

from __future__ import annotations

import argparse
import json

from gpiovirt.control.access import group_name, user_name
from gpiovirt.control.client import Client
from gpiovirt.core.text import printable
from gpiovirt.protocols.control.answers import ChipState, LineState, encode_answer

__all__ = ["configure", "describe", "describe_line", "main"]

EPILOG = """\
example:
  gpiovirt show plc
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="a chip")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(options: argparse.Namespace) -> int:
    """Print it."""
    with Client() as client:
        told = client.show(options.name)
    if options.json:
        print(json.dumps(encode_answer(told), indent=2))
        return 0
    chip = told.chip
    print(describe(chip))
    print(f"  lines: {printable(chip.definition)}")
    print(f"  for programs: gpiovirt run --chip {chip.name} -- PROGRAM  ({chip.device})")
    if chip.vm:
        print(f"  for VMs: gpiovirt vm-args qemu {chip.name}  ({chip.vm})")
    if chip.poll_us:
        print(f"  looks for the next request for {chip.poll_us} us")
    if chip.creator:
        print(f"  ends with process {chip.creator}")
    for consumer in told.consumers:
        print(f"  open by process {consumer.pid} of {user_name(consumer.uid)}")
    if told.vm_consumer:
        print(f"  used by a VM, process {told.vm_consumer.pid}")
    for line in told.lines:
        print(describe_line(line))
    return 0


def describe(chip: ChipState) -> str:
    """One line about a chip."""
    access = f"{user_name(chip.uid)}:{group_name(chip.gid)} {chip.mode:04o}"
    saved = "saved" if chip.permanent else "until reboot"
    state = chip.state + (f" ({printable(chip.trouble)})" if chip.trouble else "")
    return f"{chip.name} {chip.num_lines} lines, {access}, {state}, {saved}"


def describe_line(line: LineState) -> str:
    """One line about a line."""
    consumer = printable(line.consumer)
    holder = f'"{consumer}"' if consumer else "in use" if line.used else "unused"
    if line.holder and line.holder.pid:
        holder += f" (pid {line.holder.pid}, {user_name(line.holder.uid)})"
    more = "".join(
        f", {text}"
        for text in (line.options, line.forced and f"forced {line.forced}", not line.there and "gone")
        if text
    )
    name, source = printable(line.name) or "-", printable(line.source)
    return f"  {line.offset:4} {name:20} {line.direction:7} {source:24} {holder}{more}"
