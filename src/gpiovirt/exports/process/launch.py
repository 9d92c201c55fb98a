# SPDX-License-Identifier: MIT
"""Start a program on virtual chips: this process becomes the program, a second one supervises it.

So the program has our pid, terminal, parent and children: its exit status and signals need no help.
The supervisor is no child of the program, lives in the original namespaces, and ends when the last
task that the filter holds has ended, however it ends.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from gpiovirt.core.chip import Now
from gpiovirt.core.deadline import Deadlines
from gpiovirt.errors import HostError
from gpiovirt.exports.process import sandbox
from gpiovirt.exports.process.filter import gpio_filter
from gpiovirt.host import libc
from gpiovirt.host.seccomp import Listener, fetch_fd, install_filter

if TYPE_CHECKING:
    from gpiovirt.exports.process.supervisor import Openable, Supervisor

__all__ = ["launch"]


class _Placeholder(NamedTuple):
    """A pty whose slave stands for a chip: a character device of its own that anybody can have."""

    master: int
    slave: int
    node: sandbox.DeviceNode


def launch(
    argv: list[str],
    chips: Sequence[Openable],
    now: Now,
    deadlines: Deadlines,
    prepare: Callable[[Supervisor], None],
    environment: Mapping[str, str],
) -> NoReturn:
    """Become the program `argv`, which sees what chips[i] opens as /dev/gpiochip<i>.

    `prepare` runs in the supervisor before it serves the program's first call. HostError if something
    cannot be had, and then nothing is left behind.
    """
    placeholders = [_placeholder(index) for index in range(len(chips))]
    program = os.getpid()
    from_program, to_supervisor = os.pipe()
    from_supervisor, to_program = os.pipe()
    if _fork_detached():
        os.close(to_supervisor)
        os.close(from_supervisor)
        _supervise(program, placeholders, chips, now, deadlines, prepare, from_program, to_program)
    os.close(from_program)
    os.close(to_program)
    for placeholder in placeholders:
        os.close(placeholder.master)
    sandbox.enter([placeholder.node for placeholder in placeholders])
    listener = install_filter(gpio_filter())
    os.write(to_supervisor, str(listener).encode())
    if refused := os.read(from_supervisor, 4096)[1:]:
        raise HostError(refused.decode())
    _execute(argv, environment)


def _execute(argv: list[str], environment: Mapping[str, str]) -> NoReturn:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and its programs should not
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606
    except OSError as error:
        raise HostError.of(f"cannot run {argv[0]!r}", error) from error


def _placeholder(index: int) -> _Placeholder:
    try:
        master, slave = os.openpty()
    except OSError as error:
        raise HostError.of("cannot open a pseudo-terminal to stand for a chip", error) from error
    with suppress(OSError):  # a group that is not mapped where we are
        os.fchown(slave, -1, os.getegid())
    os.fchmod(slave, 0o660)
    node = sandbox.DeviceNode(f"gpiochip{index}", os.ttyname(slave), os.fstat(slave).st_rdev)
    return _Placeholder(master, slave, node)


def _fork_detached() -> bool:
    """Fork a grandchild that is no child of ours; True in it."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return False
    if os.fork():
        os._exit(0)
    return True


def _supervise(
    program: int,
    placeholders: Sequence[_Placeholder],
    chips: Sequence[Openable],
    now: Now,
    deadlines: Deadlines,
    prepare: Callable[[Supervisor], None],
    from_program: int,
    to_program: int,
) -> NoReturn:
    status = 1
    try:
        _leave_the_terminal()
        _, most = resource.getrlimit(
            resource.RLIMIT_NOFILE
        )  # each file of the program's chips is one of ours
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        _own_terminals([placeholder.slave for placeholder in placeholders])
        libc.prctl(libc.PR_SET_NAME, b"gpiovirt")
        listener = _take_listener(program, from_program, to_program)
        if listener is not None:
            # the program starts meanwhile, and its first call waits for us
            from gpiovirt.exports.process.supervisor import Supervisor

            nodes = {}
            for placeholder, chip in zip(placeholders, chips, strict=True):
                slave = os.fstat(placeholder.slave)
                nodes[slave.st_dev, slave.st_ino] = (chip, placeholder.node.name)
            supervisor = Supervisor(nodes, now, deadlines)
            prepare(supervisor)
            supervisor.run(listener)
        status = 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(status)


def _take_listener(program: int, from_program: int, to_program: int) -> Listener | None:
    """The program's seccomp listener; None if the program has failed or is told that we have."""
    announced = os.read(from_program, 16)
    if not announced:
        return None
    try:
        listener = Listener(fetch_fd(program, int(announced)))
    except OSError as error:
        os.write(to_program, f"!the supervisor has no access to the program: {error.strerror}".encode())
        return None
    os.write(to_program, b"!")
    os.close(to_program)
    return listener


def _leave_the_terminal() -> None:
    """A session of our own, with none of the caller's files open but standard error."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the listing's own is closed already
            if fd > 2 and os.get_inheritable(fd):  # what we opened ourselves is not
                os.close(fd)


def _own_terminals(slaves: Sequence[int]) -> None:
    """Make each placeholder the terminal of some session, or the next session leader to open it gets it.

    A session has one terminal: ours takes the first, idle processes that end with us hold the others.
    """
    import termios
    from fcntl import ioctl

    ioctl(slaves[0], termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for slave in slaves[1:]:
        ready, done = os.pipe()
        if not os.fork():
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
