# SPDX-License-Identifier: MIT
"""Which of the machines that we know this process runs on; a 32-bit one may run on a 64-bit kernel."""

from __future__ import annotations

import os
import struct

from gpiovirt.errors import HostError
from gpiovirt.uapi.unistd import ABIS, Abi

__all__ = ["machine", "syscall_number", "this_abi"]

_ARM = ("armv6l", "armv7l", "armv8l")
_32_BIT = {"aarch64": "arm", "x86_64": "i686"}


def machine() -> str:
    """uname(2)'s, but for a 32-bit process on a 64-bit kernel, and one name for all 32-bit ARMs."""
    name = os.uname().machine
    if name in _ARM:
        return "arm"
    return _32_BIT.get(name, name) if struct.calcsize("P") == 4 else name


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
