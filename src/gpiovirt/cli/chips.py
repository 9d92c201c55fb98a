# SPDX-License-Identifier: MIT
"""The options that define chips, and the chips they define."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

from gpiovirt.core.chip import Chip
from gpiovirt.core.deadline import Deadlines
from gpiovirt.errors import UsageError
from gpiovirt.exports.process import openable
from gpiovirt.exports.process.sandbox import PLAIN, Guise
from gpiovirt.host.clock import now_ns
from gpiovirt.sources.simulator import HOG_SETTINGS, Simulator
from gpiovirt.virtual.limits import OFFSET_MAX

if TYPE_CHECKING:
    from gpiovirt.boards import Board
    from gpiovirt.cli.virtual_chips import Loop, VirtualChips
    from gpiovirt.core.guards.driver import Happening
    from gpiovirt.core.record import RingReader
    from gpiovirt.sources.finder import LineAddress

__all__ = ["ChipSet", "add_board", "add_options", "parse_sim", "parse_wire"]


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
        "--line",
        metavar="NAME:LINE=OPTIONS",
        action="append",
        default=[],
        help="options of a line of the virtual chip NAME, by offset or name (may be repeated)",
    )
    parser.add_argument(
        "--rules",
        metavar="[NAME=]FILE",
        action="append",
        default=[],
        help="a TOML file of rules (line, interlock, watchdog) for the chip NAME (may be repeated)",
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=float,
        default=0,
        help="wait up to SECONDS for chips and lines of --chip that are not there yet",
    )


def add_board(parser: argparse.ArgumentParser) -> None:
    """Add --board, of what runs programs."""
    parser.add_argument(
        "--board",
        metavar="BOARD",
        help="make the chips of a board (`gpiovirt boards`) or of a file, and have the program see that",
    )


_WORD = r'(?:"[^"]+"|[^":,]+)'
_SIM = re.compile(rf"({_WORD}):([0-9]+|(?=.){_WORD}?(?:,{_WORD}?)*)")
_NAME = re.compile(rf"(?:^|(?<=,))(?:{_WORD})?")
_HOG = re.compile(r'([^=]+)=("[^"]+"|[^":]+)(?::([a-z-]*))?')


class ChipSet:
    """The chips that the options define, simulated and virtual ones."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.deadlines = Deadlines()
        self.simulator = Simulator(now_ns, self.deadlines)
        self.virtual: Mapping[str, Chip] = {}
        self.handed_over: Mapping[str, list[LineAddress]] = {}
        """The lines of the chips of `--kernel`: they are not held here."""
        self._made: VirtualChips | None = None
        self.board: Board | None = None
        if getattr(options, "board", None):
            self._add_board(options.board)
        for text in options.sim:
            self.simulator.add_chip(*parse_sim(text))
        for text in options.wire:
            one, other = parse_wire(text)
            self.simulator.wire(self.simulator.find_line(one), self.simulator.find_line(other))
        for text in options.hog:
            self._add_hog(text)
        if options.chip or options.line or options.rules:
            # only now: a program on simulated chips alone starts sooner
            from gpiovirt.cli.virtual_chips import VirtualChips

            self._made = VirtualChips(options, self.simulator, self.deadlines)
            self.virtual, self.handed_over = self._made.chips, self._made.handed_over

    def openables(self) -> dict[str, openable.Openable]:
        """What opens the chips to show, by device: those of --chip, or without any the simulated ones."""
        shown = self._made.openables() if self._made else []
        if shown:
            return {f"gpiochip{number}": opens for number, opens in enumerate(shown)}
        board = self.board.chips if self.board else ()
        numbers = {chip.label: chip.number for chip in board}
        following = count(max((max(chip.number, *chip.links, 0) for chip in board), default=-1) + 1)
        for label in self.simulator.chips:
            if label not in numbers:
                numbers[label] = next(following)
        return {
            f"gpiochip{numbers[label]}": openable.local(self.virtual[label])
            if label in self.virtual
            else openable.removable(chip, chip)
            for label, chip in self.simulator.chips.items()
        }

    def guise(self) -> Guise:
        """The machine that the program is to see."""
        if self.board is None:
            return PLAIN
        devices = {} if self._made else {f"gpiochip{chip.number}": chip for chip in self.board.chips}
        return Guise(
            {f"gpiochip{link}": name for name, chip in devices.items() for link in chip.links},
            {name: chip.compatible for name, chip in devices.items() if chip.compatible},
            self.board.device_tree,
            self.board.cpuinfo,
            self.board.dmi,
        )

    def shown(self) -> list[Chip]:
        """The chips of this process that the program sees."""
        return list((self.virtual or self.simulator.chips).values())

    def rings(self) -> dict[str, tuple[Sequence[str], RingReader]]:
        """Of recorded chips with lines of the kernel's: names of lines, and a reader of what happens."""
        return self._made.rings if self._made else {}

    def when_recorded(self, wake: Callable[[], object]) -> None:
        """Have `wake` called when there is something in these."""
        if self._made:
            self._made.wake = wake

    def attach(self, loop: Loop) -> None:
        """Have what happens to the kernel's lines told where the chips are served."""
        if self._made:
            self._made.attach(loop)

    def on_rule(self, told: Callable[[str, Happening], object]) -> None:
        """Call `told` with a chip's name and what a rule of it has done."""
        if self._made:
            self._made.on_rule = told

    def _add_board(self, name: str) -> None:
        from gpiovirt.boards import load  # who names none starts sooner

        self.board = load(name)
        for chip in self.board.chips:
            self.simulator.add_chip(chip.label, chip.lines)
            for hog in chip.hogs:
                self.simulator.hog(chip.label, hog.offset, hog.consumer, hog.settings)

    def _add_hog(self, text: str) -> None:
        match = _HOG.fullmatch(text)
        settings = HOG_SETTINGS.get(match[3] or "input") if match else None
        if match is None or settings is None:
            hows = ", ".join(HOG_SETTINGS)
            raise UsageError(
                f"--hog {text!r}: write LINE=WHO:HOW, HOW being {hows}; quote a WHO with a colon"
            )
        self.simulator.hog(*self.simulator.find_line(match[1]), _unquoted(match[2]), settings)


def parse_sim(text: str, option: str = "--sim") -> tuple[str, list[str]]:
    """LABEL:COUNT or LABEL:NAME,NAME: (label, names); what has a colon or comma of its own is quoted."""
    match = _SIM.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{option} {text!r}: write LABEL:COUNT or LABEL:NAME,NAME, as in sim-a:8; quote a label or name "
            "that has a colon or comma: '\"gpio-sim.0:node0\":8'"
        )
    label, lines = _unquoted(match[1]), match[2]
    if not (lines.isascii() and lines.isdecimal()):
        return label, [_unquoted(name) for name in _NAME.findall(lines)]
    if len(lines) < 10 and 0 < int(lines) <= OFFSET_MAX + 1:
        return label, [""] * int(lines)
    raise UsageError(f"{option} {text!r}: a chip has 1 to {OFFSET_MAX + 1} lines")


def _unquoted(text: str) -> str:
    return text[1:-1] if text.startswith('"') else text


def parse_wire(text: str) -> tuple[str, str]:
    """LINE=LINE"""
    one, equals, other = text.partition("=")
    if not equals:
        raise UsageError(f"--wire {text!r}: write LINE=LINE, as in sim-a:0=sim-b:DOOR")
    return one, other
