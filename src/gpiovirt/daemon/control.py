# SPDX-License-Identifier: MIT
"""The control socket: callers are identified by kernel peer credentials, and get what those allow.

The protocol is described in gpiovirt.control.client. Whoever may neither manage nor use a chip sees
nothing of it: for them it is not there. A caller has one question under way, and a share of each turn.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from gpiovirt import __version__
from gpiovirt.control.access import GROUP, ID_MAX, Identity, gid_of, identity_of
from gpiovirt.core.line import PLAIN
from gpiovirt.core.task import Future, start
from gpiovirt.core.text import printable
from gpiovirt.daemon.chip import KeptChip
from gpiovirt.daemon.custodian import DRIVERS, Custodian, take_numbered_name
from gpiovirt.daemon.store import Record, new_incarnation
from gpiovirt.errors import GpiovirtError, HostError, NoSuchDeviceError, PeerError, UsageError
from gpiovirt.host.child import process_start
from gpiovirt.host.packets import Channel, encode
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener, Peer, peer_of
from gpiovirt.virtual.definition import MODE, Definition
from gpiovirt.virtual.grammar import parse
from gpiovirt.virtual.options import format_options, parse_options

__all__ = ["ControlServer"]

_log = logging.getLogger(__name__)

_PER_PAGE = 64
_CLIENTS_PER_USER = 64
_WATCHERS_PER_USER = 16
_MESSAGES_PER_TURN = 4
_STATUS_S = 1.0
_CHANGES_MAX = 256
_TEXT_MAX = 65536
_PAGE_BYTES = 1 << 16
_DIGITS_MAX = 5
_SHOWN_MAX = 40


class DeniedError(UsageError):
    """The caller is not permitted to do this."""

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
        # looked up once: whoever knows groups may be far away, and take its time
        self.manager_gid = _gid_of(GROUP)
        self.default_gid = os.getegid() if self.uid else max(_gid_of("gpio"), 0)
        self.clients: list[_Client] = []
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._per_user = min(_CLIENTS_PER_USER, max(soft // 8, 2))
        self._listener = PathListener(path, Access(mode=0o666), socket.SOCK_SEQPACKET, replace=True)
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
        client = _Client(self, sock, identity, is_agent)
        if identity.uid != 0 and not is_agent and self.connected(identity.uid) >= self._per_user:
            client.refuse(
                HostError.of(
                    f"you have {self._per_user} connections to gpiovirtd already",
                    OSError(errno.EMFILE, "close one first"),
                )
            )
            sock.close()
            return
        self.clients.append(client)
        client.begin()

    def connected(self, uid: int) -> int:
        """How many connections this user has."""
        return sum(client.peer.uid == uid and not client.is_agent for client in self.clients)

    def watching(self, uid: int) -> int:
        """How many of them watch."""
        return sum(
            client.peer.uid == uid and client.watches and not client.is_agent for client in self.clients
        )

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
        self._channel = Channel(sock)
        self._unwatch: Callable[[], None] | None = None
        self._is_busy = False
        self._lost = 0
        self._owned: list[KeptChip] = []
        """Chips that end with the connection"""

    def begin(self) -> None:
        """Listen to it."""
        self._server.reactor.add_reader(self._channel.fileno(), self._receive, self._close)

    @property
    def watches(self) -> bool:
        """It is told events."""
        return self._unwatch is not None

    def _receive(self) -> None:
        try:
            for _ in range(_MESSAGES_PER_TURN):
                if self._is_busy:
                    # a question at a time: what comes meanwhile is looked at when this one is answered
                    self._server.reactor.remove_reader(self._channel.fileno())
                    self._server.reactor.add_hangup(self._channel.fileno(), self._close)
                    return
                if self not in self._server.clients or (message := self._channel.receive()) is None:
                    return
                self._handle(message.body)
        except EOFError:
            self._close()
        except PeerError as error:
            self.refuse(UsageError(str(error)))
            self._close()

    def _handle(self, body: dict[str, Any]) -> None:
        what = body.get("do")
        handler = _HANDLERS.get(what) if isinstance(what, str) else None
        try:
            who = self._who(body)
            if handler is None:
                raise UsageError(f"unknown request {what!r}; expected one of: {', '.join(_HANDLERS)}")
        except GpiovirtError as error:
            self.refuse(error)
            return
        outcome = start(handler(self, who, body))
        if outcome.is_done:
            self._settle(outcome, what)
            return
        self._is_busy = True

        def done() -> None:
            self._is_busy = False
            self._settle(outcome, what)
            if self in self._server.clients:
                self._server.reactor.remove_reader(self._channel.fileno())
                self.begin()

        outcome.then(done)

    def _settle(self, outcome: Future[Any], what: object) -> None:
        try:
            self._answer({"ok": outcome.result()})
        except GpiovirtError as error:
            self.refuse(error)
        except Exception as error:
            _log.exception("internal error answering %r", what)
            self._answer({"error": f"internal error in gpiovirtd: {error}", "errno": errno.EIO})

    def _who(self, body: dict[str, Any]) -> Identity:
        """Who asks: our peer, or whom they act for."""
        other = body.get("as")
        if other is None:
            return self.peer
        if self.peer.uid not in (0, self._server.uid) and not self.is_agent:
            raise DeniedError("only root, the daemon's own user and its HTTP API may act for others")
        match other:
            case {"uid": int(uid), "gids": list(gids)} if all(isinstance(gid, int) for gid in gids):
                return Identity(uid, frozenset(gids))
        raise UsageError("as: expected {uid, gids}")

    def _answer(self, answer: Mapping[str, Any]) -> None:
        try:
            self._channel.send(answer)
        except OSError:
            self._close()

    def refuse(self, error: GpiovirtError) -> None:
        """Say no."""
        where = {} if error.line is None else {"line": error.line}
        self._answer({"error": printable(str(error)), "errno": error.errno, **where})

    def tell(self, event: Mapping[str, Any], packet: bytes) -> None:
        """An event; one that a slow reader has no room for is counted, and the count told when there is."""
        try:
            if self._lost:
                self._channel.send({"event": "lost", "chip": event["chip"], "count": self._lost})
                self._lost = 0
            self._channel.send_packet(packet)
        except BlockingIOError:
            self._lost += 1
        except OSError:
            self._server.reactor.soon(self._close)

    def _close(self) -> None:
        if self not in self._server.clients:
            return
        self._server.clients.remove(self)
        self._server.reactor.remove_reader(self._channel.fileno())
        self._channel.close()
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        for chip in self._owned:
            if self._custodian.chips.get(chip.name) is chip:
                start(self._custodian.delete(chip.name, True))

    # what can be asked

    def _manages(self, who: Identity) -> bool:
        return who.may_manage(self._server.uid, self._server.manager_gid)

    def _check_manager(self, who: Identity) -> None:
        if not self._manages(who):
            raise DeniedError("only root and members of the group gpiovirt make, change and delete chips")

    def _sees(self, who: Identity, chip: KeptChip) -> bool:
        definition = chip.record.definition
        return who.may_use(definition.uid, definition.gid, definition.mode) or self._manages(who)

    def _seen(self, who: Identity) -> list[KeptChip]:
        chips = list(self._custodian.chips.values())
        if self._manages(who):
            return chips
        return [chip for chip in chips if self._sees(who, chip)]

    def _find(self, who: Identity, body: dict[str, Any]) -> KeptChip:
        name = _text(body, "name")
        chip = self._custodian.chips.get(name)
        if chip is None or not self._sees(who, chip):
            there = ", ".join(other.name for other in self._seen(who))
            raise NoSuchDeviceError(f"no chip {name!r}; the chips are: {there or 'none'}")
        return chip

    async def _new(self, who: Identity, body: dict[str, Any]) -> dict[str, Any]:
        self._check_manager(who)
        driver = _text(body, "driver", "")
        if driver and driver not in DRIVERS:
            raise UsageError(f"driver: {driver!r} is not one of {', '.join(DRIVERS)}")
        name = _text(body, "name", "")
        permanent = bool(body.get("permanent"))
        if name and (numbered := take_numbered_name(name)):
            if not permanent:
                raise UsageError(f"{name!r}: names of this form are reserved for new_device")
            driver = numbered
        if not name:
            driver = driver or DRIVERS[0]
            name = self._custodian.next_name(driver)
        default = {"uid": self._server.uid, "gid": self._server.default_gid}
        definition = Definition.parse(
            name, _text(body, "definition"), _options(body), **{**default, **_rest(body)}
        )
        creator, creator_fd = self._creator(body)
        record = Record(
            definition,
            driver,
            permanent,
            _text(body, "origin", ""),
            creator,
            incarnation=new_incarnation(),
        )
        chip = await self._custodian.new(record, creator_fd, creator is None and bool(body.get("wait")))
        if body.get("lifetime") == "connection":
            if self not in self._server.clients:
                await self._custodian.delete(name, True)
            self._owned.append(chip)
        return _summary(chip)

    @staticmethod
    def _creator(body: dict[str, Any]) -> tuple[tuple[int, int] | None, int]:
        """(process that the chip ends with, a pidfd of it)"""
        match body.get("lifetime"):
            case None:
                return None, -1
            case "connection":
                return (os.getpid(), process_start(os.getpid())), -1
            case "process":
                pid, started = _number(body, "pid", 0), _number(body, "started", 0, (1 << 63) - 1)
                try:
                    fd = os.pidfd_open(pid)
                except (OSError, OverflowError) as error:
                    raise UsageError(f"lifetime: there is no process {pid}") from error
                if not started or process_start(pid) != started:
                    os.close(fd)
                    raise UsageError("lifetime: that process has ended already")
                return (pid, started), fd
        raise UsageError("lifetime: expected connection or process")

    async def _delete(self, who: Identity, body: dict[str, Any]) -> dict[str, Any]:
        self._check_manager(who)
        await self._custodian.delete(_text(body, "name"), bool(body.get("force")))
        return {}

    async def _change(self, who: Identity, body: dict[str, Any]) -> dict[str, Any]:
        self._check_manager(who)
        name = self._find(who, body).name
        force = bool(body.get("force"))
        (chip,) = await self._custodian.change([name], lambda chip: _changed(chip, body), force)
        return _summary(chip)

    async def _change_all(self, who: Identity, body: dict[str, Any]) -> list[dict[str, Any]]:
        self._check_manager(who)
        changes = body.get("changes")
        if not isinstance(changes, list) or not 0 < len(changes) <= _CHANGES_MAX:
            raise UsageError(f"changes: expected a list of 1 to {_CHANGES_MAX}")
        if not all(isinstance(change, dict) for change in changes):
            raise UsageError("changes: expected objects, as of change")
        names = [self._find(who, change).name for change in changes]
        by_name = dict(zip(names, changes, strict=True))
        force = bool(body.get("force"))
        made = await self._custodian.change(names, lambda chip: _changed(chip, by_name[chip.name]), force)
        return [_summary(chip) for chip in made]

    async def _set(self, who: Identity, body: dict[str, Any]) -> dict[str, Any]:
        """Options of some lines, the others as they are."""
        self._check_manager(who)
        name = self._find(who, body).name
        (changed,) = await self._custodian.change(
            [name], lambda chip: _with_options(chip, body), bool(body.get("force"))
        )
        return _summary(changed)

    async def _own(self, who: Identity, body: dict[str, Any]) -> dict[str, Any]:
        self._check_manager(who)
        chip = self._find(who, body)
        uid, gid, mode = (_number(body, key, -1) for key in ("uid", "gid", "mode"))
        await self._custodian.own(chip, uid, gid, mode)
        return _summary(chip)

    async def _save(self, who: Identity, body: dict[str, Any]) -> dict[str, Any]:
        self._check_manager(who)
        chip = self._find(who, body)
        origin = _text(body, "origin") if "origin" in body else None
        await self._custodian.make_permanent(chip, bool(body.get("permanent", True)), origin)
        return _summary(chip)

    async def _list(self, who: Identity, body: dict[str, Any]) -> dict[str, Any]:
        after = _text(body, "after", "")
        seen = sorted((chip.name, chip) for chip in self._seen(who) if chip.name > after)
        page: list[dict[str, Any]] = []
        size = 0
        for _, chip in seen[:_PER_PAGE]:
            page.append(_summary(chip))
            size += len(encode(page[-1]))
            if size > _PAGE_BYTES:
                break
        return {"chips": page, "more": len(seen) > len(page)}

    async def _look(self, who: Identity, body: dict[str, Any]) -> dict[str, Any]:
        return _summary(self._find(who, body))

    async def _describe(self, who: Identity, body: dict[str, Any]) -> dict[str, Any]:
        chip = self._find(who, body)
        return {**_summary(chip), "options": chip.record.definition.texts()}

    async def _show(self, who: Identity, body: dict[str, Any]) -> dict[str, Any]:
        chip = self._find(who, body)
        return _details(chip, await chip.status(_STATUS_S))

    async def _sources(self, who: Identity, _body: dict[str, Any]) -> list[dict[str, Any]]:
        self._check_manager(who)
        return await self._custodian.list_sources()

    async def _state(self, who: Identity, _body: dict[str, Any]) -> dict[str, Any]:
        seen = self._seen(who)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "chips": len(seen),
            "live": sum(chip.state == "live" for chip in seen),
            "lines": sum(len(chip.lines) for chip in seen),
            "restarts": sum(chip.handle.restarts for chip in seen),
            "watchers": self._custodian.num_watchers,
            "default": {"uid": self._server.uid, "gid": self._server.default_gid, "mode": MODE},
            "manager": self._manages(who),
        }

    async def _watch(self, who: Identity, body: dict[str, Any]) -> dict[str, Any]:
        name = body.get("name")
        if name is not None:
            self._find(who, body)
        is_limited = self.peer.uid != 0 and not self.is_agent
        if is_limited and self._server.watching(self.peer.uid) >= _WATCHERS_PER_USER:
            raise DeniedError(f"you have {_WATCHERS_PER_USER} watches already; end one first")
        manages = self._manages(who)

        def watcher(chip: KeptChip, event: Mapping[str, Any]) -> None:
            if (name is None or chip.name == name) and (manages or self._sees(who, chip)):
                self.tell(event, encode(event))

        if self._unwatch is None:
            self._unwatch = self._custodian.watch(watcher)
        return {}


def _changed(chip: KeptChip, body: dict[str, Any]) -> Record:
    """The chip's record, with what a request says otherwise."""
    record, definition = chip.record, chip.record.definition
    lines = _text(body, "definition", definition.lines)
    options = _options(body) if "options" in body else definition.options_for(parse(lines))
    rest = {key: getattr(definition, key) for key in ("vm", "poll_us", "uid", "gid", "mode")}
    return record._replace(
        definition=Definition.parse(record.name, lines, options, **{**rest, **_rest(body)}),
        permanent=bool(body.get("permanent", record.permanent)),
        origin=_text(body, "origin", record.origin),
    )


