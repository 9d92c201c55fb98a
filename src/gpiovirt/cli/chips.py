# SPDX-License-Identifier: MIT
"""The options that define chips, and the chips they define."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from gpiovirt.core.aggregate import Aggregate
from gpiovirt.core.chip import Chip
from gpiovirt.core.line import Direction, LineSettings
from gpiovirt.errors import HostError, UsageError
from gpiovirt.host.clock import now_ns
from gpiovirt.protocols import new_device
from gpiovirt.sources.simulator import Simulator

if TYPE_CHECKING:
    from gpiovirt.sources.kernel import KernelChips

__all__ = ["ChipSet", "add_options"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --sim, --wire, --hog and --chip."""
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
        metavar="NAME=LINES",
        action="append",
        default=[],
        help="make a virtual chip; LINES as written to new_device: 'sim-a 0 3, sim-b 0-1' (may be repeated)",
    )


class ChipSet:
    """The chips that the options define: simulated and virtual ones, and the kernel's that they use."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.simulator = Simulator(now_ns)
        self.virtual: dict[str, Chip] = {}
        self.kernel: KernelChips | None = None
        for text in options.sim:
            _add_sim(self.simulator, text)
        for text in options.wire:
            one, _, other = text.partition("=")
            self.simulator.wire(self._sim_line("--wire", one, text), self._sim_line("--wire", other, text))
        for text in options.hog:
            self._add_hog(text)
        for text in options.chip:
            self._add_chip(text)

    @property
    def shown(self) -> dict[str, Chip]:
        """The chips to show: the virtual ones, or without any the simulated ones."""
        return self.virtual or dict(self.simulator.chips)

    def _sim_line(self, option: str, text: str, whole: str) -> tuple[str, int]:
        label, _, offset = text.rpartition(":")
        if not label or not offset.isdecimal():
            raise UsageError(f"{option} {whole!r}: {text!r} is not CHIP:OFFSET, as in sim-a:0")
        self.simulator.level(label, int(offset))
        return label, int(offset)

    def _add_hog(self, text: str) -> None:
        line, _, who = text.partition("=")
        who, _, how = who.partition(":")
        settings = _HOGS.get(how or "input")
        if not who or settings is None:
            raise UsageError(f"--hog {text!r}: write CHIP:OFFSET=WHO:HOW, HOW being {', '.join(_HOGS)}")
        self.simulator.hog(*self._sim_line("--hog", line, text), who, settings)

    def _add_chip(self, text: str) -> None:
        name, equals, definition = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--chip {text!r}: write NAME=LINES, as in 'plc=sim-a 0 3, sim-b 0-1'")
        if name in self.virtual or name in self.simulator.chips:
            raise UsageError(f"--chip {text!r}: the chip name {name!r} is in use; choose another")
        items = new_device.parse(definition)
        made: dict[str, Chip] = {**self.simulator.chips, **self.virtual}
        if all(isinstance(item, new_device.ChipLines) and item.chip in made for item in items):
            lines = new_device.resolve(items, made.get, list(made.values()))
        else:
            kernel = self._kernel_chips()
            there = [*made.values(), *kernel.all()] if kernel else list(made.values())
            lines = new_device.resolve(
                items, lambda chip: made.get(chip) or (kernel.find(chip) if kernel else None), there
            )
        self.virtual[name] = Aggregate(name, lines, now_ns)

    def _kernel_chips(self) -> KernelChips | None:
        """The kernel's chips; None where it has none, and the binding need not be there."""
        if self.kernel is None and any(name.startswith("gpiochip") for name in os.listdir("/dev")):
            try:
                from gpiovirt.sources.kernel import KernelChips
            except ImportError as error:
                raise HostError(f"the kernel's chips need the Python package gpiod ({error})") from error
            self.kernel = KernelChips()
        return self.kernel


_HOGS = {
    "input": LineSettings(Direction.INPUT),
    "output-low": LineSettings(Direction.OUTPUT),
    "output-high": LineSettings(Direction.OUTPUT, output_value=1),
}


def _add_sim(simulator: Simulator, text: str) -> None:
    label, colon, lines = text.partition(":")
    if not label or not colon or not lines:
        raise UsageError(f"--sim {text!r}: write LABEL:COUNT or LABEL:NAME,NAME, as in sim-a:8")
    if not lines.isdecimal():
        simulator.add_chip(label, lines.split(","))
    elif 0 < int(lines) <= new_device.MAX_OFFSET + 1:
        simulator.add_chip(label, [""] * int(lines))
    else:
        raise UsageError(f"--sim {text!r}: a chip has 1 to {new_device.MAX_OFFSET + 1} lines")
