# SPDX-License-Identifier: MIT
"""The containers' service of a gpiovirtd: its listener is what runtimes give containers' listeners to.

    gpiovirt-containers RUN [FD UID GID]

RUN is gpiovirtd's directory for sockets. FD is the socket on which it listens already, if gpiovirtd has
started this process when somebody connected; otherwise RUN/containers/listener is made.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import socket
import sys
from typing import NoReturn

from gpiovirt.containers.connection import Connection
from gpiovirt.containers.directories import ContainerDirectories
from gpiovirt.containers.service import Service
from gpiovirt.control.access import Identity
from gpiovirt.core.text import printable
from gpiovirt.errors import GpiovirtError
from gpiovirt.exports.process import remote as _remote  # noqa: F401  forked processes need it
from gpiovirt.host import libc
from gpiovirt.host.confine import (
    CAP_DAC_OVERRIDE,
    CAP_SETGID,
    CAP_SETUID,
    CAP_SYS_ADMIN,
    CAP_SYS_PTRACE,
    keep_capabilities,
)
from gpiovirt.host.journal import start_logging
from gpiovirt.host.notify import sd_notify
from gpiovirt.host.packets import Channel
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener, SocketListener, peer_of

__all__ = ["main"]

_log = logging.getLogger(__name__)

CANNOT = 3
"""Exit status: there is no use in trying again"""


def main() -> int:
    """Serve until SIGTERM; containers are served further."""
    start_logging("gpiovirtd")
    libc.prctl(libc.PR_SET_NAME, b"gpiovirt-cont")
    run, *handed = sys.argv[1:]
    os.umask(0o022)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    directories = ContainerDirectories(run)
    try:
        if os.geteuid() == 0:
            # CAP_SYS_ADMIN opens a terminal that somebody has made exclusive
            keep_capabilities(CAP_SETUID, CAP_SETGID, CAP_SYS_PTRACE, CAP_DAC_OVERRIDE, CAP_SYS_ADMIN)
        if handed:
            listener = SocketListener(socket.socket(fileno=int(handed[0])))
        else:
            listener = PathListener(f"{run}/containers/listener", Access(mode=0o666), replace=True)
        reactor = Reactor()
        reactor.stop_on((signal.SIGTERM, signal.SIGINT))

        def serve(sock: socket.socket, who: Identity, channel: Channel) -> NoReturn:
            Connection(sock, who, peer_of(sock).gid, channel, directories).serve()

        Service(listener, directories, reactor, serve)
    except (GpiovirtError, OSError) as error:
        _log.error("containers are not served: %s", error)
        return CANNOT
    printable("\0")  # which imports what it needs
    gc.collect()
    gc.freeze()
    sd_notify("READY=1")
    reactor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
