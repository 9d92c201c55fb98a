# SPDX-License-Identifier: MIT
"""How chips are made and driven from outside.

Only the names by which simulators and daemons are found are here, and what every program's start needs.
"""

from __future__ import annotations

import os

from gpiovirt.errors import HostError

__all__ = [
    "ENVIRONMENT",
    "SOCKETS",
    "chip_socket",
    "config_directory",
    "control_socket",
    "listen_at",
    "pid_of_socket",
    "record_socket",
    "runtime_directories",
    "socket_name",
    "vm_socket",
]

ENVIRONMENT = "GPIOVIRT_SIM"
SOCKETS = "gpiovirt/sim/"


def socket_name(uid: int, pid: int) -> str:
    """A name for the abstract socket of the simulator that the program `pid` of user `uid` runs on.

    Nobody can predict it: anybody may take such a name.
    """
    return f"{SOCKETS}{uid}/{pid}.{os.urandom(4).hex()}"


def listen_at(name: str) -> int:
    """A socket that listens there, for packets; HostError if it cannot be made."""
    import _socket  # who starts a program waits for every import

    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK)
    try:
        listener.bind("\0" + name)
        listener.listen(16)
    except OSError as error:
        raise HostError.of(f"cannot bind the abstract socket {name}", error) from error
    return listener.detach()


def pid_of_socket(name: str) -> int:
    """The program's pid in such a name; 0 if it is not such a name."""
    pid = name.rpartition("/")[2].partition(".")[0]
    return int(pid) if pid.isdecimal() and len(pid) < 10 else 0


def runtime_directories() -> list[str]:
    """Where this user's possible daemons have their sockets; GPIOVIRT_RUNTIME_DIR names another place."""
    if chosen := os.environ.get("GPIOVIRT_RUNTIME_DIR"):
        return [chosen]
    own = os.environ.get("XDG_RUNTIME_DIR")
    return ["/run/gpiovirt", *([f"{own}/gpiovirt"] if own and os.getuid() else [])]


def config_directory(uid: int) -> str:
    """Where files describe the chips of this user's daemon; GPIOVIRT_CONFIG_DIR names another place."""
    if chosen := os.environ.get("GPIOVIRT_CONFIG_DIR"):
        return chosen
    if uid == 0:
        return "/etc/gpiovirt/chips.d"
    own = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return f"{own}/gpiovirt/chips.d"


def control_socket() -> str | None:
    """Path of the control socket of a daemon; None if there is none."""
    for directory in runtime_directories():
        path = f"{directory}/control"
        if os.path.exists(path):
            return path
    return None


def record_socket() -> str | None:
    """Path of the socket that answers `gpiovirt log`; None if there is none."""
    for directory in runtime_directories():
        path = f"{directory}/record"
        if os.path.exists(path):
            return path
    return None


def chip_socket(name: str) -> str | None:
    """Path of the socket of a daemon's chip; None if there is no such chip."""
    return _socket("chips", name)


def vm_socket(name: str) -> str | None:
    """Path of the socket for VMs of a daemon's chip; None if it has none."""
    return _socket("vm", name)


def _socket(kind: str, name: str) -> str | None:
    for directory in runtime_directories():
        path = f"{directory}/{kind}/{name}"
        if "/" not in name and os.path.lexists(path):
            return path
    return None
