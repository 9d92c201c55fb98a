# SPDX-License-Identifier: MIT
"""Serves a tree of files to who mounted it: an open /dev/fuse, on the loop where the chips are."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from gpiovirt.host.reactor import Reactor
from gpiovirt.protocols.fuse import Directory, FuseServer

__all__ = ["FuseMount"]

_REQUEST_MAX = 1 << 17  # more than FUSE_MIN_READ_BUFFER, and than the kernel sends here


class FuseMount:
    """One request after the other: while an answer is to come, the kernel keeps those that follow."""

    def __init__(self, fuse: int, root: Directory, reactor: Reactor) -> None:
        self._fuse = fuse
        self._reactor = reactor
        self._server = FuseServer(root, os.geteuid(), os.getegid(), self._on_late)
        reactor.add_reader(fuse, self._on_ready)

    def wake(self) -> None:
        """Tell the kernel of polled files that have changed."""
        for told in self._server.wakeups():
            self._send(told)

    def close(self) -> None:
        """Serve it no more."""
        if self._fuse >= 0:
            self._reactor.remove_reader(self._fuse)
            os.close(self._fuse)
            self._fuse = -1

    def _on_ready(self) -> None:
        try:
            message = os.read(self._fuse, _REQUEST_MAX)
        except OSError as error:
            if error.errno == errno.ENODEV:  # it is unmounted
                self.close()
            return  # else it was interrupted, or somebody else's turn
        answer = self._server.receive(message)
        if answer is not None:
            self._send(answer)
        elif self._server.is_waiting:
            self._reactor.remove_reader(self._fuse)

    def _on_late(self, answer: bytes) -> None:
        if self._fuse >= 0:
            self._send(answer)
            self._reactor.remove_reader(self._fuse)  # it is not watched, unless nobody had to wait
            self._reactor.add_reader(self._fuse, self._on_ready)

    def _send(self, answer: bytes) -> None:
        with suppress(OSError):  # who asked is gone, or the file closed meanwhile
            os.write(self._fuse, answer)
