# SPDX-License-Identifier: MIT
"""The recorder: reads the rings of all chips, and writes what is in them to disk.

    python -m gpiovirt.recorder.main FD DIRECTORY UID GID MEGABYTES DAYS

FD is the channel from gpiovirtd: {"do": "chip"} brings a ring, {"do": "drop"} ends one, {"do": "note"} is
what somebody has done to a chip. Before it reads anything of a worker's, the process becomes UID and GID, and
as root has DIRECTORY as its file system.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import socket
import sqlite3
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from gpiovirt.core.deadline import Cancel
from gpiovirt.core.holder import Holder
from gpiovirt.core.record import Entry, Lost, RingReader, What
from gpiovirt.core.text import printable
from gpiovirt.errors import GpiovirtError, HostError, PeerError
from gpiovirt.host import libc
from gpiovirt.host.confine import drop_rights
from gpiovirt.host.journal import start_logging
from gpiovirt.host.packets import Channel, close_files
from gpiovirt.host.reactor import Reactor
from gpiovirt.protocols.log import Done
from gpiovirt.recorder.segments import HolderRow, Row, Segments
from gpiovirt.virtual.ring import reader_of

__all__ = ["Recorder", "main"]

_log = logging.getLogger(__name__)

CANNOT = 3
"""Exit status: there is no use in trying again"""

_TICK_S = 0.05
_IDLE_TICKS = 4  # longer than a writer waits between two wake-ups
_ENTRIES_PER_TURN = 1 << 14  # of one ring
_HOLDERS_MAX = 4096  # of one ring
_NOTES_MAX = 1000
_RETRY_S = 1.0
_AHEAD_NS = 2_000_000_000  # later than now by so much is no time
_COMMAND_MAX = 120
_DECISIONS = {What.REFUSED, What.TRIPPED, What.REARMED, What.FORCED, What.MADE, What.DELETED, What.CHANGED}
_DECISIONS_PER_S = 20  # to the log; the record has them all
_MESSAGE_ID = "6b1f7a64e8c54c2f9d0c3e5a8b7d4f"
"""Of the journal's records of decisions, with two digits of What at its end"""
_CHIP = -1
"""The offset of the chip as a whole"""


class _Decision(NamedTuple):
    """What is told to the journal, too; `where` is empty for a chip as a whole."""

    chip: str
    where: str
    what: int
    value: int
    text: str
    who: HolderRow | None


class _Ring:
    """A chip's ring, and who the numbers of holders in it are."""

    def __init__(self, name: str, lines: list[str], ident: str, reader: RingReader, wake: int) -> None:
        self.name = name
        self.lines = lines
        self.ident = ident
        self.reader = reader
        self.wake = wake
        self.idle_ticks = 0
        self.is_active = False
        self.has_more = False
        """There is more than is read at once"""
        self.committed = reader.next_seq
        self.holders: OrderedDict[int, tuple[int, HolderRow]] = OrderedDict()
        """By the ring's number: the store's number, and who it is"""
        self.numbers: dict[int, int] = {}
        """By offset: the number of the line in this segment"""


