# SPDX-License-Identifier: MIT
"""What the process of one connection does: answer an editor, or supervise what a container runs.

It has the rights of who connected, so a chip's socket decides what a container may do. For root's engines it
stays root, with two capabilities. It outlives the process that forked it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

from gpiovirt.containers.directories import ContainerDirectories
from gpiovirt.control.access import Identity
from gpiovirt.core.deadline import Deadlines
from gpiovirt.errors import GpiovirtError, HostError, PeerError
from gpiovirt.exports.process.openable import Openable, refused, remote
from gpiovirt.exports.process.supervisor import Supervisor
from gpiovirt.host import libc
from gpiovirt.host.confine import CAP_DAC_OVERRIDE, CAP_SYS_PTRACE, become, keep_capabilities
from gpiovirt.host.log import RateLimitedLog
from gpiovirt.host.packets import Channel
from gpiovirt.host.received import name_of, receive
from gpiovirt.host.seccomp import Listener, Notification
from gpiovirt.host.title import set_title
from gpiovirt.protocols.containers import MESSAGE_MAX, Prepare, Started, decode_said

__all__ = ["Connection"]

_log = logging.getLogger(__name__)

_PATIENCE_S = 10.0  # with who has connected, and with our service
_BUSY_S = 2.0  # that a container which has ended may still have a chip
_AGAIN_S = 0.02
_CLONE_NEWUSER = 0x10000000  # linux/sched.h
_FDS_MAX = 4
_LISTENER = "anon_inode:seccomp notify"
_COMPLAINT_MAX = 400


class Connection:
    """Of `who`; `channel` leads to the service."""

    def __init__(
        self,
        sock: socket.socket,
        who: Identity,
        gid: int,
        channel: Channel,
        directories: ContainerDirectories,
    ) -> None:
        self._socket = sock
        self._who = who
        self._channel = channel
        self._directories = directories
        if os.geteuid() == 0:
            if who.uid:
                become(who.uid, gid, sorted(who.gids))
            else:
                keep_capabilities(CAP_SYS_PTRACE, CAP_DAC_OVERRIDE)

    def serve(self) -> NoReturn:
        """Until the container's process has ended."""
        status = 1
        try:
            said, fds = self._receive()
            if isinstance(said, Prepare):
                self._prepare(said)
            elif said is not None:
                if not fds or name_of(fds[0]) != _LISTENER:
                    raise PeerError("a container without a listener")
                self._supervise(said, fds[0])
            status = 0
        except (GpiovirtError, OSError) as error:
            with suppress(OSError):
                self._channel.send({"complaint": str(error)[:_COMPLAINT_MAX]})
        finally:
            os._exit(status)

    def _receive(self) -> tuple[Started | Prepare | None, list[int]]:
        """What is said, and the files beside it; nothing if the runtime gave up."""
        deadline_s = time.monotonic() + _PATIENCE_S
        text, fds = b"", list[int]()
        while True:
            _await(self._socket.fileno(), deadline_s)
            try:
                part, more, _ = receive(self._socket, MESSAGE_MAX, _FDS_MAX)
            except BlockingIOError:
                continue
            text, fds = text + part, fds + more
            if not part and not text:
                return None, fds
            if (said := decode_said(text)) is not None:
                return said, fds
            if not part or len(fds) > _FDS_MAX:
                raise PeerError("a message that is none")

    # an editor

    def _prepare(self, said: Prepare) -> None:
        try:
            for chip in said.chips.values():
                self._directories.node(chip)
                self._directories.check_access(chip, self._who)
            answer = self._ask({"chips": json.dumps(dict(said.chips))})[0]
        except GpiovirtError as error:
            answer = {"errno": error.errno or errno.EIO, "why": str(error)}
        self._socket.setblocking(False)
        self._socket.send(json.dumps(answer).encode() + b"\n", socket.MSG_NOSIGNAL)

    def _ask(self, question: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """The service's answer, once no other container has a chip any more; HostError if it is no."""
        until_s = time.monotonic() + _BUSY_S
        while True:
            self._channel.send(question)
            _await(self._channel.fileno(), time.monotonic() + _PATIENCE_S)
            try:
                message = self._channel.receive()
            except EOFError:
                message = None
            if message is None:
                raise HostError("the containers' service has ended; try again")
            number = message.body.get("errno")
            if number == errno.EBUSY and time.monotonic() < until_s:
                time.sleep(_AGAIN_S)
                continue
            if number:
                refusal = HostError(str(message.body.get("why")))
                refusal.errno = int(number)
                raise refusal
            return message.body, message.fds

    # a container

    def _supervise(self, said: Started, fd: int) -> None:
        title = str(said.container)
        libc.prctl(libc.PR_SET_NAME, b"gpiovirt")
        set_title(f"gpiovirt: {title}")
        listener = Listener(fd)
        self._socket.close()
        log = RateLimitedLog(_log, title)
        question = {"chips": json.dumps(dict(said.chips)), "container": said.container.id}
        why: GpiovirtError | None = None
        try:
            self._ask(question)  # what comes is kept open until the end
        except GpiovirtError as error:
            why = error
            log.complain(str(error))
        self._channel.close()
        supervisor = Supervisor(Deadlines())
        supervisor.on_refusal = lambda text: log.debug("%s", text)

        def on_unseen(call: Notification) -> None:
            """Their user ids are not ours to look at: become one of their user namespace, which is ours."""
            try:
                _enter(listener, call)
            except OSError as error:
                log.complain(f"its programs cannot be looked at: {error.strerror}")

        nodes: dict[tuple[int, int], tuple[Openable, str]] = {}
        for device, chip in said.chips.items():
            status = os.stat(self._directories.node(chip))
            opens = (
                remote(self._directories.socket(chip), title)
                if why is None
                else refused(why.errno or errno.EIO, str(why))
            )
            nodes[status.st_dev, status.st_ino] = opens, device
        supervisor.add(listener, nodes, on_unseen)
        supervisor.run()


def _await(fd: int, deadline_s: float) -> None:
    """Until there is something to read; HostError when it is too late."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(max(deadline_s - time.monotonic(), 0) * 1000):
        raise HostError(f"nothing was said within {_PATIENCE_S:g} s")


def _enter(listener: Listener, call: Notification) -> None:
    """Join the caller's user namespace; OSError."""
    fd = os.open(f"/proc/{call.tid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        listener.check(call.id)  # the task was still the caller
        libc.setns(fd, _CLONE_NEWUSER)
    finally:
        os.close(fd)
