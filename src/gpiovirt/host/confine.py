# SPDX-License-Identifier: MIT
"""Give up all rights but the use of open files: for a process that serves strangers."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import resource
import socket
from collections.abc import Sequence
from functools import cache

from gpiovirt.errors import HostError
from gpiovirt.host import libc
from gpiovirt.host.machine import this_abi
from gpiovirt.host.seccomp import install_filter
from gpiovirt.uapi import seccomp as u
from gpiovirt.uapi.gpio import GPIO_IOC_TYPE
from gpiovirt.uapi.unistd import Abi

__all__ = [
    "CAP_DAC_OVERRIDE",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_PTRACE",
    "become",
    "confine",
    "confining_filter",
    "drop_rights",
    "keep_capabilities",
    "prepare_to_confine",
]

_log = logging.getLogger(__name__)

_CLONE_NEWUSER = 0x10000000
_PROT_EXEC = 4
_IOCTLS = (0x541B, 0x5421, 0x5450, 0x5451)  # asm-generic/ioctls.h: FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_CAP_LAST = 63
# linux/capability.h
CAP_DAC_OVERRIDE = 1
CAP_SETGID = 6
CAP_SYS_ADMIN = 21
CAP_SETUID = 7
CAP_SYS_PTRACE = 19

_FREE = """
    read write close fstat poll ppoll lseek munmap brk rt_sigaction rt_sigprocmask rt_sigreturn writev
    sched_yield mremap madvise dup getpid recvfrom sendmsg recvmsg shutdown getsockname getpeername
    setsockopt getsockopt exit ftruncate readlink uname gettimeofday getuid sigaltstack gettid futex
    restart_syscall clock_gettime clock_nanosleep exit_group epoll_wait epoll_ctl openat newfstatat
    readlinkat set_robust_list epoll_pwait accept4 eventfd2 epoll_create1 dup3 pipe2 getrandom
    memfd_create membarrier rseq statx send recv fstat64 fstatat64 _llseek getuid32 ftruncate64
    sigreturn clock_gettime64 clock_nanosleep_time64 ppoll_time64 futex_time64
"""
"""Calls that are allowed with any arguments"""

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
    """The lower or upper half of an argument of the call; all machines here are little-endian."""
    return u.BPF_LD_W_ABS, 0, 0, u.SECCOMP_DATA_ARGS + 8 * argument + 4 * half


def _unless(value: int) -> list[_Instruction]:
    return [(u.BPF_JMP_JEQ_K, 1, 0, value), _REFUSE]


def _if_one_of(*values: int) -> list[_Instruction]:
    return [step for value in values for step in ((u.BPF_JMP_JEQ_K, 0, 1, value), _ALLOW)]


def _if_none_of_bits(bits: int) -> list[_Instruction]:
    return [(u.BPF_JMP_JSET_K, 0, 1, bits), _REFUSE, _ALLOW]


def _of_call(number: int | None, body: list[_Instruction]) -> list[_Instruction]:
    """Apply `body`, which decides, to one call if the machine has it; other calls continue after it."""
    return [] if number is None else [(u.BPF_JMP_JEQ_K, 0, len(body), number), *body]


@cache  # so that who forks processes that are confined has it for all of them
def confining_filter(abi: Abi) -> bytes:
    """A seccomp filter that allows what a worker does, and fails everything else with EPERM.

    No new code can be mapped, and no socket, file system, process or device be reached.
    """
    program = [
        (u.BPF_LD_W_ABS, 0, 0, u.SECCOMP_DATA_ARCH),
        *_unless(abi.audit_arch),
        (u.BPF_LD_W_ABS, 0, 0, u.SECCOMP_DATA_NR),
        *_if_one_of(*(number for call in _FREE.split() if (number := abi.number(call)) is not None)),
    ]
    for call in ("mmap", "mmap2", "mprotect"):
        program += _of_call(abi.number(call), [_load(2), *_if_none_of_bits(_PROT_EXEC)])
    set_flags = _of_call(fcntl.F_SETFL, [_load(2), *_if_none_of_bits(os.O_ASYNC)])
    for call in ("fcntl", "fcntl64"):
        program += _of_call(abi.number(call), [_load(1), *_if_one_of(*_FCNTLS), *set_flags, _REFUSE])
    # only to the other end; a datagram could name anybody, in sendmsg() invisibly to a filter
    program += _of_call(abi.number("sendto"), [_load(4), *_unless(0), _load(4, 1), *_unless(0), _ALLOW])
    type_of_pair = [
        *(_load(0), *_unless(socket.AF_UNIX)),
        *(_load(1), (u.BPF_ALU_AND_K, 0, 0, _SOCK_TYPE_MASK)),
        *_if_one_of(socket.SOCK_STREAM, socket.SOCK_SEQPACKET),
        _REFUSE,
    ]
    program += _of_call(abi.number("socketpair"), type_of_pair)
    ioctls = [
        *(_load(1), *_if_one_of(*_IOCTLS)),
        *((u.BPF_ALU_AND_K, 0, 0, 0xFF00), *_if_one_of(GPIO_IOC_TYPE << 8), _REFUSE),
    ]
    program += [*_of_call(abi.number("ioctl"), ioctls), _REFUSE]
    return b"".join(u.sock_filter.pack(*instruction) for instruction in program)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_CAP_VERSION_3 = 0x20080522  # linux/capability.h


class _CapData(ctypes.Structure):
    _fields_ = (("sets", ctypes.c_uint32 * 6),)


def prepare_to_confine() -> None:
    """Do once what else each process that is forked from this one would do to confine itself."""
    confining_filter(this_abi())
    if os.geteuid() == 0:
        _empty_bounding_set()


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
    install_filter(confining_filter(this_abi()), listens=False)


def drop_rights(uid: int, gid: int) -> None:
    """Become `uid` and `gid`, without any capability or any way to get one; HostError if that fails.

    An ordinary user keeps their ids.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if os.geteuid() == 0:
            _empty_bounding_set()
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        _drop_capabilities()
        libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise HostError.of("cannot give up this process's rights", error) from error


def become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Be another user, of those groups, for good; OSError. Nobody may trace what was root before."""
    os.setgroups(list(groups))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)


def keep_capabilities(*capabilities: int) -> None:
    """Have these and no others, nor a way to get them; OSError."""
    data = _CapData()
    for capability in capabilities:
        word, bit = divmod(capability, 32)
        for kind in range(2):  # effective and permitted, not inheritable
            data.sets[3 * word + kind] |= 1 << bit
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    libc.capset(_CapHeader(_CAP_VERSION_3, 0), data)


@cache  # as the set is, what is known of it is inherited by processes that are forked
def _empty_bounding_set() -> None:
    """No program that is executed from now on has any capability; those of this process stay."""
    for capability in range(_CAP_LAST + 1):
        try:
            libc.prctl(libc.PR_CAPBSET_DROP, capability)
        except OSError:  # past the last one that the kernel knows
            return


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
