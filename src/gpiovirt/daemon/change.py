# SPDX-License-Identifier: MIT
"""Redefine several chips in one step: nothing is released before everything is held."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from gpiovirt.core.task import start
from gpiovirt.daemon.chip import KeptChip
from gpiovirt.daemon.sources import DaemonSources
from gpiovirt.daemon.store import Record, new_incarnation
from gpiovirt.errors import DeviceBusyError, GpiovirtError, HostError, LineBusyError, UsageError
from gpiovirt.protocols.control.answers import ChipEvent, Event
from gpiovirt.sources.finder import LineAddress
from gpiovirt.virtual.custody import HeldLine, make_safe, release, take

__all__ = ["Change", "CustodianPort", "check_permanent"]

_log = logging.getLogger(__name__)


class CustodianPort(Protocol):
    """What a change needs from the custodian."""

    def sources(self) -> DaemonSources:
        """The chips that lines can be taken from."""

    def check_reach(
        self, name: str, lines: Iterable[HeldLine], changed: Mapping[str, Sequence[LineAddress]], /
    ) -> None:
        """UsageError if the chip would be made of itself; `changed` are the others' new definitions."""

    async def why_busy(self, chip: KeptChip, offsets: Iterable[int]) -> str:
        """A message that says who uses these lines; empty if nobody does."""

    def store(self, record: Record) -> None:
        """Write a record; on HostError the old one is still there."""

    def keep(self, chip: KeptChip) -> None:
        """Give the service manager copies of the chip's files."""

    def forget(self, chip: KeptChip) -> None:
        """The service manager no longer needs to keep them."""

    def on_event(self, chip: KeptChip, event: Event) -> None:
        """Tell whoever watches."""


