# SPDX-License-Identifier: MIT
"""System calls that Python 3.11 has no function for; each raises OSError as os functions do."""

from __future__ import annotations

import ctypes
import os
import signal

from gpiovirt.host.machine import syscall_number
from gpiovirt.uapi.unistd import SYS_MOVE_MOUNT, SYS_OPEN_TREE

__all__ = [
    "PR_CAPBSET_DROP",
    "PR_SET_NAME",
    "PR_SET_NO_NEW_PRIVS",
    "PR_SET_PDEATHSIG",
    "attach_tree",
    "capset",
    "clone_tree",
    "end_with_parent",
    "inotify_add_watch",
    "inotify_init1",
    "mount",
    "prctl",
    "setns",
    "shares_memory",
    "syscall",
    "umount",
    "unshare",
]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38

_KCMP_VM = 1
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4


def _checked(result: int, what: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what or None)
    return result


def unshare(flags: int) -> None:
    """unshare(2)"""
    _checked(_libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    """setns(2), of a thread that is alone in its process"""
    _checked(_libc.setns(fd, kind))


def mount(source: str, target: str, fstype: str | None, flags: int, data: str = "") -> None:
    """mount(2)"""
    encoded = None if fstype is None else fstype.encode()
    _checked(
        _libc.mount(os.fsencode(source), os.fsencode(target), encoded, flags, data.encode() or None), target
    )


def umount(target: str, flags: int) -> None:
    """umount2(2)"""
    _checked(_libc.umount2(os.fsencode(target), flags), target)


def clone_tree(path: str) -> int:
    """A detached copy of what is mounted at and below `path`; open_tree(2)"""
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    return syscall(SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)


def attach_tree(tree: int, path: str) -> None:
    """Mount such a copy at `path`; move_mount(2)"""
    syscall(SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH)
    os.close(tree)


def inotify_init1(flags: int) -> int:
    """inotify_init1(2)"""
    return _checked(_libc.inotify_init1(flags))


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """inotify_add_watch(2)"""
    return _checked(_libc.inotify_add_watch(fd, os.fsencode(path), mask), path)


def capset(header: ctypes.Structure, data: ctypes.Structure) -> None:
    """capset(2), which glibc has without declaring it"""
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(data)))


def shares_memory(pid: int, other: int) -> bool:
    """Whether two processes have one address space, as after vfork(2); kcmp(2)"""
    try:
        return syscall(syscall_number("kcmp"), pid, other, _KCMP_VM, 0, 0) == 0
    except PermissionError:  # another user's: children of ours have exec'd since
        return False
    except OSError:  # a kernel without it, or one of them is gone
        return True


def prctl(option: int, value: int | bytes) -> None:
    """prctl(2) with one argument"""
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    _checked(_libc.prctl(option, argument, 0, 0, 0))


def end_with_parent() -> None:
    """Get SIGTERM when the parent ends; for a new process to call."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def syscall(number: int, *args: int | bytes | ctypes.Structure) -> int:
    """syscall(2); bytes and structures go by address"""
    return _checked(_libc.syscall(ctypes.c_long(number), *map(_argument, args)))


def _argument(value: int | bytes | ctypes.Structure) -> object:
    if isinstance(value, int):
        return ctypes.c_long(value)
    return ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.byref(value)
