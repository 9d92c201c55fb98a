# SPDX-License-Identifier: MIT
"""A virtual chip in the custodian: lines, sockets, memory, and the worker that has copies of them."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from gpiovirt.core.line import Direction as LineDirection
from gpiovirt.core.line import LineOptions
from gpiovirt.core.task import Future, Lock, TooLateError, sleep, wait_for
from gpiovirt.daemon.directories import Directories
from gpiovirt.daemon.fork_server import ForkServer
from gpiovirt.daemon.nodes import Node, Nodes
from gpiovirt.daemon.sources import OwnChip, are_lent_line, is_kernel_line
from gpiovirt.daemon.store import Record
from gpiovirt.daemon.told import Status, Use, check_refused, decode_levels, decode_status, decode_told
from gpiovirt.daemon.vm_keeper import KEEPER, VmKeeper
from gpiovirt.daemon.worker_handle import WorkerHandle
from gpiovirt.errors import GpiovirtError, HostError, PeerError
from gpiovirt.exports.vm.state import vm_bytes
from gpiovirt.host.child import has_ended
from gpiovirt.host.clock import boot_ns
from gpiovirt.host.device_socket import DeviceSocket
from gpiovirt.host.mapping import can_shrink
from gpiovirt.host.packets import close_files
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.received import Kind, kind_of
from gpiovirt.host.terminal import terminal_index
from gpiovirt.host.unix_socket import Access, PathListener, SocketListener
from gpiovirt.protocols.control.answers import ChipEvent, Event, Levels, RuleEvent, SourceEvent
from gpiovirt.sources.line_files import (
    FDS_OF_LINE,
    KernelLine,
    LineFile,
    RemoteLine,
)
from gpiovirt.virtual.custody import Custody, HeldLine, make_safe, release
from gpiovirt.virtual.memory import (
    copy_lines,
    held_lines,
    is_memory_of,
    line_holders,
    mend_memory,
    new_memory,
)
from gpiovirt.virtual.options import format_options
from gpiovirt.virtual.ring import mend_ring, new_ring

__all__ = ["MEMORY", "RING", "TTY", "KeptChip"]

_log = logging.getLogger(__name__)

_END_S = 0.5
_LIVE_NS = 10_000_000_000
_FORKS_NS = 15_000_000_000  # before that, while workers cannot be forked yet; clients wait longer than both
_LOOK_NS = 10_000_000
_UNSERVED_S = 1.0  # after so long without a worker, lines are made safe here
_ORPHANS_S = 0.02  # between looks for holders that have ended, while their lines have no worker
_CLAIMS_S = 0.5  # and then for those that do not come back
_STARTING_S = 2.0  # and so much later if one has been started, since the machine may be busy
MEMORY = "state"
"""The name of a chip's memory, beside its lines"""
RING = "record"
"""The name of the memory of its record"""
TTY = "tty"
"""The name of the end that keeps the terminal by which containers know it"""

Told = Callable[["KeptChip", Event], None]


