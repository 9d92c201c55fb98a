# SPDX-License-Identifier: MIT
"""The virtual chips of --chip and --line, and the kernel's lines that they use."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from gpiovirt.control import chip_socket
from gpiovirt.core.aggregate import SourceLine
from gpiovirt.core.chip import Chip
from gpiovirt.core.deadline import Deadlines
from gpiovirt.core.line import Clock, LineInfo
from gpiovirt.core.task import finish_now
from gpiovirt.errors import LineBusyError, NoSuchChipError, NoSuchLineError, UsageError
from gpiovirt.exports.process import openable
from gpiovirt.host.clock import now_ns
from gpiovirt.host.gpio_device import ChipDevice
from gpiovirt.sources.finder import Finder, LineAddress, Look
from gpiovirt.sources.line_files import LineFile
from gpiovirt.sources.simulator import SimChip, Simulator
from gpiovirt.virtual import grammar
from gpiovirt.virtual.custody import Custody, HeldLine, KernelSource, SourceChip, duplicate, release, take
from gpiovirt.virtual.definition import Definition
from gpiovirt.virtual.options import add_options, has_rule, parse_options
from gpiovirt.virtual.rules import NO_RULES, read_rules, rules_of
from gpiovirt.virtual.stack import StackedLine, VirtualChip

if TYPE_CHECKING:
    from gpiovirt.core.guards.driver import Happening
    from gpiovirt.core.guards.rule import Rule
    from gpiovirt.core.record import RingReader, RingWriter
    from gpiovirt.host.reactor import Callback
    from gpiovirt.sources.hot_plug import HotPlug

__all__ = ["Loop", "VirtualChips"]

_LOOK_AGAIN_NS = 250_000_000


class VirtualChips:
    """The chips of --chip, and the simulated ones of --line, over those of `simulator` and the kernel's."""

    def __init__(self, options: argparse.Namespace, simulator: Simulator, deadlines: Deadlines) -> None:
        self.chips: dict[str, VirtualChip] = {}
        self.handed_over: dict[str, list[LineAddress]] = {}
        """The lines of the chips of `--kernel`"""
        self.simulator = simulator
        self.finder = Finder()
        self.devices: dict[tuple[object, ...], ChipDevice] = {}
        """Chips of lines that are given back and taken again, open while they are there"""
        self.rings: dict[str, tuple[Sequence[str], RingReader]] = {}
        """Of chips that are recorded, and have lines that are not simulated: names of lines, and a reader"""
        self.wake: Callable[[], object] = lambda: None
        """Called when there is something in one of these"""
        self._is_recorded = bool(getattr(options, "record", None))
        self._deadlines = deadlines
        self._remote: dict[str, str] = {}
        """Paths of the sockets of chips that a daemon serves"""
        self._custodies: list[Custody] = []
        self._waits = _Waits()
        self._hot_plug: HotPlug | None = None
        self._looks = False
        self._shown: list[str] = []
        self._to_hand_over: list[str] = getattr(options, "kernel", [])
        self._options = _line_options(options.line)
        self._rules_files: dict[str, str] = {}
        self._rules = self._read_rules(options)
        self.on_rule: Callable[[str, Happening], object] = lambda _chip, _happening: None
        """Called with the name of a chip and what a rule of it has done"""
        give_up = time.monotonic() + options.wait
        for text in options.chip:
            while True:
                try:
                    with rules_of(self._rules_files.get(text.partition("=")[0], "")):
                        self._add_chip(text)
                    break
                except (NoSuchChipError, NoSuchLineError):
                    if time.monotonic() >= give_up:
                        raise
                time.sleep(0.1)
        for name in [name for name in {**self._options, **self._rules} if name in self.simulator.chips]:
            with rules_of(self._rules_files.get(name, "")):
                self._add_options(name)
        for name in {**self._options, **self._rules}:
            if name not in self.handed_over:
                path = self._rules_files.get(name)
                said = f"--line {name}:..." if path is None else f"--rules {name}={path}"
                there = ", ".join([*self.chips, *self.simulator.chips])
                there = there or "none; make one with --chip NAME=LINES"
                raise UsageError(f"{said}: no virtual chip {name!r}; the chips are: {there}")

    def _read_rules(self, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
        """Of --rules, by chip; what a file says of single lines is among the options then."""
        found: dict[str, dict[str, Any]] = {}
        made = [text.partition("=")[0] for text in options.chip if "=" in text] or [*self.simulator.chips]
        for text in options.rules:
            name, equals, path = text.partition("=")
            if not equals:
                if len(made) != 1:
                    raise UsageError(f"--rules {text!r}: write NAME=FILE; the chips are: {', '.join(made)}")
                name, path = made[0], text
            if name in found:
                raise UsageError(f"--rules {text!r}: {name} has rules already")
            self._rules_files[name] = path
            lines, found[name] = read_rules(path)
            said = self._options.setdefault(name, {})
            for line, words in lines.items():
                add_options(said, line, words)
        return found

    def openables(self) -> list[openable.Openable]:
        """What opens the chips of --chip."""
        return [
            openable.remote(self._remote[name]) if name in self._remote else openable.local(self.chips[name])
            for name in self._shown
        ]

    def attach(self, loop: Loop) -> None:
        """Have what happens to the kernel's lines told where the chips are served."""
        self._waits.attach(loop)

    def _add_chip(self, text: str) -> None:
        name, equals, lines = text.partition("=")
        if not equals and name and name not in self.simulator.chips:
            self._add_remote(name)
            return
        if not equals or not name:
            raise UsageError(f"--chip {text!r}: write NAME=LINES, as in 'plc=sim-a 0 3, sim-b 0-1'")
        if name in self.chips or name in self.simulator.chips or name in self.handed_over:
            raise UsageError(f"--chip {text!r}: the chip name {name!r} is in use; choose another")
        definition = Definition.parse(name, lines, self._options.get(name, {}), self._rules.get(name, {}))
        for item in definition.items:
            if isinstance(item, grammar.ChipLines) and item.chip in self.handed_over:
                raise UsageError(
                    f"--chip {text!r}: the lines of {item.chip!r} are the kernel's, by --kernel; "
                    "name the lines that it is made of"
                )
        with _LocalSources(self) as sources:
            if name in self._to_hand_over:
                self.handed_over[name] = self._of_the_kernel(definition, sources)
                return
            held = finish_now(take(definition, sources, {}))
        try:
            settled = definition.settled([line.name for line in held])
            self.chips[name] = self._chip(settled, held)
        except BaseException:
            release(held)
            raise
        self._options.pop(name, None)
        self._rules.pop(name, None)
        self._shown.append(name)

    def _add_options(self, name: str) -> None:
        """A simulated chip, with options: a virtual one of all of its lines takes its place."""
        chip = self.simulator.chips[name]
        lines = (grammar.ChipLines(name, tuple(range(chip.info.num_lines))),)
        definition = Definition.parse(
            name,
            grammar.format_definition(lines),
            self._options.pop(name, {}),
            self._rules.pop(name, {}),
        )
        with _LocalSources(self) as sources:
            held = finish_now(take(definition, sources, {}))
        self.chips[name] = self._chip(definition.settled([line.name for line in held]), held)

    def _chip(self, definition: Definition, held: list[HeldLine]) -> VirtualChip:
        name, options = definition.name, definition.by_offset()
        rules: Sequence[Rule] = ()
        if definition.rules != NO_RULES or any(has_rule(line) for line in options):
            from gpiovirt.virtual.guard import guard  # most chips have none

            names = [said.name or line.name for said, line in zip(options, held, strict=True)]
            rules = guard(definition.rules, options, names)
        chip = VirtualChip(
            name,
            [StackedLine(line.name, duplicate(line), line.is_output, line.local) for line in held],
            now_ns,
            self._waits,
            options,
            request_anew=lambda offset: self._request_anew(custody, offset),
            rules=rules,
            deadlines=self._deadlines,
            tell=lambda happening: self.on_rule(name, happening),
            record=self._record(definition, held),
        )
        chip.make_safe(range(len(held)))

        def gone(offset: int) -> None:
            chip.replace(offset, None)
            self._look_soon()

        def back(offset: int) -> None:
            chip.replace(offset, duplicate(custody.lines[offset]), custody.lines[offset].is_output)

        custody = Custody(name, self._waits, gone, back)
        custody.use(held)
        self._custodies.append(custody)
        if self._hot_plug is None and any(line.file is not None for line in held):
            from gpiovirt.sources.hot_plug import HotPlug  # simulated lines do without

            self._hot_plug = HotPlug(self._waits, self._look)
        return chip

    def _record(self, definition: Definition, held: list[HeldLine]) -> RingWriter | None:
        if not self._is_recorded or all(line.local is not None for line in held):
            return None
        from gpiovirt.core.record import RingReader, RingWriter, ring_size

        memory = memoryview(bytearray(ring_size(len(held))))
        names = [
            options.name or line.name for options, line in zip(definition.by_offset(), held, strict=True)
        ]
        self.rings[definition.name] = names, RingReader(memory, len(held))
        return RingWriter(memory, len(held), time.time_ns, time.monotonic_ns, lambda: self.wake())

    def _request_anew(self, custody: Custody, offset: int) -> tuple[LineFile | None, bool]:
        """What a line does without a holder is its driver's to say, so it has none for a moment."""
        with _LocalSources(self) as sources:
            line = finish_now(custody.request_anew(offset, sources))
        if line.file is None:
            self._look_soon()
        return duplicate(line), line.is_output

    def _look_soon(self) -> None:
        if not self._looks:
            self._looks = True
            self._deadlines.call_at(now_ns(Clock.MONOTONIC) + _LOOK_AGAIN_NS, self._look)

    def _look(self) -> None:
        """Take lines that have vanished again, once they are back."""
        self._looks = False
        for key in [key for key, device in self.devices.items() if not device.is_there]:
            self.devices.pop(key).close()
        for custody in self._custodies:
            custody.look()
        with _LocalSources(self) as sources:
            for custody in self._custodies:
                if not custody.is_complete:
                    finish_now(custody.retake(sources))
        if not all(custody.is_complete for custody in self._custodies):
            self._look_soon()

    def _add_remote(self, name: str) -> None:
        """A chip that gpiovirtd has."""
        path = chip_socket(name)
        if path is None:
            raise NoSuchChipError(
                f"--chip {name!r}: gpiovirtd has no such chip (`gpiovirt list` shows them); "
                "to make one here write NAME=LINES, as in 'plc=sim-a 0 3, sim-b 0-1'"
            )
        from gpiovirt.control.held_lines import check_access

        check_access(path)
        self._remote[name] = path
        self._shown.append(name)

    @staticmethod
    def _of_the_kernel(definition: Definition, sources: _LocalSources) -> list[LineAddress]:
        """The lines, all of them of chips of the kernel; UsageError if one is not."""
        found = []
        for chip, offset in grammar.resolve(definition.items, sources.find, sources.all):
            if not isinstance(chip, KernelSource):
                what = "simulated" if isinstance(chip.chip, SimChip) else "of a virtual chip of this process"
                raise UsageError(
                    f"--kernel {definition.name}: line {chip.info.label}:{offset} is {what}, and the "
                    "kernel's gpio-aggregator takes lines of the kernel's chips only; use run, or --vm"
                )
            found.append(sources.address(chip, offset))
        return found


class Loop(Protocol):
    """What serves the chips."""

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call back while `fd` is readable or hung up."""

    def add_hangup(self, fd: int, callback: Callback) -> None:
        """Call back when the other end of `fd` is closed."""

    def remove_reader(self, fd: int) -> None:
        """Call back no more; to be called before the fd is closed."""


class _Waits:
    """Chips are made before there is a loop: it is told what to wait for when it comes."""

    def __init__(self) -> None:
        self._loop: Loop | None = None
        self._early: dict[int, tuple[bool, Callback]] = {}

    def attach(self, loop: Loop) -> None:
        self._loop = loop
        for fd, (is_reader, callback) in self._early.items():
            (loop.add_reader if is_reader else loop.add_hangup)(fd, callback)
        self._early.clear()

    def add_reader(self, fd: int, callback: Callback) -> None:
        if self._loop is None:
            self._early[fd] = True, callback
        else:
            self._loop.add_reader(fd, callback)

    def add_hangup(self, fd: int, callback: Callback) -> None:
        if self._loop is None:
            self._early[fd] = False, callback
        else:
            self._loop.add_hangup(fd, callback)

    def remove_reader(self, fd: int) -> None:
        if self._loop is None:
            self._early.pop(fd, None)
        else:
            self._loop.remove_reader(fd)


class _LocalSource:
    """A chip of this process."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self.info = chip.info

    def line_info(self, offset: int) -> LineInfo:
        return self.chip.line_info(offset)

    async def take(self, offset: int, consumer: str) -> SourceLine:  # noqa: ARG002
        """Whoever is stacked on it requests it; LineBusyError if somebody has it."""
        info = self.chip.line_info(offset)
        if info.used:
            raise LineBusyError(
                f'line {self.info.label}:{offset} is held by "{info.consumer}"; release it or choose another'
            )
        return self.chip, offset


class _LocalSources:
    """A look at the chips of this process, and at the kernel's where those do not suffice."""

    def __init__(self, made: VirtualChips) -> None:
        self._made = made
        self._look: Look | None = None
        self._kernel: dict[str, KernelSource] = {}

    def __enter__(self) -> _LocalSources:
        return self

    def __exit__(self, *_: object) -> None:
        if self._look is not None:
            self._look.__exit__()

    @cached_property
    def _local(self) -> dict[str, _LocalSource]:
        chips: dict[str, Chip] = {**self._made.simulator.chips, **self._made.chips}
        return {name: _LocalSource(chip) for name, chip in chips.items()}

    def _there(self) -> Look:
        if self._look is None:
            self._look = self._made.finder.look()
        return self._look

    def find(self, name: str) -> _LocalSource | KernelSource | None:
        if name in self._local:
            return self._local[name]
        device = self._there().find(name)
        return None if device is None else self._source(device)

    def _source(self, device: ChipDevice) -> KernelSource:
        return self._kernel.setdefault(str(device.fileno()), KernelSource(device))

    def all(self) -> list[_LocalSource | KernelSource]:
        return [*self._local.values(), *map(self._source, self._there().all())]

    def address(self, chip: SourceChip, offset: int) -> LineAddress:
        if isinstance(chip, KernelSource):
            return self._there().address(chip.device, offset)
        return LineAddress(*chip.info[1:], offset)

    def at(self, address: LineAddress) -> KernelSource:
        devices, key = self._made.devices, address[:2] + address[3:]
        kept = devices.get(key)
        if kept is None:
            devices[key] = kept = ChipDevice(self._there().at(address).path)
        return self._source(kept)


def _line_options(texts: list[str]) -> dict[str, dict[str, str]]:
    """Of --line, by chip and line."""
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        where, equals, options = text.partition("=")
        name, colon, line = where.rpartition(":")
        if not equals or not colon or not name or not line or not options:
            raise UsageError(f"--line {text!r}: write NAME:LINE=OPTIONS, as in plc:3=pull-up,debounce=5ms")
        try:
            parse_options(options)
        except UsageError as error:
            raise UsageError(f"--line {text!r}: {error}") from error
        lines = found.setdefault(name, {})
        add_options(lines, line, options)
    return found
