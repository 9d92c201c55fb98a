# SPDX-License-Identifier: MIT
"""Lines that pages drive: held by this process as by any program, until their session looks no more."""

from __future__ import annotations

import threading
from contextlib import suppress

from gpiovirt.control.client import Client
from gpiovirt.control.held_lines import HeldLines
from gpiovirt.errors import GpiovirtError, UsageError
from gpiovirt.protocols.control.requests import Look
from gpiovirt.protocols.gpiochip.caller import encode_output_request
from gpiovirt.web.access import Session

__all__ = ["Holds"]

CONSUMER = "gpiovirt web"
_HOLDS_MAX = 64  # of a session


class Holds:
    """By session and line; every method may be called by any thread, and may wait."""

    def __init__(self) -> None:
        self._held: dict[tuple[Session, str, int], HeldLines] = {}
        self._lock = threading.Lock()

    def drive(self, session: Session, chip: str, offset: int, level: int) -> None:
        """Hold a line as an output with this level; GpiovirtError says who has it, or what forbids it."""
        key = (session, chip, offset)
        with self._lock:
            held = self._held.get(key)
            if held is None and sum(one is session for one, _, _ in self._held) >= _HOLDS_MAX:
                raise UsageError(f"a page holds {_HOLDS_MAX} lines at most; release one first")
        if held is None:
            with Client() as client:
                device = client.ask(Look(chip)).device
            made = HeldLines(device, encode_output_request({offset: level}, CONSUMER))
            with self._lock:
                self._held[key] = made
            return
        try:
            held.set(level)
        except GpiovirtError:
            self._forget(key)
            raise

    def _forget(self, key: tuple[Session, str, int]) -> None:
        with self._lock:
            held = self._held.pop(key, None)
        if held is not None:
            held.close()

    def release(self, session: Session, chip: str, offset: int) -> None:
        """Let a line go."""
        with self._lock:
            held = self._held.pop((session, chip, offset), None)
        if held is None:
            raise UsageError("this page does not hold that line")
        held.close()

    def release_all(self, session: Session | None = None) -> None:
        """Those of a session, or all."""
        with self._lock:
            keys = [key for key in self._held if session is None or key[0] is session]
            found = [self._held.pop(key) for key in keys]
        for held in found:
            with suppress(OSError):
                held.close()

    def of(self, session: Session, chip: str) -> set[int]:
        """The offsets that a session holds."""
        return {offset for one, name, offset in self._held.copy() if one is session and name == chip}
