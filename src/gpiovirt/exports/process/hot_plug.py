# SPDX-License-Identifier: MIT
"""Chips that come and go while the program runs: the Platform below gpio-sim and gpio-aggregator.

It owns the numbers of chips, their placeholders, and what shows them to the program: each is there before
whoever asked for it goes on, and gone before who removed it does.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from gpiovirt.core.aggregate import Aggregate, SourceLine
from gpiovirt.core.chip import Chip, Now
from gpiovirt.core.task import Future, start
from gpiovirt.errors import GpiovirtError, NoSuchChipError, NoSuchLineError, UsageError
from gpiovirt.exports.process.fuse import FuseMount
from gpiovirt.exports.process.openable import Openable, removable
from gpiovirt.exports.process.placeholder import Placeholder, make_placeholder, own_terminal
from gpiovirt.exports.process.session import Session
from gpiovirt.exports.process.usher import Usher
from gpiovirt.host.reactor import Reactor
from gpiovirt.protocols.attributes import FixedDirectory
from gpiovirt.protocols.configfs import Bank, Chosen, Device, Ids
from gpiovirt.protocols.fuse import Attribute, Directory
from gpiovirt.protocols.gpio_sim import chip_files
from gpiovirt.sources.simulator import HOG_SETTINGS, SimChip, Simulator, Vanishing

__all__ = ["HotPlug"]

_CHIPS_MAX = 256  # each has a process of its own, whose terminal its placeholder is


class _Aggregated(Aggregate):
    """A chip of gpio-aggregator."""

    def __init__(self, device: str, lines: Sequence[SourceLine], now: Now, names: Sequence[str]) -> None:
        super().__init__(device, lines, now, consumer=device, names=names)
        self.is_there = True
        self.files: set[Vanishing] = set()

    def vanish(self) -> None:
        """Its requests and files hang up, and its lines are free."""
        self.is_there = False
        for offset in range(self.info.num_lines):
            self._aggregated.presence(offset, False)
        for file in list(self.files):
            file.vanish()
        self.close()


class _Chip:
    """A chip that the program sees."""

    def __init__(self, number: int, chip: SimChip | _Aggregated, vanish: Callable[[], object]) -> None:
        self.number = number
        self.name = f"gpiochip{number}"
        self.chip = chip
        self.vanish = vanish
        self.placeholder: Placeholder | None = None
        self.owner = 0
        """Pid of the process whose terminal that is"""

    def close(self) -> None:
        """Nobody can open it any more."""
        if self.owner:
            os.kill(self.owner, signal.SIGKILL)
            os.waitpid(self.owner, 0)
        if self.placeholder is not None:
            os.close(self.placeholder.master)
            os.close(self.placeholder.slave)


_Maker = Callable[[], tuple[SimChip | _Aggregated, Callable[[], object]]]
"""Makes a chip; with it comes what has it vanish"""


class _Line:
    """The world's side of a simulated line."""

    def __init__(self, simulator: Simulator, key: str, offset: int) -> None:
        self._simulator = simulator
        self._where = key, offset

    def level(self) -> int:
        return self._simulator.level(*self._where)

    def pulled(self) -> int:
        return self._simulator.pulled(*self._where)

    def pull(self, level: int) -> None:
        self._simulator.pull(*self._where, level)


