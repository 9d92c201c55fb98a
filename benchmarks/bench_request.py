# SPDX-License-Identifier: MIT
"""GET_LINE and close, in us: median (p99)."""

from __future__ import annotations

from benchmarks.harness import Row, ioctl_rows


def rows() -> list[Row]:
    return ioctl_rows("GET_LINE and close", "request", count=1500)
