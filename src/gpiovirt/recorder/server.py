# SPDX-License-Identifier: MIT
"""The process that answers `gpiovirt log`; it is started by the first question, and a process answers each.

    python -m gpiovirt.recorder.server CONTROL DIRECTORY FD UID GID

FD listens. Whether somebody may see a chip's records gpiovirtd says. Before it serves anybody, the process
becomes UID and GID, and as root has the record's DIRECTORY as its file system.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, NoReturn

from gpiovirt.control.access import identity_of
from gpiovirt.control.client import Client
from gpiovirt.core.text import printable
from gpiovirt.errors import GpiovirtError, HostError, UsageError
from gpiovirt.host import libc
from gpiovirt.host.confine import drop_rights
from gpiovirt.host.inotify import IN_MODIFY, DirectoryWatch
from gpiovirt.host.journal import start_logging
from gpiovirt.host.unix_socket import limit_waits, refuse_files
from gpiovirt.protocols.control.answers import RefusedError, refusal
from gpiovirt.protocols.control.requests import Look, State
from gpiovirt.protocols.log import (
    RECORDS_PER_LINE,
    Ask,
    End,
    LogRecord,
    decode_ask,
    encode_end,
    encode_records,
    encode_spans,
)
from gpiovirt.recorder.main import CANNOT, enter
from gpiovirt.recorder.query import Query, Seen, verdicts

__all__ = ["answer", "main"]

_log = logging.getLogger(__name__)

_IDLE_S = 60.0
_SLOW_S = 30.0  # that somebody may take to read
_QUESTION_MAX = 1 << 16
_PER_USER = 4
_ALL = 32
_FOLLOW_S = 0.1  # between two looks, at least: what is written may be much


def main() -> int:
    """Serve until SIGTERM, or until nobody has asked for a while."""
    start_logging("gpiovirtd")
    libc.prctl(libc.PR_SET_NAME, b"gpiovirt-log")
    control, directory, fd, uid, gid = sys.argv[1:]
    control_directory, control_name = os.path.split(control)
    printable("\0")  # which imports what it needs while that can be reached
    cwd = os.open(control_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        directory = enter(directory)
        os.fchdir(cwd)  # what is above it may be closed to UID
        drop_rights(int(uid), int(gid))
        libc.end_with_parent()  # which another user's process would not do any longer
    except (HostError, OSError) as error:
        _log.error("there is no `gpiovirt log`: %s", error)
        return CANNOT
    listener = socket.socket(fileno=int(fd))
    _serve(listener, directory, control_name)
    return 0


def _serve(listener: socket.socket, directory: str, control: str) -> None:
    children: dict[int, int] = {}
    """The process of each question, and its asker's uid"""
    signal.signal(signal.SIGCHLD, lambda *_: None)  # so that a child's end ends the wait
    woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakes)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        ready = poll.poll(None if children else _IDLE_S * 1000)
        with suppress(BlockingIOError):
            os.read(woken, 512)
        while children:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                children.clear()
                break
            if not pid:
                break
            children.pop(pid, None)
        if not ready and not children:
            return
        if any(fd == listener.fileno() for fd, _ in ready):
            try:
                connection, _ = listener.accept()
            except OSError:
                continue
            with connection:
                _fork(connection, directory, control, children)


def _fork(connection: socket.socket, directory: str, control: str, children: dict[int, int]) -> None:
    connection.setblocking(True)
    refuse_files(connection)
    limit_waits(connection, _SLOW_S, socket.SO_RCVTIMEO, socket.SO_SNDTIMEO)
    identity = identity_of(connection)
    if len(children) >= _ALL or Counter(children.values())[identity.uid] >= _PER_USER:
        with suppress(_GoneError):
            _say(connection, refusal(HostError("too many questions about the record at a time; try again")))
        return
    try:
        # gpiovirtd knows this process; the one that answers has the connection from it
        client = Client(control, (identity.uid, identity.gids))
    except GpiovirtError as error:
        with suppress(_GoneError):
            _say(connection, refusal(error))
        return
    with client:
        try:
            child = os.fork()
        except OSError as error:
            _log.error("cannot answer: %s", error.strerror)
            return
        if not child:
            _answer_and_exit(connection, directory, client)
        children[child] = identity.uid


