# SPDX-License-Identifier: MIT
"""The control socket: who asks is known by the kernel's word, and gets what he may have.

The protocol is described in gpiovirt.control.client. Whoever may neither manage nor use a chip sees
nothing of it: for him it is not there.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from gpiovirt import __version__
from gpiovirt.control.access import ID_MAX, Identity, identity_of
from gpiovirt.control.limits import check_poll_us
from gpiovirt.daemon.chip import VirtualChip
from gpiovirt.daemon.custodian import Custodian, process_start
from gpiovirt.daemon.sources import SourceChip
from gpiovirt.daemon.store import Record
from gpiovirt.errors import GpiovirtError, HostError, NoSuchDeviceError, PeerError, UsageError
from gpiovirt.host.channel import Channel, Message
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener, Peer, peer_of

__all__ = ["ControlServer"]

_log = logging.getLogger(__name__)

_PER_PAGE = 64
_CLIENTS_PER_USER = 64

_MAPS = ("names", "settings", "safe")
_NUMBERS = ("uid", "gid", "mode")


class DeniedError(UsageError):
    """He may not."""

    errno = errno.EPERM


class ControlServer:
    """Serves all who connect. `is_agent` knows processes that ask for others, of whatever user."""

    def __init__(
        self, path: str, custodian: Custodian, reactor: Reactor, is_agent: Callable[[Peer], bool]
    ) -> None:
        self._is_agent = is_agent
        self.custodian = custodian
        self.reactor = reactor
        self.uid = os.geteuid()
        self.clients: list[_Client] = []
        self._listener = PathListener(path, Access(mode=0o666), socket.SOCK_SEQPACKET)
        reactor.add_reader(self._listener.socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock = self._listener.accept()
        except HostError as error:
            _log.error("%s", error)
            return
        if sock is None:
            return
        identity = identity_of(sock)
        is_agent = self._is_agent(peer_of(sock))
        if identity.uid != 0 and not is_agent and self._connected(identity.uid) >= _CLIENTS_PER_USER:
            sock.close()
            return
        self.clients.append(_Client(self, sock, identity, is_agent))

    def _connected(self, uid: int) -> int:
        return sum(client.peer.uid == uid and not client.is_agent for client in self.clients)

    def close(self) -> None:
        """Listen no more."""
        self.reactor.remove_reader(self._listener.socket.fileno())
        self._listener.close()


class _Client:
    """A connection: one request at a time, or events."""

    def __init__(self, server: ControlServer, sock: socket.socket, peer: Identity, is_agent: bool) -> None:
        self.peer = peer
        self.is_agent = is_agent
        self._server = server
        self._custodian = server.custodian
        self._channel = Channel(sock, fds_max=4)
        self._unwatch: Callable[[], None] | None = None
        self._owned: list[str] = []
        """Chips that end with the connection"""
        server.reactor.add_reader(sock.fileno(), self._receive)

    def _receive(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                self._handle(message)
        except EOFError:
            self._close()
        except PeerError as error:
            self._answer({"error": str(error), "errno": errno.EINVAL})
            self._close()

    def _handle(self, message: Message) -> None:
        fds = list(message.fds)
        try:
            who = self._who(message.body)
            what = message.body.get("do")
            handler = _HANDLERS.get(what) if isinstance(what, str) else None
            if handler is None:
                raise UsageError(
                    f"{what!r} is nothing that can be asked for; that is: {', '.join(_HANDLERS)}"
                )
            handler(self, who, message.body, fds)
        except GpiovirtError as error:
            self._refuse(error)
        except Exception as error:
            _log.exception("a fault of ours in answering %r", message.body.get("do"))
            self._answer({"error": f"a fault of gpiovirtd: {error}", "errno": errno.EIO})
        finally:
            for fd in fds:
                os.close(fd)

    def _who(self, body: dict[str, Any]) -> Identity:
        """Who asks: our peer, or whom he acts for."""
        other = body.get("as")
        if other is None:
            return self.peer
        if self.peer.uid not in (0, self._server.uid) and not self.is_agent:
            raise DeniedError("only root, the daemon's own user and its HTTP API act for others")
        match other:
            case {"uid": int(uid), "gids": list(gids)} if all(isinstance(gid, int) for gid in gids):
                return Identity(uid, frozenset(gids))
        raise UsageError("as: write {uid, gids}")

    def _answer(self, answer: dict[str, Any]) -> None:
        try:
            self._channel.send(answer)
        except OSError:
            self._close()

    def _refuse(self, error: GpiovirtError) -> None:
        where = {} if error.line is None else {"line": error.line}
        self._answer({"error": str(error), "errno": error.errno, **where})

    def _close(self) -> None:
        if self not in self._server.clients:
            return
        self._server.clients.remove(self)
        self._server.reactor.remove_reader(self._channel.fileno())
        self._channel.close()
        if self._unwatch is not None:
            self._unwatch()
        for name in self._owned:
            self._custodian.delete(name, True, lambda _: None)

    # what can be asked

    def _manager(self, who: Identity) -> None:
        if not who.may_manage(self._server.uid):
            raise DeniedError("only root and members of the group gpiovirt make, change and delete chips")

    def _sees(self, who: Identity, chip: VirtualChip) -> bool:
        record = chip.record
        return who.may_manage(self._server.uid) or who.may_use(record.uid, record.gid, record.mode)

    def _find(self, who: Identity, body: dict[str, Any]) -> VirtualChip:
        name = _text(body, "name")
        chip = self._custodian.chips.get(name)
        if chip is None or not self._sees(who, chip):
            there = ", ".join(other for other in self._custodian.chips if self._sees_named(who, other))
            raise NoSuchDeviceError(f"there is no chip {name!r}; there is: {there or 'none'}")
        return chip

    def _sees_named(self, who: Identity, name: str) -> bool:
        return self._sees(who, self._custodian.chips[name])

    def _told(self, result: VirtualChip | GpiovirtError) -> None:
        if isinstance(result, GpiovirtError):
            self._refuse(result)
        else:
            self._answer({"ok": _summary(result)})

    def _new(self, who: Identity, body: dict[str, Any], fds: list[int]) -> None:
        self._manager(who)
        record = _record(body, Record("", "", uid=self._server.uid, gid=_default_gid()))
        creator_fd = -1
        lifetime = body.get("lifetime")
        if lifetime == "connection":
            record.creator = [os.getpid(), process_start(os.getpid())]
        elif lifetime == "process":
            if len(fds) != 1:
                raise UsageError("lifetime: a pidfd is to come beside the request")
            record.creator = _creator(fds[0])
            creator_fd = fds.pop()
        elif lifetime is not None:
            raise UsageError("lifetime: connection or process")

        def done(result: VirtualChip | GpiovirtError) -> None:
            if lifetime == "connection" and isinstance(result, VirtualChip):
                if self not in self._server.clients:
                    self._custodian.delete(result.record.name, True, lambda _: None)
                    return
                self._owned.append(result.record.name)
            self._told(result)

        self._custodian.new(record, done, creator_fd, creator_fd < 0 and bool(body.get("wait")))

    def _delete(self, who: Identity, body: dict[str, Any], _fds: list[int]) -> None:
        self._manager(who)

        def done(error: GpiovirtError | None) -> None:
            if error is not None:
                self._refuse(error)
            else:
                self._answer({"ok": {}})

        self._custodian.delete(_text(body, "name"), bool(body.get("force")), done)

    def _change(self, who: Identity, body: dict[str, Any], _fds: list[int]) -> None:
        self._manager(who)
        chip = self._find(who, body)
        self._custodian.change(_record(body, chip.record), self._told)

    def _own(self, who: Identity, body: dict[str, Any], _fds: list[int]) -> None:
        self._manager(who)
        chip = self._find(who, body)
        uid, gid, mode = (_number(body, key, -1) for key in _NUMBERS)
        self._custodian.own(chip, uid, gid, mode)
        self._told(chip)

    def _save(self, who: Identity, body: dict[str, Any], _fds: list[int]) -> None:
        self._manager(who)
        chip = self._find(who, body)
        origin = _text(body, "origin") if "origin" in body else chip.record.origin
        self._custodian.make_permanent(chip, bool(body.get("permanent", True)), origin)
        self._told(chip)

    def _list(self, who: Identity, body: dict[str, Any], _fds: list[int]) -> None:
        after = _text(body, "after") if body.get("after") else ""
        chips = self._custodian.chips
        names = sorted(name for name in chips if name > after and self._sees_named(who, name))
        page = [_summary(chips[name]) for name in names[:_PER_PAGE]]
        self._answer({"ok": {"chips": page, "more": len(names) > _PER_PAGE}})

    def _look(self, who: Identity, body: dict[str, Any], _fds: list[int]) -> None:
        self._told(self._find(who, body))

    def _show(self, who: Identity, body: dict[str, Any], _fds: list[int]) -> None:
        chip = self._find(who, body)
        self._custodian.status(chip, lambda status: self._answer({"ok": _details(chip, status)}))

    def _sources(self, who: Identity, _body: dict[str, Any], _fds: list[int]) -> None:
        self._manager(who)
        with self._custodian.sources() as sources:
            found = [_source(chip) for chip in sources.all()]
        self._answer({"ok": found})

    def _state(self, who: Identity, _body: dict[str, Any], _fds: list[int]) -> None:
        seen = [chip for chip in self._custodian.chips.values() if self._sees(who, chip)]
        self._answer(
            {
                "ok": {
                    "version": __version__,
                    "pid": os.getpid(),
                    "chips": len(seen),
                    "live": sum(chip.state == "live" for chip in seen),
                    "lines": sum(len(chip.lines) for chip in seen),
                    "restarts": sum(chip.link.restarts for chip in seen),
                    "watchers": len(self._custodian.watchers),
                    "default": {"uid": self._server.uid, "gid": _default_gid(), "mode": Record("", "").mode},
                    "manager": who.may_manage(self._server.uid),
                }
            }
        )

    def _watch(self, who: Identity, body: dict[str, Any], _fds: list[int]) -> None:
        name = body.get("name")
        if name is not None:
            self._find(who, body)

        def watcher(chip: VirtualChip, event: dict[str, Any]) -> None:
            if (name is None or chip.record.name == name) and self._sees(who, chip):
                self._answer(event)

        if self._unwatch is None:
            self._unwatch = self._custodian.watch(watcher)
        self._answer({"ok": {}})


_HANDLERS: dict[str, Callable[[_Client, Identity, dict[str, Any], list[int]], None]] = {
    "new": _Client._new,
    "delete": _Client._delete,
    "change": _Client._change,
    "own": _Client._own,
    "list": _Client._list,
    "look": _Client._look,
    "show": _Client._show,
    "save": _Client._save,
    "sources": _Client._sources,
    "state": _Client._state,
    "watch": _Client._watch,
}


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or len(value) > 65536:
        raise UsageError(f"{key}: a text is wanted")
    return value


def _number(body: dict[str, Any], key: str, default: int) -> int:
    value = body.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value <= ID_MAX:
        raise UsageError(f"{key}: a number is wanted")
    return value


def _record(body: dict[str, Any], base: Record) -> Record:
    """`base`, with what the request says otherwise."""
    texts = {key: _text(body, key) for key in ("name", "definition", "driver", "origin") if key in body}
    if any("\0" in text for text in texts.values()):
        raise UsageError("a NUL is in no name")
    maps = {key: _map(body, key) for key in _MAPS if key in body}
    numbers = {key: _number(body, key, -1) for key in _NUMBERS}
    if numbers["mode"] > 0o777:
        raise UsageError("mode: 0 to 0777")
    poll_us = _number(body, "poll_us", base.poll_us)
    check_poll_us(poll_us)
    return Record(
        texts.get("name", base.name),
        texts.get("definition", base.definition),
        maps.get("names", base.names),
        maps.get("settings", base.settings),
        maps.get("safe", base.safe),
        bool(body.get("vm", base.vm)),
        poll_us,
        base.uid if numbers["uid"] < 0 else numbers["uid"],
        base.gid if numbers["gid"] < 0 else numbers["gid"],
        base.mode if numbers["mode"] < 0 else numbers["mode"],
        texts.get("driver", base.driver),
        bool(body.get("permanent", base.permanent)),
        texts.get("origin", base.origin),
        creator=base.creator,
    )


def _map(body: dict[str, Any], key: str) -> dict[str, str]:
    value = body[key]
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise UsageError(f"{key}: an object of texts is wanted")
    return dict(value)


def _default_gid() -> int:
    """The group that GPIO devices have, if there is one."""
    import grp

    if os.geteuid():
        return os.getegid()
    try:
        return grp.getgrnam("gpio").gr_gid
    except KeyError:
        return 0


def _creator(pidfd: int) -> list[int]:
    """[pid, start time] of the process that a pidfd is of; UsageError if it is none, or has ended."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
            pid = next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
    except (OSError, StopIteration, ValueError) as error:
        raise UsageError("lifetime: what came is no pidfd") from error
    started = process_start(pid) if pid > 0 else 0
    if not started:
        raise UsageError("lifetime: that process has ended already")
    return [pid, started]


