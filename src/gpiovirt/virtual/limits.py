# SPDX-License-Identifier: MIT
"""What a virtual chip may be called, and how much it may have."""

from __future__ import annotations

import re

from gpiovirt.errors import UsageError

__all__ = [
    "LINES_MAX",
    "LINE_NAME_MAX",
    "OFFSET_MAX",
    "POLL_US_MAX",
    "check_line_name",
    "check_name",
    "check_poll_us",
]

LINES_MAX = 1024  # each is an open file of two processes
OFFSET_MAX = 65534  # what the kernel's configfs interface takes
LINE_NAME_MAX = 31  # linux/gpio.h: GPIO_MAX_NAME_SIZE, with its NUL
POLL_US_MAX = 10_000  # longer than any consumer takes until its next request

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,30}"  # compiled when first used: a start feels it


def check_name(name: str) -> None:
    """UsageError unless a chip can have this name."""
    if not re.fullmatch(_NAME, name):
        raise UsageError(
            f"{name!r} cannot name a chip: use 1 to 31 letters, digits and _ . + -, not beginning with . + -"
        )


def check_line_name(name: str) -> None:
    """UsageError unless a line can have this name."""
    if not name.isprintable() or len(name.encode(errors="replace")) > LINE_NAME_MAX:
        raise UsageError(f"{name!r} cannot name a line: use at most {LINE_NAME_MAX} bytes, all printable")


def check_poll_us(poll_us: int) -> None:
    """UsageError unless a chip can be polled for so long."""
    if not 0 <= poll_us <= POLL_US_MAX:
        raise UsageError(f"{poll_us} us is out of range: polling takes 0 to {POLL_US_MAX} us")
