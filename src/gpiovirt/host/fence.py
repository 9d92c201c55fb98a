# SPDX-License-Identifier: MIT
"""A full memory barrier, for memory that is shared with a guest."""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable

__all__ = ["ORDERED", "full_fence"]

_MACHINE = os.uname().machine

ORDERED = _MACHINE in ("x86_64", "i686")
"""Whether loads among themselves, and stores among themselves, stay in order."""

_lock = _thread.allocate_lock()
_acquire = _lock.acquire
_release = _lock.release


def _locked_instruction() -> None:
    """Taking a free lock and giving it back are such instructions, each a full barrier on x86."""
    _acquire()
    _release()


_SYS_MEMBARRIER = {"aarch64": 283, "riscv64": 283}
_MEMBARRIER_CMD_GLOBAL_EXPEDITED = 2


def full_fence() -> Callable[[], object] | None:
    """A function that is a full barrier for its caller; None where there is none."""
    if ORDERED:
        return _locked_instruction
    number = _SYS_MEMBARRIER.get(_MACHINE)
    if number is None:
        return None
    from gpiovirt.host import libc

    try:
        libc.syscall(number, _MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0)
    except OSError:
        return None
    return lambda: libc.syscall(number, _MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0)
