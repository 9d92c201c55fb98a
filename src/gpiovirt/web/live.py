# SPDX-License-Identifier: MIT
"""What happens now, for the pages that look: a slow one loses it and is told so, and nobody waits for it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from gpiovirt.web.access import Rights

__all__ = ["Hub", "Subscriber"]

_BACKLOG_MAX = 1 << 20
"""Bytes that wait for a page"""
_FLUSH_S = 0.02


class Subscriber:
    """A page."""

    def __init__(self, rights: Rights) -> None:
        self.rights = rights
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._has_lost = False
        self._ready = asyncio.Event()

    def put(self, message: bytes) -> None:
        """Something for it."""
        if self._size + len(message) > _BACKLOG_MAX:
            self._waiting.clear()
            self._size = 0
            self._has_lost = True
        self._waiting.append(message)
        self._size += len(message)
        self._ready.set()

    async def next(self) -> bytes:
        """All that there is; waits for something."""
        await self._ready.wait()
        self._ready.clear()
        lost = message("lost", {}) if self._has_lost else b""
        told = lost + b"".join(self._waiting)
        self._waiting.clear()
        self._size, self._has_lost = 0, False
        return told


def message(event: str, told: Any) -> bytes:
    """A server-sent event."""
    return f"event: {event}\ndata: {json.dumps(told, separators=(',', ':'))}\n\n".encode()


class Hub:
    """Collects what happens for a moment, and tells all subscribers; threads may call note() and tell()."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._subscribers: set[Subscriber] = set()
        self._levels: deque[tuple[str, str, int, int, int]] = deque()
        self._is_due = False
        self.when_watched: list[Callable[[], object]] = []
        """Called when the first page looks"""

    @property
    def is_watched(self) -> bool:
        """Somebody looks."""
        return bool(self._subscribers)

    def subscribe(self, rights: Rights) -> Subscriber:
        """A page looks."""
        subscriber = Subscriber(rights)
        self._subscribers.add(subscriber)
        for told in self.when_watched:
            told()
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """It has gone."""
        self._subscribers.discard(subscriber)

    def note(self, changes: Iterable[tuple[str, str, int, int, int]]) -> None:
        """Levels: (key of a chip, its name, offset, us, level)."""
        self._levels.extend(changes)
        if not self._is_due:
            self._is_due = True
            self._call(lambda: self._loop.call_later(_FLUSH_S, self._flush))

    def _call(self, told: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended, and so do we
            self._loop.call_soon_threadsafe(told)

    def _flush(self) -> None:
        self._is_due = False
        by_chip: dict[tuple[str, str], list[int]] = {}
        for _ in range(len(self._levels)):
            key, chip, *change = self._levels.popleft()
            by_chip.setdefault((key, chip), []).extend(change)
        for (key, chip), changes in by_chip.items():
            self._tell_now("levels", {"chip": key, "changes": changes}, chip)

    def tell(self, event: str, told: Any, chip: str | None = None) -> None:
        """Something else; of a chip, only those who see it are told."""
        self._call(lambda: self._tell_now(event, told, chip))

    def _tell_now(self, event: str, told: Any, chip: str | None) -> None:
        encoded = b""
        for subscriber in self._subscribers:
            if chip is None or subscriber.rights.sees(chip):
                encoded = encoded or message(event, told)
                subscriber.put(encoded)
