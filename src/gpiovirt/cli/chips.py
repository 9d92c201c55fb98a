# SPDX-License-Identifier: MIT
"""The options that define chips, and the chips they define."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING, cast

from gpiovirt.control import chip_socket
from gpiovirt.core.aggregate import Aggregate, SourceLine
from gpiovirt.core.chip import Chip
from gpiovirt.core.line import Direction, LineSettings
from gpiovirt.errors import HostError, NoSuchChipError, NoSuchLineError, UsageError
from gpiovirt.host.clock import now_ns
from gpiovirt.protocols import new_device
from gpiovirt.sources.simulator import Simulator

if TYPE_CHECKING:
    from gpiovirt.exports.process.supervisor import Openable
    from gpiovirt.host.reactor import Waits
    from gpiovirt.protocols.gpiochip import FifoFactory, File
    from gpiovirt.sources.kernel import KernelChip, KernelChips

__all__ = ["ChipSet", "add_options", "kernel_chips", "parse_sim", "parse_wire"]


def add_options(parser: argparse.ArgumentParser, of_daemon: bool = True) -> None:
    """Add --sim, --wire, --hog and --chip, which may be a chip of gpiovirtd unless `of_daemon` is false."""
    parser.add_argument(
        "--sim",
        metavar="LABEL:LINES",
        action="append",
        default=[],
        help="make a simulated chip; LINES is their number, or their names: DOOR,,LAMP (may be repeated)",
    )
    parser.add_argument(
        "--wire",
        metavar="A:0=B:1",
        action="append",
        default=[],
        help="connect two simulated lines (may be repeated)",
    )
    parser.add_argument(
        "--hog",
        metavar="A:0=WHO[:HOW]",
        action="append",
        default=[],
        help="have WHO hold a simulated line; HOW is input, output-low or output-high",
    )
    parser.add_argument(
        "--chip",
        metavar="NAME[=LINES]" if of_daemon else "NAME=LINES",
        action="append",
        default=[],
        help="make a virtual chip; LINES as written to new_device: 'sim-a 0 3, sim-b 0-1' (may be repeated)"
        + ("; without LINES: the chip NAME of gpiovirtd" if of_daemon else ""),
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=float,
        default=0,
        help="wait so long for chips and lines of --chip that are not there yet",
    )


class ChipSet:
    """The chips that the options define: simulated and virtual ones, and the kernel's that they use."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.simulator = Simulator(now_ns)
        self.virtual: dict[str, Chip] = {}
        self.handed_over: dict[str, list[tuple[KernelChip, int]]] = {}
        """The lines of the chips of `--kernel`: they are not held here."""
        self.remote: dict[str, str] = {}
        """Paths of the sockets of chips that a daemon serves."""
        self.kernel: KernelChips | None = None
        self._shown: list[str] = []
        self._to_hand_over: list[str] = getattr(options, "kernel", [])
        for text in options.sim:
            self.simulator.add_chip(*parse_sim(text))
        for text in options.wire:
            one, other = parse_wire(text)
            self.simulator.wire(self.simulator.find_line(one), self.simulator.find_line(other))
        for text in options.hog:
            self._add_hog(text)
        give_up = time.monotonic() + options.wait
        for text in options.chip:
            while True:
                try:
                    self._add_chip(text)
                    break
                except (NoSuchChipError, NoSuchLineError):
                    if time.monotonic() >= give_up:
                        raise
                finally:
                    self._close_unused()
                time.sleep(0.1)

    def openables(self) -> list[Openable]:
        """What opens the chips to show: those of --chip, or without any the simulated ones."""
        if not self._shown:
            return [_local(chip) for chip in self.simulator.chips.values()]
        return [
            _remote(self.remote[name]) if name in self.remote else _local(self.virtual[name])
            for name in self._shown
        ]

    def attach(self, reactor: Waits) -> None:
        """Let what happens on the kernel's chips be read where the chips are served."""
        if self.kernel is not None:
            reactor.add_reader(self.kernel.fileno(), self.kernel.on_readable)

    def next_deadline_ns(self) -> int | None:
        """When on_deadline wants to be called, on CLOCK_MONOTONIC; None: not at all."""
        deadline_ns = self.simulator.next_deadline_ns()
        if self.kernel is None:
            return deadline_ns
        look_ns = self.kernel.next_deadline_ns()
        if deadline_ns is None or look_ns is None:
            return look_ns if deadline_ns is None else deadline_ns
        return min(deadline_ns, look_ns)

    def on_deadline(self, now_ns: int) -> None:
        """Time has passed."""
        self.simulator.on_deadline(now_ns)
        look_ns = self.kernel.next_deadline_ns() if self.kernel else None
        if self.kernel is not None and look_ns is not None and look_ns <= now_ns:
            self.kernel.on_deadline(now_ns)

    def _add_hog(self, text: str) -> None:
        line, _, who = text.partition("=")
        who, _, how = who.partition(":")
        settings = _HOGS.get(how or "input")
        if not who or settings is None:
            raise UsageError(f"--hog {text!r}: write LINE=WHO:HOW, HOW being {', '.join(_HOGS)}")
        self.simulator.hog(*self.simulator.find_line(line), who, settings)

    def _add_chip(self, text: str) -> None:
        name, equals, definition = text.partition("=")
        if not equals and name and name not in self.simulator.chips:
            self._add_remote(name)
            return
        if not equals or not name:
            raise UsageError(f"--chip {text!r}: write NAME=LINES, as in 'plc=sim-a 0 3, sim-b 0-1'")
        if name in self.virtual or name in self.simulator.chips or name in self.handed_over:
            raise UsageError(f"--chip {text!r}: the chip name {name!r} is in use; choose another")
        items = new_device.parse(definition)
        for item in items:
            if isinstance(item, new_device.ChipLines) and item.chip in self.handed_over:
                raise UsageError(
                    f"--chip {text!r}: the lines of {item.chip!r} are the kernel's, by --kernel; "
                    "name the lines that it is made of"
                )
        made: dict[str, Chip] = {**self.simulator.chips, **self.virtual}
        if all(isinstance(item, new_device.ChipLines) and item.chip in made for item in items):
            lines = new_device.resolve(items, made.get, list(made.values()))
        else:
            kernel = self._kernel_chips()
            there: list[Chip] = [*made.values(), *(kernel.all() if kernel else ())]

            def find(chip: str) -> Chip | None:
                return made.get(chip) or (kernel.find(chip) if kernel else None)

            lines = new_device.resolve(items, find, there)
        if name in self._to_hand_over:
            self.handed_over[name] = self._of_the_kernel(name, lines)
        else:
            self.virtual[name] = Aggregate(name, lines, now_ns)
            self._shown.append(name)

    def _add_remote(self, name: str) -> None:
        """A chip that gpiovirtd has."""
        path = chip_socket(name)
        if path is None:
            raise NoSuchChipError(
                f"--chip {name!r}: gpiovirtd has no such chip (`gpiovirt list` shows them); "
                "to make one here write NAME=LINES, as in 'plc=sim-a 0 3, sim-b 0-1'"
            )
        from gpiovirt.host.device_socket import check_access

        check_access(path)
        self.remote[name] = path
        self._shown.append(name)

    def _of_the_kernel(self, name: str, lines: list[SourceLine]) -> list[tuple[KernelChip, int]]:
        """The lines, all of them of chips of the kernel; UsageError if one is not."""
        for chip, offset in lines:
            if chip in self.simulator.chips.values():
                what = "simulated"
            elif chip in self.virtual.values():
                what = "of a virtual chip of this process"
            else:
                continue
            raise UsageError(
                f"--kernel {name}: line {chip.info.label}:{offset} is {what}, and the kernel's "
                "gpio-aggregator takes lines of the kernel's chips only; use gpiovirt run, or --vm"
            )
        return cast("list[tuple[KernelChip, int]]", lines)

    def _close_unused(self) -> None:
        """Let go of the kernel's chips that were only looked at."""
        if self.kernel is not None:
            self.kernel.close_unused([chip for lines in self.handed_over.values() for chip, _ in lines])

    def _kernel_chips(self) -> KernelChips | None:
        if self.kernel is None:
            self.kernel = kernel_chips()
        return self.kernel


