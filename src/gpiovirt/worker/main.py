# SPDX-License-Identifier: MIT
"""A worker: the process that serves one chip, or the simulated ones, with nothing but files handed to it.

It outlives the custodian: the next to connect to its hand-over socket gets all its files. It reports, as
{"spec": null or what it serves}, what it has; receives {"do": ...}; and answers {"tag", ...} or sends
{"event" or "use", ...}.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from gpiovirt.control import listen_at, socket_name
from gpiovirt.control.sim_server import SimServer
from gpiovirt.core.chip import Chip
from gpiovirt.core.guards.driver import Happening, RuleState
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Direction, InfoEvent, LineInfo
from gpiovirt.core.record import RingWriter
from gpiovirt.errors import GpiovirtError, HostError, PeerError
from gpiovirt.exports.device import DeviceServer
from gpiovirt.exports.vm.keeping import Keeping
from gpiovirt.exports.vm.server import VmServer
from gpiovirt.exports.vm.state import KeptState, vm_bytes
from gpiovirt.host.clock import now_ns
from gpiovirt.host.confine import confine
from gpiovirt.host.device_socket import DeviceSocket
from gpiovirt.host.notifier import Notifier
from gpiovirt.host.packets import Channel, Message
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.spin import new_spin
from gpiovirt.host.unix_socket import SocketListener, peer_of
from gpiovirt.sources.line_files import KernelLine, LineFile, RemoteLine
from gpiovirt.sources.simulator import Simulator
from gpiovirt.virtual.guard import guard
from gpiovirt.virtual.memory import KeptMemory
from gpiovirt.virtual.options import parse_options
from gpiovirt.virtual.ring import writer_to
from gpiovirt.virtual.rules import parse_rules
from gpiovirt.virtual.stack import StackedLine, VirtualChip

__all__ = ["run"]

_log = logging.getLogger(__name__)

_FILES_MAX = 1 << 12
_CUSTODIAN_MS = 1000  # it connects as soon as it has asked for a worker
_CLAIM_S = 0.4  # holders that the previous worker served come back within milliseconds
_LENDER_S = 0.25  # a lender that has not answered by then is gone
_USE_S = 0.25  # the custodian is told once of all lines that were held and released meanwhile
_FORCED = {None: "", 0: "low", 1: "high"}
_WHY_MAX = 400
_RULES_BYTES = 24_000
_RULE_MAX = 200
_RULE_REST = 80  # of each, beside its text
_RARE_PER_S = 20
_EVENTS_PER_S = 200  # reported to the custodian: more are only counted


def run(listener: socket.socket, uid: int, gid: int, simulates: bool) -> None:
    """Be a worker, whose custodian connects to `listener`; the process never becomes what it was again."""
    reactor = Reactor()
    simulator = Simulator(now_ns, reactor.deadlines) if simulates else None
    if simulator is not None:
        SimServer(simulator, reactor, listen_at(socket_name(os.getuid(), os.getpid())))
    worker = _Worker(SocketListener(listener), reactor, simulator)
    try:
        confine(uid, gid)
    except GpiovirtError as error:
        worker.refuse(error)
        raise
    reactor.add_reader(listener.fileno(), worker.on_custodian)
    reactor.run()


class _ServedChip:
    """A virtual chip, its files, and the servers for its consumers."""

    def __init__(
        self,
        spec: dict[str, Any],
        fds: Sequence[int],
        reactor: Reactor,
        on_use: Callable[[], None],
        on_peer: Callable[[], None],
        on_spent: Callable[[], None],
        on_rule: Callable[[Happening], None],
        on_force_end: Callable[[int], None],
    ) -> None:
        self.spec = spec
        files = list(fds)
        self._lines = [_line_file(line["kind"], files) for line in spec["lines"]]
        self._fds = list(files)
        num_lines = len(self._lines)
        memory = KeptMemory(files.pop(0), num_lines, vm_bytes(spec["vm"], num_lines))
        options = [parse_options(text) for text in spec["options"]]
        names = [each.name or line["name"] for each, line in zip(options, spec["lines"], strict=True)]
        record = _record(files.pop(0), files.pop(0), num_lines) if spec.get("record") else None
        if spec.get("tty"):
            files.pop(0)  # kept for whoever comes next
        self.chip = VirtualChip(
            spec["name"],
            [
                StackedLine(line["name"], file, memory.is_output(offset, line["output"]))
                for offset, (line, file) in enumerate(zip(spec["lines"], self._lines, strict=True))
            ],
            now_ns,
            reactor,
            options,
            memory,
            on_use,
            rules=guard(parse_rules(spec["rules"]), options, names),
            deadlines=reactor.deadlines,
            tell=on_rule,
            on_force_end=on_force_end,
            record=record,
        )
        self.chip.make_safe(range(num_lines))
        self.chip.free_unclaimed(spec["orphans"])
        spec["orphans"] = []
        if any(memory.held):
            reactor.call_later(_CLAIM_S, self.chip.free_unclaimed)
        reactor.spin = new_spin(spec["poll_us"])
        incarnation = bytes.fromhex(spec["incarnation"])
        self.device = DeviceServer(self.chip, _listener(files.pop(0)), reactor, incarnation=incarnation)
        self.vm: VmServer | None = None
        if spec["vm"]:
            listener = _listener(files.pop(0))
            self.vm = VmServer(
                self.chip,
                listener,
                KeptState(memory.vm),
                reactor,
                {},
                on_spent=on_spent,
                keeping=Keeping(_copy(files.pop(0)) if spec["keeper"] else None),
            )
            self.vm.on_peer = on_peer

    def fds(self) -> list[int]:
        """In the order of the message that they came with."""
        return [fd for line in self._lines if line for fd in line.fds] + self._fds

    def replace(self, offset: int, kind: str, is_output: bool, fds: Sequence[int]) -> None:
        """A line has vanished or is back."""
        self._lines[offset] = file = _line_file(kind, list(fds))
        self.spec["lines"][offset].update(kind=kind, output=is_output)
        self.chip.replace(offset, file, is_output)

    def use_keeper(self, fd: int) -> None:
        """The previous one is gone."""
        if self.vm is not None:
            if self.spec["keeper"]:
                os.close(self._fds.pop())
            self.spec["keeper"] = True
            self._fds.append(fd)
            self.vm.use_keeper(_copy(fd))

    def lend(
        self, _chip: int, offset: int, consumer: str, opener: Holder
    ) -> tuple[LineInfo, tuple[int, int]]:
        """A line of the chip for another chip; OSError."""
        return self.device.lend(offset, consumer, opener)

    def drive(
        self, levels: Mapping[int, int], consumer: str, opener: Holder, hold: bool
    ) -> tuple[dict[str, Any], Sequence[int]]:
        """Set lines for `opener`, and let them go unless they are held: the answer, and the files if so."""
        try:
            answer, fds = self.device.drive(levels, consumer, opener)
        except OSError as error:
            return {"errno": error.errno, "why": os.strerror(error.errno or 0)}, ()
        if fds is None:
            return {"errno": answer.errno, "why": (answer.why or os.strerror(answer.errno))[:_WHY_MAX]}, ()
        if not hold:
            for fd in fds:
                os.close(fd)
            self.device.close_closed()
        return {"levels": self.chip.levels(list(levels))}, fds if hold else ()

    def end(self) -> None:
        """Hang up on everybody; lines go to their safe states."""
        self.device.close()
        if self.vm is not None:
            self.vm.end()
        self.chip.free_unclaimed()
        self.chip.make_safe(range(self.chip.info.num_lines))

    def use(self) -> dict[str, Any]:
        """Whether anybody holds lines, and the VM that does."""
        vm = self.vm.peer if self.vm is not None else None
        return {"lines": self.chip.num_held, "vm": 0 if vm is None else vm.pid}

    def status(self) -> dict[str, Any]:
        """Its full state."""
        vm = self.vm.peer if self.vm is not None else None
        return {
            "consumers": [
                {"pid": peer.pid, "uid": peer.uid, "gid": peer.gid} for peer in self.device.consumers
            ],
            "vm": None if vm is None else {"pid": vm.pid, "uid": vm.uid, "gid": vm.gid},
            "lines": [
                {**line, "forced": _FORCED[self.chip.forced.get(line["offset"])]}
                for line in _lines(self.chip)
            ],
            "rules": _rules(self.chip.rules),
        }


class _SimulatedChips:
    """Simulated chips, whose lines are lent to virtual ones."""

    def __init__(
        self, spec: dict[str, Any], _fds: Sequence[int], reactor: Reactor, simulator: Simulator
    ) -> None:
        self.spec = spec
        self._devices = [
            DeviceServer(simulator.add_chip(label, names), None, reactor) for label, names in spec["chips"]
        ]
        for one, other in spec["wires"]:
            simulator.wire(simulator.find_line(one), simulator.find_line(other))

    def fds(self) -> list[int]:
        """None: lent lines are the borrowers' to report."""
        return []

    def lend(self, chip: int, offset: int, consumer: str, opener: Holder) -> tuple[LineInfo, tuple[int, int]]:
        """A line of one of the chips; OSError."""
        return self._devices[chip].lend(offset, consumer, opener)

    def end(self) -> None:
        """Nothing to do."""

    def status(self) -> dict[str, Any]:
        """All lines, by chip."""
        return {"chips": [_lines(device.chip) for device in self._devices]}