class KeptChip:
    """One chip. `tell` is called with what happens to it, `need_lines` when lines are to be looked for."""

    simulates = False

    def __init__(
        self,
        record: Record,
        directories: Directories,
        reactor: Reactor,
        forkserver: ForkServer,
        tell: Told,
        need_lines: Callable[[], None],
        keeps_record: bool = False,
        nodes: Nodes | None = None,
    ) -> None:
        self.record = record
        self.lock = Lock()
        self._reading = Lock()
        """Whoever may use the chip can ask its worker how it is: that many ask must not make it late"""
        """Held by the task that makes, changes, begins or deletes the chip"""
        self.trouble = ""
        self.watched = False
        self.creator_fd = -1
        self.use = Use()
        self.about = {"chip": record.name}
        """The `extra` of its log records"""
        self.device_path = f"{directories.chips}/{record.name}"
        self._vm_path = f"{directories.vms}/{record.name}"
        self._reactor = reactor
        self._tell = tell
        self._need_lines = need_lines
        self.custody = Custody(record.name, reactor, self._on_gone, self._on_back)
        self.handle = WorkerHandle(
            record.name, f"{directories.workers}/{record.name}", self, reactor, forkserver
        )
        self._device: SocketListener | None = None
        self._vm: SocketListener | None = None
        self._keeper = VmKeeper(record.name, reactor, self.handle.start_keeper, self._tell_keeper)
        self._memory = -1
        self._keeps_record = keeps_record
        self._ring = self._wake = -1
        self.node = Node(record.name, nodes)
        self._ready: Future[str] = Future()
        self._unserved: Callable[[], None] | None = None
        self._orphans_looked_for: Callable[[], None] | None = None
        self._orphans_until_s = 0.0
        self._is_waited_for = False

    # what it is

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def lines(self) -> list[HeldLine]:
        """Its lines, by offset; none while it waits for them."""
        return self.custody.lines

    @property
    def state(self) -> Literal["live", "starting", "waiting"]:
        """live; starting; waiting for lines."""
        if not self.lines:
            return "waiting"
        return "live" if self.handle.is_ready else "starting"

    @property
    def vm_path(self) -> str | None:
        """The socket for VMs."""
        return self._vm_path if self.record.definition.vm else None

    def files(self) -> dict[str, int]:
        """By name, the files with which a next gpiovirtd and a next worker can go on."""
        files = {
            str(offset): line.file.fds[0]
            for offset, line in enumerate(self.lines)
            if isinstance(line.file, KernelLine)
        }
        if self._memory >= 0:
            files[MEMORY] = self._memory
        if self._ring >= 0:
            files[RING] = self._ring
        if self.node.tty >= 0:
            files[TTY] = self.node.tty
        if (keeper := self._keeper.fileno()) is not None:
            files[KEEPER] = keeper
        return files

    def ring(self) -> tuple[int, int] | None:
        """The memory of its record, and the eventfd by which its worker says that it has written there."""
        return (self._ring, self._wake) if self._ring >= 0 else None

    def use_ring(self, fd: int) -> None:
        """Go on with this memory of its record, which has outlived us (-1: there is none)."""
        if fd >= 0 and (kind_of(fd) is not Kind.MEMORY or can_shrink(fd)):
            os.close(fd)
        elif fd >= 0:
            self._set_ring(fd, os.eventfd(0))

    def _set_ring(self, ring: int, wake: int) -> None:
        for fd in (self._ring, self._wake):
            if fd >= 0:
                os.close(fd)
        self._ring, self._wake = ring, wake

    def options(self) -> list[LineOptions]:
        """Of each line."""
        return self.record.definition.by_offset()

    def names(self) -> list[str]:
        """Of its lines, here; none while it waits for them."""
        if not self.lines:
            return []
        return [self.name_of(offset) for offset in range(len(self.lines))]

    def name_of(self, offset: int) -> str:
        """A line's name, here."""
        return self.record.definition.options_of(offset).name or self.lines[offset].name

    def _called(self, offsets: Sequence[int]) -> str:
        """One line by its name, several by the chip's."""
        (offset, *more) = offsets
        return self.name if more else f"{self.name}:{self.name_of(offset) or offset}"

    def held(self) -> list[int]:
        """Offsets of lines that have a holder, as its worker has written: known without asking it."""
        return held_lines(self._memory, len(self.lines)) if self._memory >= 0 else []

    def _orphans(self) -> list[int]:
        """Lines whose holders have ended: nobody will come back for them."""
        if self._memory < 0:
            return []
        holders = line_holders(self._memory, len(self.lines))
        return [offset for offset, pid in holders if pid and has_ended(pid)]

    def as_source(self) -> OwnChip | None:
        """The chip as a source of lines; None while it has none itself."""
        return OwnChip(self.name, self.names(), self.handle) if self.lines else None

    # life

    def take_on(self, lines: list[HeldLine], record: Record, memory: int = -1) -> list[HeldLine]:
        """Be this from now on; returns the lines that it no longer has, for the caller to release.

        `memory` is one that was kept. On HostError, if none can be made, nothing has changed.
        """
        had = (len(self.lines), self.record.definition.vm)
        wants = (len(lines), record.definition.vm)
        moved = any(a is not b for a, b in zip(self.lines, lines, strict=False))
        if memory >= 0 and not is_memory_of(memory, len(lines), vm_bytes(record.definition.vm, len(lines))):
            os.close(memory)
            memory = -1
        if memory < 0 and (self._memory < 0 or had != wants or moved):
            memory = new_memory(record.name, len(lines), vm_bytes(record.definition.vm, len(lines)))
            if self._memory >= 0:
                stay = [o for o, (a, b) in enumerate(zip(self.lines, lines, strict=False)) if a is b]
                copy_lines(self._memory, len(self.lines), memory, len(lines), stay)
        if memory >= 0:
            if self._memory >= 0:
                os.close(self._memory)
            self._memory = memory
        if self._keeps_record and (self._ring < 0 or (had[0] and had[0] != len(lines))):
            self._set_ring(new_ring(record.name, len(lines)), os.eventfd(0))
        self.record = record._replace(addresses=tuple(line.address for line in lines))
        return self.custody.use(lines)

    def use_keeper(self, fd: int) -> None:
        """It is at the other end of this socket, if that is one (-1: there is none), and has outlived us."""
        if fd >= 0:
            if self.record.definition.vm and kind_of(fd) is Kind.SOCKET:
                self._keeper.use(socket.socket(fileno=fd))
            else:
                os.close(fd)

    def begin(self) -> None:
        """Have a worker started; served() waits for it."""
        self.listen()
        self._ready = Future()
        self.handle.start()

    async def go_live(self) -> None:
        """Have a worker serve it; HostError with the reason if it cannot."""
        self.begin()
        await self.served()

    async def served(self) -> None:
        """Wait for its worker; HostError with the reason if that cannot serve it."""
        if message := await self._failure_to_serve():
            raise HostError(f"the chip {self.name} cannot be served: {message}")

    async def _failure_to_serve(self) -> str:
        """ "" once its worker is ready, which has its time from when it can be forked."""
        late_ns = time.monotonic_ns() + _FORKS_NS
        while self.handle.waits_to_be_forked and time.monotonic_ns() < late_ns:
            await sleep(self._reactor.deadlines, time.monotonic_ns() + _LOOK_NS)
        try:
            return await wait_for(self._ready, self._reactor.deadlines, time.monotonic_ns() + _LIVE_NS)
        except TooLateError:
            self.handle.catch_up()
        if self._ready.is_done:
            return self._ready.result()
        if self.handle.waits_to_be_forked:
            return "the process that forks workers is still starting; try again"
        return "its worker does not get ready"

    async def met(self) -> None:
        """Wait until the worker that was found has handed over, or has failed to in time."""
        with suppress(TooLateError):
            await wait_for(self._ready, self._reactor.deadlines, time.monotonic_ns() + _LIVE_NS)

    def listen(self) -> None:
        """Make those of its sockets that are missing; HostError if one cannot be made."""
        definition = self.record.definition
        access = Access(definition.uid, definition.gid, definition.mode)
        if self._device is None:
            self._device = PathListener(self.device_path, access, socket.SOCK_SEQPACKET, replace=True)
        if definition.vm and self._vm is None:
            self._vm = PathListener(self._vm_path, access, replace=True)
        self.node.show()
        if definition.vm:
            self._keeper.begin()
        elif self._vm is not None:
            self._close_socket(self._vm, self._vm_path)
            self._vm = None
            self._keeper.close()

    async def hang_up(self) -> None:
        """End its worker: consumers lose their lines, and those go to their safe states."""
        with suppress(HostError):
            await self.handle.ask(_END_S, do="end")
        await self.handle.stop()

    def own(self, uid: int, gid: int, mode: int, follows_device: bool = False) -> None:
        """Owner, group and mode of its sockets; OSError.

        With `follows_device`, whose socket somebody changed, that is left alone: it may differ by now.
        """
        for path in (self._vm_path,) if follows_device else (self.device_path, self._vm_path):
            with suppress(FileNotFoundError):
                status = os.lstat(path)
                if (status.st_uid, status.st_gid) != (uid, gid):
                    os.chown(path, uid, gid, follow_symlinks=False)
                if status.st_mode & 0o777 != mode:
                    os.chmod(path, mode)

    def access(self) -> tuple[int, int, int] | None:
        """(uid, gid, mode) of its socket now; None while there is none."""
        try:
            status = os.lstat(self.device_path)
        except OSError:
            return None
        return status.st_uid, status.st_gid, status.st_mode & 0o777

    @staticmethod
    def _close_socket(listener: SocketListener | None, path: str) -> None:
        if listener is not None:
            listener.close()
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _close_sockets(self) -> None:
        self.node.hide()
        self._close_socket(self._device, self.device_path)
        self._close_socket(self._vm, self._vm_path)
        self._device = self._vm = None

    async def close(self) -> None:
        """End: no sockets, no worker, the lines safe and released."""
        self._close_sockets()
        await self.hang_up()
        self.close_now()

    def close_now(self) -> None:
        """The same, without waiting for anybody."""
        self._close_sockets()
        self._keeper.close()
        self.handle.close()
        self._stop_waiting()
        if self._orphans_looked_for is not None:
            self._orphans_looked_for()
            self._orphans_looked_for = None
        self._make_lines_safe(range(len(self.lines)))
        self.custody.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
        self._set_ring(-1, -1)
        self.node.use(-1)
        self._ready.set("it was deleted meanwhile")
        if self.creator_fd >= 0:
            self._reactor.remove_reader(self.creator_fd)
            os.close(self.creator_fd)
            self.creator_fd = -1

    # lines that come and go

    def _on_gone(self, offset: int) -> None:
        line = self.lines[offset]
        _log.warning("%s: line %d (%s) is gone", self.name, offset, line.address, extra=self.about)
        self._tell_line(offset)
        self._tell(self, SourceEvent("line-gone", self.name, offset, self.name_of(offset), str(line.address)))

    def _on_back(self, offset: int) -> None:
        line = self.lines[offset]
        _log.info("%s: line %d (%s) is back", self.name, offset, line.address, extra=self.about)
        self._tell_line(offset)
        self._tell(self, SourceEvent("line-back", self.name, offset, self.name_of(offset), str(line.address)))

    def _tell_line(self, offset: int) -> None:
        if self.handle.is_ready:
            line = self.lines[offset]
            fds = line.file.fds if line.file else ()
            self.handle.send(
                {"do": "line", "offset": offset, "kind": line.kind, "output": line.is_output}, fds
            )

    # its worker

    def serve(self) -> tuple[dict[str, Any], list[int]]:
        """What a new worker is told, and the files it needs."""
        assert self._device is not None
        definition = self.record.definition
        self._mend()
        spec = {
            "name": self.name,
            "lines": [
                {"name": line.name, "kind": line.kind, "output": line.is_output} for line in self.lines
            ],
            "options": [format_options(options) for options in self.options()],
            "rules": definition.rules.raw(),
            "orphans": self._orphans(),
            "vm": definition.vm,
            "keeper": self._keeper.fileno() is not None,
            "record": self._ring >= 0,
            "tty": self.node.tty >= 0,
            "poll_us": definition.poll_us,
            "incarnation": self.record.incarnation,
        }
        fds = [fd for line in self.lines if line.file for fd in line.file.fds]
        tty = () if self.node.tty < 0 else (self.node.tty,)
        fds += [self._memory, *(self.ring() or ()), *tty, self._device.socket.fileno()]
        if self._vm is not None:
            fds.append(self._vm.socket.fileno())
        if (keeper := self._keeper.fileno()) is not None:
            fds.append(keeper)
            self._keeper.is_new = False
        return spec, fds

    def _mend(self) -> None:
        """A worker can have written anything into what is kept: the next one must be able to begin."""
        count = len(self.lines)
        if mend_memory(self._memory, count):
            what = "what was known of its lines"
            _log.error("%s: its worker has spoilt %s", self.name, what, extra=self.about)
        if self._ring >= 0 and mend_ring(self._ring, count):
            _log.error("%s: its worker has spoilt its record", self.name, extra=self.about)

    def _tell_keeper(self) -> None:
        keeper = self._keeper.fileno()
        if self._keeper.is_new and keeper is not None and self.handle.is_ready:
            self._keeper.is_new = False
            self.handle.send({"do": "keeper"}, [keeper])

    def on_hand_over(self, spec: dict[str, Any], fds: list[int]) -> None:
        """A worker from before us has these files; of what it says, only their kinds count."""
        record, lines = self.record, spec["lines"]
        vm = record.definition.vm
        count = len(record.addresses)
        if len(lines) != count or count != record.definition.num_lines or spec["vm"] != vm:
            raise PeerError("it serves another chip")
        has_keeper = bool(spec.get("keeper"))
        has_ring = bool(spec.get("record"))
        has_tty = bool(spec.get("tty"))
        others = 2 + 2 * has_ring + has_tty + vm + has_keeper
        if sum(FDS_OF_LINE[line["kind"]] for line in lines) + others != len(fds):
            raise PeerError("it lacks some of its files")
        of_lines, of_chip = fds[: len(fds) - others], fds[-others:]
        kinds = [str(line["kind"]) for line in lines]
        _check_files(kinds, of_lines, of_chip, count, has_ring, vm, has_tty)
        release(self.custody.use([]))
        found = []
        for line, address in zip(lines, record.addresses, strict=True):
            found.append(HeldLine(address, str(line["name"]), _file(line["kind"], fds), bool(line["output"])))
        if self._memory >= 0:
            os.close(self._memory)
        self._memory = fds.pop(0)
        if has_ring:
            self._set_ring(fds.pop(0), fds.pop(0))
        if has_tty:
            self.node.use(fds.pop(0))
        self._device = SocketListener(socket.socket(fileno=fds.pop(0)))
        if vm:
            self._vm = SocketListener(socket.socket(fileno=fds.pop(0)))
        if has_keeper:
            self._keeper.use(socket.socket(fileno=fds.pop(0)))
        self.custody.use(found)
        self.node.show()

    def on_ready(self) -> None:
        """It is served from now on."""
        self.trouble = ""
        self._stop_waiting()
        self._tell_keeper()
        if self.watched:
            self.watch(True)
        self._ready.set("")
        self._tell(self, ChipEvent("live", self.name))

    def on_failed(self, message: str) -> None:
        """A worker cannot serve it."""
        self.trouble = message
        _log.error("%s: %s", self.name, message, extra=self.about)
        self._ready.set(message)

    def on_told(self, body: Mapping[str, Any]) -> None:
        """The worker reports who uses it, or what happens to its lines."""
        told = decode_told(body, self.name, len(self.lines), self.name_of)
        if isinstance(told, Use):
            self.use = told
            self.handle.watch_over(bool(told.lines or told.vm))
            return
        if isinstance(told, RuleEvent) and told.event != "rule-refused" and self._ring < 0:
            # the recorder says it otherwise; and of refusals there can be many
            what = told.event.removeprefix("rule-")
            _log.warning("%s: line %d: %s: %s", self.name, told.offset, what, told.why, extra=self.about)
        self._tell(self, told)

    def on_lost(self) -> None:
        """The worker is gone. Holders may come back for their lines when there is another."""
        self._stop_waiting()
        if self._orphans_looked_for is not None:
            self._orphans_looked_for()
        self._is_waited_for = False
        self._unserved = self._reactor.call_later(_UNSERVED_S, self._make_safe)
        self._look_for_orphans(set())
        self._tell(self, ChipEvent("worker-ended", self.name))

    def _look_for_orphans(self, safe: set[int]) -> None:
        """Make lines safe whose holders end while there is no worker, or do not come back to the new one."""
        orphans = set(self._orphans())
        if self.handle.is_ready:
            if orphans:
                self.handle.send({"do": "orphans", "offsets": sorted(orphans)})
            if time.monotonic() > self._orphans_until_s:
                self._orphans_looked_for = None
                return
        else:
            self._orphans_until_s = time.monotonic() + _CLAIMS_S
            self._make_lines_safe(orphans - safe)
            safe |= orphans
        self._orphans_looked_for = self._reactor.call_later(_ORPHANS_S, lambda: self._look_for_orphans(safe))

    def _make_safe(self) -> None:
        """No worker serves it: holders have lost their lines. A starting worker gets some more time."""
        self._unserved = None
        if self.handle.is_starting and not self._is_waited_for:
            self._is_waited_for = True
            self._unserved = self._reactor.call_later(_STARTING_S, self._make_safe)
            return
        self.handle.catch_up()
        if self.handle.is_ready:  # it was gpiovirtd that was held up
            return
        _log.error("%s: no worker serves it; its lines are made safe", self.name, extra=self.about)
        self._make_lines_safe(range(len(self.lines)))

    def _make_lines_safe(self, offsets: Iterable[int]) -> None:
        for failure in make_safe(self.lines, self.options(), offsets):
            _log.error("%s: %s", self.name, failure, extra=self.about)

    def _stop_waiting(self) -> None:
        if self._unserved is not None:
            self._unserved()
            self._unserved = None

    def start_again(self) -> None:
        """Have another worker; without lines, they are looked for first."""
        if self.lines:
            self.listen()
            self.handle.start()
        else:
            self._need_lines()

    async def status(self, timeout_s: float) -> Status | None:
        """What its worker says about it; None if there is no worker, or none that answers."""
        try:
            async with self._reading:
                answer = await self.handle.ask(timeout_s, do="status")
        except HostError:
            return None
        return decode_status(answer.body.get("status"), len(self.lines))

    async def levels(self, offsets: Sequence[int], timeout_s: float) -> Levels:
        """The levels of lines, as the chip has them; HostError if its worker does not answer."""
        async with self._reading:
            answer = await self.handle.ask(timeout_s, do="levels", offsets=list(offsets))
        return self._levels(answer.body, len(offsets))

    async def drive(
        self, levels: Mapping[int, int], consumer: str, pid: int, uid: int, hold: bool, timeout_s: float
    ) -> tuple[Levels, list[int]]:
        """Set lines in the name of a process: what they are then, and the files that hold them, if asked for.

        RefusedError in the chip's words, HostError if its worker does not answer.
        """
        asked = {"offsets": list(levels), "levels": list(levels.values()), "consumer": consumer}
        async with self._reading:
            answer = await self.handle.ask(timeout_s, hold, do="drive", **asked, pid=pid, uid=uid, hold=hold)
        try:
            check_refused(answer.body, f"{self._called(list(levels))}: ")
            told = self._levels(answer.body, len(levels))
            if hold and not are_lent_line(answer.fds):
                raise self._broken()
        except GpiovirtError:
            close_files(answer.fds)
            raise
        return told, answer.fds

    def _levels(self, told: object, count: int) -> Levels:
        levels = decode_levels(told, count)
        if levels is None:
            raise self._broken()
        return levels

    def _broken(self) -> HostError:
        return HostError(f"the process that serves {self.name} breaks its protocol")

    async def force(self, offset: int, level: Literal["low", "high"] | None, for_ms: int) -> bool:
        """Force a line, or end that (None); False if there is nothing to end.

        RefusedError, as where a rule does not allow it; HostError if its worker does not answer.
        """
        until_ns = boot_ns() + for_ms * 1_000_000 if for_ms else 0
        answer = await self.handle.ask(
            _END_S,
            do="force",
            offset=offset,
            level=None if level is None else int(level == "high"),
            until_ns=until_ns,
            drives=self.options()[offset].direction is LineDirection.OUTPUT,
        )
        check_refused(answer.body)
        return level is not None or answer.body.get("was_forced") is True

    async def rearm(self) -> bool:
        """Re-arm its watchdog; False if that has not tripped. HostError if its worker does not answer."""
        answer = await self.handle.ask(_END_S, do="rearm")
        return answer.body.get("was_tripped") is True

    def watch(self, on: bool) -> None:
        """Have the worker tell what happens to the lines."""
        self.watched = on
        if self.handle.is_ready:
            self.handle.send({"do": "watch", "on": on})


