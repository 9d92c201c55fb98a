# SPDX-License-Identifier: MIT
"""The configuration at start: a process of its own, since the custodian is not to import what reads it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from gpiovirt.host import libc
from gpiovirt.host.reactor import Reactor

__all__ = ["Configuring"]

_log = logging.getLogger(__name__)


class Configuring:
    """`python -m ARGUMENTS`, once, which applies the files in `directory`; what it says goes to our log."""

    def __init__(self, directory: str, arguments: Sequence[str], run: str) -> None:
        self._directory = directory
        self._command = [sys.executable, "-m", *arguments]
        self._environment = {**os.environ, "GPIOVIRT_RUNTIME_DIR": run}
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1

    @property
    def has_files(self) -> bool:
        """Whether there is anything to be applied."""
        try:
            return any(name.endswith(".toml") for name in os.listdir(self._directory))
        except FileNotFoundError:
            return False
        except OSError as error:
            _log.error("cannot read the configuration in %s: %s", self._directory, error.strerror)
            return False

    @property
    def has_directory(self) -> bool:
        """Whether its being empty means something."""
        return os.path.isdir(self._directory)

    def begin(self, reactor: Reactor) -> None:
        """Start it; OSError never: what fails is logged."""
        self._reactor = reactor
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=self._environment,
                start_new_session=True,
                preexec_fn=libc.end_with_parent,
            )
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError as error:
            _log.error("the configuration is not applied: %s", error)
            self.end()
            return
        reactor.add_reader(self._pidfd, self._on_end)

    @property
    def is_settled(self) -> bool:
        """It has ended, or was not begun."""
        return self._pidfd < 0

    def _on_end(self) -> None:
        self._reactor.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        assert self._process is not None
        if status := self._process.wait():
            _log.error("not all of %s could be applied (exit status %d)", self._directory, status)

    def end(self) -> None:
        """It is not waited for any longer."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
        if self._pidfd >= 0:
            self._reactor.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
