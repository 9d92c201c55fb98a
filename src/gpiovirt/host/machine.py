# SPDX-License-Identifier: MIT
"""Which of the machines that we know this process runs on; a 32-bit one may run on a 64-bit kernel."""

from __future__ import annotations

import os
import struct
import sys

from gpiovirt.errors import HostError
from gpiovirt.uapi.unistd import ABIS, Abi

__all__ = ["check_byte_order", "machine", "syscall_number", "this_abi"]

_ARM = ("armv6l", "armv7l", "armv8l")
_32_BIT = {"aarch64": "arm", "x86_64": "i686"}
_64_BIT = {"armv8l": "aarch64", "i686": "x86_64"}


def machine() -> str:
    """uname(2)'s, with one name for all 32-bit ARMs, but that of this process where the kernel has two.

    A 32-bit process may run on a 64-bit kernel, and a 64-bit one be told otherwise (setarch(8)).
    """
    name = os.uname().machine
    is_32_bit = struct.calcsize("P") == 4
    name = (_32_BIT if is_32_bit else _64_BIT).get(name, name)
    return "arm" if is_32_bit and name in _ARM else name


def this_abi() -> Abi:
    """How this process calls the kernel; HostError if that is not known here."""
    abi = ABIS.get(machine())
    if abi is None:
        known = ", ".join(ABIS)
        raise HostError(f"this machine is {machine()}; programs can be run, and workers confined, on {known}")
    return abi


def syscall_number(call: str) -> int:
    """Of a call that glibc has no function for; HostError where it is not known."""
    number = this_abi().number(call)
    assert number is not None, call
    return number


def check_byte_order() -> None:
    """HostError on a machine whose memory cannot be shared with a VM's devices as it is."""
    if sys.byteorder != "little":
        raise HostError(f"this machine is {machine()}; VMs can be served on little-endian machines only")
