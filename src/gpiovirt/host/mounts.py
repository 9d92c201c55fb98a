# SPDX-License-Identifier: MIT
"""What is mounted where, without asking a file system whose process may be stopped."""

from __future__ import annotations

import os
import re

__all__ = ["is_mount_point"]

_ESCAPED = re.compile(r"\\([0-7]{3})")  # proc_pid_mountinfo(5): blanks and backslashes


def is_mount_point(path: str) -> bool:
    """Whether something is mounted at `path` itself; os.path.ismount() waits for its server."""
    folder, name = os.path.split(os.path.abspath(path))
    real = os.path.join(os.path.realpath(folder), name)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        return any(_unescaped(line.split()[4]) == real for line in mounts)


def _unescaped(field: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), field)
