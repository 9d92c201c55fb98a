# SPDX-License-Identifier: MIT
"""Text that somebody else chose, made fit to be shown: nothing of it moves a cursor or begins a line."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["near", "nearest", "printable"]


def printable(text: str) -> str:
    """`text`, with what cannot be printed as its escape: a terminal shows it, and does nothing else."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def near(word: str, words: Iterable[str]) -> list[str]:
    """Those of `words` that may have been meant, the nearest first."""
    from difflib import get_close_matches  # only who mistyped waits for it

    lower = {other.lower(): other for other in words}
    return [lower[match] for match in get_close_matches(word.lower(), lower, n=3)]


def nearest(word: str, words: Iterable[str]) -> str:
    """` (did you mean A or B?)`, for a message about a word that is none of `words`; "" if none is near."""
    found = near(word, words)
    return f" (did you mean {' or '.join(found)}?)" if found else ""
