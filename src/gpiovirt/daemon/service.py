# SPDX-License-Identifier: MIT
"""gpiovirtd as a process: its lock, its directories, its signals, and the processes beside it.

SIGTERM ends it and leaves the workers, which go on serving, for the next gpiovirtd to find. SIGINT ends
all. SIGHUP executes it again in its place, with the lines it holds.
"""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

from gpiovirt.daemon.chip import Directories
from gpiovirt.daemon.companion import Agent, Companion
from gpiovirt.daemon.configuring import Configuring
from gpiovirt.daemon.control import ControlServer
from gpiovirt.daemon.custodian import Custodian
from gpiovirt.daemon.link import Forkserver
from gpiovirt.daemon.simulation import Simulation
from gpiovirt.daemon.store import Store
from gpiovirt.errors import HostError
from gpiovirt.host.inotify import IN_ATTRIB, DirectoryWatch
from gpiovirt.host.notify import FIRST_FD, kept_fds, sd_notify
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Peer

__all__ = ["Options", "serve"]

_log = logging.getLogger(__name__)

_STATUS_S = 0.2
_SETTLE_S = 5.0  # readiness waits no longer for workers
_CONFIGURE_S = 30.0  # and for the configuration


class Options(NamedTuple):
    """What a daemon is told."""

    run: str
    state: str
    simulated: Sequence[tuple[str, Sequence[str]]]
    wires: Sequence[tuple[str, str]]
    worker_uid: int
    worker_gid: int
    companions: Sequence[Companion]
    configuring: Configuring | None


def serve(options: Options) -> int:
    """Run until a signal ends it. HostError if another one runs, or something cannot be had."""
    restored = _restored()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.umask(0o022)
    directories = Directories(options.run)
    _make(directories)
    lock = _lock(options.run)
    store = Store(options.state)
    reactor = Reactor()
    reactor.stop_on((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    forkserver = Forkserver(options.worker_uid, options.worker_gid)
    simulation = Simulation(options.simulated, options.wires, directories, reactor, forkserver)
    custodian = Custodian(directories, store, reactor, forkserver, simulation, restored)
    watch = DirectoryWatch(directories.chips, IN_ATTRIB)

    def attributes_changed() -> None:
        for name in {name for _, name in watch.read()}:
            custodian.on_attributes_changed(name)

    reactor.add_reader(watch.fileno(), attributes_changed)
    control: list[ControlServer] = []
    configuring = options.configuring

    def simulated() -> None:
        custodian.restore()
        _when(lambda: custodian.is_settled, reactor, listen)

    def is_agent(peer: Peer) -> bool:
        return any(isinstance(other, Agent) and other.is_peer(peer) for other in options.companions)

    def listen() -> None:
        control.append(ControlServer(f"{options.run}/control", custodian, reactor, is_agent))
        for companion in options.companions:
            companion.begin(reactor)
        _when(lambda: all(companion.is_settled for companion in options.companions), reactor, configure)

    def configure() -> None:
        if configuring is None or not _is_wanted(configuring, custodian):
            ready()
            return
        configuring.begin(reactor)
        _when(lambda: configuring.is_settled, reactor, configured, _CONFIGURE_S)

    def configured() -> None:
        if configuring is not None and not configuring.is_settled:
            _log.warning("the configuration is still being applied after %d s", _CONFIGURE_S)
        ready()

    def ready() -> None:
        _log.info("ready: %s", _status(custodian))
        sd_notify("READY=1", f"STATUS={_status(custodian)}", f"MAINPID={os.getpid()}")
        custodian.on_state = reactor.coalesced(_STATUS_S, lambda: sd_notify(f"STATUS={_status(custodian)}"))

    simulation.start(simulated)
    reactor.run()
    if configuring is not None:
        configuring.end()
    for server in control:
        server.close()
    for companion in options.companions:
        companion.end()
    if reactor.stopped_by == signal.SIGHUP:
        _execute_again(custodian)
    if reactor.stopped_by == signal.SIGINT:
        custodian.end()
    else:
        sd_notify("STOPPING=1")
    forkserver.close()
    os.close(lock)
    return 0


def _status(custodian: Custodian) -> str:
    live = sum(chip.state == "live" for chip in custodian.chips.values())
    return f"{live} of {len(custodian.chips)} chips live"


def _is_wanted(configuring: Configuring, custodian: Custodian) -> bool:
    """There are files, or chips whose files are gone."""
    described = any(chip.record.origin for chip in custodian.chips.values())
    return configuring.has_files or (described and configuring.has_directory)


def _when(
    condition: Callable[[], bool], reactor: Reactor, then: Callable[[], None], at_most_s: float = _SETTLE_S
) -> None:
    """Go on when it holds, or after a while without."""
    give_up = time.monotonic() + at_most_s

    def look() -> None:
        if condition() or time.monotonic() > give_up:
            then()
        else:
            reactor.call_later(0.01, look)

    look()


def _make(directories: Directories) -> None:
    try:
        for path, mode in (
            (directories.run, 0o755),
            (directories.chips, 0o755),
            (directories.vms, 0o755),
            (directories.workers, 0o700),
            (directories.sources, 0o700),
        ):
            os.makedirs(path, mode, exist_ok=True)
            os.chmod(path, mode)
    except OSError as error:
        raise HostError.of(f"cannot use {directories.run}", error) from error


def _lock(run: str) -> int:
    fd = os.open(f"{run}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise HostError(
            f"another gpiovirtd runs on {run} (pid {pid or 'unknown'}); end it first, or give this one "
            "directories of its own with --run and --state"
        ) from None
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def _restored() -> dict[str, dict[int, int]]:
    """Lines that were kept for us: by chip, by offset."""
    restored: dict[str, dict[int, int]] = {}
    for name, fd in kept_fds().items():
        chip, _, offset = name.rpartition("/")
        if chip and offset.isdecimal():
            restored.setdefault(chip, {})[int(offset)] = fd
        else:
            os.close(fd)
    return restored


def _execute_again(custodian: Custodian) -> NoReturn:
    """Be the program that is installed now, as the same process, with the lines that we hold."""
    sd_notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    files = custodian.kept_files()
    environment = dict(os.environ)
    duplicates = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FD + len(files)) for fd in files.values()]
    highest = max(duplicates, default=FIRST_FD)
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, highest + 1) for fd in duplicates]
    for number, fd in enumerate(moved, FIRST_FD):
        os.dup2(fd, number)
    environment.update(
        LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(files)), LISTEN_FDNAMES=":".join(files)
    )
    with suppress(OSError):
        os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606
    # too many for an environment: the workers have them, too
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(name)
    os.closerange(FIRST_FD, FIRST_FD + len(files))
    os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606