def _with_options(chip: KeptChip, body: dict[str, Any]) -> Record:
    """The chip's record, with what a request says of some lines."""
    definition = chip.record.definition
    if not chip.lines:
        raise UsageError(f"{chip.name} waits for its lines; their options can be set when they are there")
    wanted = dict(definition.texts())
    names = chip.names()
    for key, text in _options(body).items():
        if key.isdecimal():
            offset = int(key) if len(key) <= _DIGITS_MAX else len(names)
        elif names.count(key) == 1:
            offset = names.index(key)
        else:
            raise UsageError(f"{chip.name} has no line {key[:_SHOWN_MAX]!r}; use its offset or name")
        if not 0 <= offset < len(names):
            raise UsageError(
                f"{chip.name} has no line {key[:_SHOWN_MAX]}; its offsets are 0 to {len(names) - 1}"
            )
        former = PLAIN if body.get("replace") else definition.by_offset()[offset]
        wanted[str(offset)] = format_options(parse_options(text, former))
    options = {key: parse_options(text) for key, text in wanted.items()}
    return chip.record._replace(definition=definition._replace(options=options))


_Handler = Callable[[_Client, Identity, dict[str, Any]], Coroutine[Any, None, Any]]
_HANDLERS: dict[str, _Handler] = {
    "new": _Client._new,
    "delete": _Client._delete,
    "change": _Client._change,
    "change-all": _Client._change_all,
    "set": _Client._set,
    "own": _Client._own,
    "list": _Client._list,
    "look": _Client._look,
    "describe": _Client._describe,
    "show": _Client._show,
    "save": _Client._save,
    "sources": _Client._sources,
    "state": _Client._state,
    "watch": _Client._watch,
}


