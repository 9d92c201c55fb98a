# SPDX-License-Identifier: MIT
"""<linux/seccomp.h>, <linux/filter.h> and <linux/audit.h>: what our filters need."""

from __future__ import annotations

from struct import Struct

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_GET_ACTION_AVAIL = 2
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5  # Linux 5.19
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_USER_NOTIF = 0x7FC00000
SECCOMP_RET_ERRNO = 0x00050000

SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND = 0xC0182101
SECCOMP_IOCTL_NOTIF_ID_VALID = 0x40082102
SECCOMP_IOCTL_NOTIF_ADDFD = 0x40182103
SECCOMP_IOCTL_NOTIF_SET_FLAGS = 0x40082104  # Linux 6.6
SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1
SECCOMP_ADDFD_FLAG_SETFD = 1
SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP = 1

seccomp_notif = Struct("=QIIiIQ6Q")  # id, pid, flags, data: nr, arch, instruction_pointer, args[6]
seccomp_notif_resp = Struct("=QqiI")  # id, val, error, flags
seccomp_notif_addfd = Struct("=QIIII")  # id, flags, srcfd, newfd, newfd_flags

# offsets in struct seccomp_data
SECCOMP_DATA_NR = 0
SECCOMP_DATA_ARCH = 4
SECCOMP_DATA_ARGS = 16

AUDIT_ARCH_I386 = 0x40000003
AUDIT_ARCH_X86_64 = 0xC000003E
AUDIT_ARCH_ARM = 0x40000028
AUDIT_ARCH_AARCH64 = 0xC00000B7
AUDIT_ARCH_RISCV64 = 0xC00000F3
AUDIT_ARCH_LOONGARCH64 = 0xC0000102
X32_SYSCALL_BIT = 0x40000000

# system call number of ioctl by architecture; asm/unistd*.h
IOCTL_NUMBERS = {
    AUDIT_ARCH_X86_64: (16, X32_SYSCALL_BIT | 514),
    AUDIT_ARCH_I386: (54,),
    AUDIT_ARCH_AARCH64: (29,),
    AUDIT_ARCH_ARM: (54,),
    AUDIT_ARCH_RISCV64: (29,),
    AUDIT_ARCH_LOONGARCH64: (29,),
}
COMPAT_ARCHES = frozenset({AUDIT_ARCH_I386, AUDIT_ARCH_ARM})

# classic BPF; linux/bpf_common.h
BPF_LD_W_ABS = 0x20
BPF_ALU_AND_K = 0x54
BPF_JMP_JEQ_K = 0x15
BPF_JMP_JSET_K = 0x45
BPF_RET_K = 0x06
sock_filter = Struct("=HBBI")  # code, jt, jf, k