class _Worker:
    def __init__(self, listener: SocketListener, reactor: Reactor, simulator: Simulator | None) -> None:
        self._listener = listener
        self._reactor = reactor
        self._simulator = simulator
        self._channel: Channel | None = None
        self._custodian: Holder
        self._served: _ServedChip | _SimulatedChips | None = None
        self._unwatch: Callable[[], None] | None = None
        self._second = 0
        self._told = self._told_rare = self._lost = 0
        self._on_use = reactor.coalesced(_USE_S, self._tell_use)

    def on_custodian(self) -> None:
        """A custodian has connected: it gets all we have."""
        sock = self._listener.accept()
        if sock is None:
            return
        self._leave()
        peer = peer_of(sock)
        self._custodian = Holder("", HolderKind.CHIP, peer.pid, peer.uid)
        self._channel = Channel(sock, _FILES_MAX)
        self._reactor.add_reader(sock.fileno(), self._receive, self._leave)
        if self._served is None:
            self._send({"spec": None})
        else:
            self._send({"spec": self._served.spec}, self._served.fds())
            self._tell_use()

    def refuse(self, error: GpiovirtError) -> None:
        """Tell the custodian, who has connected or is about to, that nothing can be served."""
        poll = select.poll()
        poll.register(self._listener.socket, select.POLLIN)
        poll.poll(_CUSTODIAN_MS)
        if (sock := self._listener.accept()) is not None:
            self._channel = Channel(sock)
            self._send({"failed": str(error)})

    def _leave(self) -> None:
        """The custodian is gone; a chip is still served, and without one there is nothing to do."""
        if self._channel is not None:
            if self._served is None:
                os._exit(0)
            self._reactor.remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None
        self._watch(False)

    def _send(self, body: Mapping[str, Any], fds: Sequence[int] = ()) -> bool:
        if self._channel is None:
            return False
        try:
            self._channel.send(body, fds)
        except BlockingIOError:  # it does not listen at the moment: it will ask again
            return False
        except OSError:
            self._leave()
            return False
        return True

    def _receive(self) -> None:
        try:
            while self._channel is not None and (message := self._channel.receive()) is not None:
                self._do(message)
        except EOFError:
            self._leave()
        except PeerError as error:
            _log.error("protocol error from gpiovirtd: %s", error)
            self._leave()

    def _do(self, message: Message) -> None:
        served = self._served
        match message.body:
            case {"do": "serve", "spec": spec}:
                try:
                    if self._simulator is not None:
                        self._served = _SimulatedChips(spec, message.fds, self._reactor, self._simulator)
                    else:
                        self._served = _ServedChip(
                            spec,
                            message.fds,
                            self._reactor,
                            self._on_use,
                            self._tell_use,
                            self._on_spent,
                            self._on_rule,
                            self._on_force_end,
                        )
                except GpiovirtError as error:
                    self._send({"failed": str(error)})
                    return
                self._send({"ready": True})
                self._tell_use()
            case {"do": "line", "offset": offset, "kind": kind, "output": output}:
                assert isinstance(served, _ServedChip)
                served.replace(offset, kind, output, message.fds)
            case {"do": "keeper"} if isinstance(served, _ServedChip):
                served.use_keeper(message.fds[0])
            case {"do": "orphans", "offsets": offsets} if isinstance(served, _ServedChip):
                served.chip.free_unclaimed(offsets)
            case {"do": "ping", "tag": tag}:
                self._send({"tag": tag})
            case {"do": "status", "tag": tag} if served is not None:
                self._send({"tag": tag, "status": served.status()})
            case {"do": "lend", "tag": tag, "chip": chip, "offset": offset, "consumer": consumer} if served:
                self._lend(served, tag, chip, offset, consumer)
            case {"do": "levels", "tag": tag, "offsets": offsets} if isinstance(served, _ServedChip):
                self._send({"tag": tag, "levels": served.chip.levels(offsets)})
            case {"do": "drive"} if isinstance(served, _ServedChip):
                self._drive(served, message.body)
            case {"do": "force"} if isinstance(served, _ServedChip):
                self._force(served, message.body)
            case {"do": "rearm", "tag": tag} if isinstance(served, _ServedChip):
                self._send({"tag": tag, "was_tripped": served.chip.rearm()})
            case {"do": "watch", "on": on}:
                self._watch(on)
            case {"do": "end", "tag": tag} if served is not None:
                served.end()
                self._send({"tag": tag})

    def _lend(
        self, served: _ServedChip | _SimulatedChips, tag: int, chip: int, offset: int, consumer: str
    ) -> None:
        try:
            info, fds = served.lend(chip, offset, consumer, self._custodian)
        except OSError as error:
            self._send({"tag": tag, "errno": error.errno, "holder": error.filename or ""})
            return
        self._send({"tag": tag, "line": _line(info)}, fds)
        for fd in fds:
            os.close(fd)

    def _drive(self, served: _ServedChip, body: Mapping[str, Any]) -> None:
        levels = dict(zip(body["offsets"], body["levels"], strict=True))
        opener = Holder("", HolderKind.PROGRAM, body["pid"], body["uid"])
        answer, fds = served.drive(levels, body["consumer"], opener, body["hold"])
        self._send({"tag": body["tag"], **answer}, fds)
        for fd in fds:
            os.close(fd)

    def _on_spent(self) -> None:
        """There are too many files that this process can never close."""
        self._send({"spent": True})

    def _tell_use(self) -> None:
        if isinstance(self._served, _ServedChip):
            self._send({"use": self._served.use()})

    def _watch(self, on: bool) -> None:
        if on and self._unwatch is None and isinstance(self._served, _ServedChip):
            self._unwatch = self._served.chip.watch(self._on_info)
        elif not on and self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    def _on_force_end(self, offset: int) -> None:
        self._tell({"event": "unforced", "offset": offset})

    def _force(self, served: _ServedChip, body: Mapping[str, Any]) -> None:
        """Force a line, or end that."""
        offset, level = body["offset"], body["level"]
        answer: dict[str, Any] = {"tag": body["tag"]}
        try:
            if level is None:
                answer["was_forced"] = served.chip.clear(offset)
            else:
                served.chip.force(offset, level, body["until_ns"], body["drives"])
        except GpiovirtError as error:
            answer |= {"errno": error.errno, "why": str(error)[:_WHY_MAX]}
        self._send(answer)

    def _on_rule(self, happening: Happening) -> None:
        pid, uid = happening.holder[2:4] if happening.holder else (0, 0)
        told = {"event": happening.what, "offset": happening.offset, "pid": pid, "uid": uid}
        self._tell({**told, "why": happening.why[:_WHY_MAX]}, is_rare=happening.what != "refused")

    def _on_info(self, event: InfoEvent) -> None:
        self._tell(
            {"event": event.type.name.lower(), "timestamp_ns": event.timestamp_ns, **_held_line(event.info)}
        )

    def _tell(self, told: dict[str, Any], is_rare: bool = False) -> None:
        """Report something; what is rare is not lost among what is not."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._told, self._told_rare = second, 0, 0
            if self._lost and self._send({"event": "lost", "count": self._lost}):
                self._lost = 0
        if is_rare:
            self._told_rare += 1
            if self._told_rare > _RARE_PER_S or not self._send(told):
                self._lost += 1
            return
        self._told += 1
        if self._told > _EVENTS_PER_S or not self._send(told):
            self._lost += 1


def _rules(states: Sequence[RuleState]) -> list[dict[str, Any]]:
    """As many as an answer has room for beside the largest chip's lines, and what has done something."""
    room = _RULES_BYTES
    told: dict[int, dict[str, Any]] = {}
    for number, state in sorted(enumerate(states), key=lambda each: not (each[1].refused or each[1].trips)):
        text = state.text[:_RULE_MAX]
        room -= len(text.encode(errors="replace")) + _RULE_REST
        if room < 0:
            rest = RuleState(f"and {len(states) - len(told)} more rules", 0, 0, False)
            return [*(told[number] for number in sorted(told)), rest._asdict()]
        told[number] = {**state._asdict(), "text": text}
    return [told[number] for number in sorted(told)]


