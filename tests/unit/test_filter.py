# SPDX-License-Identifier: MIT
"""The seccomp filters, run instruction by instruction over made-up system calls."""

from __future__ import annotations

import os
import struct

import pytest

from gpiovirt.errors import HostError
from gpiovirt.exports.process.filter import gpio_filter
from gpiovirt.host import machine
from gpiovirt.host.confine import confining_filter
from gpiovirt.uapi.unistd import ABIS

X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
RISCV64, LOONGARCH64, S390X = 0xC00000F3, 0xC0000102, 0x80000016
ALLOW, NOTIFY, EPERM = 0x7FFF0000, 0x7FC00000, 0x00050001
GET_VALUES, TCGETS = 0xC010B40E, 0x5401


def answer(filter_: bytes, nr: int, arch: int, *args: int) -> int:
    """What a filter says: a classic BPF machine of the instructions that they are made of."""
    data = struct.pack("=iIQ6Q", nr, arch, 0, *args, *[0] * (6 - len(args)))
    program = list(struct.iter_unpack("=HBBI", filter_))
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
        elif code == 0x45:
            at += if_true if accumulator & k else if_false
        else:
            assert code == 0x06
            return int(k)


def run(nr: int, arch: int, cmd: int) -> int:
    return answer(gpio_filter(), nr, arch, 3, cmd)


@pytest.mark.parametrize(
    ("arch", "nr"),
    [
        *[(X86_64, 16), (X86_64, 0x40000202), (I386, 54), (AARCH64, 29), (ARM, 54)],
        *[(RISCV64, 29), (LOONGARCH64, 29)],
    ],
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
    ("arch", "nr"),
    [(X86_64, 54), (X86_64, 29), (I386, 16), (AARCH64, 54), (ARM, 29), (RISCV64, 16), (S390X, 54)],
)
def test_other_system_calls_go_to_the_kernel(arch: int, nr: int) -> None:
    assert run(nr, arch, GET_VALUES) == ALLOW


def test_the_filter_is_short() -> None:
    assert len(gpio_filter()) // 8 < 40


@pytest.mark.parametrize("name", ABIS)
def test_a_worker_may_do_the_same_on_every_machine(name: str) -> None:
    abi = ABIS[name]
    program = confining_filter(abi)

    def says(call: str, *args: int) -> int:
        number = abi.number(call)
        assert number is not None
        return answer(program, number, abi.audit_arch, *args)

    has_32_bits = name == "arm"
    mmap, fcntl = ("mmap2", "fcntl64") if has_32_bits else ("mmap", "fcntl")
    assert says("read") == says("recvmsg") == says("ioctl", 3, GET_VALUES) == ALLOW
    assert says(mmap, 0, 4096, 1) == says(fcntl, 3, 1) == says("socketpair", 1, 5) == ALLOW
    assert says(mmap, 0, 4096, 5) == says("mprotect", 0, 4096, 4) == says("ioctl", 0, 0x5412) == EPERM
    assert says(fcntl, 3, 8, 1) == says("sendto", 3, 0, 0, 0, 1) == says("socketpair", 2, 1) == EPERM
    assert says("kcmp") == says("seccomp") == answer(program, 0x1000, abi.audit_arch) == EPERM
    assert answer(program, abi.number("read") or 0, S390X) == EPERM


@pytest.mark.parametrize(
    ("kernel", "bits", "name"),
    [
        *[("x86_64", 64, "x86_64"), ("aarch64", 64, "aarch64"), ("riscv64", 64, "riscv64")],
        *[("armv7l", 32, "arm"), ("armv6l", 32, "arm"), ("armv8l", 32, "arm"), ("aarch64", 32, "arm")],
        *[("x86_64", 32, "i686"), ("s390x", 64, "s390x")],
        *[("i686", 64, "x86_64"), ("armv8l", 64, "aarch64"), ("i686", 32, "i686")],  # as by setarch(8)
    ],
)
def test_the_machine_is_that_of_the_process(
    kernel: str, bits: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.uname", lambda: os.uname_result(("Linux", "", "", "", kernel)))
    monkeypatch.setattr("struct.calcsize", lambda _: bits // 8)
    assert machine.machine() == name
    if name in ABIS:
        assert machine.syscall_number("seccomp") > 0
    else:
        with pytest.raises(HostError, match=f"this machine is {name}; programs can be run.* x86_64, aarch64"):
            machine.this_abi()


@pytest.mark.parametrize(
    ("arch", "nr", "mount", "umount", "uname"),
    [
        (X86_64, 16, 165, 166, 63),
        (X86_64, 0x40000202, 0x400000A5, 0x400000A6, 0x4000003F),
        (I386, 54, 21, 52, 122),
        (AARCH64, 29, 40, 39, 160),
        (ARM, 54, 21, 52, 122),
        (RISCV64, 29, 40, 39, 160),
        (LOONGARCH64, 29, 40, 39, 160),
    ],
)
def test_other_calls_are_trapped_where_that_is_wanted(
    arch: int, nr: int, mount: int, umount: int, uname: int
) -> None:
    for untyped in (False, True):
        filter_ = gpio_filter(("mount", "umount2", "uname"), untyped)
        for number in (mount, umount, uname):
            assert answer(filter_, number, arch, 0, 0) == NOTIFY
            assert answer(gpio_filter(), number, arch, 0, 0) == ALLOW
        assert answer(filter_, nr, arch, 3, GET_VALUES) == NOTIFY
        assert answer(filter_, nr, arch, 3, TCGETS) == ALLOW
        assert answer(filter_, nr, arch, 3, 2) == (NOTIFY if untyped else ALLOW)
        assert answer(filter_, 0, arch, 3, 2) == ALLOW
