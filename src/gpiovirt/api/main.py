# SPDX-License-Identifier: MIT
"""The process that serves the HTTP API.

    python -m gpiovirt.api.main CONTROL FD UID GID

FD listens. Before it serves anybody, the process becomes UID and GID, without any right of its own.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys
from typing import TYPE_CHECKING

from gpiovirt.errors import HostError
from gpiovirt.host import libc
from gpiovirt.host.confine import drop_rights
from gpiovirt.host.installation import how_to_install
from gpiovirt.host.journal import start_logging

if TYPE_CHECKING:
    from starlette.types import Scope

__all__ = ["main"]

_log = logging.getLogger(__name__)

CANNOT = 3
"""Exit status: there is no use in trying again"""


def main() -> int:
    """Serve until SIGTERM, or until nobody needs it."""
    start_logging("gpiovirtd")
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what strangers send is not for our log
    libc.prctl(libc.PR_SET_NAME, b"gpiovirt-api")
    control, fd, uid, gid = sys.argv[1:]
    try:
        from gpiovirt.api.http import Server
        from gpiovirt.api.routes import create_app, peer_of
        from gpiovirt.control.async_client import AsyncClient
    except ImportError as error:
        _log.warning("there is no HTTP API: %s; install: %s", error, how_to_install("daemon"))
        return CANNOT
    directory, name = os.path.split(control)
    os.chdir(directory)  # what is above it may be closed to UID

    async def connect(scope: Scope) -> AsyncClient:
        return await AsyncClient.connect(name, peer_of(scope))

    app = create_app(connect)
    server = Server(app, app.state.streams.ending.set)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        drop_rights(int(uid), int(gid))
        libc.end_with_parent()  # which another user's process would not do any longer
    except HostError as error:
        _log.error("there is no HTTP API: %s", error)
        return CANNOT
    server.run([socket.socket(fileno=int(fd))])
    return 0


if __name__ == "__main__":
    sys.exit(main())
