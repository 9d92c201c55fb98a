# SPDX-License-Identifier: MIT
"""The record of gpiovirtd's chips: what happens in it while pages look, and what it has of the past."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from gpiovirt.control.log import LogClient
from gpiovirt.errors import GpiovirtError
from gpiovirt.protocols.control.answers import encode_answer
from gpiovirt.protocols.log import Ask, Done, LogRecord
from gpiovirt.waveform.thin import UNKNOWN, Piece
from gpiovirt.web.clock import us_of
from gpiovirt.web.live import Hub

__all__ = ["Follower", "pieces", "records"]

_AGAIN_S = 0.5
_RECORDS_MAX = 20_000  # that are looked at for a page of the log
_SHOWN_MAX = 500
_DECISIONS = {
    Done.REFUSED, Done.TRIPPED, Done.REARMED, Done.FORCED, Done.MADE, Done.DELETED, Done.CHANGED, Done.LOST,
    Done.REQUESTED, Done.RELEASED, Done.GONE, Done.BACK,
}  # fmt: skip


class Follower:
    """A thread that tells `hub` what happens, as long as somebody looks; over gpiovirtd's restarts, too."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._is_wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._client: LogClient | None = None
        self._seen_ns = 0
        self._outputs: set[tuple[str, int]] = set()
        hub.when_watched.append(self._start)

    def _start(self) -> None:
        if not self._is_wanted.is_set():
            self._seen_ns = time.time_ns()
            self._is_wanted.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gpiovirt-record", daemon=True)
            self._thread.start()

    def stop_if_unwatched(self) -> None:
        """Called when a page has gone."""
        if self._hub.is_watched:
            return
        self._is_wanted.clear()
        if (client := self._client) is not None:
            with suppress(OSError, ValueError):
                client.stop()

    def _run(self) -> None:
        while self._is_wanted.wait():
            try:
                with LogClient(Ask(since_ns=self._seen_ns, follow=True)) as client:
                    self._client = client
                    for part in client.parts():
                        self._take(part)
            except (GpiovirtError, OSError, ValueError):
                pass
            finally:
                self._client = None
            time.sleep(_AGAIN_S)

    def _take(self, part: tuple[LogRecord, ...]) -> None:
        levels = []
        for record in part:
            self._seen_ns = max(self._seen_ns, record.time_ns + 1)
            level = self._level_after(record)
            if level is not None:
                key = f"chip:{record.chip}"
                levels.append((key, record.chip, record.offset, us_of(record.time_ns), level))
            if record.what in _DECISIONS:
                self._hub.tell("log", shown(record), record.chip)
        if levels:
            self._hub.note(levels)

    def _level_after(self, record: LogRecord) -> int | None:
        """None: it is as it was. Of a record that is about all lines, the level is of all."""
        line = record.chip, record.offset
        match record.what:
            case Done.SET | Done.EDGE:
                return record.value & 1
            case Done.CONFIGURED if record.direction == "output":
                self._outputs.add(line)
                return record.value & 1
            case Done.RELEASED if line in self._outputs:
                return None
            case Done.CONFIGURED | Done.RELEASED | Done.GONE | Done.MISSED | Done.LOST:
                self._outputs.discard(line)
                return UNKNOWN
        return None


def shown(record: LogRecord) -> dict[str, Any]:
    """A record for a page."""
    told: dict[str, Any] = encode_answer(record)
    return {**told, "us": us_of(record.time_ns)}


def pieces(chip: str, since_ns: int, until_ns: int, columns: int) -> dict[int, list[Piece]]:
    """What a picture of a chip's lines (-1: all) shows; GpiovirtError."""
    found: dict[int, list[Piece]] = {}
    before = Ask(chip, (), since_ns, since_ns, last=True)
    with LogClient(before) as client:
        known: dict[int, int] = {}
        for record in next(client.parts(), ()):
            known.update(_known(record))
        for offset, level in known.items():
            found[offset] = [Piece(since_ns, since_ns, level)]
    with LogClient(Ask(chip, (), since_ns, until_ns, columns=columns)) as client:
        for span in client.spans():
            level = UNKNOWN if span.level is None else span.level
            found.setdefault(span.offset, []).append(Piece(span.begin_ns, span.end_ns, level))
    return found


def _known(record: LogRecord) -> Iterator[tuple[int, int]]:
    """The level of a line after one of its last records."""
    if record.what in (Done.SET, Done.EDGE) or record.direction == "output":
        yield record.offset, record.value & 1
    else:
        yield record.offset, UNKNOWN


def records(ask: Ask, words: frozenset[str]) -> tuple[list[dict[str, Any]], bool]:
    """The last of what was asked for, of these kinds, and whether there was more than was looked at."""
    with LogClient(ask) as client:
        looked = list(islice(client.records(), _RECORDS_MAX))
    found = [shown(record) for record in looked if record.what in words]
    return found[-_SHOWN_MAX:], len(looked) == _RECORDS_MAX or len(found) > _SHOWN_MAX
