# SPDX-License-Identifier: MIT
"""What ps(1) shows of this process: its arguments, overwritten in place."""

from __future__ import annotations

import ctypes
from contextlib import suppress

__all__ = ["set_title"]


def set_title(text: str) -> None:
    """Be called so; longer than arguments and environment were, it is cut.

    Nothing may read the environment of C any more; Python has its own copy.
    """
    with suppress(OSError, ValueError, IndexError):
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
        # proc_pid_stat(5): arg_start and env_end are fields 48 and 51, and these begin at the third
        start, arg_end, env_start, env_end = (int(field) for field in fields[45:49])
        end = env_end if env_start == arg_end else arg_end
        room = end - start - 1
        if start and room > 0:
            raw = text.encode(errors="replace")[:room]
            ctypes.memmove(start, raw.ljust(room + 1, b"\0"), room + 1)
