# SPDX-License-Identifier: MIT
"""Lines that another worker lends: how long that may take."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gpiovirt.daemon.sources import OwnChip
from gpiovirt.daemon.worker_handle import Answer, WorkerHandle
from gpiovirt.errors import ChipGoneError, LineBusyError


class Lender:
    """A worker that takes its time to say that a line is held."""

    def __init__(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.asked = 0
        self._seconds = seconds
        monkeypatch.setattr("gpiovirt.daemon.sources.time.monotonic", lambda: self.now_s)
        self.chip = OwnChip("panel", [""] * 1024, cast(WorkerHandle, self))

    async def ask(self, *_: Any, **__: Any) -> Answer:
        self.asked += 1
        self.now_s += self._seconds
        return Answer({"errno": 16, "holder": "another"}, [])

    def lend_all(self) -> None:
        for offset in range(1024):
            with pytest.raises(LineBusyError):
                self.chip.take(offset, "plc").send(None)


def test_the_largest_chip_of_a_slow_machine_is_lent_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    lender = Lender(0.02, monkeypatch)
    lender.lend_all()
    assert lender.asked == 1024


def test_a_lender_that_dawdles_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    lender = Lender(0.49, monkeypatch)
    with pytest.raises(ChipGoneError, match="takes too long to lend"):
        lender.lend_all()
    assert lender.now_s < 4
