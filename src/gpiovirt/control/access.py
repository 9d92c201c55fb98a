# SPDX-License-Identifier: MIT
"""Who may do what with a daemon's chips: Unix owner, group and mode, and a group that may do everything."""

import errno
import grp
import os
import pwd
import socket
from array import array
from contextlib import suppress
from struct import Struct
from typing import NamedTuple

from gpiovirt.errors import HostError, UsageError
from gpiovirt.protocols.control import ID_MAX

__all__ = [
    "GROUP",
    "Identity",
    "cannot_open",
    "gid_of",
    "group_name",
    "identity_of",
    "parse_mode",
    "uid_of",
    "user_name",
    "whose",
]

GROUP = "gpiovirt"
"""Its members make, change and delete chips"""

_ucred = Struct("iII")  # unix(7)
_SO_PEERGROUPS = 59  # asm-generic/socket.h
_GROUPS_MAX = 256  # the most that Python's getsockopt() has room for


class Identity(NamedTuple):
    """A user and all of their groups."""

    uid: int
    gids: frozenset[int]

    def may_manage(self, daemon_uid: int, manager_gid: int) -> bool:
        """Whether they may make, change and delete any chip; `manager_gid` is that of GROUP, or -1."""
        return self.uid in (0, daemon_uid) or manager_gid in self.gids

    def may_use(self, uid: int, gid: int, mode: int) -> bool:
        """Whether they may connect to such a socket: the first of owner, group and others decides."""
        if self.uid == 0:
            return True
        if self.uid == uid:
            return bool(mode & 0o200)
        if gid in self.gids:
            return bool(mode & 0o020)
        return bool(mode & 0o002)


def identity_of(sock: socket.socket) -> Identity:
    """The peer at the other end of a Unix socket, from the kernel: SO_PEERCRED and SO_PEERGROUPS."""
    _, uid, gid = _ucred.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _ucred.size))
    groups = array("I")
    with suppress(OSError):
        groups.frombytes(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _GROUPS_MAX))
    return Identity(uid, frozenset([gid, *groups]))


def uid_of(user: str) -> int:
    """The uid of a name or number; -1 for "". UsageError if there is no such user."""
    try:
        return _number_of(user) if not user or user.isdecimal() else pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):  # ValueError: not a possible name
        raise UsageError(f"there is no user {user!r}") from None


def gid_of(group: str) -> int:
    """The gid of a name or number; -1 for "". UsageError if there is no such group."""
    try:
        return _number_of(group) if not group or group.isdecimal() else grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise UsageError(f"there is no group {group!r}") from None


def _number_of(text: str) -> int:
    number = int(text or -1)
    if number > ID_MAX:
        raise ValueError(number)
    return number


def user_name(uid: int) -> str:
    """The user's name, or their number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """The group's name, or its number."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def whose(uid: int, gid: int, mode: int) -> str:
    """Who may use it, for those who may not."""
    return f"it is {user_name(uid)}'s, of group {group_name(gid)}, mode {mode & 0o777:04o}"


def cannot_open(path: str, error: OSError) -> HostError:
    """Why a chip that is served at `path` cannot be opened, and who may do so."""
    made = HostError.of(f"cannot open the chip at {path}", error)
    if error.errno == errno.EACCES:
        with suppress(OSError):
            status = os.stat(path)
            made.args = (f"{made}; {whose(status.st_uid, status.st_gid, status.st_mode)}",)
    return made


def parse_mode(text: str) -> int:
    """An octal mode, -1 for ""; UsageError if it is not one."""
    if not text:
        return -1
    try:
        number = int(text, 8)
    except ValueError:
        number = -1
    if not 0 <= number <= 0o777:
        raise UsageError(f"{text!r} is not an octal mode; use e.g. 0660")
    return number
