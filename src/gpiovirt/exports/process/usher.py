# SPDX-License-Identifier: MIT
"""The usher: a process in the program's namespaces, which shows and hides chips there for the supervisor.

The supervisor is outside, and could not come back from there. The usher does what it is told over a socket
that only the supervisor has, waits for nobody else, and ends with it. It has no files of the program's.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, NoReturn

from gpiovirt.core.task import Future
from gpiovirt.exports.process import sandbox
from gpiovirt.exports.process.sandbox import DeviceNode
from gpiovirt.host import libc
from gpiovirt.host.reactor import Reactor

__all__ = ["Usher", "start_usher"]

_MESSAGE_MAX = 1 << 16
_PATIENCE_S = 5
_MS_BIND = 4096
_PR_SET_DUMPABLE = 4


def start_usher(connection: int) -> None:
    """Fork one, no child of ours, that serves the socket `connection`; it is closed here."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os.close(connection)
        return
    try:
        if not os.fork():
            _serve(connection)
    finally:
        os._exit(0)


def _serve(connection: int) -> NoReturn:
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, connection)
    os.closerange(connection + 1, 65536)
    libc.prctl(libc.PR_SET_NAME, b"gpiovirt-usher")
    libc.prctl(_PR_SET_DUMPABLE, 0)  # the program may be of the same user
    sock = socket.socket(fileno=connection)
    while message := sock.recv(_MESSAGE_MAX):
        answer, fds = 0, []
        try:
            fds = _do(json.loads(message))
        except OSError as error:
            answer = error.errno or errno.EIO
        except Exception:
            answer = errno.EIO
        socket.send_fds(sock, [answer.to_bytes(4, "little")], fds)
        for fd in fds:
            os.close(fd)
    os._exit(0)


def _do(command: dict[str, Any]) -> list[int]:
    """What is told; the files that it has made."""
    nodes = [DeviceNode(*node) for node in command.get("nodes", ())]
    match command["do"]:
        case "show":
            return [sandbox.show(command["device"], nodes)]
        case "hide":
            sandbox.hide(command["device"], nodes)
        case "mount":
            libc.mount(sandbox.CONFIGFS, command["at"], None, _MS_BIND)
        case "umount":
            libc.umount(command["at"], command["flags"])
    return []


class Usher:
    """The supervisor's end. An usher that is gone, or late with an answer, is asked no more: EIO."""

    def __init__(self, connection: int, reactor: Reactor) -> None:
        self._socket = socket.socket(fileno=connection)
        self._socket.setblocking(False)
        self._reactor = reactor
        self._asked: deque[Future[int]] = deque()
        self._is_gone = False
        reactor.add_reader(connection, self._on_ready)

    def show(self, device: str, nodes: Sequence[DeviceNode]) -> Future[int]:
        """Show a device and its chips; the file by which its directory in sysfs is to be served."""
        return self._ask({"do": "show", "device": device, "nodes": nodes})

    def hide(self, device: str, nodes: Sequence[DeviceNode]) -> Future[int]:
        """Show them no more."""
        return self._ask({"do": "hide", "device": device, "nodes": nodes})

    def mount(self, at: str) -> Future[int]:
        """Show configfs at a path, too."""
        return self._ask({"do": "mount", "at": at})

    def umount(self, at: str, flags: int) -> Future[int]:
        """As umount2(2)."""
        return self._ask({"do": "umount", "at": at, "flags": flags})

    def _ask(self, command: dict[str, Any]) -> Future[int]:
        future: Future[int] = Future()
        if self._is_gone:
            future.fail(OSError(errno.EIO, "the usher is gone"))
            return future
        self._asked.append(future)
        try:
            self._socket.send(json.dumps(command).encode(errors="surrogateescape"))
        except OSError:
            self._lose()
            return future
        cancel = self._reactor.call_later(_PATIENCE_S, self._lose)
        future.then(cancel)
        return future

    def _on_ready(self) -> None:
        try:
            answer, fds, _, _ = socket.recv_fds(self._socket, 16, 1)
        except BlockingIOError:
            return
        except OSError:
            answer, fds = b"", []
        if not answer or not self._asked:
            for fd in fds:
                os.close(fd)
            self._lose()
            return
        future, number = self._asked.popleft(), int.from_bytes(answer, "little")
        if number:
            future.fail(OSError(number, os.strerror(number)))
        else:
            future.set(fds[0] if fds else -1)

    def _lose(self) -> None:
        if not self._is_gone:
            self._is_gone = True
            self._reactor.remove_reader(self._socket.fileno())
            self._socket.close()
        while self._asked:
            self._asked.popleft().fail(OSError(errno.EIO, "the usher is gone"))
