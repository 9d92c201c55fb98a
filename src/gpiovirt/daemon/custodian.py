# SPDX-License-Identifier: MIT
"""The custodian: it keeps the lines of all virtual chips, and has a worker for each chip.

What it has, it has three times: as records, as files that its workers have copies of, and, where there is
one, with the service manager. So any process may die without a line being given back.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gpiovirt.control.limits import check_name
from gpiovirt.core.line import Direction
from gpiovirt.daemon.chip import Directories, Line, VirtualChip, release, take
from gpiovirt.daemon.link import Forkserver, Link
from gpiovirt.daemon.simulation import Simulation
from gpiovirt.daemon.sources import Place, Sources
from gpiovirt.daemon.store import Record, Store
from gpiovirt.errors import (
    DeviceBusyError,
    DeviceExistsError,
    GpiovirtError,
    HostError,
    NoSuchDeviceError,
    UsageError,
)
from gpiovirt.host.notify import keep_fds, sd_notify
from gpiovirt.host.reactor import Reactor
from gpiovirt.sources.held import KernelLine

__all__ = ["Custodian", "Done"]

_log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.25
_ANSWER_S = 2.0
_STATE_EVENTS = "live", "worker-ended", "deleted"
DRIVERS = ("gpio-virt-agg", "gpio-aggregator")
_NUMBERED = re.compile(rf"({'|'.join(DRIVERS)})\.(0|[1-9]\d*)")

Done = Callable[[VirtualChip | GpiovirtError], None]
"""Told the chip, once it is live, or why it is not"""


class Custodian:
    """All virtual chips. `restored` has fds of lines that a service manager kept, by chip and offset."""

    def __init__(
        self,
        directories: Directories,
        store: Store,
        reactor: Reactor,
        forkserver: Forkserver,
        simulation: Simulation,
        restored: Mapping[str, dict[int, int]],
    ) -> None:
        self.chips: dict[str, VirtualChip] = {}
        self.watchers: list[Callable[[VirtualChip, dict[str, Any]], None]] = []
        """Called with (chip, event)"""
        self.on_state: Callable[[], None] = lambda: None
        """Called when a chip is made, is live, or ends"""
        self.directories = directories
        self.simulation = simulation
        self._store = store
        self._reactor = reactor
        self._forkserver = forkserver
        self._restored = dict(restored)
        self._look_soon = reactor.coalesced(_LOOK_AGAIN_S, self._look)
        """A line is missing"""

    def sources(self) -> Sources:
        """The chips that lines can be taken of."""
        return Sources(self.directories.sources, self.directories.chips)

    def _virtual_chip(self, record: Record) -> VirtualChip:
        def link(chip: VirtualChip) -> Link:
            path = f"{self.directories.workers}/{record.name}"
            return Link(record.name, path, chip, self._reactor, self._forkserver)

        return VirtualChip(
            record, self.directories, self._reactor, link, self._on_changed, lambda _: self._look_soon()
        )

    # what is asked for

    def new(self, record: Record, done: Done, creator_fd: int = -1, may_wait: bool = False) -> None:
        """Make a chip; without a name it gets its driver's, with the lowest free number.

        `creator_fd` is readable when it is to go away again; it is ours from now on. A chip that `may_wait`
        is there, too, if its lines are not yet.
        """
        try:
            if not record.name:
                record.driver = record.driver or DRIVERS[0]
                record.name = self._next_name(record.driver)
            elif numbered := _NUMBERED.fullmatch(record.name):
                if not record.permanent:
                    raise UsageError(f"{record.name!r}: names of this form are given by new_device")
                record.driver = numbered[1]
            check_name(record.name)
            if record.name in self.chips or record.name in self.simulation.labels:
                raise DeviceExistsError(f"there is a chip {record.name!r}; choose another name, or delete it")
            chip = self._virtual_chip(record)
            try:
                with self.sources() as sources:
                    chip.lines = lines = take(record, sources, self._reactor)
            except GpiovirtError as error:
                if not may_wait or not _may_come(error):
                    raise
                self._store.save(record)
                self.chips[record.name] = chip
                self._wait(chip, error)
                self._look_soon()
                done(chip)
                return
            try:
                chip.check()
                chip.use(lines, lines)
                chip.listen()
                self._store.save(record)
            except BaseException:
                chip.close()
                raise
        except GpiovirtError as error:
            if creator_fd >= 0:
                os.close(creator_fd)
            done(error)
            return
        self.chips[record.name] = chip
        self._keep(chip)
        if creator_fd >= 0:
            self._end_with(chip, creator_fd)
        self._start(chip, done)

    def _start(self, chip: VirtualChip, done: Done) -> None:
        def ready(message: str) -> None:
            if not message:
                done(chip)
                return
            done(HostError(f"the chip {chip.record.name} cannot be served: {message}"))
            self._remove(chip)

        try:
            chip.start(ready)
        except GpiovirtError as error:
            self._remove(chip)
            done(error)

    def _next_name(self, driver: str) -> str:
        numbers = {
            int(match[2])
            for name in self.chips
            if (match := _NUMBERED.fullmatch(name)) and match[1] == driver
        }
        return f"{driver}.{next(n for n in range(len(numbers) + 1) if n not in numbers)}"

    def _end_with(self, chip: VirtualChip, fd: int) -> None:
        def gone() -> None:
            _log.info("%s: its creator has ended, and so does it", chip.record.name, extra=chip.about)
            self._remove(chip)

        chip.creator_fd = fd
        self._reactor.add_reader(fd, gone)

    def find(self, name: str) -> VirtualChip:
        """NoSuchDeviceError if there is none."""
        if name not in self.chips:
            there = ", ".join(self.chips) or "none"
            raise NoSuchDeviceError(f"there is no chip {name!r}; there is: {there}")
        return self.chips[name]

    def delete(self, name: str, force: bool, done: Callable[[GpiovirtError | None], None]) -> None:
        """Delete a chip; DeviceBusyError, unless forced, if one of its lines is in use."""
        try:
            chip = self.find(name)
        except UsageError as error:
            done(error)
            return

        def decide(status: dict[str, Any] | None) -> None:
            if self.chips.get(name) is not chip:
                done(NoSuchDeviceError(f"there is no chip {name!r}"))
                return
            if not force and status and (why := _why_busy(name, status)):
                done(DeviceBusyError(why))
                return
            try:
                self._remove(chip)
            except GpiovirtError as error:
                done(error)
            else:
                done(None)

        if force:
            decide(None)
        else:
            self.status(chip, decide)

    def _remove(self, chip: VirtualChip) -> None:
        """Whatever it is, it goes; HostError if its record stays."""
        if self.chips.pop(chip.record.name, None) is None:
            return
        for offset in range(len(chip.lines)):
            keep_fds(_kept_name(chip, offset), ())
        chip.close()
        self._on_changed(chip, "deleted", {})
        self._store.remove(chip.record.name)

    def change(self, record: Record, done: Done) -> None:
        """Make another chip of one: as a whole, or not at all. Lines that are in both are not touched."""
        try:
            chip = self.find(record.name)
            _check_permanent(record)
            trial = self._virtual_chip(record)
            kept = {line.place: line for line in chip.lines}
            with self.sources() as sources:
                lines = take(record, sources, self._reactor, kept)
            trial.lines = lines
            record.places = [list(line.place) for line in lines]
            try:
                trial.check()
                self._store.save(record)
            except BaseException:
                release([line for line in lines if line.place not in kept], self._reactor)
                raise
        except GpiovirtError as error:
            done(error)
            return
        for offset in range(len(chip.lines)):
            keep_fds(_kept_name(chip, offset), ())
        chip.change(record, lines)
        self._keep(chip)
        self._on_changed(chip, "changed", {})

        def ready(message: str) -> None:
            done(HostError(message) if message else chip)

        try:
            chip.start(ready)
        except GpiovirtError as error:
            done(error)

    def own(self, chip: VirtualChip, uid: int, gid: int, mode: int) -> None:
        """Owner (-1: as it is), group and mode of a chip's sockets."""
        record = chip.record
        wanted = replace(
            record,
            uid=record.uid if uid < 0 else uid,
            gid=record.gid if gid < 0 else gid,
            mode=record.mode if mode < 0 else mode & 0o777,
        )
        self._store.save(wanted)
        chip.own(wanted.uid, wanted.gid, wanted.mode)
        self._on_changed(chip, "owned", {"uid": wanted.uid, "gid": wanted.gid, "mode": wanted.mode})

    def make_permanent(self, chip: VirtualChip, permanent: bool, origin: str) -> None:
        """Have it there after a reboot, or not; `origin` is the file that describes it."""
        wanted = replace(chip.record, permanent=permanent, origin=origin)
        _check_permanent(wanted)
        self._store.save(wanted)
        chip.record.permanent, chip.record.origin = permanent, origin

    def status(self, chip: VirtualChip, done: Callable[[dict[str, Any] | None], None]) -> None:
        """What the chip's worker says of it; None if it does not."""
        cancel: Callable[[], None] = _nothing

        def answered(status: dict[str, Any] | None) -> None:
            cancel()
            done(status)

        tag = chip.ask(answered)
        if tag:
            cancel = self._reactor.call_later(_ANSWER_S, lambda: chip.give_up_asking(tag))

    def watch(self, watcher: Callable[[VirtualChip, dict[str, Any]], None]) -> Callable[[], None]:
        """Tell `watcher` what happens; returns what ends that."""
        self.watchers.append(watcher)
        if len(self.watchers) == 1:
            for chip in self.chips.values():
                chip.watch(True)

        def unwatch() -> None:
            self.watchers.remove(watcher)
            if not self.watchers:
                for chip in self.chips.values():
                    chip.watch(False)

        return unwatch

    # what happens

    def _on_changed(self, chip: VirtualChip, event: str, details: dict[str, Any]) -> None:
        if event == "worker-ended":
            with self.sources() as sources:
                chip.look_at_directions(sources)
        elif event == "line-back":
            self._keep(chip)
        elif event == "live":
            self._forget_restored(chip.record.name)  # its worker had them, too
            self.on_attributes_changed(chip.record.name)  # while there was no gpiovirtd
            if self.watchers and not chip.watched:
                chip.watch(True)
        if event in _STATE_EVENTS:
            self.on_state()
        for watcher in list(self.watchers):
            watcher(chip, {"event": event, "chip": chip.record.name, **details})

    def on_attributes_changed(self, name: str) -> None:
        """Somebody changed owner, group or mode of a chip's socket: they hold for all its sockets."""
        chip = self.chips.get(name)
        if chip is None:
            return
        record = chip.record
        access = chip.access()
        if access is not None and access != (record.uid, record.gid, record.mode):
            with suppress(GpiovirtError):
                self.own(chip, *access)

    def _look(self) -> None:
        complete = True
        with self.sources() as sources:
            for chip in list(self.chips.values()):
                if not chip.lines:
                    complete &= self._begin(chip, sources)
                elif any(line.file is None for line in chip.lines):
                    complete &= chip.retake(sources)
        if not complete:
            self._look_soon()

    def _begin(self, chip: VirtualChip, sources: Sources) -> bool:
        """Start a chip that waits for its lines; False if it still does."""
        try:
            restored = self._restored_lines(chip, sources)
            lines = take(chip.record, sources, self._reactor, restored)
        except GpiovirtError as error:
            self._wait(chip, error)
            return not _may_come(error)
        chip.use(lines, [line for line in lines if line.place not in restored])
        self._forget_restored(chip.record.name, [line.file.fds[0] for line in lines if line.file])
        self._keep(chip)
        try:
            chip.start()
        except GpiovirtError as error:
            chip.trouble = str(error)
            _log.error("%s: %s", chip.record.name, error, extra=chip.about)
        return True

    @staticmethod
    def _wait(chip: VirtualChip, error: GpiovirtError) -> None:
        if str(error) != chip.trouble:
            chip.trouble = str(error)
            _log.warning("%s waits: %s", chip.record.name, error, extra=chip.about)

    def _restored_lines(self, chip: VirtualChip, sources: Sources) -> dict[Place, Line]:
        """Those of the chip's lines that the service manager has kept, as far as their chips are there."""
        kept: dict[Place, Line] = {}
        places = chip.record.lines()
        for offset, fd in self._restored.get(chip.record.name, {}).items():
            if offset < len(places):
                place = places[offset]
                with suppress(GpiovirtError):
                    source = sources.at(place)
                    info = source.line_info(place.offset)
                    is_output = info.direction is Direction.OUTPUT
                    kept[place] = Line(place, info.name, "kernel", KernelLine(fd), is_output)
        return kept

    def _forget_restored(self, name: str, used: Collection[int] = ()) -> None:
        """The chip has its lines: what else was kept for it is not needed."""
        for fd in self._restored.pop(name, {}).values():
            if fd not in used:
                os.close(fd)

    def _keep(self, chip: VirtualChip) -> None:
        """Give the service manager copies, for the case that all of us die."""
        for offset, line in enumerate(chip.lines):
            if line.kind == "kernel" and line.file is not None:
                keep_fds(_kept_name(chip, offset), line.file.fds)

    # beginning and end

    def restore(self) -> None:
        """Have the chips again that there were: of their workers, or made anew."""
        for record in self._store.load():
            chip = self._virtual_chip(record)
            self.chips[record.name] = chip
            if record.creator is not None and not self._has_creator(chip):
                self._remove(chip)
                continue
            if chip.link.find():
                chip.lines = []
                continue
            self._look_soon()
        for name in [name for name in self._restored if name not in self.chips]:
            self._forget_restored(name)
        with self.sources() as sources:
            for chip in self.chips.values():
                if not chip.lines and not chip.link.is_found:
                    self._begin(chip, sources)

    def _has_creator(self, chip: VirtualChip) -> bool:
        assert chip.record.creator is not None
        pid, started = chip.record.creator
        if pid == os.getpid():  # a connection of ours, before we were executed again
            return False
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return False
        if process_start(pid) != started:
            os.close(fd)
            return False
        self._end_with(chip, fd)
        return True

    @property
    def is_settled(self) -> bool:
        """Every chip is live, or waits for lines."""
        return all(chip.link.is_ready or chip.trouble for chip in self.chips.values())

    def kept_files(self) -> dict[str, int]:
        """All lines of the kernel that are held, by what they are called at the service manager."""
        return {
            _kept_name(chip, offset): line.file.fds[0]
            for chip in self.chips.values()
            for offset, line in enumerate(chip.lines)
            if line.kind == "kernel" and line.file is not None
        }

    def end(self) -> None:
        """Delete all chips, but not the records of those that are permanent."""
        for chip in list(self.chips.values()):
            if chip.record.permanent:
                self.chips.pop(chip.record.name)
                chip.close()
            else:
                with suppress(GpiovirtError):
                    self._remove(chip)
        self.simulation.close()
        sd_notify("STOPPING=1")


def _check_permanent(record: Record) -> None:
    """UsageError of a chip that cannot outlive its creator."""
    if record.permanent and record.creator is not None:
        raise UsageError(f"{record.name} ends with process {record.creator[0]}, and cannot be permanent")


def _nothing() -> None:
    pass


def _may_come(error: GpiovirtError) -> bool:
    """Whether what is missing may be there later."""
    return isinstance(error, HostError) or error.errno in (errno.ENODEV, errno.EBUSY, errno.ENOENT)


def _kept_name(chip: VirtualChip, offset: int) -> str:
    return f"{chip.record.name}/{offset}"


def _why_busy(name: str, status: dict[str, Any]) -> str:
    if vm := status.get("vm"):
        return f"the chip {name} is used by a virtual machine (pid {vm['pid']}); end it, or force"
    for line in status["lines"]:
        if line["used"]:
            return f'line {line["offset"]} of {name} is held by "{line["consumer"]}"; end that, or force'
    return ""


def process_start(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 if there is none. proc_pid_stat(5): starttime"""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
