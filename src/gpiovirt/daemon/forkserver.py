# SPDX-License-Identifier: MIT
"""Forks workers: a small process that has imported what they need, so that they share its memory.

    python -m gpiovirt.daemon.forkserver FD UID GID

Each message at FD brings a worker's hand-over socket. It ends when the other end is closed; its workers
do not.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
import traceback
from typing import NoReturn

from gpiovirt.daemon import worker
from gpiovirt.errors import GpiovirtError
from gpiovirt.host import libc
from gpiovirt.host.journal import start_logging

__all__ = ["main"]


def main() -> None:
    """Fork a worker for each message."""
    fd, uid, gid = map(int, sys.argv[1:])
    custodian = socket.socket(fileno=fd)
    os.setsid()  # a terminal's Ctrl-C is for the custodian
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
        listener = socket.socket(fileno=fds[0])
        if os.fork() == 0:
            custodian.close()
            _work(listener, uid, gid, packet == b"simulator")
        listener.close()


def _work(listener: socket.socket, uid: int, gid: int, simulates: bool) -> NoReturn:
    try:
        libc.prctl(libc.PR_SET_NAME, b"gpiovirt-chip")
        worker.run(listener, uid, gid, simulates)
    except GpiovirtError as error:
        sys.stderr.write(f"gpiovirtd: a worker has ended: {error}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
