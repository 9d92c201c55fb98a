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
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from gpiovirt.control.client import Client
from gpiovirt.control.containers import grant_for
from gpiovirt.core.text import printable
from gpiovirt.errors import GpiovirtError, HostError, UsageError
from gpiovirt.host.journal import start_logging
from gpiovirt.host.notify import sd_notify
from gpiovirt.kubernetes.device_plugin import KUBELET_DIRECTORY, ChipPlugin, register
from gpiovirt.kubernetes.nri import Plugin
from gpiovirt.protocols.cdi import is_cdi_name

if TYPE_CHECKING:
    from gpiovirt.kubernetes.dra import Driver

__all__ = ["main", "parser"]

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
_AGAIN_S = 2.0
_PUBLISH_S = 60.0
_OF_CLAIMS = "claim-"  # chips whose claims have them already
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
    made.add_argument(
        "--dra", action="store_true", help="also make chips for ResourceClaims: Kubernetes 1.34 or newer"
    )
    made.add_argument(
        "--node",
        metavar="NAME",
        default=os.environ.get("NODE_NAME", ""),
        help="this node (default: $NODE_NAME)",
    )
    made.add_argument("--api", metavar="URL", default="", help="the API server (default: the pod's)")
    made.add_argument(
        "--kubelet", metavar="DIR", default="/var/lib/kubelet", help="its plugins and plugins_registry"
    )
    made.add_argument("--no-cdi", action="store_true", help="give mounts to kubelet: the runtime has no CDI")
    return made


def main() -> int:
    """Entry point."""
    try:
        return _main()
    except GpiovirtError as error:
        sys.stderr.write(f"gpiovirt-kubernetes: {printable(str(error))}\n")
        return 2 if isinstance(error, UsageError) else 1


def _main() -> int:
    options = parser().parse_args()
    start_logging("gpiovirt-kubernetes")
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    editor = None if options.no_nri else Editor(options.nri, options.run)
    if editor is not None:
        threading.Thread(target=editor.run, daemon=True).start()
    node = Node(options.run, options.plugins, not options.no_cdi, editor)
    driver = _driver(options) if options.dra else None
    sd_notify("READY=1")
    publish_at_s = 0.0
    while not stopped.wait(_LOOK_S):
        try:
            node.look()
            if driver is not None and time.monotonic() >= publish_at_s:
                driver.publish()
                publish_at_s = time.monotonic() + _PUBLISH_S
        except (GpiovirtError, OSError) as error:
            node.complain(str(error))
    node.close()
    if driver is not None:
        driver.close()
    return 0


def _driver(options: argparse.Namespace) -> Driver:
    from gpiovirt.kubernetes.api_server import ApiServer
    from gpiovirt.kubernetes.dra import Driver

    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}", "") for part in ("HOST", "PORT"))
    url = options.api or (f"https://{f'[{host}]' if ':' in host else host}:{port or 443}" if host else "")
    if not url or not options.node:
        raise UsageError("--dra needs --node and, outside a pod, --api")
    kubelet = options.kubelet
    return Driver(
        f"{options.run}/control",
        ApiServer(url),
        options.node,
        f"{kubelet}/plugins",
        f"{kubelet}/plugins_registry",
    )


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


def _is_offered(chip: str) -> bool:
    return is_cdi_name(chip) and not chip.startswith(_OF_CLAIMS)


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
                live = {chip.name: chip.state == "live" for chip in client.chips() if _is_offered(chip.name)}
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
