# SPDX-License-Identifier: MIT
"""gpiovirtd as a process: its lock, its directories, its signals, and the processes beside it.

SIGTERM ends it and leaves the workers, which go on serving, for the next gpiovirtd to find. SIGINT ends
all. SIGHUP re-executes it in its place, with the lines that it holds.
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

from gpiovirt.core.task import sleep, start
from gpiovirt.daemon.control import ControlServer
from gpiovirt.daemon.custodian import Custodian
from gpiovirt.daemon.directories import Directories
from gpiovirt.daemon.fork_server import ForkServer
from gpiovirt.daemon.helpers import ConfigurationRun, HelperProcess, SocketActivatedHelper
from gpiovirt.daemon.recorder import Recorder, Settings
from gpiovirt.daemon.simulation import Simulation
from gpiovirt.daemon.store import Store
from gpiovirt.errors import HostError
from gpiovirt.host.inotify import IN_ATTRIB, DirectoryWatch
from gpiovirt.host.machine import this_abi
from gpiovirt.host.notify import FIRST_FD, kept_fds, sd_notify
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Peer

__all__ = ["Options", "serve"]

_log = logging.getLogger(__name__)

_STATUS_S = 0.2
_ATTRIBUTES_S = 0.05  # a change is recorded on disk; who owns a socket may make any number
_SETTLE_S = 5.0  # readiness waits no longer than this for workers
_CONFIGURE_S = 30.0  # and for the configuration
_LOOK_NS = 10_000_000
_END_NS = 5_000_000_000
_END_GOING_NS = 4_000_000_000  # a worker that has to be killed has ended by then


class Options(NamedTuple):
    """The settings of a daemon."""

    run: str
    state: str
    simulated: Sequence[tuple[str, Sequence[str]]]
    wires: Sequence[tuple[str, str]]
    worker_uid: int
    worker_gid: int
    helpers: Sequence[HelperProcess]
    configuration: ConfigurationRun | None
    record: Settings | None = None
    """None: what happens to chips is not recorded"""


def serve(options: Options) -> int:
    """Run until a signal ends it. HostError if another one runs, or something needed is not available."""
    this_abi()  # where workers cannot be confined, there are none
    restored = kept_fds()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.umask(0o022)
    directories = Directories(options.run)
    directories.make()
    lock = _lock(options.run)
    return _Service(options, directories, restored, lock).run()


class _Service:
    """Its parts, and the order in which they come and go."""

    def __init__(
        self, options: Options, directories: Directories, restored: dict[str, int], lock: int
    ) -> None:
        self._options = options
        self._lock = lock
        self._directories = directories
        self._reactor = reactor = Reactor()
        reactor.stop_on((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        self._forkserver = ForkServer(reactor, options.worker_uid, options.worker_gid)
        self._simulation = Simulation(
            options.simulated, options.wires, directories, reactor, self._forkserver
        )
        self._recorder = None if options.record is None else Recorder(options.record, reactor)
        self._custodian = Custodian(
            directories,
            Store(options.state, directories.passing),
            reactor,
            self._forkserver,
            self._simulation,
            restored,
            self._recorder,
        )
        self._control: ControlServer | None = None
        self._attributes = DirectoryWatch(directories.chips, IN_ATTRIB)
        self._touched: set[str] = set()
        self._follow = reactor.coalesced(_ATTRIBUTES_S, self._follow_touched)
        reactor.add_reader(self._attributes.fileno(), self._on_attributes)

    def _on_attributes(self) -> None:
        self._touched.update(name for _, name in self._attributes.read())
        self._follow()

    def _follow_touched(self) -> None:
        touched, self._touched = self._touched, set()
        for name in touched:
            self._custodian.on_attributes_changed(name)

    def run(self) -> int:
        """Until a signal comes."""
        beginning = start(self._begin())

        def begun() -> None:
            if beginning.has_failed:
                self._reactor.stop()

        beginning.then(begun)
        self._reactor.run()
        self._end()
        if beginning.has_failed:
            beginning.result()
        return 0

    async def _begin(self) -> None:
        """Start what is needed first, first; do not wait for what is late."""
        helpers, configuration = self._options.helpers, self._options.configuration
        self._simulation.start()
        await self._until(lambda: self._simulation.ready.is_done)
        if self._recorder is not None:
            self._recorder.begin()
        self._custodian.restore()
        await self._until(lambda: self._custodian.is_settled)
        self._control = ControlServer(
            self._directories.control, self._custodian, self._reactor, self._is_agent
        )
        for helper in helpers:
            helper.begin(self._reactor)
        await self._until(lambda: all(helper.is_settled for helper in helpers))
        if configuration is not None and self._is_wanted(configuration):
            configuration.begin(self._reactor)
            await self._until(lambda: configuration.is_settled, _CONFIGURE_S)
            if not configuration.is_settled:
                _log.warning("the configuration is still being applied after %d s", _CONFIGURE_S)
        _log.info("ready: %s", self._status())
        sd_notify("READY=1", f"STATUS={self._status()}", f"MAINPID={os.getpid()}")
        self._custodian.on_state = self._reactor.coalesced(
            _STATUS_S, lambda: sd_notify(f"STATUS={self._status()}")
        )

    async def _until(self, condition: Callable[[], bool], at_most_s: float = _SETTLE_S) -> None:
        give_up_ns = time.monotonic_ns() + int(at_most_s * 1e9)
        while not condition() and time.monotonic_ns() < give_up_ns:
            await sleep(self._reactor.deadlines, time.monotonic_ns() + _LOOK_NS)

    def _is_agent(self, peer: Peer) -> bool:
        return any(
            isinstance(helper, SocketActivatedHelper) and helper.is_peer(peer)
            for helper in self._options.helpers
        )

    def _is_wanted(self, configuration: ConfigurationRun) -> bool:
        """Whether there are files, or chips whose files are gone."""
        described = any(chip.record.origin for chip in self._custodian.chips.values())
        return configuration.has_files or (described and configuration.has_directory)

    def _status(self) -> str:
        chips = self._custodian.chips.values()
        return f"{sum(chip.state == 'live' for chip in chips)} of {len(chips)} chips live"

    def _end(self) -> None:
        if self._options.configuration is not None:
            self._options.configuration.end()
        if self._control is not None:
            self._control.close()
        for helper in self._options.helpers:
            helper.end()
        self._reactor.run_until(start(self._custodian.end_going()), _END_GOING_NS)
        if self._reactor.stopped_by == signal.SIGHUP:
            if self._recorder is not None:
                self._recorder.end()
            _execute_again(self._custodian)
        sd_notify("STOPPING=1")
        if self._reactor.stopped_by == signal.SIGINT:
            self._end_chips()
        if self._recorder is not None:
            self._recorder.end()
        self._forkserver.close()
        os.close(self._lock)

    def _end_chips(self) -> None:
        self._reactor.run_until(start(self._custodian.end()), _END_NS)


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


def _execute_again(custodian: Custodian) -> NoReturn:
    """Execute the program that is installed now, as the same process, with the lines that we hold."""
    sd_notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    files = custodian.kept_files()
    environment = dict(os.environ)
    # first out of the way of the numbers wanted, then to these
    above = FIRST_FD + len(files)
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in files.values()]
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
    os.closerange(FIRST_FD, above)
    os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606
