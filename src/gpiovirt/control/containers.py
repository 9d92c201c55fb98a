# SPDX-License-Identifier: MIT
"""Editing the configuration of a container that asks for chips: for hooks, wrappers and commands.

It runs for every container of a machine, so nothing is imported before a configuration mentions a chip; what
socket and typing import takes longer than all else.
"""

from __future__ import annotations

import os

from gpiovirt.control import runtime_directories

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from gpiovirt.protocols.oci import Grant

__all__ = ["edited", "grant_for", "is_listener", "listener_of", "mentions_chips", "node_of", "prepared"]

_PATIENCE_S = 15.0  # longer than the service waits for anybody
_NODES = "containers/nodes"
_LISTENER = "/containers/listener"
_ANSWER_MAX = 1 << 16


def mentions_chips(text: bytes) -> bool:
    """Whether a configuration may ask for one."""
    return b"/containers/nodes/" in text or b"/dev/pts/" in text


def edited(
    text: bytes,
    flags: Callable[[], Iterable[str]] = tuple,
    about: Callable[[dict[str, Any]], Mapping[str, str]] = lambda _: {},
) -> bytes:
    """The configuration with what its chips add; byte by byte as it was if it asks for none.

    `flags` tells which flags for seccomp(2) its runtime takes, `about` annotations that tell the record what
    the container is. GpiovirtError if it cannot have its chips.
    """
    if not mentions_chips(text):
        return text
    import json

    from gpiovirt.protocols.oci import edit, find_markers, parse_config

    config = parse_config(text)
    known = _Nodes()
    markers = find_markers(config, known.chip_of)
    if not markers:
        return text
    grant = grant_for(known.run(), {marker.device: marker.chip for marker in markers})
    edit(config, markers, grant, os.uname().machine, flags())
    if told := about(config):
        config["annotations"] = {**(config.get("annotations") or {}), **told}
    return json.dumps(config).encode()


def prepared(text: bytes, chips: Iterable[str]) -> bytes:
    """The configuration, asking for chips as an engine would have it; GpiovirtError."""
    import json

    from gpiovirt.protocols.oci import marker_mount, parse_config

    config = parse_config(text)
    mounts = config.get("mounts")
    mounts = mounts if isinstance(mounts, list) else []
    there = {mount.get("source") for mount in mounts if isinstance(mount, dict)}
    nodes = {chip: node_of(chip) for chip in chips}
    asked = [marker_mount(node, chip) for chip, node in nodes.items() if node not in there]
    config["mounts"] = [*mounts, *asked]
    return json.dumps(config).encode()


def node_of(chip: str) -> str:
    """Where containers get the chip from; NoSuchDeviceError if there is no such chip."""
    for run in runtime_directories():
        path = f"{run}/{_NODES}/{chip}"
        if "/" not in chip and os.path.lexists(path):
            return path
    from gpiovirt.errors import NoSuchDeviceError

    raise NoSuchDeviceError(f"no chip {chip!r} is there for containers; gpiovirt list shows the chips")


def _is_run(directory: str) -> bool:
    """Whether it is a daemon's, ours or another user's: engines tell hooks nothing of who their user is."""
    match directory.split("/"):
        case ["", "run", "user", uid, "gpiovirt"] if uid.isdecimal():
            return True
    return directory in runtime_directories()


def is_listener(path: object) -> bool:
    """Whether it is that of a daemon's service."""
    return isinstance(path, str) and path.endswith(_LISTENER) and _is_run(path.removesuffix(_LISTENER))


def listener_of(run: str) -> str:
    """The socket of the service of that daemon."""
    return f"{run}{_LISTENER}"


def grant_for(run: str, chips: Mapping[str, str]) -> Grant:
    """What a container with these chips, by device, is to get; HostError if it is not to have them."""
    import socket

    from gpiovirt.errors import HostError
    from gpiovirt.host.unix_socket import limit_waits
    from gpiovirt.protocols.containers import decode_grant, encode_prepare

    listener = listener_of(run)
    answer = b""
    with socket.socket(socket.AF_UNIX) as sock:
        limit_waits(sock, _PATIENCE_S, socket.SO_RCVTIMEO, socket.SO_SNDTIMEO)
        try:
            sock.connect(listener)
            sock.sendall(encode_prepare(chips))
            while not answer.endswith(b"\n") and len(answer) < _ANSWER_MAX:
                if not (part := sock.recv(4096)):
                    break
                answer += part
        except OSError as error:
            raise HostError(
                f"nobody serves containers at {listener}: start gpiovirtd ({error.strerror})"
            ) from error
    return decode_grant(answer, listener)


class _Nodes:
    """Which chip a mount's source is, by its path, or where an engine has resolved that, by its device."""

    def __init__(self) -> None:
        self._runs: set[str] = set()
        self._by_source: dict[str, tuple[str, str]] = {}
        for run in runtime_directories():
            try:
                for chip in os.listdir(f"{run}/{_NODES}"):
                    self._by_source[os.readlink(f"{run}/{_NODES}/{chip}")] = run, chip
            except OSError:  # only root may list them
                continue

    def chip_of(self, source: str) -> str | None:
        """None if it is none."""
        found = self._by_source.get(source)
        directory, _, chip = source.rpartition("/")
        directory = os.path.normpath(directory).replace("/var/run/", "/run/", 1)
        run = directory.removesuffix(f"/{_NODES}")
        if run != directory and chip and _is_run(run):
            found = run, chip
        if found is None:
            return None
        self._runs.add(found[0])
        return found[1]

    def run(self) -> str:
        """The daemon that serves them; UsageError if they are several's."""
        from gpiovirt.errors import UsageError

        if len(self._runs) > 1:
            raise UsageError("the container asks for chips of two gpiovirtds; it can have those of one")
        return next(iter(self._runs))
