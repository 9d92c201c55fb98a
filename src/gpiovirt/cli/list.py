# SPDX-License-Identifier: MIT
"""gpiovirt list: every chip and line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from gpiovirt.control import control_socket, pid_of_socket
from gpiovirt.control.simulator import SimClient, running
from gpiovirt.core.text import printable
from gpiovirt.errors import HostError
from gpiovirt.sources.finder import Finder

EPILOG = """\
Lists the kernel chips that this user may open, the simulated chips of running programs, and the chips of
gpiovirtd that this user may use (`gpiovirt show NAME` shows their lines). A line held for a virtual chip
is followed by `-> NAME`.

example:
  gpiovirt list
"""
_HOLDER = "gpiovirt:"
_NONE: Mapping[str, str] = {}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: none."""


def main(_options: argparse.Namespace) -> int:
    """Print all chips."""
    shown = _print_kernel_chips()
    for name in running():
        try:
            with SimClient(name) as client:
                _print_simulator(client, pid_of_socket(name))
                shown = True
        except HostError:  # it ended meanwhile
            continue
    if control_socket() is not None and _print_chips_of_daemon():
        shown = True
    if not shown:
        print("no chips: this kernel has none that you may open, and no simulator is running")
    return 0


def _print_chips_of_daemon() -> bool:
    from gpiovirt.cli.show import describe  # where no daemon runs the command starts sooner without
    from gpiovirt.control.client import Client

    try:
        with Client() as client:
            chips = client.chips()
    except HostError:  # it has ended
        return False
    for chip in chips:
        print(describe(chip))
    return bool(chips)


def _print_kernel_chips() -> bool:
    with Finder().look() as look:
        chips = look.all()
        handed_over = _handed_over() if chips else _NONE
        for chip in chips:
            print(f"{chip.info.name} [{printable(chip.info.label)}] {chip.info.num_lines} lines")
            for offset in range(chip.info.num_lines):
                info = chip.line_info(offset)
                direction = info.direction.name.lower()
                _print_line(offset, info.name, direction, info.consumer, info.used, handed_over)
        return bool(chips)


def _handed_over() -> Mapping[str, str]:
    from gpiovirt.exports.kernel.record import chips_of_devices

    return chips_of_devices()


def _print_simulator(client: SimClient, pid: int) -> None:
    label = ""
    for line in client.lines():
        if line["chip"] != label:
            label = line["chip"]
            print(f"[{printable(label)}] simulated, process {pid}")
        _print_line(line["offset"], line["name"], line["direction"], line["consumer"], bool(line["consumer"]))


def _print_line(
    offset: int, name: str, direction: str, consumer: str, used: bool, handed_over: Mapping[str, str] = _NONE
) -> None:
    holder = f'"{printable(consumer)}"' if consumer else "the kernel" if used else "unused"
    chip = consumer.removeprefix(_HOLDER) if consumer.startswith(_HOLDER) else handed_over.get(consumer)
    virtual = f" -> {printable(chip)}" if chip else ""
    print(f"  {offset:4} {printable(name) or '-':20} {direction:7} {holder}{virtual}")
