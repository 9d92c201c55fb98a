# SPDX-License-Identifier: MIT
"""Tell the service manager how we are; sd_notify(3)."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

__all__ = ["sd_notify"]


def sd_notify(*states: str) -> None:
    """Send `READY=1` and its like to who started us, if it asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    address = "\0" + address[1:] if address[0] == "@" else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto("\n".join(states).encode(), address)
