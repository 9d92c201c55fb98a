# SPDX-License-Identifier: MIT
"""set on a wired line to its edge event read, in us: median (p99)."""

from __future__ import annotations

from benchmarks.harness import Row, ioctl_rows


def rows() -> list[Row]:
    return ioctl_rows("set on a wired line to its edge event read", "edge")
