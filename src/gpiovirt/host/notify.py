# SPDX-License-Identifier: MIT
"""Tell the service manager how we are; sd_notify(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress

__all__ = ["FIRST_FD", "keep_fds", "kept_fds", "sd_notify"]

FIRST_FD = 3  # SD_LISTEN_FDS_START


def sd_notify(*states: str, fds: Sequence[int] = ()) -> None:
    """Send `READY=1` and its like to who started us, if it asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    address = "\0" + address[1:] if address[0] == "@" else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect(address)
        socket.send_fds(sock, ["\n".join(states).encode()], fds)


def keep_fds(name: str, fds: Sequence[int]) -> None:
    """Have the service manager keep copies of `fds` under `name`; without any, drop those it has.

    They come back to a process that it starts in our place; sd_pid_notify_with_fds(3): FDSTORE.
    """
    if fds:
        sd_notify("FDSTORE=1", f"FDNAME={name}", fds=fds)
    else:
        sd_notify("FDSTOREREMOVE=1", f"FDNAME={name}")


def kept_fds() -> dict[str, int]:
    """The files that were kept for us, by name; sd_listen_fds_with_names(3). They are ours from now on."""
    try:
        count = int(os.environ["LISTEN_FDS"]) if int(os.environ["LISTEN_PID"]) == os.getpid() else 0
    except (KeyError, ValueError):
        count = 0
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    for variable in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(variable, None)
    kept = {}
    for fd, name in zip(range(FIRST_FD, FIRST_FD + count), names, strict=False):
        os.set_inheritable(fd, False)
        kept[name] = fd
    return kept
