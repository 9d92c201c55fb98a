# SPDX-License-Identifier: MIT
"""Tell the service manager our state; sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from gpiovirt.host.terminal import terminal_index

__all__ = ["FIRST_FD", "keep_fds", "kept_fds", "sd_notify"]

_log = logging.getLogger(__name__)

FIRST_FD = 3  # SD_LISTEN_FDS_START
_PATIENCE_S = 1.0


def sd_notify(*states: str) -> None:
    """Send `READY=1` and the like to the service manager, if it asked for it."""
    with suppress(OSError), _manager() as manager:
        manager.send("\n".join(states).encode())


def keep_fds(files: Mapping[str, int | None]) -> None:
    """Have the service manager keep copies of files under these names, or drop its copies (None).

    They come back to a process that it starts in our place; sd_pid_notify_with_fds(3): FDSTORE.
    """
    with suppress(OSError), _manager() as manager:
        for name, fd in files.items():
            try:
                if fd is None:
                    manager.send(f"FDSTOREREMOVE=1\nFDNAME={name}".encode())
                else:
                    # a terminal that nobody has open hangs up, and would be dropped for that
                    poll = "\nFDPOLL=0" if terminal_index(fd) >= 0 else ""
                    socket.send_fds(manager, [f"FDSTORE=1\nFDNAME={name}{poll}".encode()], [fd])
            except TimeoutError:
                _log.warning("the service manager does not read what it is told of %s", name)
                return


def _manager() -> socket.socket:
    """Connected to the service manager; OSError if it did not ask for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        raise OSError("nobody asked to be told")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    sock.settimeout(_PATIENCE_S)
    try:
        sock.connect("\0" + address[1:] if address[0] == "@" else address)
    except OSError:
        sock.close()
        raise
    return sock


def kept_fds() -> dict[str, int]:
    """The files that were kept for us, by name; sd_listen_fds_with_names(3). We own them from now on."""
    try:
        count = int(os.environ["LISTEN_FDS"]) if int(os.environ["LISTEN_PID"]) == os.getpid() else 0
    except (KeyError, ValueError):
        count = 0
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    for variable in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(variable, None)
    kept: dict[str, int] = {}
    for fd, name in zip(range(FIRST_FD, FIRST_FD + count), names, strict=False):
        os.set_inheritable(fd, False)
        if name in kept:
            os.close(kept[name])
        kept[name] = fd
    return kept
