# SPDX-License-Identifier: MIT
"""Forks workers: a small process that has imported what they need, so that they share its memory.

    python -m gpiovirt.worker.forkserver FD UID GID

Each message at FD brings a worker's hand-over socket. It ends when the other end is closed; its workers
do not.
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
from typing import NoReturn

from gpiovirt.errors import GpiovirtError
from gpiovirt.host import libc
from gpiovirt.host.journal import start_logging
from gpiovirt.worker.main import run

__all__ = ["main"]

_log = logging.getLogger(__name__)


def main() -> None:
    """Fork a worker for each message."""
    fd, uid, gid = map(int, sys.argv[1:])
    custodian = socket.socket(fileno=fd)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    libc.prctl(libc.PR_SET_NAME, b"gpiovirt-fork")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    start_logging("gpiovirtd")
    gc.collect()
    gc.freeze()
    while True:
        packet, fds, _, _ = socket.recv_fds(custodian, 64, 1, socket.MSG_CMSG_CLOEXEC)
        if not packet:
            return
        with socket.socket(fileno=fds[0]) as listener:
            try:
                child = os.fork()
            except OSError as error:  # gpiovirtd asks again when none comes
                _log.error("cannot fork a worker: %s", error.strerror)
                continue
            if child == 0:
                custodian.close()
                _work(listener, uid, gid, packet == b"simulator")


def _work(listener: socket.socket, uid: int, gid: int, simulates: bool) -> NoReturn:
    try:
        libc.prctl(libc.PR_SET_NAME, b"gpiovirt-chip")
        run(listener, uid, gid, simulates)
    except GpiovirtError as error:
        sys.stderr.write(f"gpiovirtd: a worker has ended: {error}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