def kernel_chips() -> KernelChips | None:
    """The kernel's chips; None where it has none, and the binding need not be there."""
    if not any(name.startswith("gpiochip") for name in os.listdir("/dev")):
        return None
    try:
        from gpiovirt.sources.kernel import KernelChips
    except ImportError as error:
        raise HostError(f"the kernel's chips need the Python package gpiod ({error})") from error
    return KernelChips()


def _local(chip: Chip) -> Openable:
    def openable(name: str, open_fifo: FifoFactory, _waits: Waits) -> File:
        from gpiovirt.protocols.gpiochip import ChipFile  # once the program runs

        return ChipFile(chip, name, open_fifo)

    return openable


def _remote(path: str) -> Openable:
    def openable(name: str, open_fifo: FifoFactory, waits: Waits) -> File:
        from gpiovirt.exports.process.remote import RemoteChipFile

        return RemoteChipFile(path, name, open_fifo, waits)

    return openable


_HOGS = {
    "input": LineSettings(Direction.INPUT),
    "output-low": LineSettings(Direction.OUTPUT),
    "output-high": LineSettings(Direction.OUTPUT, output_value=1),
}


def parse_sim(text: str) -> tuple[str, list[str]]:
    """LABEL:COUNT or LABEL:NAME,NAME: (label, names)"""
    label, colon, lines = text.partition(":")
    if not label or not colon or not lines:
        raise UsageError(f"--sim {text!r}: write LABEL:COUNT or LABEL:NAME,NAME, as in sim-a:8")
    if not lines.isdecimal():
        return label, lines.split(",")
    if 0 < int(lines) <= new_device.MAX_OFFSET + 1:
        return label, [""] * int(lines)
    raise UsageError(f"--sim {text!r}: a chip has 1 to {new_device.MAX_OFFSET + 1} lines")


def parse_wire(text: str) -> tuple[str, str]:
    """LINE=LINE"""
    one, equals, other = text.partition("=")
    if not equals:
        raise UsageError(f"--wire {text!r}: write LINE=LINE, as in sim-a:0=sim-b:DOOR")
    return one, other
