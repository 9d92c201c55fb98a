# SPDX-License-Identifier: MIT
"""Forks workers: a small process that has imported what they need, so that they share its memory.

    python -m gpiovirt.worker.forkserver FD UID GID LEVEL

It says at FD when it begins. Each message there brings a worker's hand-over socket, or the channel of a
keeper of a VM's session. It ends when the other end is closed; its workers do not. One that is stopped is
killed: it serves nobody, and another can take its place.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import socket
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

from gpiovirt.errors import GpiovirtError
from gpiovirt.exports.vm.keeper import Keeper
from gpiovirt.host import libc
from gpiovirt.host.confine import confine, prepare_to_confine
from gpiovirt.host.journal import start_logging
from gpiovirt.host.received import receive
from gpiovirt.worker.main import run

__all__ = ["main"]

_log = logging.getLogger(__name__)


def main() -> None:
    """Fork a worker for each message."""
    fd, uid, gid, level = map(int, sys.argv[1:])
    custodian = socket.socket(fileno=fd)
    signal.signal(signal.SIGCHLD, _on_child)
    libc.prctl(libc.PR_SET_NAME, b"gpiovirt-fork")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    start_logging("gpiovirtd", level)
    prepare_to_confine()
    gc.collect()
    gc.freeze()
    with suppress(BrokenPipeError):
        custodian.send(b"!")
    while True:
        try:
            packet, fds, _ = receive(custodian, 64, 1)
        except ConnectionResetError:  # it ended without having heard that we began; its last wishes come next
            continue
        if not packet:
            return
        with socket.socket(fileno=fds[0]) as its:
            try:
                child = os.fork()
            except OSError as error:  # gpiovirtd asks again if none comes
                _log.error("cannot fork a worker: %s", error.strerror)
                continue
            if child == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)
                custodian.close()
                _work(its, uid, gid, packet)


def _on_child(_number: int, _frame: object) -> None:
    with suppress(ChildProcessError):
        while child := os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOHANG):
            if child.si_code == os.CLD_STOPPED:
                os.kill(child.si_pid, signal.SIGKILL)


def _work(sock: socket.socket, uid: int, gid: int, kind: bytes) -> NoReturn:
    try:
        if kind == b"keeper":
            libc.prctl(libc.PR_SET_NAME, b"gpiovirt-keep")
            confine(uid, gid)
            Keeper(sock).run()
            os._exit(0)
        libc.prctl(libc.PR_SET_NAME, b"gpiovirt-chip")
        run(sock, uid, gid, kind == b"simulator")
    except GpiovirtError as error:
        sys.stderr.write(f"gpiovirtd: a worker has ended: {error}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
