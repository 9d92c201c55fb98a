# SPDX-License-Identifier: MIT
"""The kernel's software debouncer: a level counts once it has been stable for the period.

Documentation/userspace-api/gpio/gpio-v2-get-line-ioctl.rst; time is always an argument.
"""

from __future__ import annotations

__all__ = ["Debouncer"]


class Debouncer:
    """Physical level of one line, behind its debounce period (in us)."""

    __slots__ = ("deadline_ns", "level", "period_us")

    def __init__(self, level: int, period_us: int) -> None:
        self.level = level
        self.period_us = period_us
        self.deadline_ns: int | None = None

    def on_edge(self, now_ns: int) -> None:
        """The raw level changed: the period begins anew."""
        self.deadline_ns = now_ns + self.period_us * 1000

    def on_deadline(self, level: int) -> bool:
        """The period has passed with the raw level now `level`; True if the debounced level changed."""
        self.deadline_ns = None
        changed = level != self.level
        self.level = level
        return changed