def _summary(chip: VirtualChip) -> dict[str, Any]:
    record = chip.record
    return {
        "name": record.name,
        "definition": record.definition,
        "num_lines": len(record.places),
        "uid": record.uid,
        "gid": record.gid,
        "mode": record.mode,
        "state": chip.state,
        "trouble": chip.trouble,
        "permanent": record.permanent,
        "origin": record.origin,
        "driver": record.driver,
        "vm": chip.vm_path,
        "poll_us": record.poll_us,
        "device": chip.device_path,
        "worker": chip.link.pid,
        "restarts": chip.link.restarts,
        "creator": record.creator[0] if record.creator else None,
    }


def _source(chip: SourceChip) -> dict[str, Any]:
    infos = map(chip.line_info, range(chip.info.num_lines))
    return {
        "name": chip.info.name,
        "label": chip.info.label,
        "kind": "kernel" if chip.kind == "kernel" else "simulated",
        "lines": [
            {"name": info.name, "consumer": info.consumer, "direction": info.direction.name.lower()}
            for info in infos
        ],
    }


def _details(chip: VirtualChip, status: dict[str, Any] | None) -> dict[str, Any]:
    names = chip.names() if chip.lines else []
    told = {line["offset"]: line for line in status["lines"]} if status else {}
    settings, safe = (chip.settings(), chip.safe()) if chip.lines else ({}, {})
    lines = [
        {
            "offset": offset,
            "name": names[offset],
            "source": str(line.place),
            "there": line.file is not None,
            "direction": told.get(offset, {}).get("direction", "output" if line.is_output else "input"),
            "consumer": told.get(offset, {}).get("consumer", ""),
            "used": told.get(offset, {}).get("used", False),
            "settings": settings.get(offset, ""),
            "safe": safe.get(offset, ""),
        }
        for offset, line in enumerate(chip.lines)
    ]
    return {
        **_summary(chip),
        "names": chip.record.names,
        "settings": chip.record.settings,
        "safe": chip.record.safe,
        "lines": lines,
        "consumers": status["consumers"] if status else [],
        "vm_consumer": status["vm"] if status else None,
    }
