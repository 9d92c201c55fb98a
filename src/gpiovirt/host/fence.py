# SPDX-License-Identifier: MIT
"""The order of loads and stores in memory shared with a guest."""

from __future__ import annotations

from collections.abc import Callable

from gpiovirt.errors import HostError
from gpiovirt.host.machine import machine, syscall_number

__all__ = ["ordering_fence"]

_ORDERED = ("x86_64", "i686")
_MEMBARRIER_CMD_GLOBAL_EXPEDITED = 2


def ordering_fence() -> Callable[[], object] | None:
    """A function that is a full memory barrier for its caller.

    None where loads among themselves, and stores among themselves, stay in order without one. HostError
    where none is available.
    """
    if machine() in _ORDERED:
        return None
    from gpiovirt.host import libc

    number = syscall_number("membarrier")

    def fence() -> None:
        libc.syscall(number, _MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0)

    try:
        fence()
    except OSError as error:
        raise HostError.of(f"no memory barrier on this {machine()}, membarrier(2)", error) from error
    return fence
