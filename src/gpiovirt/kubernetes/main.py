# SPDX-License-Identifier: MIT
"""gpiovirt-kubernetes: a node's chips for its pods, by the device plugin and by NRI."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from contextlib import suppress

from gpiovirt.control.client import Client
from gpiovirt.control.containers import grant_for
from gpiovirt.errors import GpiovirtError, HostError
from gpiovirt.host.journal import start_logging
from gpiovirt.host.notify import sd_notify
from gpiovirt.kubernetes.device_plugin import KUBELET_DIRECTORY, ChipPlugin, register
from gpiovirt.kubernetes.nri import Plugin
from gpiovirt.protocols.cdi import is_cdi_name

__all__ = ["main", "parser"]

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
_AGAIN_S = 2.0
_RECEIVE_MAX = 1 << 16
EPILOG = """\
Each chip of gpiovirtd is a resource of this node, gpiovirt.io/NAME, that one pod can have. Containers are
edited by the NRI plugin; where the runtime has no NRI, or does not tell plugins a container's seccomp policy,
by a RuntimeClass (--no-nri): gpiovirt doctor prints the lines.
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        "gpiovirt-kubernetes",
        description="give chips of gpiovirtd to pods of this node",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--run", metavar="DIR", default="/run/gpiovirt", help="gpiovirtd's directory for sockets"
    )
    made.add_argument(
        "--plugins",
        metavar="DIR",
        default=KUBELET_DIRECTORY,
        help="kubelet's directory for device plugins",
    )
    made.add_argument(
        "--nri", metavar="SOCKET", default="/var/run/nri/nri.sock", help="the runtime's socket for plugins"
    )
    made.add_argument("--no-nri", action="store_true", help="a RuntimeClass edits containers")
    made.add_argument("--no-cdi", action="store_true", help="give mounts to kubelet: the runtime has no CDI")
    return made


def main() -> int:
    """Serve until SIGTERM."""
    options = parser().parse_args()
    start_logging("gpiovirt-kubernetes")
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    editor = None if options.no_nri else Editor(options.nri, options.run)
    if editor is not None:
        threading.Thread(target=editor.run, daemon=True).start()
    node = Node(options.run, options.plugins, not options.no_cdi, editor)
    sd_notify("READY=1")
    while not stopped.wait(_LOOK_S):
        try:
            node.look()
        except (GpiovirtError, OSError) as error:
            node.complain(str(error))
    node.close()
    return 0


class Editor:
    """The connection to the runtime's NRI, made again when it ends."""

    def __init__(self, path: str, run: str) -> None:
        self._path = path
        self._run = run
        self.is_there = False
        """Containers are edited"""

    def run(self) -> None:
        """Until the process ends."""
        said = ""
        while True:
            try:
                self._serve()
            except (GpiovirtError, OSError) as error:
                if str(error) != said:
                    said = str(error)
                    _log.warning("containers are not edited: NRI at %s: %s", self._path, said)
            self.is_there = False
            threading.Event().wait(_AGAIN_S)

    def _chip_of(self, source: str) -> str | None:
        directory, _, chip = source.rpartition("/")
        return chip if directory == f"{self._run}/containers/nodes" and chip else None

    def _serve(self) -> None:
        plugin = Plugin(self._chip_of, lambda chips: grant_for(self._run, chips), os.uname().machine)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self._path)
            sock.sendall(plugin.begin())
            while data := sock.recv(_RECEIVE_MAX):
                if answer := plugin.receive(data):
                    sock.sendall(answer)
                self.is_there = plugin.is_registered
        raise HostError("the runtime has ended the connection")


class Node:
    """The chips of this node, as kubelet knows them."""

    def __init__(self, run: str, plugins: str, uses_cdi: bool, editor: Editor | None) -> None:
        self._run = run
        self._plugins = plugins
        self._uses_cdi = uses_cdi
        self._editor = editor
        self._chips: dict[str, ChipPlugin] = {}
        self._kubelet: tuple[int, int, int] | None = None
        self._said = ""

    def complain(self, why: str) -> None:
        """Log it, once."""
        if why != self._said:
            self._said = why
            _log.warning("%s", why)

    def look(self) -> None:
        """Follow what has changed since; GpiovirtError."""
        live: dict[str, bool] = {}
        try:
            with Client(f"{self._run}/control") as client:
                live = {chip.name: chip.state == "live" for chip in client.chips() if is_cdi_name(chip.name)}
        finally:
            there = self._editor is None or self._editor.is_there
            for name, plugin in self._chips.items():
                plugin.set_health(there and live.get(name, False))
        for name in [name for name in self._chips if name not in live]:
            self._chips.pop(name).close()
        status = os.stat(f"{self._plugins}/kubelet.sock")
        kubelet = status.st_dev, status.st_ino, status.st_ctime_ns
        if kubelet != self._kubelet:  # another one, which has removed our sockets and knows nothing of us
            for plugin in self._chips.values():
                plugin.close()
            self._chips.clear()
        for name in live.keys() - self._chips.keys():
            path = f"{self._run}/containers/nodes/{name}"
            plugin = ChipPlugin(name, self._plugins, path, self._uses_cdi)
            try:
                register(plugin, self._plugins)
            except GpiovirtError:
                plugin.close()
                raise
            plugin.set_health(there and live[name])
            self._chips[name] = plugin
        self._kubelet = kubelet
        self._said = ""

    def close(self) -> None:
        """Serve no chip any more."""
        for plugin in self._chips.values():
            with suppress(GpiovirtError):
                plugin.close()
        self._chips.clear()


if __name__ == "__main__":
    sys.exit(main())
