# SPDX-License-Identifier: MIT
"""Pseudo-terminals that stand for chips: a character device of its own number, /dev/pts/N, for as long as
somebody has the other end."""

from __future__ import annotations

import os
from contextlib import suppress

from gpiovirt.errors import HostError
from gpiovirt.host.received import name_of

__all__ = ["new_terminal", "terminal_index"]


def new_terminal() -> int:
    """The end that keeps it; anybody may open the other one, which gives no right. HostError."""
    try:
        master, slave = os.openpty()
    except OSError as error:
        raise HostError.of("cannot open a pseudo-terminal to stand for a chip", error) from error
    try:
        os.fchmod(slave, 0o666)
    except OSError as error:
        os.close(master)
        raise HostError.of("cannot let others open a pseudo-terminal", error) from error
    finally:
        os.close(slave)
    return master


def terminal_index(fd: int) -> int:
    """N of the /dev/pts/N that this end keeps; -1 if it is none. No file system or driver is asked."""
    if not name_of(fd).endswith("ptmx"):
        return -1
    for directory in ("/proc/self/fdinfo", "/fdinfo"):
        with suppress(OSError, ValueError), open(f"{directory}/{fd}", encoding="ascii") as fdinfo:
            for line in fdinfo:
                if line.startswith("tty-index:"):
                    return int(line.split()[1])
    return -1
