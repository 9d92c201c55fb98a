# SPDX-License-Identifier: MIT
"""The part of systemd that a daemon needs: hears of readiness, keeps files, starts the daemon with them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["ServiceManager"]


class ServiceManager:
    """Listens for sd_notify(3) at a socket in `folder`, and keeps what FDSTORE=1 brings."""

    def __init__(self, folder: Path) -> None:
        self._path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(self._path)
        self.kept: dict[str, int] = {}
        self.states: list[str] = []

    def environment(self) -> dict[str, str]:
        """Of a daemon that is to notify us."""
        return {**os.environ, "NOTIFY_SOCKET": self._path}

    def receive(self) -> None:
        """Take in what was said since."""
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self._socket, 65536, 16)
            except BlockingIOError:
                return
            lines = message.decode().splitlines()
            self.states += lines
            name = next((line[7:] for line in lines if line.startswith("FDNAME=")), "")
            if "FDSTORE=1" in lines:
                self._drop(name)
                (self.kept[name],) = fds
            elif "FDSTOREREMOVE=1" in lines:
                self._drop(name)

    def _drop(self, name: str) -> None:
        if name in self.kept:
            os.close(self.kept.pop(name))

    def hand_over(self, argv: list[str], environment: dict[str, str]) -> None:
        """Execute `argv`, with the files that were kept; call it in a new process."""
        fds = [os.dup(fd) for fd in self.kept.values()]
        highest = max([*fds, 3 + len(fds)])
        moved = [os.dup2(fd, highest + 1 + i, inheritable=False) for i, fd in enumerate(fds)]
        for number, fd in enumerate(moved, 3):
            os.dup2(fd, number)
        os.execve(  # noqa: S606
            argv[0],
            argv,
            {
                **environment,
                "LISTEN_PID": str(os.getpid()),
                "LISTEN_FDS": str(len(fds)),
                "LISTEN_FDNAMES": ":".join(self.kept),
            },
        )

    def close(self) -> None:
        """Drop everything that was kept."""
        for name in list(self.kept):
            self._drop(name)
        self._socket.close()
