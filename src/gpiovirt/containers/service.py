# SPDX-License-Identifier: MIT
"""The process that listens: it gives each connection a process of its own, and never reads one itself.

What comes there may have files that hang whoever closes them, so only that process takes them, as the user
that connected. It asks us for what takes our rights: which chip a container may have, and directories.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from fcntl import ioctl
from typing import Any, NoReturn

from gpiovirt.containers.directories import ContainerDirectories
from gpiovirt.control.access import Identity, identity_of
from gpiovirt.errors import GpiovirtError, HostError, PeerError
from gpiovirt.host import libc
from gpiovirt.host.confine import keep_capabilities
from gpiovirt.host.journal import start_logging
from gpiovirt.host.log import RateLimitedLog
from gpiovirt.host.packets import Channel
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import SocketListener
from gpiovirt.protocols.oci import decode_metadata

__all__ = ["Service"]

_log = logging.getLogger(__name__)

_PROCESSES_OF_A_USER = 128
_PROCESSES_OF_USERS = 1024  # all but root, together: a user has thousands of subordinate uids
_MESSAGES_PER_TURN = 8


class Service:
    """Accepts at `listener`; `serve` is what a process does with its connection, and never returns."""

    def __init__(
        self,
        listener: SocketListener,
        directories: ContainerDirectories,
        reactor: Reactor,
        serve: Callable[[socket.socket, Identity, Channel], NoReturn],
    ) -> None:
        self._listener = listener
        self._directories = directories
        self._reactor = reactor
        self._serve = serve
        self._log = RateLimitedLog(_log, "containers")
        self._by_uid: Counter[int] = Counter()
        self._owned: set[str] = set()
        """Terminals that have a process of ours as their session"""
        directories.make()
        reactor.add_reader(listener.socket.fileno(), self._accept)

    # processes

    def _accept(self) -> None:
        try:
            sock = self._listener.accept()
        except HostError as error:
            self._log.complain(str(error))
            return
        if sock is None:
            return
        with sock:
            who = identity_of(sock)
            if os.geteuid() not in (0, who.uid):
                self._log.complain(f"uid {who.uid} has connected to a service of another user's")
            elif who.uid and self._by_uid[who.uid] >= _PROCESSES_OF_A_USER:
                self._log.complain(f"uid {who.uid} has {_PROCESSES_OF_A_USER} containers or programs in them")
            elif who.uid and self._by_uid.total() - self._by_uid[0] >= _PROCESSES_OF_USERS:
                self._log.complain(f"users have {_PROCESSES_OF_USERS} containers or programs in them")
            else:
                self._fork(sock, who)

    def _fork(self, sock: socket.socket, who: Identity) -> None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                child = os.fork()
            except OSError:
                ours.close()
                theirs.close()
                raise
        except OSError as error:
            self._log.complain(f"no process for a container: {error.strerror}")
            return
        if not child:
            self._be(sock, who, theirs)
        theirs.close()
        self._by_uid[who.uid] += 1
        channel = Channel(ours)

        def on_end() -> None:
            self._reactor.remove_reader(channel.fileno())
            channel.close()
            self._by_uid[who.uid] -= 1
            if not self._by_uid[who.uid]:
                del self._by_uid[who.uid]

        self._watch(child, on_end)
        self._reactor.add_reader(channel.fileno(), lambda: self._receive(channel, who))

    def _watch(self, child: int, on_end: Callable[[], object]) -> None:
        pidfd = os.pidfd_open(child)

        def ended() -> None:
            self._reactor.remove_reader(pidfd)
            os.close(pidfd)
            os.waitpid(child, 0)
            on_end()

        self._reactor.add_reader(pidfd, ended)

    def _be(self, sock: socket.socket, who: Identity, theirs: socket.socket) -> NoReturn:
        """The process of a connection."""
        status = 1
        try:
            _begin_anew()
            root = logging.getLogger()
            for handler in list(root.handlers):  # whose files are about to be somebody else's
                root.removeHandler(handler)
                handler.close()
            kept = sorted((2, sock.fileno(), theirs.fileno()))
            for low, high in zip([-1, *kept], [*kept, os.sysconf("SC_OPEN_MAX")], strict=True):
                os.closerange(low + 1, high)
            for _ in (0, 1):
                os.open(os.devnull, os.O_RDWR)
            start_logging("gpiovirtd")
            self._serve(sock, who, Channel(theirs, 64))
        except GpiovirtError as error:
            _log.warning("containers: %s", error)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    # what they ask

    def _receive(self, channel: Channel, who: Identity) -> None:
        with suppress(EOFError, OSError, PeerError):
            for _ in range(_MESSAGES_PER_TURN):
                if (message := channel.receive()) is None:
                    return
                if complaint := message.body.get("complaint"):
                    self._log.complain(f"uid {who.uid}: {complaint}")
                else:
                    self._answer(channel, who, message.body)
            return
        self._reactor.remove_reader(channel.fileno())

    def _answer(self, channel: Channel, who: Identity, body: dict[str, Any]) -> None:
        claims: list[int] = []
        try:
            chips = decode_metadata(body.get("chips"))
            for chip in chips.values():
                self._see_to_session(self._directories.node(chip))
                _open_to_all(self._directories.node(chip))
                if not self._directories.may_use(chip, who):
                    raise PermissionError(errno.EACCES, f"uid {who.uid} may not use the chip {chip}")
            if container := body.get("container"):
                claims += [self._directories.claim(chip, f"{who.uid} {container}") for chip in chips.values()]
                channel.send({}, claims)
            else:
                for chip in chips.values():
                    self._directories.check_free(chip)
                bus, char = self._directories.layers(chips)
                channel.send({"bus": bus, "char": char})
        except (GpiovirtError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            channel.send({"errno": error.errno or errno.EIO, "why": why})
        finally:
            for fd in claims:
                os.close(fd)

    def _see_to_session(self, terminal: str) -> None:
        """Have the terminal belong to a session, or the next session leader to open it gets it as its own."""
        if terminal in self._owned or not terminal.startswith("/dev/pts/"):
            return
        if child := os.fork():
            self._owned.add(terminal)
            self._watch(child, lambda: self._owned.discard(terminal))
            return
        try:  # it ends when the other end of the terminal is closed: SIGHUP
            _begin_anew()
            keep_capabilities()
            libc.prctl(libc.PR_SET_NAME, b"gpiovirt-tty")
            slave = os.open(terminal, os.O_RDWR | os.O_NOCTTY)
            import termios

            ioctl(slave, termios.TIOCSCTTY, 0)
            os.closerange(0, slave)
            os.closerange(slave + 1, os.sysconf("SC_OPEN_MAX"))
            while True:
                signal.pause()
        finally:  # it has an owner from before us
            os._exit(0)


def _open_to_all(terminal: str) -> None:
    """Anybody can have a terminal that they may open refuse whoever opens it next; that is undone here."""
    import termios

    with suppress(OSError):  # as another than root, who alone can open it then
        fd = os.open(terminal, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            ioctl(fd, termios.TIOCNXCL)
        finally:
            os.close(fd)


def _begin_anew() -> None:
    """A process that was forked has a session of its own, and signals end it."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