def _lines(chip: Chip) -> list[dict[str, Any]]:
    return [_held_line(chip.line_info(offset)) for offset in range(chip.info.num_lines)]


def _held_line(info: LineInfo) -> dict[str, Any]:
    if (holder := info.holder) is None:
        return _line(info)
    return {**_line(info), "holder": {"kind": holder.kind, "pid": holder.pid, "uid": holder.uid}}


def _line(info: LineInfo) -> dict[str, Any]:
    return {
        "offset": info.offset,
        "name": info.name,
        "direction": "output" if info.direction is Direction.OUTPUT else "input",
        "consumer": info.consumer,
        "used": info.used,
    }


def _line_file(kind: str, files: list[int]) -> LineFile | None:
    """The line whose files come first; they are taken out."""
    if kind == "kernel":
        return KernelLine(files.pop(0))
    if kind == "lent":
        file = DeviceSocket(socket.socket(fileno=files.pop(0)), None, _LENDER_S)
        return RemoteLine(file, files.pop(0))
    return None


def _record(ring: int, wake: int, num_lines: int) -> RingWriter:
    """What writes to a chip's record, and tells whoever reads it."""
    return writer_to(ring, num_lines, Notifier(wake).notify)


def _copy(fd: int) -> socket.socket:
    return socket.socket(fileno=os.dup(fd))


def _listener(fd: int) -> SocketListener:
    with suppress(OSError):
        return SocketListener(socket.socket(fileno=fd))
    raise HostError("a file that is not a listening socket")
