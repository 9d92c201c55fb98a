# SPDX-License-Identifier: MIT
"""Start a program on virtual chips: this process becomes the program, a second one supervises it.

So the program has our pid, terminal, parent and children: its exit status and signals need no help.
The supervisor is no child of the program, lives in the original namespaces, and ends when the last
task that the filter holds has ended, however it ends.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from gpiovirt.core.deadline import Deadlines
from gpiovirt.errors import HostError
from gpiovirt.exports.process import sandbox
from gpiovirt.exports.process.filter import gpio_filter
from gpiovirt.exports.process.placeholder import Placeholder, make_placeholder, own_terminals
from gpiovirt.host import libc
from gpiovirt.host.seccomp import Listener, fetch_fd, install_filter

if TYPE_CHECKING:
    from gpiovirt.exports.process.openable import Openable
    from gpiovirt.exports.process.session import Session, Trap
    from gpiovirt.exports.process.supervisor import Supervisor

__all__ = ["Extras", "await_supervisor", "launch"]


class Extras:
    """What the program is shown besides its chips: nothing. Those who show more override it."""

    trees: Sequence[sandbox.Tree] = ()
    """Of files that are served"""
    calls: Sequence[str] = ()
    """System calls that are trapped, by name"""
    has_usher = False

    def traps(self, _supervisor: Supervisor, _usher: int) -> Mapping[tuple[int, int], Trap]:
        """What answers these calls; `usher` is the supervisor's end of the usher's socket."""
        return {}

    def serve(self, _supervisor: Supervisor, _session: Session, _fuses: Sequence[int]) -> None:
        """Serve the trees by their files, before the program's first call."""


_READY = b"!"  # followed by nothing: what follows is why it is not
_PATIENCE_S = 10


def launch(
    argv: list[str],
    chips: Mapping[str, Openable],
    deadlines: Deadlines,
    prepare: Callable[[Supervisor], None],
    environment: Mapping[str, str],
    guise: sandbox.Guise = sandbox.PLAIN,
    extras: Extras | None = None,
    kill_children: bool = False,
) -> NoReturn:
    """Become the program `argv`, which sees what chips[name] opens as /dev/<name>, and the extras.

    `prepare` runs in the supervisor before it serves the program's first call. What the program leaves behind
    is told of on standard error, or killed. HostError if something cannot be had, and then nothing is left
    behind.
    """
    extras = extras or Extras()
    placeholders = [make_placeholder(name) for name in chips]
    program = os.getpid()
    from_program, to_supervisor = os.pipe()
    from_supervisor, to_program = os.pipe()
    usher, ushers = _socket_pair() if extras.has_usher else (-1, -1)
    if _fork_detached():
        for fd in (to_supervisor, from_supervisor, ushers):
            if fd >= 0:
                os.close(fd)
        openables = list(chips.values())
        _supervise(
            *(program, placeholders, openables, deadlines, prepare, extras, usher, kill_children),
            *(from_program, to_program),
        )
    for fd in (from_program, to_program, usher):
        if fd >= 0:
            os.close(fd)
    for placeholder in placeholders:
        os.close(placeholder.master)
    nodes = [placeholder.node for placeholder in placeholders]
    fuses = sandbox.enter(nodes, guise, extras.trees)
    if extras.has_usher:
        from gpiovirt.exports.process.usher import start_usher

        start_usher(ushers)
    listener = install_filter(gpio_filter(extras.calls, untyped=extras.has_usher))
    os.write(to_supervisor, " ".join(map(str, (listener, *fuses))).encode())
    await_supervisor(from_supervisor)
    _execute(argv, environment)


def await_supervisor(from_supervisor: int) -> None:
    """Return once the program may start; HostError if there is nobody to supervise it."""
    if not select.select([from_supervisor], [], [], _PATIENCE_S)[0]:
        raise HostError(f"the program's supervisor was not ready within {_PATIENCE_S} s")
    said = os.read(from_supervisor, 4096)
    if not said:
        raise HostError("the program's supervisor ended before the program was started")
    if said != _READY:
        raise HostError(said.removeprefix(_READY).decode())


def _execute(argv: list[str], environment: Mapping[str, str]) -> NoReturn:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and its programs should not
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606
    except OSError as error:
        raise HostError.of(f"cannot run {argv[0]!r}", error) from error


def _socket_pair() -> tuple[int, int]:
    """Ends of a connection that keeps packets apart."""
    import socket

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours.detach(), theirs.detach()


def _fork_detached() -> bool:
    """Fork a grandchild that is no child of ours; True in it."""
    try:
        child = os.fork()
    except OSError as error:
        raise HostError.of("cannot start a supervisor for the program", error) from error
    if child:
        os.waitpid(child, 0)
        return False
    with suppress(OSError):  # the program finds that it has no supervisor
        if not os.fork():
            return True
    os._exit(0)


def _supervise(
    program: int,
    placeholders: Sequence[Placeholder],
    chips: Sequence[Openable],
    deadlines: Deadlines,
    prepare: Callable[[Supervisor], None],
    extras: Extras,
    usher: int,
    kill_children: bool,
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
        own_terminals([placeholder.slave for placeholder in placeholders])
        libc.prctl(libc.PR_SET_NAME, b"gpiovirt")
        taken = _take_files(program, from_program, to_program)
        if taken is not None:
            listener, fuses, pidfd, namespace = taken
            # the program starts meanwhile, and its first call waits for us
            from gpiovirt.exports.process.supervisor import Supervisor
            from gpiovirt.exports.process.survivors import watch_for_survivors

            supervisor = Supervisor(deadlines)
            watch_for_survivors(supervisor, pidfd, namespace, kill_children)
            prepare(supervisor)
            session = supervisor.add(
                listener,
                {
                    placeholder.file_id: (chip, placeholder.node.name)
                    for placeholder, chip in zip(placeholders, chips, strict=True)
                },
                traps=extras.traps(supervisor, usher),
            )
            extras.serve(supervisor, session, fuses)
            supervisor.run()
        status = 0
    except OSError as error:
        sys.stderr.write(f"gpiovirt: the program's supervisor has to end: {error}\n")
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(status)


class _Taken(NamedTuple):
    """What the supervisor has of the program: its listener, its /dev/fuse, a pidfd, where it is."""

    listener: Listener
    fuses: list[int]
    pidfd: int
    mount_namespace: int


def _take_files(program: int, from_program: int, to_program: int) -> _Taken | None:
    """None if the program has failed, or knows that we have."""
    announced = [int(fd) for fd in os.read(from_program, 64).split()]
    if not announced:
        return None
    try:
        listener, *fuses = [fetch_fd(program, fd) for fd in announced]
        taken = _Taken(
            Listener(listener),
            fuses,
            os.pidfd_open(program),
            os.stat(f"/proc/{program}/ns/mnt").st_ino,
        )
    except OSError as error:
        why = f"the supervisor has no access to the program: {error.strerror}"
        os.write(to_program, _READY + why.encode())
        return None
    os.write(to_program, _READY)
    os.close(to_program)
    return taken


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
