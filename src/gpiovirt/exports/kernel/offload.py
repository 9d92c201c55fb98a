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
from typing import Protocol

from gpiovirt.core.chip import Chip
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
from gpiovirt.host.unix_socket import Access

__all__ = ["Followed", "Offload"]

_log = logging.getLogger(__name__)

_CONSUMER = "gpio-aggregator."
_NODE_TIMEOUT_S = 2.0
_UDEV = Path("/run/udev")


class Followed(Chip, Protocol):
    """A chip of the kernel: one that may vanish, and be back."""

    def follow(self, follower: Callable[[bool], bool]) -> Callable[[], None]:
        """Tell it whether the chip is there when that changes, again until it returns that this will do."""


class Offload:
    """Hands `lines`, all of them of chips of the kernel, over as the chip `chip`; `path` is its node.

    LineBusyError if a line is held, HostError if the kernel cannot; then nothing is left behind.
    Without `access` the node stays as the system makes it. `on_path` is told when it is made again.
    """

    def __init__(
        self,
        chip: str,
        lines: Sequence[tuple[Followed, int]],
        access: Access | None = None,
        on_path: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._chip = chip
        self._lines = lines
        self._access = access
        self._on_path = on_path
        self._aggregator = find_aggregator()
        self._record = record.Record(chip)
        self._device: Device | None = None
        self._away: set[str] = set()
        self._complaint = ""
        sources = {id(source): source for source, _ in lines}
        self._unfollow = [source.follow(partial(self._on_presence, source)) for source in sources.values()]
        try:
            self._clear_up()
            self.path = self._offer()
        except BaseException:
            self.close()
            raise

    def _offer(self) -> str:
        self._check_free()
        self._make()
        return self._node()

    def _on_presence(self, source: Chip, there: bool) -> bool:
        label = source.info.label
        if not there:
            self._away.add(label)
            _log.warning("the chip %s has vanished, and %s is deleted until it is back", label, self._chip)
            self._delete()
            return True
        self._away.discard(label)
        if self._away:
            return True
        try:
            self.path = self._offer()
        except GpiovirtError as error:
            self._delete()
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.error("cannot make %s again, and go on trying: %s", self._chip, error)
            return False
        self._complaint = ""
        _log.warning("the chip %s is back, and %s as %s", label, self._chip, self.path)
        self._on_path(self.path)
        return True

    def close(self) -> None:
        """Delete the chip; its consumers' files fail with ENODEV."""
        for unfollow in self._unfollow:
            unfollow()
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
            _log.warning("deleted %s, left over of a chip %r that was killed", left.describe(), self._chip)
            delete(left)
        for chip, device in record.left_over():
            _log.warning(
                "%s is left over of a chip %r that was killed; its lines are free again after: %s",
                *(device.describe(), chip, how_to_delete(device.name)),
            )

    @property
    def _group(self) -> str:
        return f"gpiovirt-{record.file_name(self._chip)}"

    def _check_free(self) -> None:
        for source, offset in self._lines:
            info = source.line_info(offset)
            if info.used:
                raise LineBusyError(
                    f'line {source.info.label}:{offset} is held by "{info.consumer or "the kernel"}"; '
                    + (
                        f"if it is not needed: {how_to_delete(info.consumer)}"
                        if info.consumer.startswith(_CONSUMER)
                        else "release it or choose another"
                    )
                )

    def _make(self) -> None:
        lines = [
            KernelLine(source.info.label, offset, source.line_info(offset).name)
            for source, offset in self._lines
        ]
        made = self._aggregator.make(lines, self._group)
        # the driver may have refused, or may have found other lines: its lines say whose they are
        holders = [source.line_info(offset).consumer for source, offset in self._lines]
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

    def _node(self) -> str:
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

        if not _wait_until(is_made):
            raise HostError(f"{path} was not made: is a devtmpfs, or udev, on /dev?")
        if access is not None:
            if (_UDEV / "control").exists():  # its rules come after the node, and would undo ours
                _wait_until((_UDEV / f"data/c{number}").exists)
            try:
                os.chown(path, access.uid, access.gid)
                os.chmod(path, access.mode)
            except OSError as error:
                raise HostError.of(f"cannot give {path} its owner and mode", error) from error
        return path


def _wait_until(is_so: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + _NODE_TIMEOUT_S
    while not is_so():
        if time.monotonic() >= give_up:
            return False
        time.sleep(0.005)
    return True
