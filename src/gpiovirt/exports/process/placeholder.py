# SPDX-License-Identifier: MIT
"""What stands for a chip until it is first used: a pseudo-terminal of our own, and who owns it.

Its slave is a character device with a number of its own, that anybody can have.
"""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from gpiovirt.errors import HostError
from gpiovirt.exports.process.sandbox import DeviceNode
from gpiovirt.host import libc

__all__ = ["Placeholder", "make_placeholder", "own_terminal", "own_terminals"]


class Placeholder(NamedTuple):
    """Both ends of the pseudo-terminal, and the node that its slave is shown as."""

    master: int
    slave: int
    node: DeviceNode

    @property
    def file_id(self) -> tuple[int, int]:
        """(device, inode) of the slave, by whatever path it is opened."""
        status = os.fstat(self.slave)
        return status.st_dev, status.st_ino


def make_placeholder(name: str) -> Placeholder:
    """One for the device NAME; HostError if it cannot be had."""
    try:
        master, slave = os.openpty()
    except OSError as error:
        raise HostError.of("cannot open a pseudo-terminal to stand for a chip", error) from error
    with suppress(OSError):  # a group that is not mapped where we are
        os.fchown(slave, -1, os.getegid())
    os.fchmod(slave, 0o660)
    return Placeholder(master, slave, DeviceNode(name, os.ttyname(slave), os.fstat(slave).st_rdev))


def own_terminals(slaves: Sequence[int]) -> None:
    """Make each slave the terminal of some session, or the next session leader to open it gets it.

    A session has one terminal: that of this process, its leader, takes the first; idle processes that
    end with it hold the others.
    """
    if slaves:
        import termios
        from fcntl import ioctl

        ioctl(slaves[0], termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for slave in slaves[1:]:
        own_terminal(slave)


def own_terminal(slave: int) -> int:
    """The pid of an idle process, a child of this one, whose terminal the slave is."""
    import termios
    from fcntl import ioctl

    ready, done = os.pipe()
    child = os.fork()
    if not child:
        libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(libc.PR_SET_NAME, b"gpiovirt-tty")
        os.setsid()
        ioctl(slave, termios.TIOCSCTTY, 0)
        os.closerange(0, slave)
        os.closerange(slave + 1, 65536)
        while True:
            signal.pause()
    os.close(done)
    os.read(ready, 1)
    os.close(ready)
    return child
