# SPDX-License-Identifier: MIT
"""Text that somebody else chose, made fit to be shown: nothing of it moves a cursor or begins a line."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """`text`, with what cannot be printed as its escape: a terminal shows it, and does nothing else."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