def _text(body: dict[str, Any], key: str, default: str | None = None) -> str:
    value = body.get(key, default)
    if not isinstance(value, str) or len(value) > _TEXT_MAX:
        raise UsageError(f"{key}: expected a string")
    if "\0" in value and key != "name":  # no chip has one: it is not found
        raise UsageError(f"{key}: a NUL cannot be in a name")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise UsageError(f"{key}: expected a string of characters")
    return value


def _number(body: dict[str, Any], key: str, default: int, most: int = ID_MAX) -> int:
    value = body.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value <= most:
        raise UsageError(f"{key}: expected a number")
    return value


def _options(body: dict[str, Any]) -> dict[str, str]:
    value = body.get("options", {})
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise UsageError("options: expected an object of strings, by line")
    return dict(value)


def _rest(body: dict[str, Any]) -> dict[str, Any]:
    """What else a definition has, as far as it is given: -1 leaves owner, group and mode."""
    given: dict[str, Any] = {
        key: number for key in ("uid", "gid", "mode") if (number := _number(body, key, -1)) >= 0
    }
    if "vm" in body:
        given["vm"] = bool(body["vm"])
    if "poll_us" in body:
        given["poll_us"] = _number(body, "poll_us", 0)
    return given


def _gid_of(group: str) -> int:
    """Of the group of that name; -1 if there is none."""
    try:
        return gid_of(group)
    except UsageError:
        return -1