class Recorder:
    """Reads rings on a reactor into `segments`; `proc` is an fd of /proc, or -1."""

    def __init__(self, segments: Segments, reactor: Reactor, boot_id: str, proc: int = -1) -> None:
        self._segments = segments
        self._reactor = reactor
        self._boot_id = boot_id
        self._proc = proc
        self._rings: dict[str, _Ring] = {}
        self._notes: list[dict[str, Any]] = []
        self._notes_lost = 0
        self._due_s = math.inf
        self._cancel: Cancel = lambda: None
        self._trouble = ""
        self._failed_s = 0.0
        self._decisions = 0
        self._decided_s = 0

    # what gpiovirtd says

    def hear(self, body: Mapping[str, Any], fds: list[int]) -> None:
        """A message from gpiovirtd; PeerError."""
        match body:
            case {"do": "chip", "name": str(name), "lines": list(lines)} if len(fds) == 2:
                self._use(name, list(map(str, lines)), *fds)
                fds.clear()
            case {"do": "drop", "name": str(name)}:
                if (ring := self._rings.get(name)) is not None:
                    self._finish(ring)
            case {"do": "note", "what": int(), "chip": str(), "uid": int(), "pid": int(), "text": str()}:
                self._note(dict(body))
            case {"do": "lost", "count": int(number)}:
                self._note(_lost_notes(number))
            case _:
                raise PeerError("gpiovirtd says what is not known here")

    def _note(self, note: dict[str, Any]) -> None:
        if len(self._notes) >= _NOTES_MAX:  # the disk is full
            self._notes_lost += 1
            return
        if self._notes_lost:
            self._notes.append(_lost_notes(self._notes_lost))
            self._notes_lost = 0
        self._notes.append(note)
        self._due_soon()

    def _use(self, name: str, lines: list[str], memory: int, wake: int) -> None:
        status = os.fstat(memory)
        ident = f"{self._boot_id}:{status.st_dev}:{status.st_ino}"
        former = self._rings.get(name)
        if former is not None and former.ident == ident and former.lines == lines:
            os.close(memory)
            os.close(wake)
            return
        if former is not None:
            self._finish(former)
        try:
            reader = reader_of(memory, len(lines), self._segments.next_of(ident))
        except (GpiovirtError, sqlite3.Error) as error:
            _log.error("%s is not recorded: %s", name, error, extra={"chip": name})
            os.close(wake)
            return
        finally:
            os.close(memory)
        self._rings[name] = ring = _Ring(name, lines, ident, reader, wake)
        self._activate(ring)

    def _finish(self, ring: _Ring) -> None:
        """Nobody writes to it any more."""
        self._activate(ring)
        self._read_all()
        os.close(ring.wake)
        del self._rings[ring.name]

    # when

    def _activate(self, ring: _Ring) -> None:
        """Its writer has said that there is something; until it is idle it is looked at at each turn."""
        if ring.name in self._rings and not ring.is_active:
            self._reactor.remove_reader(ring.wake)
            ring.is_active = True
            ring.idle_ticks = 0
            self._due_soon(0)  # who it was may be gone soon

    def _rest(self, ring: _Ring) -> None:
        """Nothing has come for a while: its writer will say when something does."""
        ring.is_active = False
        with suppress(OSError):  # the writer could make a plain read wait
            os.preadv(ring.wake, [bytearray(8)], -1, os.RWF_NOWAIT)
        self._reactor.add_reader(ring.wake, lambda: self._activate(ring))

    def _due_soon(self, delay_s: float = _TICK_S) -> None:
        due_s = time.monotonic() + delay_s
        if due_s < self._due_s:
            self._due_s = due_s
            self._cancel()
            self._cancel = self._reactor.call_later(delay_s, self._turn)

    def _turn(self) -> None:
        self._due_s = math.inf
        if self._trouble and time.monotonic() - self._failed_s < _RETRY_S:
            self._due_soon()
            return
        self._read_some()
        for ring in list(self._rings.values()):
            if ring.is_active and ring.idle_ticks > _IDLE_TICKS and not self._trouble:
                self._rest(ring)
                if ring.reader.has_more:
                    self._activate(ring)
        if any(ring.is_active and ring.has_more for ring in self._rings.values()) and not self._trouble:
            self._due_soon(0)
        elif self._notes or any(ring.is_active for ring in self._rings.values()):
            self._due_soon()

    def _read_all(self) -> None:
        """What there is now, in as many turns as a full ring takes."""
        for _ in range(8):
            if not self._read_some():
                return

    # from the rings to the disk

    def _read_some(self) -> bool:
        """One turn, one transaction; whether there was anything."""
        segments, now_ns = self._segments, time.time_ns()
        active = [ring for ring in self._rings.values() if ring.is_active]
        decisions: list[_Decision] = []
        rows: list[Row] = []
        seq = segments.seq
        notes = list(self._notes)
        changed = []
        try:
            segments.begin()
            for ring in active:
                found = ring.reader.read(_ENTRIES_PER_TURN)
                ring.idle_ticks = 0 if found else ring.idle_ticks + 1
                ring.has_more = len(found) >= _ENTRIES_PER_TURN // 2
                if found:
                    changed.append(ring)
                    before = len(rows)
                    try:
                        self._add(ring, found, rows, decisions, now_ns)
                    except (sqlite3.Error, OSError):
                        raise
                    except Exception:  # our own fault: the next turn would have it again
                        _log.exception("internal error in what is to be recorded of %s", ring.name)
                        del rows[before:]
                        segments.seq = seq + len(rows)
                        self._add(ring, [Lost(len(found))], rows, decisions, now_ns)
            for note in notes:
                self._add_note(note, rows, decisions, now_ns)
            if not rows and not changed:
                segments.rollback()
                return False
            segments.add(rows)
            for ring in changed:
                segments.set_next(ring.ident, ring.reader.resume_seq, now_ns)
            segments.commit()
        except (sqlite3.Error, OSError) as error:
            segments.rollback()
            segments.seq = seq
            for ring in active:
                ring.reader.rewind(ring.committed)
                self._number_anew(ring)
            self._fail(str(getattr(error, "strerror", error)))
            return False
        for ring in changed:
            ring.committed = ring.reader.resume_seq
        del self._notes[: len(notes)]
        if self._trouble:
            _log.warning("the record goes on; it says what it lacks")
            self._trouble = ""
        for decision in decisions:
            self._tell(decision)
        if segments.is_full(now_ns / 1e9):
            self._next_segment(now_ns)
        return True

    def _fail(self, why: str) -> None:
        self._failed_s = time.monotonic()
        if not self._trouble:
            _log.error("the record cannot be written: %s; chips go on, and what is lost is counted", why)
        self._trouble = why

    def _next_segment(self, now_ns: int) -> None:
        try:
            self._segments.next_segment(now_ns)
        except (sqlite3.Error, OSError) as error:
            self._fail(str(error))
            return
        for ring in self._rings.values():
            self._number_anew(ring)

    @staticmethod
    def _number_anew(ring: _Ring) -> None:
        """Lines and holders are written down again when they are needed."""
        ring.numbers.clear()
        for number, (_, holder) in ring.holders.items():
            ring.holders[number] = (0, holder)

    def _add(
        self,
        ring: _Ring,
        found: list[Entry | Lost],
        rows: list[Row],
        decisions: list[_Decision],
        now_ns: int,
    ) -> None:
        segments, numbers, latest_ns = self._segments, ring.numbers, now_ns + _AHEAD_NS
        seq = segments.seq
        number = holder = 0
        for entry in found:
            if isinstance(entry, Lost):
                seq += 1
                line = segments.line(ring.name, _CHIP, "")
                rows.append((line, now_ns, seq, What.LOST, entry.number, 0, None))
                continue
            _, what, value, offset, whose, time_ns, first, _, text = entry
            if what == What.HOLDER:
                self._introduce(ring, whose, entry.as_holder())
                number = 0
                continue
            if whose != number:
                number, holder = whose, self._holder(ring, whose)
            line = numbers.get(offset, 0)
            if not line:
                line = numbers[offset] = segments.line(ring.name, offset, ring.lines[offset])
            if what == What.MISSED:
                value = first
            if not 0 < time_ns <= latest_ns:
                time_ns = now_ns
            seq += 1
            rows.append((line, time_ns, seq, what, value, holder, printable(text) if text else None))
            if what in _DECISIONS:
                who = self._known(ring, whose)
                decisions.append(_Decision(ring.name, f"line {offset}: ", what, value, text, who))
        segments.seq = seq

    def _introduce(self, ring: _Ring, number: int, holder: Holder) -> None:
        known = ring.holders.get(number)
        if known is None or known[1].pid != holder.pid:
            command = printable(holder.about) or self._command(holder.pid)
            label = printable(holder.label)
            row = HolderRow(ring.ident, number, holder.kind, holder.pid, holder.uid, label, command)
            ring.holders[number] = (self._segments.holder(row), row)
            while len(ring.holders) > _HOLDERS_MAX:
                ring.holders.popitem(last=False)

    def _holder(self, ring: _Ring, number: int) -> int:
        """The store's number of a holder; 0 if it is nobody, or not known any more."""
        if not number:
            return 0
        known = ring.holders.get(number) or self._segments.find_holder(ring.ident, number)
        if known is None:
            return 0
        there, holder = known
        if not there:
            there = self._segments.holder(holder)
        ring.holders[number] = (there, holder)
        ring.holders.move_to_end(number)
        return there

    @staticmethod
    def _known(ring: _Ring, number: int) -> HolderRow | None:
        known = ring.holders.get(number)
        return None if known is None else known[1]

    def _add_note(
        self, note: Mapping[str, Any], rows: list[Row], decisions: list[_Decision], now_ns: int
    ) -> None:
        segments, uid, pid = self._segments, int(note["uid"]), int(note["pid"])
        who = HolderRow("", 0, "manager", pid, uid, "", self._command(pid)) if uid >= 0 else None
        holder = 0 if who is None else segments.holder(who)
        what = int(note["what"])
        if what in _DECISIONS:
            decisions.append(_Decision(str(note["chip"]), "", what, 0, str(note["text"]), who))
        segments.seq += 1
        line = segments.line(str(note["chip"]), _CHIP, "")
        time_ns = min(int(note.get("time_ns", now_ns)), now_ns)
        text = printable(str(note["text"])) or None
        rows.append((line, time_ns, segments.seq, what, int(note.get("value", 0)), holder, text))

    def _command(self, pid: int) -> str:
        """What the process runs; it may have ended by now."""
        if pid <= 0 or self._proc < 0:
            return ""
        try:
            fd = os.open(f"{pid}/cmdline", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
            try:
                raw = os.read(fd, 4096)
            finally:
                os.close(fd)
        except OSError:
            return ""
        words = raw.rstrip(b"\0").split(b"\0")
        return printable(b" ".join(words).decode(errors="replace"))[:_COMMAND_MAX]

    def _tell(self, decision: _Decision) -> None:
        """To the journal, with fields; of very many only the first ones."""
        second = int(time.monotonic())
        if second != self._decided_s:
            if self._decisions > _DECISIONS_PER_S:
                _log.warning("%d more decisions are in the record", self._decisions - _DECISIONS_PER_S)
            self._decided_s, self._decisions = second, 0
        self._decisions += 1
        if self._decisions > _DECISIONS_PER_S:
            return
        chip, where, what, value, text, who = decision
        done = Done.of(what).value
        fields = {"MESSAGE_ID": f"{_MESSAGE_ID}{what:02x}", "GPIOVIRT_WHAT": done}
        if where:
            fields |= {"GPIOVIRT_LINE": where.strip("line: "), "GPIOVIRT_VALUE": str(value)}
        by = ""
        if who is not None:
            fields |= {"GPIOVIRT_UID": str(who.uid), "GPIOVIRT_PID": str(who.pid)}
            process = f"pid {who.pid}, uid {who.uid}" if who.pid else f"uid {who.uid}"
            by = f' by "{who.label}" ({process})' if who.label else f" by {process}"
        _log.info(
            "%s: %s%s%s%s",
            *(chip, where, done, by, f": {text}" if text else ""),
            extra={"chip": chip, "fields": fields},
        )

    def close(self) -> None:
        """Read what there is, and end."""
        for ring in self._rings.values():
            if not ring.is_active:
                self._reactor.remove_reader(ring.wake)
                ring.is_active = True
        self._read_all()
        self._segments.close()


def _lost_notes(number: int) -> dict[str, Any]:
    note = {"what": int(What.LOST), "chip": "", "value": number, "uid": -1, "pid": 0}
    return {**note, "text": "of chips made, changed or deleted"}


def main() -> int:
    """Record until gpiovirtd ends."""
    start_logging("gpiovirtd")
    libc.prctl(libc.PR_SET_NAME, b"gpiovirt-record")
    fd, directory, uid, gid, megabytes, days = sys.argv[1:]
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot_id = file.read().strip()
    with suppress(OSError):  # it can be late, and must not take a CPU from whoever serves chips
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    printable("\0")  # which imports what it needs while that can be reached
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        directory = enter(directory)
        drop_rights(int(uid), int(gid))
        libc.end_with_parent()  # which another user's process would not do any longer
        segments = Segments(directory, int(megabytes), int(days))
    except (HostError, OSError) as error:
        _log.error("what happens to chips is not recorded: %s", error)
        return 1 if error.errno == errno.ENOSPC else CANNOT
    reactor = Reactor()
    reactor.stop_on((signal.SIGTERM, signal.SIGINT))
    recorder = Recorder(segments, reactor, boot_id, proc)
    channel = Channel(socket.socket(fileno=int(fd)), 2)

    def receive() -> None:
        for _ in range(16):
            try:
                message = channel.receive()
            except EOFError:
                reactor.stop()
                return
            if message is None:
                return
            try:
                recorder.hear(message.body, message.fds)
            finally:
                close_files(message.fds)

    reactor.add_reader(channel.fileno(), receive)
    reactor.run()
    recorder.close()
    return 0


def enter(directory: str) -> str:
    """Have the directory as the file system, if we are root; its path from now on."""
    if os.geteuid() != 0:
        return directory
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchdir(fd)
        os.chroot(".")
    finally:
        os.close(fd)
    return "/."


if __name__ == "__main__":
    sys.exit(main())
