# SPDX-License-Identifier: MIT
"""A worker: the process that serves one chip, with nothing but the files it was handed.

It outlives the custodian: whoever connects to its hand-over socket next gets all its files.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from gpiovirt.control.simulator import SimServer, socket_name
from gpiovirt.core.chip import Chip
from gpiovirt.core.line import Direction, InfoEvent
from gpiovirt.errors import GpiovirtError, HostError, PeerError
from gpiovirt.exports.device import DeviceServer
from gpiovirt.exports.vm.keeping import Keeping
from gpiovirt.exports.vm.server import VmServer
from gpiovirt.exports.vm.state import KeptState, state_size
from gpiovirt.host.channel import Channel, Message
from gpiovirt.host.clock import now_ns
from gpiovirt.host.confine import confine
from gpiovirt.host.device_socket import DeviceSocket
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import SocketListener
from gpiovirt.protocols.line_options import parse_how, parse_safe
from gpiovirt.sources.held import HeldChip, KernelLine, LineFile, RemoteLine
from gpiovirt.sources.simulator import Simulator

__all__ = ["FDS_OF_LINE", "run"]

_log = logging.getLogger(__name__)

FDS_OF_LINE = {"kernel": 1, "remote": 2, "gone": 0}
"""Number of files by kind of line: a kernel's request; a socket and a pipe; none"""


_CUSTODIAN_MS = 1000  # it connects as soon as it has asked for a worker


class _Never:
    def next_deadline_ns(self) -> int | None:
        return None

    def on_deadline(self, now_ns: int) -> None:
        pass


def run(listener: socket.socket, uid: int, gid: int, simulates: bool) -> None:
    """Be a worker, whose custodian comes through `listener`; it never returns to what it was."""
    simulator = Simulator(now_ns) if simulates else None
    reactor = Reactor(simulator or _Never())
    if simulator is not None:
        SimServer(simulator, reactor, socket_name(os.getuid(), os.getpid()))
    worker = _Worker(SocketListener(listener), reactor, simulator)
    try:
        confine(uid, gid)
    except GpiovirtError as error:
        worker.refuse(error)
        raise
    reactor.add_reader(listener.fileno(), worker.on_custodian)
    reactor.run()


class _Served:
    """A chip, its files, and who serves it."""

    def __init__(
        self, spec: dict[str, Any], fds: Sequence[int], reactor: Reactor, on_spent: Callable[[], None]
    ) -> None:
        self.spec = spec
        files = list(fds)
        self._lines = [_line_file(line["kind"], files) for line in spec["lines"]]
        self._chip = HeldChip(
            spec["name"],
            [
                (line["name"], file, line["output"])
                for line, file in zip(spec["lines"], self._lines, strict=True)
            ],
            now_ns,
            reactor,
            {int(offset): parse_safe(text) for offset, text in spec["safe"].items()},
        )
        self._fds = list(files)
        reactor.poll_us = spec["poll_us"]
        self.device = DeviceServer(self._chip, _listener(files.pop(0)), reactor)
        self.vm: VmServer | None = None
        if spec["vm"]:
            listener, state = _listener(files.pop(0)), files.pop(0)
            self.vm = VmServer(
                self._chip,
                listener,
                KeptState(state, state_size(self._chip.info.num_lines)),
                reactor,
                {int(offset): parse_how(text) for offset, text in spec["settings"].items()},
                on_spent=on_spent,
                keeping=Keeping(_copy(files.pop(0)) if spec["keeper"] else None),
            )

    def use_keeper(self, fd: int) -> None:
        """The one there was is gone."""
        if self.vm is not None:
            if self.spec["keeper"]:
                os.close(self._fds.pop())
            self.spec["keeper"] = True
            self._fds.append(fd)
            self.vm.use_keeper(_copy(fd))

    @property
    def chip(self) -> Chip:
        return self._chip

    def fds(self) -> list[int]:
        """In the order of the message that brought them."""
        return [fd for line in self._lines if line for fd in line.fds] + self._fds

    def replace(self, offset: int, kind: str, is_output: bool, fds: Sequence[int]) -> None:
        """A line has vanished or is back."""
        self._lines[offset] = file = _line_file(kind, list(fds))
        self.spec["lines"][offset].update(kind=kind, output=is_output)
        self._chip.replace(offset, file, is_output)


class _Simulated:
    """Simulated chips."""

    def __init__(
        self, spec: dict[str, Any], fds: Sequence[int], reactor: Reactor, simulator: Simulator
    ) -> None:
        self.spec = spec
        self._fds = list(fds)
        self.servers = [
            DeviceServer(simulator.add_chip(label, names), _listener(fd), reactor)
            for (label, names), fd in zip(spec["chips"], fds, strict=True)
        ]
        for one, other in spec["wires"]:
            simulator.wire(simulator.find_line(one), simulator.find_line(other))

    def fds(self) -> list[int]:
        """In the order of the message that brought them."""
        return self._fds