class Change:
    """`wanted` are chips, and the new definition of each."""

    def __init__(self, custodian: CustodianPort, wanted: Sequence[tuple[KeptChip, Record]]) -> None:
        self._custodian = custodian
        self._wanted = list(wanted)
        self._chips = [chip for chip, _ in wanted]
        self._pool: dict[LineAddress, HeldLine] = {}
        for chip in self._chips:
            self._pool.update(chip.custody.by_address())

    async def make(self, force: bool) -> list[KeptChip]:
        """The chips, changed."""
        lines, records = await self._take(force)
        former = [(chip, chip.record, chip.lines) for chip in self._chips]
        try:
            if not force:
                await self._check_use(lines, records)
            self._save(records)
        except BaseException:
            self._release_new(lines)
            raise
        try:
            await self._serve(lines, records, force)
        except Exception:
            await self._restore(former)
            self._release_new(lines)
            raise
        now_used = {id(line) for taken in lines for line in taken}
        for _, record, its_lines in former:
            left = [line for line in its_lines if id(line) not in now_used]
            options = record.definition.by_offset()
            for failure in make_safe(its_lines, options, [its_lines.index(line) for line in left]):
                _log.error("%s: %s", record.name, failure)
            release(left)
        return self._chips

    async def _take(self, force: bool) -> tuple[list[list[HeldLine]], list[Record]]:
        taken: list[list[HeldLine]] = []
        records: list[Record] = []
        used: dict[LineAddress, str] = {}
        try:
            with self._custodian.sources() as sources:
                for chip, record in self._wanted:
                    check_permanent(record)
                    lines = await take(record.definition, sources, self._pool)
                    taken.append(lines)
                    for offset, line in enumerate(lines):
                        if used.setdefault(line.address, chip.name) != chip.name:
                            raise _taken_twice(line.address, used[line.address], offset)
                    definition = record.definition.settled([line.name for line in lines])
                    addresses = tuple(line.address for line in lines)
                    if force and _moved(chip.lines, lines):
                        record = record._replace(incarnation=new_incarnation())
                    records.append(record._replace(definition=definition, addresses=addresses))
            wanted = {record.name: record.addresses for record in records}
            for record, lines in zip(records, taken, strict=True):
                self._custodian.check_reach(record.name, lines, wanted)
        except BaseException:
            self._release_new(taken)
            raise
        return taken, records

    def _release_new(self, taken: Iterable[Iterable[HeldLine]]) -> None:
        release(line for lines in taken for line in lines if self._pool.get(line.address) is not line)

    async def _check_use(self, lines: Sequence[Sequence[HeldLine]], records: Sequence[Record]) -> None:
        """DeviceBusyError if a line would be moved under its holder."""
        for chip, new, record in zip(self._chips, lines, records, strict=True):
            former = chip.record.definition
            if chip.use.vm and not former.may_be(record.definition):
                raise DeviceBusyError(
                    f"{await self._custodian.why_busy(chip, ())}; end that use first, or force"
                )
            options, wanted = former.by_offset(), record.definition.by_offset()
            if why := await self._custodian.why_busy(chip, _moved(chip.lines, new)):
                raise DeviceBusyError(
                    f"{why}, and would be swapped for another line; end that use first, or force"
                )
            changed = {o for o, (a, b) in enumerate(zip(options, wanted, strict=False)) if a != b}
            if former.rules != record.definition.rules:
                changed |= former.rules.offsets() | record.definition.rules.offsets()
                if former.rules.watchdog != record.definition.rules.watchdog:
                    changed |= set(range(len(chip.lines)))  # it guards all outputs
            if why := await self._custodian.why_busy(chip, changed):
                raise DeviceBusyError(
                    f"{why}, and its options or rules would change; end that use first, or force"
                )

    def _save(self, records: Sequence[Record]) -> None:
        saved: list[Record] = []
        try:
            for chip, record in zip(self._chips, records, strict=True):
                self._custodian.store(record)
                saved.append(chip.record)
        except GpiovirtError:
            for record in saved:
                self._custodian.store(record)
            raise

    async def _serve(self, lines: Sequence[list[HeldLine]], records: Sequence[Record], force: bool) -> None:
        ends = [
            start(chip.hang_up() if force and _moved(chip.lines, new) else chip.handle.stop())
            for chip, new in zip(self._chips, lines, strict=True)
        ]
        for ended in ends:
            await ended
        for chip in self._chips:
            chip.custody.look_away()
        for chip, new, record in zip(self._chips, lines, records, strict=True):
            self._custodian.forget(chip)
            chip.take_on(new, record)
        for chip in self._chips:
            definition = chip.record.definition
            with suppress(OSError):
                chip.own(definition.uid, definition.gid, definition.mode)
            self._custodian.keep(chip)
            await chip.go_live()
            self._custodian.on_event(chip, ChipEvent("changed", chip.name))

    async def _restore(self, former: Sequence[tuple[KeptChip, Record, list[HeldLine]]]) -> None:
        for chip, record, _ in former:
            await chip.handle.stop()
            chip.custody.look_away()
            try:
                self._custodian.store(record)
            except HostError as error:
                _log.error("%s is as it was, but not recorded so: %s", chip.name, error, extra=chip.about)
        for chip, record, lines in former:
            try:
                chip.take_on(lines, record)
                self._custodian.keep(chip)
                await chip.go_live()
            except GpiovirtError as error:
                _log.error("%s: %s", chip.name, error, extra=chip.about)
                chip.handle.try_again()


def _moved(old: Sequence[HeldLine], new: Sequence[HeldLine]) -> list[int]:
    """Offsets at which there is now another line, or none."""
    return [offset for offset, line in enumerate(old) if offset >= len(new) or new[offset] is not line]


def _taken_twice(address: LineAddress, other: str, offset: int) -> LineBusyError:
    error = LineBusyError(f'line {address} is held by "gpiovirt:{other}"; release it or choose another')
    error.line = offset
    return error


def check_permanent(record: Record) -> None:
    """UsageError if the chip cannot outlive its creator."""
    if record.permanent and record.creator is not None:
        raise UsageError(f"{record.name} ends with process {record.creator[0]}, and cannot be permanent")
