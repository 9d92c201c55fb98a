# SPDX-License-Identifier: MIT
"""The control socket: callers are identified by kernel peer credentials, and get what those allow.

What can be said is in gpiovirt.protocols.control. Whoever may neither manage nor use a chip sees
nothing of it: for them it is not there. A caller has one question under way, and a share of each turn.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from gpiovirt import __version__
from gpiovirt.control.access import GROUP, Identity, gid_of, identity_of, whose
from gpiovirt.core.record import What
from gpiovirt.core.task import Future, start
from gpiovirt.daemon.answers import chip_description, chip_details, chip_state
from gpiovirt.daemon.chip import KeptChip
from gpiovirt.daemon.custodian import Custodian
from gpiovirt.daemon.wanted import changed, line_of, lines_of, new_record, with_options
from gpiovirt.errors import GpiovirtError, HostError, NoSuchDeviceError, PeerError, UsageError
from gpiovirt.host.child import process_start
from gpiovirt.host.log import RateLimitedLog
from gpiovirt.host.packets import Channel, close_files, encode
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener, Peer, peer_of
from gpiovirt.protocols.control.answers import (
    ChipState,
    DaemonState,
    Event,
    Forced,
    ForceEvent,
    Levels,
    LossEvent,
    Ownership,
    Page,
    Rearmed,
    SourcePage,
    acceptance,
    encode_answer,
    refusal,
)
from gpiovirt.protocols.control.requests import (
    Change,
    ChangeAll,
    Delete,
    Describe,
    Drive,
    Force,
    List,
    Look,
    New,
    Own,
    Read,
    Rearm,
    Request,
    Save,
    SetOptions,
    Show,
    Sources,
    State,
    Watch,
    decode_acting_for,
    decode_request,
)
from gpiovirt.virtual.definition import MODE

__all__ = ["ControlServer"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_PER_PAGE = 64
_CLIENTS_PER_USER = 64
_CLIENTS_OF_USERS = 2048  # all but root, together
_WATCHERS_PER_USER = 16
_MESSAGES_PER_TURN = 4
_STATUS_S = 1.0
_PAGE_BYTES = 1 << 16


_NOTED: Mapping[type[Request[Any]], What] = {
    New: What.MADE,
    Delete: What.DELETED,
    Change: What.CHANGED,
    ChangeAll: What.CHANGED,
    SetOptions: What.CHANGED,
    Own: What.CHANGED,
    Save: What.CHANGED,
    Rearm: What.REARMED,
    Force: What.FORCED,
}


_LEVELS: Mapping[str | None, int] = {"low": 0, "high": 1, None: 2}


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
        default_gid = os.getegid() if self.uid else max(_gid_of("gpio"), 0)
        self.default = Ownership(self.uid, default_gid, MODE)
        self.clients: list[_Client] = []
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._per_user = min(_CLIENTS_PER_USER, max(soft // 8, 2))
        self._of_users = min(_CLIENTS_OF_USERS, max(soft // 2, 2))
        self._log = RateLimitedLog(_log, "control")
        self._listener = PathListener(path, Access(mode=0o666), socket.SOCK_SEQPACKET, replace=True)
        reactor.add_reader(self._listener.socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock = self._listener.accept()
        except HostError as error:
            self._log.complain(str(error))
            return
        if sock is None:
            return
        identity = identity_of(sock)
        is_agent = self._is_agent(peer_of(sock))
        client = _Client(self, sock, identity, is_agent)
        if identity.uid != 0 and not is_agent and (why := self._full(identity.uid)):
            client.refuse(HostError.of(why, OSError(errno.EMFILE, "close one first")))
            sock.close()
            return
        self.clients.append(client)
        client.begin()

    def _full(self, uid: int) -> str:
        """Why a user may not have one more connection; a user can be thousands, by subordinate uids."""
        if self.connected(uid) >= self._per_user:
            return f"you have {self._per_user} connections to gpiovirtd already"
        if sum(client.peer.uid != 0 and not client.is_agent for client in self.clients) >= self._of_users:
            return f"users have {self._of_users} connections to gpiovirtd already"
        return ""

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
        self._pid = peer_of(sock).pid
        self._unwatch: Callable[[], None] | None = None
        self._is_busy = False
        self._lost = 0
        self._owned: list[KeptChip] = []
        """Chips that end with the connection"""
        self._held: list[int] = []
        """Files of the lines that it holds"""

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

    def _handle(self, body: Mapping[str, Any]) -> None:
        try:
            who = self._who(body.get("as"))
            request = decode_request(body)
        except GpiovirtError as error:
            self.refuse(error)
            return
        outcome = start(self._do(who, request))
        if outcome.is_done:
            self._settle(outcome, request)
            return
        self._is_busy = True

        def done() -> None:
            self._is_busy = False
            self._settle(outcome, request)
            if self in self._server.clients:
                self._server.reactor.remove_reader(self._channel.fileno())
                self.begin()

        outcome.then(done)

    def _settle(self, outcome: Future[object], request: object) -> None:
        try:
            self._answer(acceptance(outcome.result()))
        except GpiovirtError as error:
            self.refuse(error)
        except Exception as error:
            _log.exception("internal error answering a %s", type(request).__name__)
            self.refuse(HostError(f"internal error in gpiovirtd: {error}"))

    def _who(self, other: object) -> Identity:
        """Who asks: our peer, or whom they act for."""
        if other is None:
            return self.peer
        if self.peer.uid not in (0, self._server.uid) and not self.is_agent:
            raise DeniedError("only root, the daemon's own user and its HTTP API may act for others")
        return Identity(*decode_acting_for(other))

    def _answer(self, answer: Mapping[str, Any]) -> None:
        try:
            self._channel.send(answer)
        except OSError:
            self._close()

    def refuse(self, error: GpiovirtError) -> None:
        """Say no."""
        self._answer(refusal(error))

    def _tell(self, event: Event) -> None:
        """An event; one that a slow reader has no room for is counted, and the count told when there is."""
        try:
            if self._lost:
                self._channel.send(encode_answer(LossEvent("lost", event.chip, self._lost)))
                self._lost = 0
            self._channel.send(encode_answer(event))
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
        self._let_go()
        for chip in self._owned:
            if self._custodian.chips.get(chip.name) is chip:
                start(self._custodian.delete(chip.name, True))

    # who may

    def _manages(self, who: Identity) -> bool:
        return who.may_manage(self._server.uid, self._server.manager_gid)

    def _sees(self, who: Identity, chip: KeptChip) -> bool:
        definition = chip.record.definition
        return who.may_use(definition.uid, definition.gid, definition.mode) or self._manages(who)

    def _seen(self, who: Identity) -> list[KeptChip]:
        chips = list(self._custodian.chips.values())
        if self._manages(who):
            return chips
        return [chip for chip in chips if self._sees(who, chip)]

    def _find(self, who: Identity, name: str) -> KeptChip:
        chip = self._custodian.chips.get(name)
        if chip is None or not self._sees(who, chip):
            there = ", ".join(other.name for other in self._seen(who))
            raise NoSuchDeviceError(f"no chip {name!r}; the chips are: {there or 'none'}")
        return chip

    # what is done

    async def _do(self, who: Identity, asked: Request[Any]) -> object:
        """What anybody may ask, of chips that they see."""
        match asked:
            case List():
                return self._page(who, asked.after)
            case Look():
                return chip_state(self._find(who, asked.name))
            case Describe():
                return chip_description(self._find(who, asked.name))
            case Show():
                chip = self._find(who, asked.name)
                return chip_details(chip, await chip.status(_STATUS_S), asked.first)
            case Read():
                chip = self._find(who, asked.name)
                lines = lines_of(chip, asked.lines) or range(len(chip.lines))
                return await chip.levels(lines, _STATUS_S)
            case Drive():
                return await self._drive(who, asked)
            case State():
                return self._state(who)
            case Watch():
                self._watch(who, asked.name)
                return None
        if not self._manages(who):
            raise DeniedError("only root and members of the group gpiovirt manage chips")
        answer = await self._manage(who, asked)
        self._note(who, asked, answer)
        return answer

    def _note(self, who: Identity, asked: Request[Any], answer: object) -> None:
        """For the record: who has made, changed or deleted a chip."""
        recorder = self._custodian.recorder
        what = _NOTED.get(type(asked))
        if recorder is None or what is None:
            return
        if isinstance(asked, Force):
            level = _LEVELS[asked.level]
            where = f"line {asked.line}" if asked.line else ""
            recorder.note(what, asked.name, who.uid, 0 if self.is_agent else self._pid, where, level)
            return
        names = [change.name for change in asked.changes] if isinstance(asked, ChangeAll) else []
        for name in names or [answer.name if isinstance(answer, ChipState) else getattr(asked, "name", "")]:
            recorder.note(what, name, who.uid, 0 if self.is_agent else self._pid)

    async def _drive(self, who: Identity, asked: Drive) -> Levels:
        """What whoever may open the chip may; the lines are held by our peer, in the name of `who`."""
        chip = self._find(who, asked.name)
        definition = chip.record.definition
        if not who.may_use(definition.uid, definition.gid, definition.mode):
            words = whose(definition.uid, definition.gid, definition.mode)
            raise DeniedError(f"cannot open the chip {chip.name}: {words}")
        if self._held:
            raise UsageError("this connection holds lines already; one request for each")
        offsets = lines_of(chip, list(asked.levels))
        levels = dict(zip(offsets, asked.levels.values(), strict=True))
        told, files = await chip.drive(levels, asked.consumer, self._pid, who.uid, asked.hold, _STATUS_S)
        self._held = files
        if self not in self._server.clients:
            self._let_go()
        return told

    def _let_go(self) -> None:
        close_files(self._held)
        self._held = []

    async def _manage(self, who: Identity, asked: Request[Any]) -> object:
        """What managers may."""
        custodian = self._custodian
        match asked:
            case New():
                return chip_state(await self._new(asked))
            case Delete():
                await custodian.delete(asked.name, asked.force)
                return None
            case Change():
                (state,) = await self._change([asked], asked.force)
                return state
            case ChangeAll():
                return await self._change(asked.changes, asked.force)
            case SetOptions():
                (chip,) = await custodian.change(
                    [asked.name], lambda chip: with_options(chip, asked), asked.force
                )
                return chip_state(chip)
            case Force():
                return Forced(await self._force(who, custodian.find(asked.name), asked))
            case Rearm():
                return Rearmed(await custodian.find(asked.name).rearm())
            case Own():
                chip = custodian.find(asked.name)
                await custodian.own(chip, asked.uid, asked.gid, asked.mode)
                return chip_state(chip)
            case Save():
                chip = custodian.find(asked.name)
                await custodian.make_permanent(chip, asked.permanent, asked.origin)
                return chip_state(chip)
            case Sources():
                return SourcePage(*_page_of((await custodian.list_sources())[asked.first :]))
        raise NotImplementedError(asked)

    async def _force(self, who: Identity, chip: KeptChip, asked: Force) -> int:
        """How many lines that changes."""
        offsets = [line_of(chip, asked.line)] if asked.line else range(len(chip.lines))
        if asked.level is not None and not asked.line:
            raise UsageError("line: which one is to be forced?")
        done = 0
        for offset in offsets:
            if await chip.force(offset, asked.level, asked.for_ms):
                level = asked.level or ""
                self._custodian.on_event(
                    chip,
                    ForceEvent(
                        "line-forced" if level else "line-unforced",
                        chip.name,
                        offset,
                        chip.name_of(offset),
                        level,
                        who.uid,
                    ),
                )
                done += 1
        return done

    async def _new(self, asked: New) -> KeptChip:
        record = new_record(asked, self._server.default, self._custodian.next_name)
        creator, creator_fd = _creator(asked)
        may_wait = creator is None and asked.wait
        chip = await self._custodian.new(record._replace(creator=creator), creator_fd, may_wait)
        if asked.lifetime == "connection":
            if self not in self._server.clients:
                await self._custodian.delete(chip.name, True)
            self._owned.append(chip)
        return chip

    async def _change(self, changes: Sequence[Change], force: bool) -> tuple[ChipState, ...]:
        by_name = {change.name: change for change in changes}
        chips = await self._custodian.change(
            [change.name for change in changes], lambda chip: changed(chip, by_name[chip.name]), force
        )
        return tuple(map(chip_state, chips))

    def _page(self, who: Identity, after: str) -> Page:
        seen = sorted((chip.name, chip) for chip in self._seen(who) if chip.name > after)
        page, _ = _page_of(chip_state(chip) for _, chip in seen[:_PER_PAGE])
        return Page(page, len(seen) > len(page))

    def _state(self, who: Identity) -> DaemonState:
        seen = self._seen(who)
        return DaemonState(
            version=__version__,
            pid=os.getpid(),
            chips=len(seen),
            live=sum(chip.state == "live" for chip in seen),
            lines=sum(len(chip.lines) for chip in seen),
            restarts=sum(chip.handle.restarts for chip in seen),
            watchers=self._custodian.num_watchers,
            default=self._server.default,
            manager=self._manages(who),
        )

    def _watch(self, who: Identity, name: str | None) -> None:
        if name is not None:
            self._find(who, name)
        is_limited = self.peer.uid != 0 and not self.is_agent
        if is_limited and self._server.watching(self.peer.uid) >= _WATCHERS_PER_USER:
            raise DeniedError(f"you have {_WATCHERS_PER_USER} watches already; end one first")
        manages = self._manages(who)

        def watcher(chip: KeptChip, event: Event) -> None:
            if name in (None, chip.name) and (manages or self._sees(who, chip)):
                self._tell(event)

        if self._unwatch is None:
            self._unwatch = self._custodian.watch(watcher)


def _page_of(all_there_is: Iterable[_T]) -> tuple[tuple[_T, ...], bool]:
    """As many of the first ones as an answer has room for, and whether there are more."""
    page: list[_T] = []
    size = 0
    for one in all_there_is:
        size += len(encode(encode_answer(one)))
        if page and size > _PAGE_BYTES:
            return tuple(page), True
        page.append(one)
    return tuple(page), False


def _gid_of(group: str) -> int:
    """Of the group of that name; -1 if there is none."""
    try:
        return gid_of(group)
    except UsageError:
        return -1


def _creator(asked: New) -> tuple[tuple[int, int] | None, int]:
    """(process that the chip ends with, a pidfd of it)"""
    match asked.lifetime:
        case None:
            return None, -1
        case "connection":
            return (os.getpid(), process_start(os.getpid())), -1
    try:
        fd = os.pidfd_open(asked.pid)
    except (OSError, OverflowError) as error:
        raise UsageError(f"lifetime: there is no process {asked.pid}") from error
    if not asked.started or process_start(asked.pid) != asked.started:
        os.close(fd)
        raise UsageError("lifetime: that process has ended already")
    return (asked.pid, asked.started), fd