class _Worker:
    def __init__(self, listener: SocketListener, reactor: Reactor, simulator: Simulator | None) -> None:
        self._listener = listener
        self._reactor = reactor
        self._simulator = simulator
        self._channel: Channel | None = None
        self._served: _Served | _Simulated | None = None
        self._unwatch: Any = None

    def on_custodian(self) -> None:
        """A custodian has come: it gets all we have."""
        sock = self._listener.accept()
        if sock is None:
            return
        self._leave()
        self._channel = Channel(sock)
        self._reactor.add_reader(sock.fileno(), self._receive)
        if self._served is None:
            self._send({"spec": None})
        else:
            self._send({"spec": self._served.spec}, self._served.fds())

    def refuse(self, error: GpiovirtError) -> None:
        """Tell the custodian, who has connected or is about to, that nothing can be served."""
        poll = select.poll()
        poll.register(self._listener.socket, select.POLLIN)
        poll.poll(_CUSTODIAN_MS)
        if (sock := self._listener.accept()) is not None:
            self._channel = Channel(sock)
            self._send({"failed": str(error)})

    def _leave(self) -> None:
        """The custodian is gone; its chip is served all the same, and without one there is nothing to do."""
        if self._channel is not None:
            if self._served is None:
                os._exit(0)
            self._reactor.remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None
        self._watch(False)

    def _send(self, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
        if self._channel is not None:
            try:
                self._channel.send(body, fds)
            except OSError:
                self._leave()

    def _receive(self) -> None:
        try:
            while self._channel is not None and (message := self._channel.receive()) is not None:
                self._do(message)
        except EOFError:
            self._leave()
        except PeerError as error:
            _log.error("a custodian that makes no sense: %s", error)
            self._leave()

    def _do(self, message: Message) -> None:
        match message.body:
            case {"do": "serve", "spec": spec}:
                try:
                    if self._simulator is not None:
                        self._served = _Simulated(spec, message.fds, self._reactor, self._simulator)
                    else:
                        self._served = _Served(spec, message.fds, self._reactor, self._on_spent)
                except GpiovirtError as error:
                    self._send({"failed": str(error), "errno": error.errno})
                    return
                self._send({"ready": True})
            case {"do": "line", "offset": offset, "kind": kind, "output": output}:
                assert isinstance(self._served, _Served)
                self._served.replace(offset, kind, output, message.fds)
            case {"do": "keeper"}:
                assert isinstance(self._served, _Served)
                self._served.use_keeper(message.fds[0])
            case {"do": "status", "tag": tag}:
                assert isinstance(self._served, _Served)
                self._send({"tag": tag, "status": _status(self._served)})
            case {"do": "watch", "on": on}:
                self._watch(on)

    def _on_spent(self) -> None:
        """Files that this process can never close are too many."""
        self._send({"spent": True})

    def _watch(self, on: bool) -> None:
        if on and self._unwatch is None and isinstance(self._served, _Served):
            self._unwatch = self._served.chip.watch(self._on_info)
        elif not on and self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    def _on_info(self, event: InfoEvent) -> None:
        self._send(
            {"event": event.type.name.lower(), "timestamp_ns": event.timestamp_ns, **_line(event.info)}
        )


def _status(served: _Served) -> dict[str, Any]:
    chip = served.chip
    vm = served.vm.peer if served.vm is not None else None
    return {
        "consumers": [
            {"pid": peer.pid, "uid": peer.uid, "gid": peer.gid} for peer in served.device.consumers
        ],
        "vm": None if vm is None else {"pid": vm.pid, "uid": vm.uid, "gid": vm.gid},
        "lines": [_line(chip.line_info(offset)) for offset in range(chip.info.num_lines)],
    }


def _line(info: Any) -> dict[str, Any]:
    return {
        "offset": info.offset,
        "direction": "output" if info.direction is Direction.OUTPUT else "input",
        "consumer": info.consumer,
        "used": info.used,
    }


def _line_file(kind: str, files: list[int]) -> LineFile | None:
    """The line whose files come first; they are taken out."""
    if kind == "kernel":
        return KernelLine(files.pop(0))
    if kind == "remote":
        file = DeviceSocket(socket.socket(fileno=files.pop(0)))
        return RemoteLine(file, files.pop(0))
    return None


def _copy(fd: int) -> socket.socket:
    return socket.socket(fileno=os.dup(fd))


def _listener(fd: int) -> SocketListener:
    with suppress(OSError):
        return SocketListener(socket.socket(fileno=fd))
    raise HostError("a file that is no listening socket")