def _file(kind: str, fds: list[int]) -> LineFile | None:
    """Take out a line's files, which come first."""
    if kind == "kernel":
        return KernelLine(fds.pop(0))
    if kind == "lent":
        return RemoteLine(DeviceSocket(socket.socket(fileno=fds.pop(0))), fds.pop(0))
    return None


def _check_files(
    kinds: Sequence[str],
    of_lines: Sequence[int],
    others: Sequence[int],
    count: int,
    has_ring: bool,
    has_vm: bool,
    has_tty: bool,
) -> None:
    """PeerError unless a worker's files are what they should be: any others must not be touched."""
    at = 0
    for kind in kinds:
        fds = of_lines[at : at + FDS_OF_LINE[kind]]
        at += len(fds)
        if not (kind == "gone" or are_lent_line(fds) or (kind == "kernel" and is_kernel_line(fds[0]))):
            raise PeerError(f"a file that is not a line ({kind})")
    memory, *sockets = others
    if kind_of(memory) is not Kind.MEMORY or can_shrink(memory):
        raise PeerError("memory that can be truncated")
    if not is_memory_of(memory, count, vm_bytes(has_vm, count)):
        raise PeerError("memory of another chip, or of another version")
    if has_ring:
        ring, wake, *sockets = sockets
        if kind_of(ring) is not Kind.MEMORY or can_shrink(ring) or kind_of(wake) is not Kind.EVENTFD:
            raise PeerError("a record that is none")
    if has_tty:
        tty, *sockets = sockets
        if terminal_index(tty) < 0:
            raise PeerError("a terminal that is none")
    if not all(kind_of(fd) is Kind.SOCKET for fd in sockets):
        raise PeerError("a file that is not a socket")
