# SPDX-License-Identifier: MIT
"""Where `gpiovirt top` has it from: gpiovirtd's chips and their record, and the user's simulators."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from typing import Any

from gpiovirt.control import control_socket
from gpiovirt.control.async_client import AsyncClient
from gpiovirt.errors import GpiovirtError
from gpiovirt.top.picture import wave_of
from gpiovirt.waveform.thin import Piece, thin
from gpiovirt.web import chips
from gpiovirt.web.access import ALL
from gpiovirt.web.clock import ns_of
from gpiovirt.web.live import Hub
from gpiovirt.web.record import Follower
from gpiovirt.web.simulators import Simulators
from gpiovirt.web.traces import Traces

__all__ = ["Source"]


class _Collector(Hub):
    """Keeps levels, where a page would be told of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.traces = Traces()
        self.lock = threading.Lock()

    def note(self, changes: Iterable[tuple[str, str, int, int, int]]) -> None:
        with self.lock:
            for key, _, offset, us, level in changes:
                self.traces.begin(key, offset, ns_of(us), level)

    def tell(self, event: str, told: Any, chip: str | None = None) -> None:
        """What else there is, look() sees."""


class Source:
    """What there is to see."""

    def __init__(self) -> None:
        self._hub = _Collector(asyncio.get_running_loop())
        self._simulators = Simulators(self._hub)
        self._follower = Follower(self._hub)
        self._hub.subscribe(ALL)
        self.trouble = ""

    async def look(self) -> list[dict[str, Any]]:
        """All chips, as they are now."""
        found: list[dict[str, Any]] = []
        self.trouble = ""
        path = control_socket()
        if path is not None:
            try:
                async with await AsyncClient.connect(path) as client:
                    found = await chips.told(client, False, {})
            except GpiovirtError as error:
                self.trouble = str(error)
        found += await asyncio.to_thread(self._simulators.chips)
        if not found and not self.trouble:
            self.trouble = "no chips: start gpiovirtd, or gpiovirt run --sim panel:DOOR,LAMP -- PROGRAM"
        now_ns = time.time_ns()
        with self._hub.lock:
            for chip in found:
                there = self._hub.traces.of_chip(chip["key"])
                for line in chip["lines"]:
                    if line["offset"] not in there and line["level"] is not None:
                        self._hub.traces.begin(chip["key"], line["offset"], now_ns, line["level"])
        return found

    def wave(self, key: str, offset: int, width: int, until_ns: int, span_ms: int) -> str:
        """A line's levels over time."""
        since_ns = until_ns - span_ms * 1_000_000
        with self._hub.lock:
            trace = self._hub.traces.of_chip(key).get(offset)
            if trace is None:
                return ""
            before = Piece(since_ns, since_ns, trace.level_at(since_ns))
            pieces = [before, *thin(trace, since_ns, until_ns, 2 * width)]
        return wave_of(pieces, since_ns, until_ns, width)

    async def toggle(self, key: str, offset: int, level: int) -> None:
        """Pull a simulated line; GpiovirtError."""
        await asyncio.to_thread(self._simulators.do, key, offset, "pull", level)