def _answer_and_exit(connection: socket.socket, directory: str, client: Client) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        libc.end_with_parent()
        try:
            answer(connection, directory, client)
        except GpiovirtError as error:
            _say(connection, refusal(error))
        except (sqlite3.Error, OSError) as error:
            _say(connection, refusal(HostError(f"the record cannot be read: {error}")))
        status = 0
    except _GoneError:
        pass
    except BaseException:
        _log.exception("internal error answering a question about the record")
    finally:
        os._exit(status)


def answer(connection: socket.socket, directory: str, client: Client) -> None:
    """Answer the question that comes; UsageError, HostError, sqlite3.Error, OSError.

    `client` asks gpiovirtd for whoever has asked.
    """
    ask = _question(connection)
    since = _visible(directory, ask, client)
    if ask.verify:
        if since is not None:
            raise _denied("only root and members of the group gpiovirt verify the record")
        found, broken = verdicts(directory)
        _say(connection, encode_end(End(0, 0, tuple(found), broken)))
        return
    query = Query(directory, ask, since)
    watch = DirectoryWatch(directory, IN_MODIFY) if ask.follow else None
    if ask.last:
        _say(connection, encode_records(query.last_levels()))
    if ask.columns:
        number = 0
        spans = query.spans()
        while part := list(islice(spans, RECORDS_PER_LINE)):
            _say(connection, encode_spans(part))
            number += len(part)
        _say(connection, encode_end(End(number, query.first_ns)))
        return
    seen, number = _send(connection, query, None)
    if watch is None:
        if not number and ask.chip and ask.chip not in query.chips:
            client.ask(Look(ask.chip))  # which says what there is
        _say(connection, encode_end(End(number, query.first_ns)))
        return
    _say(connection, encode_records([]))  # up to here it was what there was
    poll = select.poll()
    poll.register(watch.fileno(), select.POLLIN)
    poll.register(connection, select.POLLRDHUP)
    while True:
        ready = dict(poll.poll())
        if connection.fileno() in ready:
            return
        time.sleep(_FOLLOW_S)
        list(watch.read())
        seen, _ = _send(connection, query, seen)


def _question(connection: socket.socket) -> Ask:
    raw = b""
    while not raw.endswith(b"\n"):
        part = connection.recv(_QUESTION_MAX)
        raw += part
        if not part or len(raw) > _QUESTION_MAX:
            raise UsageError("no question")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise UsageError("no question")
    return decode_ask(body)


def _denied(text: str) -> RefusedError:
    return RefusedError(text, 1)


def _visible(directory: str, ask: Ask, client: Client) -> dict[str, int] | None:
    """Chips whose records they may see, and since when; None: those of all chips. Others' are not there."""
    if client.ask(State()).manager:
        return None
    if ask.chip:
        client.ask(Look(ask.chip))
    names = [ask.chip] if ask.chip else [chip.name for chip in client.chips()]
    return Query(directory, ask, None).made_ns(names)


def _send(connection: socket.socket, query: Query, seen: Seen | None) -> tuple[Seen, int]:
    """What is new; up to where that is, and how many there were."""
    time_ns, seq = seen or (0, 0)
    number, part = 0, list[LogRecord]()
    for record in query.records(seen):
        part.append(record)
        number += 1
        time_ns, seq = max(time_ns, record.time_ns), max(seq, record.seq)
        if len(part) == RECORDS_PER_LINE:
            _say(connection, encode_records(part))
            part.clear()
    if part:
        _say(connection, encode_records(part))
    return Seen(time_ns, seq), number


class _GoneError(Exception):
    """Whoever has asked is gone, or too slow."""


def _say(connection: socket.socket, body: Mapping[str, Any]) -> None:
    try:
        connection.sendall(json.dumps(body, separators=(",", ":")).encode() + b"\n")
    except OSError as error:
        raise _GoneError from error


if __name__ == "__main__":
    sys.exit(main())
