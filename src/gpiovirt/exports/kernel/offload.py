# SPDX-License-Identifier: MIT
"""A virtual chip that the kernel itself serves, as long as this process lives.

Nothing here holds a line: the kernel's gpio-aggregator does, and consumers open its /dev/gpiochipN.
When a chip that its lines are of vanishes, it is deleted, and made again once that is back.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gpiovirt.core.line import LineInfo
from gpiovirt.core.task import sleep, start
from gpiovirt.errors import GpiovirtError, HostError, LineBusyError
from gpiovirt.exports.kernel import record
from gpiovirt.exports.kernel.aggregator import (
    DEVICES,
    Device,
    KernelLine,
    delete,
    find_aggregator,
    find_group,
    how_to_delete,
)
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access
from gpiovirt.sources.finder import Finder, LineAddress
from gpiovirt.sources.hot_plug import FollowedChip

__all__ = ["Offload"]

_log = logging.getLogger(__name__)

_CONSUMER = "gpio-aggregator."
_NODE_TIMEOUT_S = 2.0
_LOOK_S = 0.005
_AGAIN_S = 0.25
_UDEV = Path("/run/udev")


class Offload:
    """Hands `lines` over as the chip `chip`; `path` is its node once begin() is done.

    Without `access` the node stays as the system makes it. `on_path` is told when it is made again.
    """

    def __init__(
        self,
        chip: str,
        lines: Sequence[LineAddress],
        finder: Finder,
        reactor: Reactor,
        access: Access | None = None,
        on_path: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._chip = chip
        self._lines = lines
        self._finder = finder
        self._reactor = reactor
        self._access = access
        self._on_path = on_path
        self._aggregator = find_aggregator()
        self._record = record.Record(chip)
        self._device: Device | None = None
        self._away: set[str] = set()
        self._complaint = ""
        self._sources: list[FollowedChip] = []
        self._is_closed = False
        self.path = ""

    async def begin(self) -> None:
        """LineBusyError if a line is held, HostError if the kernel cannot; close() leaves nothing behind."""
        for address in {address[:2]: address for address in self._lines}.values():
            told = partial(self._on_presence, address.label)
            self._sources.append(FollowedChip(self._finder, address, self._reactor, told))
        self._clear_up()
        await self._offer()

    async def _offer(self) -> None:
        self._check_free()
        self._make()
        self.path = await self._node()

    def _on_presence(self, label: str, there: bool) -> None:
        if not there:
            self._away.add(label)
            _log.warning("the chip %s has vanished, and %s is deleted until it is back", label, self._chip)
            self._delete()
            return
        self._away.discard(label)
        start(self._offer_again(label))

    async def _offer_again(self, label: str) -> None:
        """Until it succeeds, or a chip has vanished again."""
        while not self._away and not self._is_closed:
            try:
                await self._offer()
            except GpiovirtError as error:
                self._delete()
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    _log.error("cannot make %s again, will keep trying: %s", self._chip, error)
                await self._pause(_AGAIN_S)
                continue
            self._complaint = ""
            _log.warning("the chip %s is back, and %s as %s", label, self._chip, self.path)
            self._on_path(self.path)
            return

    async def _pause(self, delay_s: float) -> None:
        await sleep(self._reactor.deadlines, time.monotonic_ns() + int(delay_s * 1e9))

    def close(self) -> None:
        """Delete the chip; its consumers' files fail with ENODEV."""
        self._is_closed = True
        for source in self._sources:
            source.close()
        if self._delete():
            self._record.close()
        else:
            self._record.leave()

    def _delete(self) -> bool:
        """Delete the device if there is one; whether there is none any more."""
        device, self._device = self._device, None
        try:
            if device is not None:
                delete(device)
        except HostError as error:
            _log.error("%s; delete it by hand: %s", error, how_to_delete(device.name if device else ""))
            return False
        return True

    def _clear_up(self) -> None:
        """What a process of this chip's name left when it was killed; others' is only told."""
        left, before = find_group(self._group), self._record.before
        if left is None and before is not None and before.is_there:
            left = before
        if left is not None:
            _log.warning("deleted %s, left over from chip %r, which was killed", left.describe(), self._chip)
            delete(left)
        for chip, device in record.left_over():
            _log.warning(
                "%s is left over from chip %r, which was killed; its lines are free again after: %s",
                *(device.describe(), chip, how_to_delete(device.name)),
            )

    @property
    def _group(self) -> str:
        return f"gpiovirt-{record.file_name(self._chip)}"

    def _infos(self) -> list[LineInfo]:
        with self._finder.look() as look:
            return [look.at(address).line_info(address.offset) for address in self._lines]

    def _check_free(self) -> None:
        for address, info in zip(self._lines, self._infos(), strict=True):
            if info.used:
                raise LineBusyError(
                    f'line {address} is held by "{info.consumer or "the kernel"}"; '
                    + (
                        f"if it is not needed: {how_to_delete(info.consumer)}"
                        if info.consumer.startswith(_CONSUMER)
                        else "release it or choose another"
                    )
                )

    def _make(self) -> None:
        infos = self._infos()
        lines = [
            KernelLine(address.label, address.offset, info.name)
            for address, info in zip(self._lines, infos, strict=True)
        ]
        made = self._aggregator.make(lines, self._group)
        # the driver may have refused, or may have found other lines: its lines say whose they are
        holders = [info.consumer for info in self._infos()]
        ours = [device for device in made if device.name == holders[0]]
        idle = [device for device in made if not device.chip]
        if ours or len(made) == 1 or len(idle) == 1:
            self._device = (ours or (made if len(made) == 1 else idle))[0]
            self._record.write(self._device)
        if not ours or holders != [ours[0].name] * len(holders) or not ours[0].chip:
            labels = ", ".join(sorted({line.label for line in lines}))
            raise HostError(
                f"the kernel's gpio-aggregator did not take the lines of {self._chip}; it finds chips by "
                f"their label alone ({labels}: is one not unique?), and its log (dmesg) may say more"
            )
        if not self._aggregator.keeps_names and any(line.name for line in lines):
            _log.warning(
                "the lines of %s lose their names: keeping them takes Linux 6.16 and configfs", self._chip
            )

    async def _node(self) -> str:
        assert self._device is not None
        access = self._access
        name = self._device.chip
        path = f"/dev/{name}"
        number = (DEVICES / self._device.name / name / "dev").read_text().strip()
        major, minor = map(int, number.split(":"))

        def is_made() -> bool:
            try:
                status = os.stat(path)
            except FileNotFoundError:
                return False
            return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(major, minor)

        if not await self._until(is_made):
            raise HostError(f"{path} was not made: is a devtmpfs, or udev, on /dev?")
        if access is not None:
            if (_UDEV / "control").exists():  # its rules come after the node, and would undo ours
                await self._until((_UDEV / f"data/c{number}").exists)
            try:
                os.chown(path, access.uid, access.gid)
                os.chmod(path, access.mode)
            except OSError as error:
                raise HostError.of(f"cannot give {path} its owner and mode", error) from error
        return path

    async def _until(self, is_so: Callable[[], bool]) -> bool:
        give_up = time.monotonic() + _NODE_TIMEOUT_S
        while not is_so():
            if time.monotonic() >= give_up:
                return False
            await self._pause(_LOOK_S)
        return True
