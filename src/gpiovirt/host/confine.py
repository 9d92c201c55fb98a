# SPDX-License-Identifier: MIT
"""Give up all rights but the use of open files: for a process that serves strangers."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import resource
import socket

from gpiovirt.errors import HostError
from gpiovirt.host import libc
from gpiovirt.host.seccomp import install_filter
from gpiovirt.uapi import seccomp as u
from gpiovirt.uapi.gpio import GPIO_IOC_TYPE

__all__ = ["MACHINES", "confine", "confining_filter", "drop_rights"]

_log = logging.getLogger(__name__)

_CLONE_NEWUSER = 0x10000000
_PROT_EXEC = 4
_IOCTLS = (0x541B, 0x5421, 0x5450, 0x5451)  # asm-generic/ioctls.h: FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_CAP_LAST = 63


_ARCHES = {"x86_64": (0, u.AUDIT_ARCH_X86_64), "aarch64": (1, u.AUDIT_ARCH_AARCH64)}
"""By machine: the column below, and the architecture as filters see it"""

MACHINES = tuple(_ARCHES)
"""Machines whose system calls are known here"""

# asm/unistd_64.h and asm-generic/unistd.h; None: this machine has no such call
_FREE: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "poll": (7, None),
    "ppoll": (None, 73),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "dup": (32, 23),
    "getpid": (39, 172),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "shutdown": (48, 210),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "setsockopt": (54, 208),
    "getsockopt": (55, 209),
    "exit": (60, 93),
    "ftruncate": (77, 46),
    "readlink": (89, None),
    "uname": (63, 160),
    "gettimeofday": (96, 169),
    "getuid": (102, 174),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "epoll_wait": (232, None),
    "epoll_ctl": (233, 21),
    "openat": (257, 56),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "set_robust_list": (273, 99),
    "epoll_pwait": (281, 22),
    "accept4": (288, 242),
    "eventfd2": (290, 19),
    "epoll_create1": (291, 20),
    "dup3": (292, 24),
    "pipe2": (293, 59),
    "getrandom": (318, 278),
    "memfd_create": (319, 279),
    "membarrier": (324, 283),
    "rseq": (334, 293),
}
_MAPS = {"mmap": (9, 222), "mprotect": (10, 226)}
_IOCTL = (16, 29)
_SENDTO = (44, 206)
_SOCKETPAIR = (53, 199)
_FCNTL = (72, 25)
# none with which the kernel signals a process of our user: F_SETOWN, F_SETSIG, F_NOTIFY, F_SETLEASE
_FCNTLS = (
    *(fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL),
    *(fcntl.F_ADD_SEALS, fcntl.F_GET_SEALS, fcntl.F_SETPIPE_SZ, fcntl.F_GETPIPE_SZ),
)
_SOCK_TYPE_MASK = 0xF  # linux/net.h

_Instruction = tuple[int, int, int, int]
_REFUSE: _Instruction = (u.BPF_RET_K, 0, 0, u.SECCOMP_RET_ERRNO | 1)
_ALLOW: _Instruction = (u.BPF_RET_K, 0, 0, u.SECCOMP_RET_ALLOW)


def _load(argument: int, half: int = 0) -> _Instruction:
    """The lower or upper half of an argument of the call; both machines are little-endian."""
    return u.BPF_LD_W_ABS, 0, 0, u.SECCOMP_DATA_ARGS + 8 * argument + 4 * half


def _unless(value: int) -> list[_Instruction]:
    return [(u.BPF_JMP_JEQ_K, 1, 0, value), _REFUSE]


def _if_one_of(*values: int) -> list[_Instruction]:
    return [step for value in values for step in ((u.BPF_JMP_JEQ_K, 0, 1, value), _ALLOW)]


def _if_none_of_bits(bits: int) -> list[_Instruction]:
    return [(u.BPF_JMP_JSET_K, 0, 1, bits), _REFUSE, _ALLOW]


def _of_call(number: int, body: list[_Instruction]) -> list[_Instruction]:
    """Apply `body`, which decides, to one call; other calls continue after it."""
    return [(u.BPF_JMP_JEQ_K, 0, len(body), number), *body]


def confining_filter(machine: str) -> bytes:
    """A seccomp filter that allows what a worker does, and fails everything else with EPERM.

    No new code can be mapped, and no socket, file system, process or device be reached. HostError on a
    machine whose system calls are not known here.
    """
    if machine not in _ARCHES:
        raise HostError(f"this machine is {machine}; workers can be confined on {', '.join(_ARCHES)}")
    column, arch = _ARCHES[machine]
    program = [
        (u.BPF_LD_W_ABS, 0, 0, u.SECCOMP_DATA_ARCH),
        *_unless(arch),
        (u.BPF_LD_W_ABS, 0, 0, u.SECCOMP_DATA_NR),
        *_if_one_of(*(number for numbers in _FREE.values() if (number := numbers[column]) is not None)),
    ]
    for pair in _MAPS.values():
        program += _of_call(pair[column], [_load(2), *_if_none_of_bits(_PROT_EXEC)])
    set_flags = _of_call(fcntl.F_SETFL, [_load(2), *_if_none_of_bits(os.O_ASYNC)])
    program += _of_call(_FCNTL[column], [_load(1), *_if_one_of(*_FCNTLS), *set_flags, _REFUSE])
    # only to the other end; a datagram could name anybody, in sendmsg() invisibly to a filter
    program += _of_call(_SENDTO[column], [_load(4), *_unless(0), _load(4, 1), *_unless(0), _ALLOW])
    type_of_pair = [
        *(_load(0), *_unless(socket.AF_UNIX)),
        *(_load(1), (u.BPF_ALU_AND_K, 0, 0, _SOCK_TYPE_MASK)),
        *_if_one_of(socket.SOCK_STREAM, socket.SOCK_SEQPACKET),
        _REFUSE,
    ]
    program += _of_call(_SOCKETPAIR[column], type_of_pair)
    ioctls = [
        *(_load(1), *_if_one_of(*_IOCTLS)),
        *((u.BPF_ALU_AND_K, 0, 0, 0xFF00), *_if_one_of(GPIO_IOC_TYPE << 8), _REFUSE),
    ]
    program += [*_of_call(_IOCTL[column], ioctls), _REFUSE]
    return b"".join(u.sock_filter.pack(*instruction) for instruction in program)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_CAP_VERSION_3 = 0x20080522  # linux/capability.h


class _CapData(ctypes.Structure):
    _fields_ = (("sets", ctypes.c_uint32 * 6),)


def confine(uid: int, gid: int) -> None:
    """Become `uid` and `gid` without any capability, with this process's own /proc as the file system.

    An ordinary user keeps their ids. Everything needed must be imported by now. HostError if that fails.
    """
    try:
        if os.geteuid() == 0:
            os.chroot(f"/proc/{os.getpid()}")
            os.chdir("/")
        else:
            _leave_the_file_system()
    except OSError as error:
        raise HostError.of("cannot leave the file system", error) from error
    drop_rights(uid, gid)
    install_filter(confining_filter(os.uname().machine), listens=False)


def drop_rights(uid: int, gid: int) -> None:
    """Become `uid` and `gid`, without any capability or any way to get one; HostError if that fails.

    An ordinary user keeps their ids.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if os.geteuid() == 0:
            for capability in range(_CAP_LAST + 1):
                if not _drop_from_bounding_set(capability):
                    break
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        _drop_capabilities()
        libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise HostError.of("cannot give up this process's rights", error) from error


def _drop_from_bounding_set(capability: int) -> bool:
    try:
        libc.prctl(libc.PR_CAPBSET_DROP, capability)
    except OSError:  # past the last one that the kernel knows
        return False
    return True


def _drop_capabilities() -> None:
    libc.capset(_CapHeader(_CAP_VERSION_3, 0), _CapData())


def _leave_the_file_system() -> None:
    """As far as an ordinary user may: in a user namespace, where those are allowed."""
    uid, gid = os.getuid(), os.getgid()
    proc = f"/proc/{os.getpid()}"
    try:
        libc.unshare(_CLONE_NEWUSER)
    except OSError as error:
        _log.warning(
            "no user namespace is available (%s): workers can open every file that uid %d can; "
            "allow user namespaces, or run as root",
            error.strerror,
            uid,
        )
        return
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    os.chroot(proc)
    os.chdir("/")
