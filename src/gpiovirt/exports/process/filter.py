# SPDX-License-Identifier: MIT
"""The seccomp filter: GPIO ioctls are trapped, everything else goes on untouched."""

from __future__ import annotations

from collections.abc import Sequence

from gpiovirt.uapi import seccomp as u
from gpiovirt.uapi.gpio import GPIO_IOC_TYPE
from gpiovirt.uapi.unistd import numbers_by_architecture

__all__ = ["gpio_filter"]


def gpio_filter(others: Sequence[str] = (), untyped: bool = False) -> bytes:
    """A classic BPF program, an array of struct sock_filter, for all architectures we know.

    `others` are system calls that are trapped whatever their arguments. `untyped` traps ioctls of the type 0,
    too, which are no GPIO's: a chip that has vanished refuses them otherwise than one that is there.
    """
    program: list[tuple[int, int, int, int]] = []
    trapped = [numbers_by_architecture(call) for call in others]
    numbers = [
        (arch, nrs, tuple(nr for each in trapped for nr in each.get(arch, ())))
        for arch, nrs in u.IOCTL_NUMBERS.items()
    ]
    # per architecture: skip if it is another; load the number; each ioctl number jumps to the check
    length = 1 + sum(3 + len(nrs) + len(more) for _, nrs, more in numbers)
    check = length + 1
    trap = check + 4 + untyped
    program.append((u.BPF_LD_W_ABS, 0, 0, u.SECCOMP_DATA_ARCH))
    for arch, nrs, more in numbers:
        program.append((u.BPF_JMP_JEQ_K, 0, 2 + len(nrs) + len(more), arch))
        program.append((u.BPF_LD_W_ABS, 0, 0, u.SECCOMP_DATA_NR))
        for nr in nrs:
            program.append((u.BPF_JMP_JEQ_K, check - len(program) - 1, 0, nr))
        for nr in more:
            program.append((u.BPF_JMP_JEQ_K, trap - len(program) - 1, 0, nr))
        program.append((u.BPF_RET_K, 0, 0, u.SECCOMP_RET_ALLOW))
    program += [
        (u.BPF_RET_K, 0, 0, u.SECCOMP_RET_ALLOW),
        # the low word of args[1], as all architectures here are little-endian
        (u.BPF_LD_W_ABS, 0, 0, u.SECCOMP_DATA_ARGS + 8),
        (u.BPF_ALU_AND_K, 0, 0, 0xFF00),
        *([(u.BPF_JMP_JEQ_K, 2, 0, 0)] if untyped else []),
        (u.BPF_JMP_JEQ_K, 1, 0, GPIO_IOC_TYPE << 8),
        (u.BPF_RET_K, 0, 0, u.SECCOMP_RET_ALLOW),
        (u.BPF_RET_K, 0, 0, u.SECCOMP_RET_USER_NOTIF),
    ]
    return b"".join(u.sock_filter.pack(*instruction) for instruction in program)
