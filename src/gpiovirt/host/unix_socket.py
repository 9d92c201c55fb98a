# SPDX-License-Identifier: MIT
"""A listening Unix socket with owner, group and mode, and the peers that connect to it."""

import errno
import os
import socket
import stat
import time
from contextlib import suppress
from struct import Struct
from typing import NamedTuple

from gpiovirt.errors import HostError

__all__ = ["Access", "PathListener", "Peer", "SocketListener", "limit_waits", "peer_of", "refuse_files"]

_BACKLOG = 8
_PAUSE_S = 0.005  # while a connection can be neither accepted nor refused
_SO_PASSRIGHTS = 83  # asm-generic/socket.h, Linux 6.16
_ucred = Struct("iII")  # unix(7): pid, uid, gid
_TIMEO_NEW = 66  # asm-generic/socket.h: SO_RCVTIMEO_NEW, of whoever has 32 bits and a time of 64
_timeval = Struct("qq" if socket.SO_RCVTIMEO == _TIMEO_NEW else "ll")


class Access(NamedTuple):
    """Who may connect: uid and gid (-1: ours) and the mode of the socket."""

    uid: int = -1
    gid: int = -1
    mode: int = 0o660


class Peer(NamedTuple):
    """The peer of a connection, as the kernel knows it; `name` is the program's, if visible."""

    pid: int
    uid: int
    gid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name or 'a process'} (pid {self.pid}, uid {self.uid})"


def limit_waits(sock: socket.socket, seconds: float, *options: int) -> None:
    """Have what waits at a socket fail with EAGAIN after so long; `options` are SO_RCVTIMEO, SO_SNDTIMEO."""
    timeval = _timeval.pack(int(seconds), int(seconds % 1 * 1e6))
    for option in options:
        sock.setsockopt(socket.SOL_SOCKET, option, timeval)


def peer_of(connection: socket.socket) -> Peer:
    """SO_PEERCRED of a connected Unix socket."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _ucred.size)
    pid, uid, gid = _ucred.unpack(credentials)
    name = ""
    with suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
        name = "".join(c if c.isprintable() else "?" for c in comm.read().strip())
    return Peer(pid, uid, gid, name)


def refuse_files(sock: socket.socket) -> None:
    """Have the kernel refuse files sent to this socket, or to one that it accepts, where it can.

    Where it cannot, a receiver that leaves no room for files never gets them either, but no sender is told.
    """
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


class SocketListener:
    """Accepts on a socket that listens already; this object owns it from now on."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.setblocking(False)
        # a spare open file: giving it up helps when this process, or the system, has too many
        self._reserve = os.eventfd(0)

    def __str__(self) -> str:
        return str(self.socket.getsockname())

    def accept(self) -> socket.socket | None:
        """The next connection, if any. HostError if it had to be refused for lack of fds."""
        try:
            connection, _ = self.socket.accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                return None
            self._turn_away()
            raise HostError.of(f"a connection to {self} was turned away", error) from error
        connection.setblocking(False)
        return connection

    def _turn_away(self) -> None:
        """Otherwise the loop would find it waiting for ever."""
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
        try:
            self.socket.accept()[0].close()
        except BlockingIOError:
            pass
        except OSError:
            time.sleep(_PAUSE_S)
        with suppress(OSError):
            self._reserve = os.eventfd(0)

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1


class PathListener(SocketListener):
    """Listens at a path: a socket that nobody serves is replaced, one that is served is left alone.

    With `replace`, for a directory that is all ours, that is replaced, too, and there is one at any time: who
    comes back to a former one would take it for deleted. Nobody can connect before owner, group and mode are
    set. HostError if it cannot be made.
    """

    def __init__(
        self,
        path: str,
        access: Access,
        kind: socket.SocketKind = socket.SOCK_STREAM,
        replace: bool = False,
    ) -> None:
        self.path = path
        self._file: tuple[int, int] | None = None
        made = path
        if replace and os.path.lexists(path):
            folder, name = os.path.split(path)
            made = f"{folder}/.{name}"
            with suppress(OSError):  # of a process that was killed here
                os.unlink(made)
        else:
            self._remove_stale(path, kind)
        try:
            super().__init__(socket.socket(socket.AF_UNIX, kind))
        except OSError as error:
            raise HostError.of(f"cannot make the socket {path}", error) from error
        try:
            umask = os.umask(0o777)  # until chmod, only root could, and nobody listens
            try:
                self.socket.bind(made)
            finally:
                os.umask(umask)
            status = os.lstat(made)
            self._file = status.st_dev, status.st_ino
            os.chown(made, access.uid, access.gid, follow_symlinks=False)
            os.chmod(made, access.mode)
            self.socket.listen(_BACKLOG)
            os.rename(made, path)
        except OSError as error:
            self.close()
            raise HostError.of(f"cannot make the socket {path}", error) from error

    def __str__(self) -> str:
        return self.path

    @staticmethod
    def _remove_stale(path: str, kind: socket.SocketKind) -> None:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise HostError.of(f"cannot make the socket {path}", error) from error
        if not stat.S_ISSOCK(status.st_mode):
            raise HostError(f"{path} exists and is not a socket; choose another path")
        with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
                return
            except OSError as error:
                raise HostError.of(f"the socket {path} seems to be in use", error) from error
        raise HostError(
            f"the socket {path} is in use by a running server; choose another, or stop that one first"
        )

    def close(self) -> None:
        """Stop listening, and remove the socket if it is still ours."""
        super().close()
        with suppress(OSError):
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == self._file:
                os.unlink(self.path)
