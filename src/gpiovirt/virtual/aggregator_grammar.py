# SPDX-License-Identifier: MIT
"""The grammar that the kernel's gpio-aggregator driver has for `new_device`, to the letter.

Specification: Documentation/admin-guide/gpio/gpio-aggregator.rst; where that is vague, as Linux 6.12 does
it: a second token of offsets is the name of a chip or line, a last name that no token follows is dropped,
offsets of a token are taken in ascending order and once, and what follows `=` in a token is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpiovirt.errors import GrammarError, OffsetError
from gpiovirt.virtual.grammar import ChipLines, Item, NamedLine

__all__ = ["parse"]

_OFFSETS_MAX = 512  # AGGREGATOR_MAX_GPIOS
_TOKEN = re.compile(r'\s*((?:"[^"]*"|[^\s"])+|"[^"]*$)')
_NUMBER = r"[-+]?(?:0[xX][0-9a-fA-F]+|\d+)"
_OPTIONS = re.compile(rf"{_NUMBER}(?:-\d+)?(?:,{_NUMBER}(?:-\d+)?)*,?")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def parse(text: str) -> list[Item]:
    """The items of a definition; GrammarError (EINVAL) or OffsetError (ERANGE) as in the kernel."""
    items: list[Item] = []
    tokens = list(_tokens(text))
    name = tokens.pop(0) if tokens else ""
    while tokens:
        token = tokens.pop(0)
        if not _is_offsets(token):
            items.append(NamedLine(name))
            name = token
            continue
        items.append(ChipLines(name, _offsets(token, text)))
        name = tokens.pop(0) if tokens else ""
    if not items:
        raise GrammarError("no GPIOs are specified", text, "", 1)
    return items


def _tokens(text: str) -> Iterator[str]:
    for match in _TOKEN.finditer(text):
        token = match[1]
        if token.startswith('"'):
            yield token[1:].partition('"')[0]
        else:
            yield token.partition("=")[0]


def _is_offsets(token: str) -> bool:
    """Whether the kernel's get_options() reads the token to its end: numbers, and ranges that go up."""
    if not _OPTIONS.fullmatch(token):
        return False
    for part in token.split(","):
        span = _RANGE.fullmatch(part)
        if span and span[2] and int(span[2]) < int(span[1]):
            return False
    return True


def _offsets(token: str, text: str) -> tuple[int, ...]:
    """As bitmap_parselist() reads them: decimal, without a sign."""
    found: set[int] = set()
    for part in token.removesuffix(",").split(","):
        span = _RANGE.fullmatch(part)
        if span is None:
            raise GrammarError("not an offset", text, part, text.index(token) + 1)
        first, last = int(span[1]), int(span[2] or span[1])
        if last >= _OFFSETS_MAX:
            raise OffsetError(f"offset {last} of {text!r} is past {_OFFSETS_MAX - 1}")
        found.update(range(first, last + 1))
    return tuple(sorted(found))