def _summary(chip: KeptChip) -> dict[str, Any]:
    record, definition = chip.record, chip.record.definition
    return {
        "name": record.name,
        "definition": definition.lines,
        "num_lines": definition.num_lines,
        "uid": definition.uid,
        "gid": definition.gid,
        "mode": definition.mode,
        "state": chip.state,
        "trouble": chip.trouble,
        "permanent": record.permanent,
        "origin": record.origin,
        "driver": record.driver,
        "vm": chip.vm_path,
        "poll_us": definition.poll_us,
        "device": chip.device_path,
        "worker": chip.handle.pid,
        "restarts": chip.handle.restarts,
        "creator": record.creator[0] if record.creator else None,
    }


def _details(chip: KeptChip, status: dict[str, Any] | None) -> dict[str, Any]:
    names, options, held = chip.names(), chip.options(), set(chip.held())
    lines = []
    for offset, line in enumerate(chip.lines):
        told = status["lines"][offset] if status else {}
        lines.append(
            {
                "offset": offset,
                "name": names[offset],
                "source": str(line.address),
                "there": line.file is not None,
                "direction": told.get("direction", "output" if line.is_output else "input"),
                "consumer": told.get("consumer", ""),
                "used": told.get("used", offset in held),
                "options": format_options(options[offset]),
            }
        )
    return {
        **_summary(chip),
        "options": chip.record.definition.texts(),
        "lines": lines,
        "consumers": status["consumers"] if status else [],
        "vm_consumer": status["vm"] if status else None,
    }
