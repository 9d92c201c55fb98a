# SPDX-License-Identifier: MIT
"""What `gpiovirt run` shows a program besides chips: files of drivers, and a kernel of another release."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from gpiovirt.core.chip import Chip
from gpiovirt.exports.process.fuse import FuseMount
from gpiovirt.exports.process.hot_plug import HotPlug
from gpiovirt.exports.process.launch import Extras
from gpiovirt.exports.process.sandbox import Tree
from gpiovirt.exports.process.session import Session, Trap
from gpiovirt.exports.process.supervisor import Supervisor
from gpiovirt.exports.process.traps import MOUNTS, UNAME, MountTraps, by_number, uname_trap
from gpiovirt.exports.process.usher import Usher
from gpiovirt.protocols.attributes import FixedDirectory
from gpiovirt.protocols.gpio_aggregator import GpioAggregator, Wanted
from gpiovirt.protocols.gpio_sim import GpioSim
from gpiovirt.sources.simulator import Simulator

__all__ = ["Drivers", "Shown"]


class Drivers:
    """gpio-sim and gpio-aggregator over the chips of a run.

    `parse` reads what is written to new_device; `then` gets what has chips come and go.
    """

    def __init__(
        self,
        simulator: Simulator,
        chips: Sequence[Chip],
        numbers: Sequence[int],
        parse: Callable[[str], Iterable[Wanted]],
        then: Callable[[HotPlug], object],
    ) -> None:
        self._simulator = simulator
        self._chips = chips
        self._numbers = numbers
        self._parse = parse
        self._then = then

    def connect(self, usher: int, supervisor: Supervisor) -> Mapping[str, Trap]:
        """Traps, given the usher's socket."""
        self._usher = Usher(usher, supervisor.reactor)
        mounts = MountTraps(self._usher)
        return {"mount": mounts.mount, "umount2": mounts.umount}

    def serve(self, supervisor: Supervisor, session: Session, fuses: Mapping[Tree, int]) -> None:
        """Serve configfs and the drivers' own files."""
        platform = HotPlug(
            *(self._simulator, self._chips, self._numbers, session, self._usher, supervisor.reactor)
        )
        aggregator = GpioAggregator(platform, self._parse)
        platform.on_change.append(aggregator.retry)
        config = FixedDirectory({"gpio-aggregator": aggregator, "gpio-sim": GpioSim(platform)})
        FuseMount(fuses[Tree.CONFIGFS], config, supervisor.reactor)
        FuseMount(fuses[Tree.AGGREGATOR], aggregator.driver_files(), supervisor.reactor)
        self._then(platform)


class Shown(Extras):
    """`sysfs` serves /sys/class/gpio by its file."""

    def __init__(
        self,
        sysfs: Callable[[int, Supervisor], object] | None,
        drivers: Drivers | None,
        release: str,
    ) -> None:
        self._sysfs = sysfs
        self._drivers = drivers
        self._release = release
        self.has_usher = drivers is not None
        own = [Tree.CONFIGFS, Tree.AGGREGATOR] if drivers else []
        self.trees = [*([Tree.CLASS_GPIO] if sysfs else []), *own]
        self.calls = [*(MOUNTS if drivers else ()), *(UNAME if release else ())]

    def traps(self, supervisor: Supervisor, usher: int) -> Mapping[tuple[int, int], Trap]:
        traps: dict[str, Trap] = {}
        if self._drivers is not None:
            traps.update(self._drivers.connect(usher, supervisor))
        if self._release:
            traps["uname"] = uname_trap(self._release)
        return by_number(traps)

    def serve(self, supervisor: Supervisor, session: Session, fuses: Sequence[int]) -> None:
        by_tree = dict(zip(self.trees, fuses, strict=True))
        if self._sysfs is not None:
            self._sysfs(by_tree[Tree.CLASS_GPIO], supervisor)
        if self._drivers is not None:
            self._drivers.serve(supervisor, session, by_tree)
