# SPDX-License-Identifier: MIT
"""A virtual chip as the custodian has it: its lines' files, its sockets, and the worker that has copies."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from gpiovirt.control.limits import LINES_MAX, check_line_name
from gpiovirt.core.line import Direction, LineSettings
from gpiovirt.daemon.link import Link
from gpiovirt.daemon.sources import Place, SourceChip, Sources
from gpiovirt.daemon.store import Record
from gpiovirt.daemon.worker import FDS_OF_LINE
from gpiovirt.errors import GpiovirtError, HostError, PeerError, UsageError
from gpiovirt.exports.vm.state import state_size
from gpiovirt.host.device_socket import DeviceSocket
from gpiovirt.host.mapping import shared_memory
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener, SocketListener
from gpiovirt.protocols import new_device
from gpiovirt.protocols.gpiochip.holder import encode_config
from gpiovirt.protocols.line_options import parse_how, parse_safe
from gpiovirt.sources.held import KernelLine, LineFile, RemoteLine
from gpiovirt.uapi import gpio as u

__all__ = ["Directories", "Line", "VirtualChip", "make_safe", "release", "take"]

_log = logging.getLogger(__name__)


_KEEPER_S = 0.1


class Directories(NamedTuple):
    """Where sockets are."""

    run: str

    @property
    def chips(self) -> str:
        return f"{self.run}/chips"

    @property
    def vms(self) -> str:
        return f"{self.run}/vm"

    @property
    def workers(self) -> str:
        return f"{self.run}/workers"

    @property
    def sources(self) -> str:
        return f"{self.run}/sources"


class Line:
    """A line that is kept; `file` is None while its chip is not there."""

    __slots__ = ("file", "is_output", "kind", "name", "place")

    def __init__(self, place: Place, name: str, kind: str, file: LineFile | None, is_output: bool) -> None:
        self.place = place
        self.name = name
        self.kind = kind
        self.file = file
        self.is_output = is_output

    def drop(self) -> None:
        """Its chip has vanished."""
        if self.file is not None:
            self.file.close()
            self.file = None
        self.kind = "gone"


def take(
    record: Record, sources: Sources, reactor: Reactor, kept: Mapping[Place, Line] | None = None
) -> list[Line]:
    """The lines of a record's definition, all or none; those in `kept` are held already.

    NoSuchChipError, NoSuchLineError, OffsetError, LineBusyError and other errors of new_device.
    """
    kept = kept or {}
    chips = sources.all()
    found = new_device.resolve(new_device.parse(record.definition), sources.find, chips)
    if len(found) > LINES_MAX:
        raise UsageError(f"{len(found)} lines; a chip has at most {LINES_MAX}")
    lines: list[Line] = []
    try:
        for chip, offset in found:
            place = sources.place(chip, offset)
            lines.append(kept.get(place) or hold(chip, place, record.name))
    except BaseException as error:
        if isinstance(error, GpiovirtError):
            error.line = len(lines)
        release([line for line in lines if line.place not in kept], reactor)
        raise
    return lines


def hold(chip: SourceChip, place: Place, name: str) -> Line:
    """Take one line for the chip `name`."""
    file = chip.take(place.offset, f"gpiovirt:{name}")
    try:
        info = chip.line_info(place.offset)
        return Line(place, info.name, chip.kind, file, info.direction is Direction.OUTPUT)
    except BaseException:
        file.close()
        raise


def release(
    lines: Sequence[Line], reactor: Reactor, safe: Mapping[Place, LineSettings] | None = None
) -> None:
    """Give lines back, each in its safe state if it has one."""
    make_safe(lines, safe or {})
    for line in lines:
        if line.file is not None:
            reactor.remove_reader(line.file.fds[0])
            line.file.close()


def make_safe(lines: Iterable[Line], safe: Mapping[Place, LineSettings]) -> None:
    """Put lines that have a safe state into it."""
    for line in lines:
        wanted = safe.get(line.place)
        if wanted is not None and line.file is not None:
            try:
                line.file.ioctl(u.GPIO_V2_LINE_SET_CONFIG_IOCTL, encode_config(wanted))
                line.is_output = wanted.direction is Direction.OUTPUT
            except (OSError, GpiovirtError) as error:
                _log.error("line %s is not in its safe state: %s", line.place, error)


class VirtualChip:
    """One chip. `on_changed` is told (event, details) of what happens to it."""

    simulates = False

    def __init__(
        self,
        record: Record,
        directories: Directories,
        reactor: Reactor,
        link: Callable[[VirtualChip], Link],
        on_changed: Callable[[VirtualChip, str, dict[str, Any]], None],
        on_line_gone: Callable[[VirtualChip], None],
    ) -> None:
        self.record = record
        self.lines: list[Line] = []
        self.trouble = ""
        self._reactor = reactor
        self.device_path = f"{directories.chips}/{record.name}"
        self._vm_path = f"{directories.vms}/{record.name}"
        self._device: SocketListener | None = None
        self._vm: SocketListener | None = None
        self._state = -1
        self._keeper: socket.socket | None = None
        self._keeper_is_new = False
        self._cancel_keeper: Callable[[], None] | None = None
        self.link = link(self)
        self._on_changed = on_changed
        self._on_line_gone = on_line_gone
        self._waiting: list[Callable[[str], None]] = []
        self._asked: dict[int, Callable[[dict[str, Any] | None], None]] = {}
        self._tag = 0
        self.watched = False
        self.creator_fd = -1
        self.about = {"chip": record.name}
        """Of what is logged of it"""

    @property
    def state(self) -> str:
        """live; starting; waiting for lines."""
        if not self.lines:
            return "waiting"
        return "live" if self.link.is_ready else "starting"

    @property
    def vm_path(self) -> str | None:
        """The socket for VMs."""
        return self._vm_path if self.record.vm else None

    def check(self) -> None:
        """UsageError for what its record says that its lines cannot have."""
        self.settings()
        self.safe()
        self.names()

    def settings(self) -> dict[int, str]:
        """Settings by offset; UsageError for a line that is not there, or settings that are none."""
        return self._by_offset(self.record.settings, "settings", parse_how)

    def safe(self) -> dict[int, str]:
        """Safe states by offset; UsageError likewise."""
        return self._by_offset(self.record.safe, "safe", parse_safe)

    def _by_offset(
        self, given: Mapping[str, str], what: str, parse: Callable[[str], object]
    ) -> dict[int, str]:
        names = self.names()
        found: dict[int, str] = {}
        for key, text in given.items():
            if key.isdecimal() and int(key) < len(names):
                offset = int(key)
            elif key and names.count(key) == 1:
                offset = names.index(key)
            else:
                raise UsageError(
                    f"{what}: the chip {self.record.name} has no line {key!r}; its offsets are "
                    f"0 to {len(names) - 1}"
                )
            try:
                parse(text)
            except UsageError as error:
                raise UsageError(f"{what} of line {key}: {error}") from error
            found[offset] = text
        return found

    def names(self) -> list[str]:
        """Names of its lines."""
        names = [line.name for line in self.lines]
        for key, name in self.record.names.items():
            if not key.isdecimal() or int(key) >= len(names):
                raise UsageError(f"names: the chip {self.record.name} has no line {key}")
            check_line_name(name)
            names[int(key)] = name
        return names

    # life

    def use(self, lines: list[Line], new: Iterable[Line] = ()) -> None:
        """These are its lines from now on; those of them that are new go to their safe states."""
        self.lines = lines
        self.record.places = [list(line.place) for line in lines]
        for line in lines:
            self._look_after(line)
        make_safe(new, self.safe_places())

    def _look_after(self, line: Line) -> None:
        if line.file is not None:
            file = line.file
            self._reactor.remove_reader(file.fds[0])
            self._reactor.add_hangup(file.fds[0], lambda: self._lose(line, file))

    def _lose(self, line: Line, file: LineFile) -> None:
        """The chip that the line is of has vanished."""
        self._reactor.remove_reader(file.fds[0])
        if line.file is file and line in self.lines:
            offset = self.lines.index(line)
            line.drop()
            _log.warning(
                "%s: line %d (%s) has vanished", self.record.name, offset, line.place, extra=self.about
            )
            self._tell_line(offset)
            self._on_changed(self, "line-gone", {"offset": offset, "source": str(line.place)})
            self._on_line_gone(self)

    def retake(self, sources: Sources) -> bool:
        """Look for lines that are gone; True if none is left."""
        for offset, line in enumerate(self.lines):
            if line.file is None:
                try:
                    again = hold(sources.at(line.place), line.place, self.record.name)
                except (OSError, GpiovirtError):
                    continue
                line.file, line.kind, line.is_output = again.file, again.kind, again.is_output
                self._look_after(line)
                _log.info("%s: line %d (%s) is back", self.record.name, offset, line.place, extra=self.about)
                self._tell_line(offset)
                self._on_changed(self, "line-back", {"offset": offset, "source": str(line.place)})
        return all(line.file is not None for line in self.lines)

    def _tell_line(self, offset: int) -> None:
        if self.link.is_ready:
            line = self.lines[offset]
            fds = line.file.fds if line.file else ()
            self.link.send({"do": "line", "offset": offset, "kind": line.kind, "output": line.is_output}, fds)

    def listen(self) -> None:
        """Make its sockets, as far as they are not there; HostError if one cannot be had."""
        access = Access(self.record.uid, self.record.gid, self.record.mode)
        if self._device is None:
            self._device = PathListener(self.device_path, access, socket.SOCK_SEQPACKET)
        if self.record.vm and self._vm is None:
            self._vm = PathListener(self._vm_path, access)
        if self.record.vm and self._state < 0:
            self._state = shared_memory(f"gpiovirt:{self.record.name}", state_size(len(self.lines)))
        if self.record.vm and self._keeper is None:
            self._have_keeper()

    def _have_keeper(self) -> None:
        """Of the VM's session: it goes on when the worker dies."""
        self._cancel_keeper = None
        keeper = self._keeper = self.link.start_keeper()
        self._reactor.add_hangup(keeper.fileno(), self._on_keeper_gone)

    def _on_keeper_gone(self) -> None:
        """It has died, or the worker got no answer from it and shut the channel down."""
        self._drop_keeper()
        _log.warning(
            "%s: the keeper of its VM is gone; another is started", self.record.name, extra=self.about
        )
        self._cancel_keeper = self.link.call_later(_KEEPER_S, self._another_keeper)

    def _another_keeper(self) -> None:
        try:
            self._have_keeper()
        except HostError as error:
            _log.error("%s: %s", self.record.name, error, extra=self.about)
            self._cancel_keeper = self.link.call_later(_KEEPER_S, self._another_keeper)
            return
        self._keeper_is_new = True
        self._tell_keeper()

    def _tell_keeper(self) -> None:
        if self._keeper_is_new and self._keeper is not None and self.link.is_ready:
            self._keeper_is_new = False
            self.link.send({"do": "keeper"}, [self._keeper.fileno()])

    def _drop_keeper(self) -> None:
        """It ends when its worker's end is closed, too."""
        if self._cancel_keeper is not None:
            self._cancel_keeper()
            self._cancel_keeper = None
        if self._keeper is not None:
            self._reactor.remove_reader(self._keeper.fileno())
            self._keeper.close()
            self._keeper = None

    def start(self, ready: Callable[[str], None] | None = None) -> None:
        """Have a worker serve it; `ready` is told when it does ("") or why not."""
        if ready is not None:
            self._waiting.append(ready)
        self.listen()
        self.link.start()

    def change(self, record: Record, lines: list[Line]) -> None:
        """Be another chip of the same name; lines that stay are not touched."""
        safe = self.safe_places()
        former = self.lines
        had_vm, count = self.record.vm, len(former)
        self.record = record
        self.link.end_worker()
        self.use(lines, [line for line in lines if line not in former])
        release([line for line in former if line not in lines], self._reactor, safe)
        if had_vm and (not record.vm or len(lines) != count):
            self._close_vm()
        self.own(record.uid, record.gid, record.mode)

    def safe_places(self) -> dict[Place, LineSettings]:
        """Safe states by line; none of a chip that waits for its lines."""
        if not self.lines:
            return {}
        return {self.lines[offset].place: parse_safe(text) for offset, text in self.safe().items()}

    def own(self, uid: int, gid: int, mode: int) -> None:
        """Owner, group and mode of its sockets."""
        for path in (self.device_path, self._vm_path):
            with suppress(FileNotFoundError):
                status = os.lstat(path)
                if (status.st_uid, status.st_gid) != (uid, gid):
                    os.chown(path, uid, gid, follow_symlinks=False)
                if status.st_mode & 0o777 != mode:
                    os.chmod(path, mode)
        self.record.uid, self.record.gid, self.record.mode = uid, gid, mode

    def access(self) -> tuple[int, int, int] | None:
        """(uid, gid, mode) as its socket has them now; None while there is none."""
        try:
            status = os.lstat(self.device_path)
        except OSError:
            return None
        return status.st_uid, status.st_gid, status.st_mode & 0o777

    def _close_vm(self) -> None:
        if self._vm is not None:
            self._vm.close()
            self._vm = None
            with suppress(FileNotFoundError):
                os.unlink(self._vm_path)
        if self._state >= 0:
            os.close(self._state)
            self._state = -1
        self._drop_keeper()

    def close(self) -> None:
        """Be no more: no worker, no sockets, the lines given back."""
        safe: dict[Place, LineSettings] = {}
        with suppress(UsageError):  # a record that was refused
            safe = self.safe_places()
        self.link.close()
        if self._device is not None:
            self._device.close()
            with suppress(FileNotFoundError):
                os.unlink(self.device_path)
        self._close_vm()
        release(self.lines, self._reactor, safe)
        self.lines = []
        self._answer_all()
        if self.creator_fd >= 0:
            self._reactor.remove_reader(self.creator_fd)
            os.close(self.creator_fd)
            self.creator_fd = -1
        for ready in self._waiting:
            ready("it was deleted meanwhile")
        self._waiting.clear()

    # its worker

    def serve(self) -> tuple[dict[str, Any], list[int]]:
        """What a new worker is told, and the files it needs."""
        assert self._device is not None
        names = self.names()
        spec = {
            "name": self.record.name,
            "lines": [
                {"name": name, "kind": line.kind, "output": line.is_output}
                for name, line in zip(names, self.lines, strict=True)
            ],
            "settings": self.settings(),
            "safe": self.safe(),
            "vm": self.record.vm,
            "keeper": self._keeper is not None,
            "poll_us": self.record.poll_us,
        }
        fds = [fd for line in self.lines if line.file for fd in line.file.fds]
        fds.append(self._device.socket.fileno())
        if self._vm is not None:
            fds += [self._vm.socket.fileno(), self._state]
        if self._keeper is not None:
            fds.append(self._keeper.fileno())
            self._keeper_is_new = False
        return spec, fds

    def on_hand_over(self, spec: dict[str, Any], fds: list[int]) -> None:
        """A worker that was there before us has these files; of what it says only their kinds count."""
        lines = spec["lines"]
        if len(lines) != len(self.record.places) or spec["vm"] != self.record.vm:
            raise PeerError("it serves another chip than was meant")
        has_keeper = bool(spec.get("keeper"))
        others = (3 if self.record.vm else 1) + has_keeper
        if sum(FDS_OF_LINE[line["kind"]] for line in lines) + others != len(fds):
            raise PeerError("it does not have the files that it should")
        release(self.lines, self._reactor)
        taken = list(fds)
        fds.clear()
        found = []
        for line, place in zip(lines, self.record.lines(), strict=True):
            file: LineFile | None = None
            if line["kind"] == "kernel":
                file = KernelLine(taken.pop(0))
            elif line["kind"] == "remote":
                remote = DeviceSocket(socket.socket(fileno=taken.pop(0)))
                file = RemoteLine(remote, taken.pop(0))
            found.append(Line(place, str(line["name"]), line["kind"], file, bool(line["output"])))
        self._device = SocketListener(socket.socket(fileno=taken.pop(0)))
        if self.record.vm:
            self._vm = SocketListener(socket.socket(fileno=taken.pop(0)))
            self._state = taken.pop(0)
        if has_keeper:
            self._keeper = socket.socket(fileno=taken.pop(0))
            self._reactor.add_hangup(self._keeper.fileno(), self._on_keeper_gone)
        self.use(found)
        if any(line.file is None for line in found):
            self._on_line_gone(self)

    def on_ready(self) -> None:
        """It is served from now on."""
        self.trouble = ""
        self._tell_keeper()
        if self.watched:
            self.watch(True)
        self._settle("")
        self._on_changed(self, "live", {})

    def on_failed(self, message: str) -> None:
        """A worker cannot serve it."""
        self.trouble = message
        _log.error("%s: %s", self.record.name, message, extra=self.about)
        self._settle(message)

    def _settle(self, message: str) -> None:
        waiting, self._waiting = self._waiting, []
        for ready in waiting:
            ready(message)

    def on_message(self, body: dict[str, Any]) -> None:
        """Whatever else the worker says."""
        match body:
            case {"tag": int(tag), "status": dict(status)}:
                if done := self._asked.pop(tag, None):
                    done(status)
            case {"event": str(event), **details}:
                self._on_changed(self, "line-" + event, details)
            case {"spent": True}:
                self.link.replace()

    def on_lost(self) -> None:
        """The worker is gone. Where its lines stand now, the next one is told."""
        self._answer_all()
        self._on_changed(self, "worker-ended", {})

    def begin_again(self) -> None:
        """Have another worker; without lines, they are looked for first."""
        if self.lines:
            self.listen()
            self.link.start()
        else:
            self._on_line_gone(self)

    def look_at_directions(self, sources: Sources) -> None:
        """Which lines are outputs by now."""
        for line in self.lines:
            if line.file is not None:
                with suppress(GpiovirtError, OSError):
                    line.is_output = sources.at(line.place).is_output(line.place.offset)

    def ask(self, done: Callable[[dict[str, Any] | None], None]) -> int:
        """Ask the worker for its status; `done` gets it, or None if there is no telling. Returns a tag."""
        if not self.link.is_ready:
            done(None)
            return 0
        self._tag += 1
        self._asked[self._tag] = done
        self.link.send({"do": "status", "tag": self._tag})
        return self._tag

    def give_up_asking(self, tag: int) -> None:
        """It took too long."""
        if done := self._asked.pop(tag, None):
            done(None)

    def _answer_all(self) -> None:
        asked, self._asked = self._asked, {}
        for done in asked.values():
            done(None)

    def watch(self, on: bool) -> None:
        """Have the worker tell what happens to the lines."""
        self.watched = on
        if self.link.is_ready:
            self.link.send({"do": "watch", "on": on})
