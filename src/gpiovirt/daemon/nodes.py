# SPDX-License-Identifier: MIT
"""How containers get at chips: a link to each chip's device, and a file from which engines know of it.

The link gives no right: who may use the chip is decided by its socket, when a program does.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress

from gpiovirt.daemon.directories import Directories
from gpiovirt.errors import HostError
from gpiovirt.host.installation import guard
from gpiovirt.host.terminal import new_terminal, terminal_index
from gpiovirt.protocols.cdi import cdi_file_of, cdi_spec, is_cdi_name

__all__ = ["Node", "Nodes"]

_log = logging.getLogger(__name__)


class Nodes:
    """The links and files of one gpiovirtd; what fails is logged, and the chip serves others still."""

    def __init__(self, directories: Directories) -> None:
        self._nodes = directories.nodes
        self._cdi = directories.cdi
        self._guard = guard()

    def show(self, chip: str, index: int) -> None:
        """The chip's device is /dev/pts/`index` from now on."""
        target, path = f"/dev/pts/{index}", f"{self._nodes}/{chip}"
        try:
            if _link(path) != target:
                with suppress(OSError):
                    os.rmdir(path)  # an engine makes what it is to mount and does not find
                os.symlink(target, f"{path}.new")
                os.replace(f"{path}.new", path)
            if is_cdi_name(chip):
                self._write(chip, path)
            else:
                _log.info("%s: no name that CDI allows; containers get it by its node, %s", chip, path)
        except OSError as error:
            _log.error("%s cannot be given to containers: %s", chip, error, extra={"chip": chip})

    def _write(self, chip: str, node: str) -> None:
        text = json.dumps(cdi_spec(chip, node, self._guard), indent=1) + "\n"
        path = f"{self._cdi}/{cdi_file_of(chip)}"
        with suppress(OSError), open(path, encoding="utf-8") as file:
            if file.read() == text:
                return
        os.makedirs(self._cdi, exist_ok=True)
        with open(f"{path}.new", "w", encoding="utf-8") as file:  # no engine reads what ends so
            file.write(text)
        os.replace(f"{path}.new", path)

    def hide(self, chip: str) -> None:
        """There is no such device: its number may be another terminal's soon."""
        for path in (f"{self._cdi}/{cdi_file_of(chip)}", f"{self._nodes}/{chip}"):
            with suppress(OSError):
                os.unlink(path)

    def hide_all_but(self, chips: Iterable[str]) -> None:
        """Of a gpiovirtd before us."""
        known = set(chips)
        with suppress(OSError):
            for name in os.listdir(self._nodes):
                if name not in known:
                    self.hide(name)


class Node:
    """A chip's device, and whether containers are shown it; `nodes` is None where they never are."""

    def __init__(self, chip: str, nodes: Nodes | None) -> None:
        self._chip = chip
        self._nodes = nodes
        self.tty = -1
        """What keeps the terminal by which containers know the chip"""

    def use(self, fd: int) -> None:
        """Go on with this one, which has outlived us (-1: there is none)."""
        if fd >= 0 and terminal_index(fd) < 0:
            os.close(fd)
            fd = -1
        if self.tty >= 0:
            os.close(self.tty)
        self.tty = fd

    def show(self) -> None:
        """Containers may have it."""
        if self._nodes is None:
            return
        try:
            if self.tty < 0:
                self.tty = new_terminal()
        except HostError as error:
            _log.warning(
                "%s cannot be given to containers: %s", self._chip, error, extra={"chip": self._chip}
            )
        else:
            self._nodes.show(self._chip, terminal_index(self.tty))

    def hide(self) -> None:
        """They cannot."""
        if self._nodes is not None:
            self._nodes.hide(self._chip)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
