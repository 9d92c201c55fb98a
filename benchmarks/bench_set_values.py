# SPDX-License-Identifier: MIT
"""SET_VALUES of one line, in us: median (p99)."""

from __future__ import annotations

from benchmarks.harness import Row, ioctl_rows


def rows() -> list[Row]:
    return ioctl_rows("SET_VALUES of one line", "set")