class HotPlug:
    """`static` are the program's other chips, of these `numbers`; lines are found in them, too."""

    def __init__(
        self,
        simulator: Simulator,
        static: Sequence[Chip],
        numbers: Iterable[int],
        session: Session,
        usher: Usher,
        reactor: Reactor,
    ) -> None:
        self._simulator = simulator
        self._static = static
        self._session = session
        self._usher = usher
        self._reactor = reactor
        self._numbers = Ids(numbers)
        self._own_ids = Ids()
        self._devices: dict[Device, list[_Chip]] = {}
        self._mounts: dict[Device, FuseMount] = {}
        self.on_change: list[Callable[[], object]] = []
        """Called when there is a new chip"""

    def simulate(self, device: Device, banks: Sequence[Bank]) -> Future[list[str]]:
        return self._begin(device, [partial(self._simulated, bank) for bank in banks])

    def aggregate(self, device: Device, lines: Sequence[Chosen]) -> Future[list[str]]:
        sources = [self._find(line) for line in lines]
        names = [line.name for line in lines]
        return self._begin(device, [lambda: self._aggregated(device, sources, names)])

    def remove(self, device: Device) -> Future[None]:
        return start(self._remove(device))

    # from outside the program

    def make_chip(self, label: str, names: Sequence[str]) -> Future[list[str]]:
        """Make a simulated chip; the name of its device."""
        return self.simulate(Device(f"gpiovirt.{self._own_ids.take()}"), [Bank(label, names)])

    def remove_chip(self, key: str) -> Future[None]:
        """Remove one that was made so; UsageError if it was not."""
        for device, (chip, *_) in self._devices.items():
            if device.startswith("gpiovirt.") and isinstance(chip.chip, SimChip) and chip.chip.key == key:
                gone = self.remove(device)
                gone.then(partial(self._own_ids.give_back, int(device.rpartition(".")[2])))
                return gone
        if key in self._simulator.chips:
            raise UsageError(
                f"the chip {key} was not made by `gpiovirt sim make`; `sim unplug` has it vanish"
            )
        raise NoSuchChipError(f"there is no chip {key}")

    def _begin(
        self,
        device: Device,
        makers: Sequence[Callable[[], tuple[SimChip | _Aggregated, Callable[[], object]]]],
    ) -> Future[list[str]]:
        if sum(map(len, self._devices.values())) + len(makers) > _CHIPS_MAX:
            raise OSError(errno.ENXIO, f"more than {_CHIPS_MAX} chips")
        return start(self._show(device, makers))

    async def _show(
        self,
        device: Device,
        makers: Sequence[Callable[[], tuple[SimChip | _Aggregated, Callable[[], object]]]],
    ) -> list[str]:
        chips = self._devices[device] = []
        try:
            for make in makers:
                made, vanish = make()
                chip = _Chip(self._numbers.take(), made, vanish)
                chips.append(chip)
                chip.placeholder = make_placeholder(chip.name)
                chip.owner = own_terminal(chip.placeholder.slave)
                openable: Openable = removable(chip.chip, chip.chip)
                self._session.add_node(chip.placeholder.file_id, openable, chip.name)
            nodes = [chip.placeholder.node for chip in chips if chip.placeholder]
            fuse = await self._usher.show(device, nodes)
        except (OSError, GpiovirtError) as error:
            self._forget(device)
            raise OSError(errno.ENXIO if isinstance(error, UsageError) else errno.EIO, str(error)) from error
        tree = FixedDirectory({chip.name: self._files_of(chip) for chip in chips})
        self._mounts[device] = FuseMount(fuse, tree, self._reactor)
        for callback in list(self.on_change):
            callback()
        return [chip.name for chip in chips]

    async def _remove(self, device: Device) -> None:
        chips = self._devices[device]
        for chip in chips:
            chip.vanish()
        with suppress(OSError):  # an usher that is gone hides nothing, and what it showed cannot be used
            await self._usher.hide(device, [chip.placeholder.node for chip in chips if chip.placeholder])
        self._mounts.pop(device).close()
        self._forget(device, have_vanished=True)

    def _forget(self, device: Device, have_vanished: bool = False) -> None:
        for chip in self._devices.pop(device):
            if not have_vanished:
                chip.vanish()
            if chip.placeholder is not None:
                self._session.drop_node(chip.placeholder.file_id)
            chip.close()
            self._numbers.give_back(chip.number)

    def _files_of(self, chip: _Chip) -> Directory:
        if isinstance(chip.chip, SimChip):
            line = partial(_Line, self._simulator, chip.chip.key)
            return chip_files(chip.chip.info.num_lines, line)
        none: dict[str, Directory | Attribute] = {}
        return FixedDirectory(none)

    def _simulated(self, bank: Bank) -> tuple[SimChip, Callable[[], object]]:
        chip = self._simulator.add_chip(bank.label, bank.names, bank.not_valid)
        for hog in bank.hogs:
            settings = HOG_SETTINGS[hog.direction]._replace(active_low=hog.active_low)
            self._simulator.hog(chip.key, hog.offset, hog.consumer, settings)
        return chip, lambda: self._simulator.remove_chip(chip.key)

    def _aggregated(
        self, device: Device, sources: Sequence[SourceLine], names: Sequence[str]
    ) -> tuple[_Aggregated, Callable[[], object]]:
        chip = _Aggregated(device, sources, self._simulator.now, names)
        return chip, chip.vanish

    def _find(self, line: Chosen) -> SourceLine:
        """Where it is; NoSuchChipError, NoSuchLineError, or OSError past the chip's end."""
        for chip in self._chips():
            count = chip.info.num_lines
            if line.offset is None:
                for offset in range(count):
                    if line.key and chip.line_info(offset).name == line.key:
                        return chip, offset
            elif chip.info.label == line.key:
                if line.offset >= count:
                    raise OSError(errno.ENXIO, "the chip has no such line")
                return chip, line.offset
        if line.offset is None:
            raise NoSuchLineError(f"no line is named {line.key!r}")
        raise NoSuchChipError(f"no chip has the label {line.key!r}")

    def _chips(self) -> list[Any]:
        own = [chip.chip for chips in self._devices.values() for chip in chips if chip.placeholder]
        return [*(chip for chip in self._static if getattr(chip, "is_there", True)), *own]
