# SPDX-License-Identifier: MIT
"""<asm/unistd.h>: numbers of the system calls that we make or let a worker make, by ABI."""

from typing import NamedTuple

from gpiovirt.uapi.seccomp import (
    AUDIT_ARCH_AARCH64,
    AUDIT_ARCH_ARM,
    AUDIT_ARCH_I386,
    AUDIT_ARCH_LOONGARCH64,
    AUDIT_ARCH_RISCV64,
    AUDIT_ARCH_X86_64,
    X32_SYSCALL_BIT,
)


class Abi(NamedTuple):
    """How a process calls the kernel: the architecture as filters see it, and a column of NUMBERS."""

    audit_arch: int
    column: int

    def number(self, call: str) -> int | None:
        """Of a system call; None if this ABI has none of that name."""
        return NUMBERS[call][self.column]


ABIS = {
    "x86_64": Abi(AUDIT_ARCH_X86_64, 0),
    "aarch64": Abi(AUDIT_ARCH_AARCH64, 1),
    "riscv64": Abi(AUDIT_ARCH_RISCV64, 1),
    "loongarch64": Abi(AUDIT_ARCH_LOONGARCH64, 1),
    "arm": Abi(AUDIT_ARCH_ARM, 2),
}

# the same for all, as is every call since Linux 5.1; asm-generic/unistd.h
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_PIDFD_GETFD = 438

# x86: unistd_64.h; 64 bits since: asm-generic/unistd.h; arm: unistd-eabi.h. None: there is no such call
NUMBERS: dict[str, tuple[int | None, int | None, int | None]] = {
    "read": (0, 63, 3),
    "write": (1, 64, 4),
    "close": (3, 57, 6),
    "fstat": (5, 80, 108),
    "poll": (7, None, 168),
    "lseek": (8, 62, 19),
    "mmap": (9, 222, None),
    "mprotect": (10, 226, 125),
    "munmap": (11, 215, 91),
    "brk": (12, 214, 45),
    "rt_sigaction": (13, 134, 174),
    "rt_sigprocmask": (14, 135, 175),
    "rt_sigreturn": (15, 139, 173),
    "ioctl": (16, 29, 54),
    "writev": (20, 66, 146),
    "sched_yield": (24, 124, 158),
    "mremap": (25, 216, 163),
    "madvise": (28, 233, 220),
    "dup": (32, 23, 41),
    "getpid": (39, 172, 20),
    "sendto": (44, 206, 290),
    "recvfrom": (45, 207, 292),
    "sendmsg": (46, 211, 296),
    "recvmsg": (47, 212, 297),
    "shutdown": (48, 210, 293),
    "getsockname": (51, 204, 286),
    "getpeername": (52, 205, 287),
    "socketpair": (53, 199, 288),
    "setsockopt": (54, 208, 294),
    "getsockopt": (55, 209, 295),
    "exit": (60, 93, 1),
    "uname": (63, 160, 122),
    "fcntl": (72, 25, 55),
    "ftruncate": (77, 46, 93),
    "readlink": (89, None, 85),
    "gettimeofday": (96, 169, 78),
    "getuid": (102, 174, 24),
    "mount": (165, 40, 21),
    "umount2": (166, 39, 52),
    "sigaltstack": (131, 132, 186),
    "gettid": (186, 178, 224),
    "futex": (202, 98, 240),
    "restart_syscall": (219, 128, 0),
    "clock_gettime": (228, 113, 263),
    "clock_nanosleep": (230, 115, 265),
    "exit_group": (231, 94, 248),
    "epoll_wait": (232, None, 252),
    "epoll_ctl": (233, 21, 251),
    "openat": (257, 56, 322),
    "newfstatat": (262, 79, None),
    "readlinkat": (267, 78, 332),
    "set_robust_list": (273, 99, 338),
    "epoll_pwait": (281, 22, 346),
    "accept4": (288, 242, 366),
    "eventfd2": (290, 19, 356),
    "epoll_create1": (291, 20, 357),
    "dup3": (292, 24, 358),
    "pipe2": (293, 59, 359),
    "kcmp": (312, 272, 378),
    "seccomp": (317, 277, 383),
    "getrandom": (318, 278, 384),
    "memfd_create": (319, 279, 385),
    "membarrier": (324, 283, 389),
    "statx": (332, 291, 397),
    "rseq": (334, 293, 398),
    "ppoll": (None, 73, 336),
    "sigreturn": (None, None, 119),
    "_llseek": (None, None, 140),
    "mmap2": (None, None, 192),
    "ftruncate64": (None, None, 194),
    "fstat64": (None, None, 197),
    "getuid32": (None, None, 199),
    "fcntl64": (None, None, 221),
    "send": (None, None, 289),
    "recv": (None, None, 291),
    "fstatat64": (None, None, 327),
    "clock_gettime64": (None, None, 403),
    "clock_nanosleep_time64": (None, None, 407),
    "ppoll_time64": (None, None, 414),
    "futex_time64": (None, None, 422),
}

# of those that we trap; i386: unistd_32.h
_I386 = {"mount": 21, "umount2": 52, "uname": 122}


def numbers_by_architecture(call: str) -> dict[int, tuple[int, ...]]:
    """The numbers that a call has in filters, by architecture."""
    found: dict[int, tuple[int, ...]] = {AUDIT_ARCH_I386: (_I386[call],)}
    for abi in ABIS.values():
        number = abi.number(call)
        if number is not None:
            x32 = (X32_SYSCALL_BIT | number,) if abi.audit_arch == AUDIT_ARCH_X86_64 else ()
            found[abi.audit_arch] = (number, *x32)
    return found
