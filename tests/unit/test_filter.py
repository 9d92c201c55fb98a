# SPDX-License-Identifier: MIT
"""The seccomp filter, run instruction by instruction over made-up system calls."""

from __future__ import annotations

import struct

import pytest

from gpiovirt.exports.process.filter import gpio_filter

X86_64, I386, AARCH64, ARM, RISCV64 = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028, 0xC00000F3
ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
GET_VALUES, TCGETS = 0xC010B40E, 0x5401


def run(nr: int, arch: int, cmd: int) -> int:
    """What the filter answers: a classic BPF machine of the four instructions it is made of."""
    data = struct.pack("=iIQ6Q", nr, arch, 0, 3, cmd, 0, 0, 0, 0)
    program = list(struct.iter_unpack("=HBBI", gpio_filter()))
    accumulator = at = 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x15:
            at += if_true if accumulator == k else if_false
        else:
            assert code == 0x06
            return int(k)


@pytest.mark.parametrize(
    ("arch", "nr"), [(X86_64, 16), (X86_64, 0x40000202), (I386, 54), (AARCH64, 29), (ARM, 54)]
)
def test_gpio_ioctls_are_trapped_on_every_architecture(arch: int, nr: int) -> None:
    for number in range(1, 0x10):
        assert run(nr, arch, 0xC000B400 | number) == NOTIFY
    assert run(nr, arch, 0xFFFFFFFF00000000 | GET_VALUES) == NOTIFY


@pytest.mark.parametrize(("arch", "nr"), [(X86_64, 16), (I386, 54), (AARCH64, 29), (ARM, 54)])
def test_other_ioctls_go_to_the_kernel(arch: int, nr: int) -> None:
    for cmd in (TCGETS, 0, 0xB4, 0xB400B3FF, 0x0000B500, GET_VALUES << 32):
        assert run(nr, arch, cmd) == ALLOW


@pytest.mark.parametrize(
    ("arch", "nr"), [(X86_64, 54), (X86_64, 29), (I386, 16), (AARCH64, 54), (ARM, 29), (RISCV64, 29)]
)
def test_other_system_calls_go_to_the_kernel(arch: int, nr: int) -> None:
    assert run(nr, arch, GET_VALUES) == ALLOW


def test_the_filter_is_short() -> None:
    assert len(gpio_filter()) // 8 < 30
