# SPDX-License-Identifier: MIT
"""Faults of peers in the log: all that is needed to find the fault, but no flood."""

from __future__ import annotations

import logging
import time

__all__ = ["RateLimitedLog"]

_BURST = 10
_PERIOD_S = 5.0


class RateLimitedLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose messages begin with a chip's name; warnings about peers are limited per period."""

    def __init__(self, logger: logging.Logger, chip: str) -> None:
        super().__init__(logger, {"chip": chip})
        self._chip = chip
        self._began = 0.0
        self._count = 0

    def process(self, msg: object, kwargs: dict[str, object]) -> tuple[str, dict[str, object]]:  # type: ignore[override]
        return f"{self._chip}: {msg}", kwargs

    def complain(self, message: str) -> None:
        """Log a warning, or only count it."""
        now = time.monotonic()
        if now - self._began >= _PERIOD_S:
            self.report_unsaid()
            self._began = now
        self._count += 1
        if self._count <= _BURST:
            self.warning("%s", message)

    def report_unsaid(self) -> None:
        """Say how many warnings were left out."""
        if self._count > _BURST:
            self.warning("%d more warnings like these", self._count - _BURST)
        self._count = 0
