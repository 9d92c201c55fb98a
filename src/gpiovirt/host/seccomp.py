# SPDX-License-Identifier: MIT
"""seccomp user notification: install a filter that traps, receive trapped calls, answer them.

Specification: seccomp(2), seccomp_unotify(2).
"""

import ctypes
import errno
import os
from contextlib import suppress
from fcntl import ioctl
from struct import Struct
from typing import NamedTuple

from gpiovirt.errors import HostError
from gpiovirt.host import libc
from gpiovirt.host.machine import syscall_number
from gpiovirt.uapi import seccomp as u
from gpiovirt.uapi.unistd import SYS_PIDFD_GETFD

__all__ = ["Listener", "Notification", "fetch_fd", "install_filter"]


class _FilterProgram(ctypes.Structure):
    """linux/filter.h: sock_fprog"""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _seccomp(operation: int, flags: int, program: ctypes.Structure) -> int:
    return libc.syscall(syscall_number("seccomp"), operation, flags, program)


def install_filter(program: bytes, listens: bool = True) -> int:
    """Filter this thread and its children from now on; returns the listener's fd, if it `listens`.

    Without the right to do so (CAP_SYS_ADMIN) it sets no_new_privs first. HostError if it cannot.
    """
    fprog = _FilterProgram(len(program) // u.sock_filter.size, program)
    if not listens:
        try:
            return _seccomp(u.SECCOMP_SET_MODE_FILTER, 0, fprog)
        except OSError as error:
            raise HostError.of("cannot install a seccomp filter", error) from error
    flags = u.SECCOMP_FILTER_FLAG_NEW_LISTENER | u.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    try:
        try:
            return _seccomp(u.SECCOMP_SET_MODE_FILTER, flags, fprog)
        except PermissionError:
            libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
            return _seccomp(u.SECCOMP_SET_MODE_FILTER, flags, fprog)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise HostError(
                "this process is under another seccomp listener already (is it itself run by gpiovirt, or in "
                "a container that has one?); run it outside"
            ) from error
        if error.errno != errno.EINVAL:
            raise HostError.of("cannot install a seccomp filter", error) from error
    try:  # before Linux 5.19
        return _seccomp(u.SECCOMP_SET_MODE_FILTER, u.SECCOMP_FILTER_FLAG_NEW_LISTENER, fprog)
    except OSError as error:
        raise HostError.of(
            "cannot install a seccomp filter; Linux 5.9 or newer with CONFIG_SECCOMP_FILTER is needed", error
        ) from error


def fetch_fd(pid: int, fd: int) -> int:
    """A duplicate of another process's fd; pidfd_getfd(2)."""
    pidfd = os.pidfd_open(pid)
    try:
        return libc.syscall(SYS_PIDFD_GETFD, pidfd, fd, 0)
    finally:
        os.close(pidfd)


class Notification(NamedTuple):
    """A trapped ioctl. `tid` is 0 where the task is not visible from here."""

    id: int
    tid: int
    arch: int
    fd: int
    cmd: int
    arg: int


_NOTHING = bytes(u.seccomp_notif.size)
_unpack = u.seccomp_notif.unpack
_id = Struct("=Q").pack
_response = u.seccomp_notif_resp.pack


class Listener:
    """The supervisor's side of a filter; methods for a notification raise OSError(ENOENT) if it is gone."""

    last: tuple[int, ...]
    """The notification received last, whole: id, tid, flags, number, architecture, address, 6 arguments"""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        with suppress(OSError):  # before Linux 6.6: slower across CPUs, nothing else
            ioctl(fd, u.SECCOMP_IOCTL_NOTIF_SET_FLAGS, u.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)

    def fileno(self) -> int:
        """Readable when a call is trapped, hung up when no filtered task is left."""
        return self.fd

    def receive(self) -> Notification:
        """The next trapped call; blocks for one."""
        self.last = _unpack(ioctl(self.fd, u.SECCOMP_IOCTL_NOTIF_RECV, _NOTHING))
        id_, tid, _, _, arch, _, fd, cmd, arg, _, _, _ = self.last
        return Notification(id_, tid, arch, fd & 0xFFFFFFFF, cmd & 0xFFFFFFFF, arg)

    def check(self, id_: int) -> None:
        """Raise OSError(ENOENT) unless the task still waits for the answer."""
        ioctl(self.fd, u.SECCOMP_IOCTL_NOTIF_ID_VALID, _id(id_))

    def answer(self, id_: int, error: int) -> None:
        """The call returns 0, or fails with an errno."""
        ioctl(self.fd, u.SECCOMP_IOCTL_NOTIF_SEND, _response(id_, 0, -error, 0))

    def proceed(self, id_: int) -> None:
        """The call is not ours: let the kernel do it."""
        ioctl(self.fd, u.SECCOMP_IOCTL_NOTIF_SEND, _response(id_, 0, 0, u.SECCOMP_USER_NOTIF_FLAG_CONTINUE))

    def add_fd(self, id_: int, source_fd: int, flags: int, replace: int | None = None) -> int:
        """Open a duplicate of `source_fd` in the task, in place of its fd `replace` or as a new one."""
        addfd = u.seccomp_notif_addfd.pack(
            id_, 0 if replace is None else u.SECCOMP_ADDFD_FLAG_SETFD, source_fd, replace or 0, flags
        )
        number: int = ioctl(self.fd, u.SECCOMP_IOCTL_NOTIF_ADDFD, bytearray(addfd))
        return number
