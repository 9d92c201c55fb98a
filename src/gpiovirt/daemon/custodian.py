# SPDX-License-Identifier: MIT
"""The custodian: it holds the lines of all virtual chips, and has a worker for each chip.

Its state exists three times: as records, as files of which its workers have copies, and, where there is
one, with the service manager. So any process may die without a line being released. It waits for nobody:
what takes time is a task, and one chip's task never holds up another's.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Direction
from gpiovirt.core.record import What
from gpiovirt.core.task import Future, start
from gpiovirt.daemon.change import Change, check_permanent
from gpiovirt.daemon.chip import MEMORY, RING, TTY, KeptChip
from gpiovirt.daemon.directories import Directories
from gpiovirt.daemon.fork_server import ForkServer
from gpiovirt.daemon.nodes import Nodes
from gpiovirt.daemon.recorder import Recorder
from gpiovirt.daemon.simulation import Simulation
from gpiovirt.daemon.sources import DaemonSources, OwnChip
from gpiovirt.daemon.store import Record, Store
from gpiovirt.daemon.vm_keeper import KEEPER
from gpiovirt.errors import (
    DeviceBusyError,
    DeviceExistsError,
    GpiovirtError,
    HostError,
    NoSuchDeviceError,
    UsageError,
)
from gpiovirt.host.child import process_start
from gpiovirt.host.notify import keep_fds
from gpiovirt.host.reactor import Reactor
from gpiovirt.protocols.control.answers import ChipEvent, Event, OwnedEvent, SourceState
from gpiovirt.sources.finder import Finder, LineAddress
from gpiovirt.sources.hot_plug import HotPlug
from gpiovirt.sources.line_files import KernelLine
from gpiovirt.virtual.custody import HeldLine, release, take

__all__ = ["Custodian", "Watcher"]

_log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.25
_LOOKS_MAX = 64  # at a time: each may start a worker
_STATUS_S = 1.0
_STATE_EVENTS = "live", "worker-ended", "deleted"

Watcher = Callable[[KeptChip, Event], None]
_Files = dict[str, int]
_NOTHING: Mapping[str, Sequence[LineAddress]] = {}


class Custodian:
    """All virtual chips. `restored` has what a service manager kept: `CHIP/` and a key of files()."""

    def __init__(
        self,
        directories: Directories,
        store: Store,
        reactor: Reactor,
        forkserver: ForkServer,
        simulation: Simulation,
        restored: Mapping[str, int],
        recorder: Recorder | None = None,
    ) -> None:
        self.recorder = recorder
        if recorder is not None:
            recorder.chips = lambda: self.chips.values()
        self.chips: dict[str, KeptChip] = {}
        self.on_state: Callable[[], None] = lambda: None
        """Called when a chip is made, is live, or ends"""
        self.directories = directories
        self.simulation = simulation
        self._watchers: list[Watcher] = []
        self._store = store
        self._reactor = reactor
        self._forkserver = forkserver
        self._finder = Finder()
        self._nodes = Nodes(directories)
        self._making: set[str] = set()
        self._going: dict[str, KeptChip] = {}
        self._restored: dict[str, _Files] = {}
        for key, fd in restored.items():
            chip, _, what = key.rpartition("/")
            self._restored.setdefault(chip, {})[what] = fd
        self._look_soon = reactor.coalesced(_LOOK_AGAIN_S, self._look)
        """A line is missing"""
        self._num_looks = 0
        self._hot_plug = HotPlug(reactor, self._on_hot_plug)
        simulation.on_back = self._look_soon

    def sources(self) -> DaemonSources:
        """The chips that lines can be taken from."""
        return DaemonSources(self._finder, self)

    def simulated(self) -> Sequence[OwnChip]:
        return self.simulation.as_sources()

    def virtual(self, name: str) -> OwnChip | None:
        chip = self.chips.get(name)
        return chip.as_source() if chip is not None else None

    def _kept_chip(self, record: Record) -> KeptChip:
        return KeptChip(
            record,
            self.directories,
            self._reactor,
            self._forkserver,
            self.on_event,
            self._look_soon,
            self.recorder is not None,
            self._nodes,
        )

    # what is asked for

    def next_name(self, driver: str) -> str:
        """The name of the next chip made by this driver's new_device: the lowest free number."""
        taken = {*self.chips, *self._making, *self._going}
        return next(name for n in range(len(taken) + 1) if (name := f"{driver}.{n}") not in taken)

    async def new(self, record: Record, creator_fd: int = -1, may_wait: bool = False) -> KeptChip:
        """Make a chip and make it live.

        `creator_fd` becomes readable when the chip is to end; it is ours from now on. A chip that `may_wait`
        is made even if its lines are not there yet.
        """
        name = record.name
        try:
            while name in self._going:  # its sockets and record would be mistaken for ours
                async with self._going[name].lock:
                    pass
            if name in self.chips or name in self._making or name in self.simulation.labels:
                raise DeviceExistsError(f"there is a chip {name!r}; choose another name, or delete it")
            chip = self._kept_chip(record)
            self._making.add(name)
            try:
                async with chip.lock:
                    await self._make(chip, may_wait)
            finally:
                self._making.discard(name)
        except BaseException:
            if creator_fd >= 0:
                os.close(creator_fd)
            raise
        if creator_fd >= 0:
            self._end_with(chip, creator_fd)
        return chip

    async def _make(self, chip: KeptChip, may_wait: bool) -> None:
        record, name = chip.record, chip.name
        try:
            with self.sources() as sources:
                lines = await take(record.definition, sources, {})
        except GpiovirtError as error:
            if not may_wait or not _may_come(error):
                raise
            self._store.save(record)
            self.chips[name] = chip
            self._wait(chip, error)
            return
        try:
            settled = record._replace(definition=record.definition.settled([line.name for line in lines]))
            self.check_reach(name, lines)
            chip.take_on(lines, settled)
            chip.begin()  # it has nothing to serve before this turn of the loop ends
            self._store.save(chip.record)
        except BaseException:
            chip.close_now()
            release(lines)
            raise
        self.chips[name] = chip
        self.keep(chip)
        try:
            await chip.served()
        except BaseException:
            await self._remove(chip)
            raise

    def check_reach(
        self,
        name: str,
        lines: Iterable[HeldLine],
        changed: Mapping[str, Sequence[LineAddress]] = _NOTHING,
    ) -> None:
        """UsageError if the chip would be made of itself; `changed` are other chips' new definitions."""
        pending = [line.address.label for line in lines]
        seen: set[str] = set()
        while pending:
            label = pending.pop()
            if label == name:
                raise UsageError(f"the chip {name} would be made of lines of its own")
            if label in self.chips and label not in seen:
                seen.add(label)
                addresses = changed.get(label) or self.chips[label].record.addresses
                pending += [address.label for address in addresses]

    def _end_with(self, chip: KeptChip, fd: int) -> None:
        def gone() -> None:
            self._reactor.remove_reader(fd)
            _log.info("%s: its creator has ended; the chip is deleted", chip.name, extra=chip.about)
            if self.recorder is not None:
                self.recorder.note(What.DELETED, chip.name, text="its creator has ended")
            self._in_background(self.delete(chip.name, force=True), chip.name)

        if self.chips.get(chip.name) is not chip:
            os.close(fd)
            return
        chip.creator_fd = fd
        self._reactor.add_reader(fd, gone)

    def find(self, name: str) -> KeptChip:
        """NoSuchDeviceError if there is none."""
        if name not in self.chips:
            there = ", ".join(self.chips) or "none"
            raise NoSuchDeviceError(f"no chip {name!r}; the chips are: {there}")
        return self.chips[name]

    async def delete(self, name: str, force: bool) -> None:
        """Delete a chip; DeviceBusyError, unless forced, if one of its lines is in use."""
        chip = self.find(name)
        async with chip.lock:
            if self.chips.get(name) is not chip:
                raise NoSuchDeviceError(f"no chip {name!r}")
            if not force and (why := await self.why_busy(chip, range(len(chip.lines)))):
                raise DeviceBusyError(f"{why}; end that use first, or force")
            await self._remove(chip)

    async def why_busy(self, chip: KeptChip, offsets: Iterable[int]) -> str:
        """A message that says who uses these lines; empty if nobody does."""
        if chip.use.vm:
            return f"the chip {chip.name} is used by a virtual machine (pid {chip.use.vm})"
        held = set(chip.held()).intersection(offsets)
        if not held:
            return ""
        offset = min(held)
        status = await chip.status(_STATUS_S)
        line = status.lines[offset] if status else None
        who: object = f'"{line.consumer or "?"}"' if line else '"?"'
        if line and line.holder:
            who = Holder(line.consumer, HolderKind(line.holder.kind), *line.holder[1:])
        return f"line {offset} of {chip.name} is held by {who}"

    async def _remove(self, chip: KeptChip) -> None:
        """Delete it; on HostError its record, and so the chip, stays."""
        if self.chips.get(chip.name) is not chip:
            return
        self._condemn(chip.record)
        del self.chips[chip.name]
        self._going[chip.name] = chip
        self.forget(chip)
        try:
            await chip.close()
            self._store.remove(chip.name)
        finally:
            del self._going[chip.name]
        self.on_event(chip, ChipEvent("deleted", chip.name))

    def _condemn(self, record: Record) -> None:
        """If we end first, the next gpiovirtd deletes it: until then its record is that of an orphan."""
        creator = (os.getpid(), process_start(os.getpid()))
        try:
            self._store.save(record._replace(permanent=False, origin="", creator=creator))
        except HostError:  # if there is no room for that, remove it
            self._store.remove(record.name)

    async def change(
        self, names: Sequence[str], wanted: Callable[[KeptChip], Record], force: bool = False
    ) -> list[KeptChip]:
        """Redefine chips, all of them or none; lines that are in both definitions are not touched.

        The new definition of each is asked for once nobody else changes it. They may exchange lines.
        DeviceBusyError, unless forced, if a held line would be swapped for another or move to another chip;
        its holder then loses it.
        """
        if len(set(names)) != len(names):
            raise UsageError("a chip is listed twice")
        chips = {name: self.find(name) for name in names}
        async with AsyncExitStack() as stack:
            for name in sorted(names):
                await stack.enter_async_context(chips[name].lock)
                if self.chips.get(name) is not chips[name]:
                    raise NoSuchDeviceError(f"no chip {name!r}")
            return await Change(self, [(chips[name], wanted(chips[name])) for name in names]).make(force)

    async def own(self, chip: KeptChip, uid: int, gid: int, mode: int) -> None:
        """Owner, group and mode (-1: as it is) of a chip's sockets."""
        async with chip.lock:
            self._check_there(chip)
            self._own(chip, uid, gid, mode)

    def _check_there(self, chip: KeptChip) -> None:
        if self.chips.get(chip.name) is not chip:
            raise NoSuchDeviceError(f"no chip {chip.name!r}")

    def _own(self, chip: KeptChip, uid: int, gid: int, mode: int, follows_device: bool = False) -> None:
        former = chip.record
        definition = former.definition
        wanted = definition._replace(
            uid=definition.uid if uid < 0 else uid,
            gid=definition.gid if gid < 0 else gid,
            mode=definition.mode if mode < 0 else mode & 0o777,
        )
        self._store.save(former._replace(definition=wanted))
        try:
            chip.own(wanted.uid, wanted.gid, wanted.mode, follows_device)
        except OSError as error:
            self._store.save(former)
            raise HostError.of(f"cannot change who may use {chip.name}", error) from error
        chip.record = former._replace(definition=wanted)
        self.on_event(chip, OwnedEvent("owned", chip.name, wanted.uid, wanted.gid, wanted.mode))

    async def make_permanent(self, chip: KeptChip, permanent: bool, origin: str | None) -> None:
        """Make it permanent, or not; `origin` (None: as it is) is the file that describes it."""
        async with chip.lock:
            self._check_there(chip)
            wanted = chip.record._replace(
                permanent=permanent, origin=chip.record.origin if origin is None else origin
            )
            check_permanent(wanted)
            self._store.save(wanted)
            chip.record = wanted

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Tell `watcher` what happens; returns a function that ends that."""
        self._watchers.append(watcher)
        if len(self._watchers) == 1:
            for chip in self.chips.values():
                chip.watch(True)

        def unwatch() -> None:
            self._watchers.remove(watcher)
            if not self._watchers:
                for chip in self.chips.values():
                    chip.watch(False)

        return unwatch

    @property
    def num_watchers(self) -> int:
        """The number of watchers."""
        return len(self._watchers)

    async def list_sources(self) -> list[SourceState]:
        """The chips that lines can be taken of, and their lines."""
        with self.sources() as sources:
            found = sources.states()
        return found + await self.simulation.states()

    # what happens

    def on_event(self, chip: KeptChip, event: Event) -> None:
        if event.event == "line-gone":
            self._look_soon()
        elif event.event == "line-back":
            self.keep(chip)
        elif event.event == "live":
            self._drop_restored(chip.name)  # its worker also had them
            self.on_attributes_changed(chip.name)  # while there was no gpiovirtd
            self._look_soon()  # chips made of its lines can have them now
            if self._watchers and not chip.watched:
                chip.watch(True)
        if event.event in _STATE_EVENTS:
            self.on_state()
        if self.recorder is not None:
            if event.event in ("live", "changed"):
                self.recorder.tell(chip)
            elif event.event == "deleted":
                self.recorder.forget(chip)
        for watcher in list(self._watchers):
            watcher(chip, event)

    def on_attributes_changed(self, name: str) -> None:
        """Somebody changed owner, group or mode of a chip's socket: apply that to all its sockets.

        A change that cannot be recorded is undone.
        """
        chip = self.chips.get(name)
        if chip is not None:
            self._in_background(self._follow_socket(chip), name)

    async def _follow_socket(self, chip: KeptChip) -> None:
        async with chip.lock:
            if self.chips.get(chip.name) is chip:
                self._follow_socket_now(chip)

    def _follow_socket_now(self, chip: KeptChip) -> None:
        name, definition = chip.name, chip.record.definition
        access = chip.access()
        known = (definition.uid, definition.gid, definition.mode)
        if access is None or access == known:
            return
        try:
            self._own(chip, *access, follows_device=True)
        except GpiovirtError as error:
            _log.error("%s: its new owner and mode do not hold: %s", name, error, extra=chip.about)
            with suppress(OSError):
                chip.own(*known)

    # lines that are missing

    def _on_hot_plug(self) -> None:
        for chip in list(self.chips.values()):
            chip.custody.look()
        self._look()

    def _look(self) -> None:
        """For each chip by itself: one that has to wait does not hold up others."""
        for chip in list(self.chips.values()):
            if self._is_complete(chip) or chip.lock.is_held:
                continue
            if self._num_looks >= _LOOKS_MAX:
                self._look_soon()
                break
            self._num_looks += 1
            self._in_background(self._look_for_lines(chip), chip.name)
        self._looked()

    def _looked(self) -> None:
        if any(not self._is_complete(chip) for chip in self.chips.values()):
            self._look_soon()

    @staticmethod
    def _is_complete(chip: KeptChip) -> bool:
        return bool(chip.lines or chip.handle.is_found) and chip.custody.is_complete

    async def _look_for_lines(self, chip: KeptChip) -> None:
        try:
            async with chip.lock:
                if self.chips.get(chip.name) is not chip:
                    return
                with self.sources() as sources:
                    if chip.lines:
                        await chip.custody.retake(sources)
                    else:
                        await self._begin(chip, sources)
        finally:
            self._num_looks -= 1

    async def _begin(self, chip: KeptChip, sources: DaemonSources) -> None:
        """Make a chip without lines live: one that waits for them, or is from before us."""
        kept = self._restored_lines(chip, sources)
        recorded = chip.record
        try:
            lines = await take(chip.record.definition, sources, kept)
            settled = chip.record.definition.settled([line.name for line in lines])
            self.check_reach(chip.name, lines)
        except GpiovirtError as error:
            self._wait(chip, error)
            return
        files = self._restored.get(chip.name, {})
        memory = files.pop(MEMORY, -1) if kept else -1
        if memory >= 0:
            chip.use_keeper(files.pop(KEEPER, -1))
            chip.use_ring(files.pop(RING, -1))
            chip.node.use(files.pop(TTY, -1))
        chip.take_on(
            lines,
            chip.record._replace(definition=settled),
            memory,
        )
        used = {line.file.fds[0] for line in lines if line.file}
        self._restored[chip.name] = {key: fd for key, fd in files.items() if fd not in used}
        self._drop_restored(chip.name)
        self.keep(chip)
        try:
            if chip.record != recorded:
                self._store.save(chip.record)
            await chip.go_live()
        except GpiovirtError as error:
            self._wait(chip, error)
            chip.handle.try_again()

    @staticmethod
    def _wait(chip: KeptChip, error: GpiovirtError) -> None:
        chip.node.hide()
        if str(error) != chip.trouble:
            chip.trouble = str(error)
            _log.warning("%s waits: %s", chip.name, error, extra=chip.about)

    def _restored_lines(self, chip: KeptChip, sources: DaemonSources) -> dict[LineAddress, HeldLine]:
        """Those of the chip's lines that the service manager has kept and whose chips are there."""
        kept: dict[LineAddress, HeldLine] = {}
        for key, fd in self._restored.get(chip.name, {}).items():
            if not key.isdecimal() or int(key) >= len(chip.record.addresses):
                continue
            address = chip.record.addresses[int(key)]
            with suppress(GpiovirtError):
                info = sources.at(address).line_info(address.offset)
                is_output = info.direction is Direction.OUTPUT
                kept[address] = HeldLine(address, info.name, KernelLine(fd), is_output)
        return kept

    def _drop_restored(self, name: str) -> None:
        """The chip has its lines: whatever else was kept for it is no longer needed."""
        for fd in self._restored.pop(name, {}).values():
            os.close(fd)

    @staticmethod
    def keep(chip: KeptChip) -> None:
        """Give the service manager copies, in case all our processes die."""
        keep_fds(_files(chip))

    @staticmethod
    def forget(chip: KeptChip) -> None:
        """The service manager no longer needs to keep it."""
        keep_fds(dict.fromkeys(_files(chip)))

    # beginning and end

    def restore(self) -> None:
        """Restore the chips: from their workers, or made anew."""
        for record in self._store.load():
            chip = self._kept_chip(record)
            self.chips[record.name] = chip
            if record.creator is not None and not self._has_creator(chip):
                self._in_background(self._end_orphan(chip), record.name)
            elif not chip.handle.find():
                chip.node.hide()  # until it has lines again
        self._nodes.hide_all_but(self.chips)
        if self.chips:
            self._forkserver.begin()
        for name in [name for name in self._restored if name not in self.chips]:
            self._drop_restored(name)
        self._look()

    async def _end_orphan(self, chip: KeptChip) -> None:
        """Its creator is gone, or it was being deleted: its worker, if there is one, has its lines."""
        async with chip.lock:
            if chip.handle.find():
                await chip.met()
            await self._remove(chip)

    def _has_creator(self, chip: KeptChip) -> bool:
        assert chip.record.creator is not None
        pid, started = chip.record.creator
        if pid == os.getpid():  # our own connection, from before we were re-executed
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

    def _in_background(self, task: Any, name: str) -> None:
        outcome: Future[Any] = start(task)

        def done() -> None:
            try:
                outcome.result()
            except NoSuchDeviceError:
                pass
            except (GpiovirtError, OSError) as error:
                _log.error("%s: %s", name, error, extra={"chip": name})

        outcome.then(done)

    @property
    def is_settled(self) -> bool:
        """Every chip is live, or waits for lines."""
        return all(chip.handle.is_ready or chip.trouble for chip in self.chips.values())

    def kept_files(self) -> _Files:
        """The files of all chips, by name."""
        return {key: fd for chip in self.chips.values() for key, fd in _files(chip).items()}

    async def end_going(self) -> None:
        """Finish deletions in progress: otherwise nobody would end those workers."""
        for chip in list(self._going.values()):
            async with chip.lock:
                pass

    async def end(self) -> None:
        """Delete all chips, but not the records of those that are permanent."""
        for chip in list(self.chips.values()):
            async with chip.lock:
                if self.chips.get(chip.name) is not chip:
                    continue
                if chip.record.permanent:
                    del self.chips[chip.name]
                    await chip.close()
                else:
                    with suppress(GpiovirtError):
                        await self._remove(chip)
        self._hot_plug.close()
        self.simulation.close()

    def store(self, record: Record) -> None:
        """Write a record; on HostError the old one is still there."""
        self._store.save(record)


def _files(chip: KeptChip) -> _Files:
    return {f"{chip.name}/{key}": fd for key, fd in chip.files().items()}


def _may_come(error: GpiovirtError) -> bool:
    """Whether what is missing may be there later."""
    return isinstance(error, HostError) or error.errno in (errno.ENODEV, errno.EBUSY, errno.ENOENT)
