# SPDX-License-Identifier: MIT
"""gpiolib above a driver, and beside watchers, that fail."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gpiovirt.core.chip import PresenceSink
from gpiovirt.core.gpiolib import GpioChip, PhysicalEdge, Picked, Values
from gpiovirt.core.holder import Holder
from gpiovirt.core.line import Direction, InfoEvent, InfoEventType, LineSettings
from gpiovirt.errors import HostError, NotPermittedError
from gpiovirt.testing import FakeClock
from tests.holders import program

INPUT = LineSettings(Direction.INPUT)
OUTPUT = LineSettings(Direction.OUTPUT)


class FailingDriver:
    """A driver of four lines; what is in `fails` is refused: (call, offset)."""

    label = "hw"
    names: Sequence[str] = ["", "", "", ""]

    def __init__(self) -> None:
        self.fails: set[tuple[str, int]] = set()
        self.held: set[int] = set()
        self.freed: list[int] = []

    def _may(self, call: str, offset: int) -> None:
        if (call, offset) in self.fails:
            raise HostError(f"cannot {call} line {offset}")

    def attach(self, edge: PhysicalEdge, presence: PresenceSink) -> None:
        pass

    def is_output(self, offset: int) -> bool:
        return False

    def catch_up(self) -> None: ...

    def request(self, offset: int, holder: Holder) -> None:
        self.held.add(offset)

    def configure(self, offset: int, settings: LineSettings) -> None:
        self._may("configure", offset)

    def free(self, offset: int) -> None:
        self.held.discard(offset)
        self.freed.append(offset)
        self._may("free", offset)

    def bind(self, offsets: Sequence[int]) -> Values:
        for offset in offsets:
            self._may("bind", offset)
        return Levels()


class Levels:
    def get(self, mask: int) -> int:
        return 0

    def set(self, mask: int, bits: int) -> None:
        pass


@pytest.fixture
def driver() -> FailingDriver:
    return FailingDriver()


@pytest.fixture
def chip(driver: FailingDriver) -> GpioChip:
    return GpioChip(driver, FakeClock())


def used(chip: GpioChip) -> list[int]:
    return [offset for offset in range(chip.info.num_lines) if chip.line_info(offset).used]


def test_a_line_that_cannot_be_freed_keeps_no_other_held(driver: FailingDriver, chip: GpioChip) -> None:
    request = chip.request([0, 1, 2], [OUTPUT] * 3, program("test"))
    driver.fails.add(("free", 0))
    with pytest.raises(HostError, match="cannot free line 0"):
        request.release()
    assert driver.freed == [0, 1, 2]
    assert used(chip) == []
    driver.fails.clear()
    chip.request([0, 1, 2], [OUTPUT] * 3, program("again")).release()


def test_a_watcher_that_fails_keeps_no_line_held_and_no_watcher_untold(chip: GpioChip) -> None:
    told: list[tuple[InfoEventType, int]] = []

    def fails(event: InfoEvent) -> None:
        if event.type is InfoEventType.RELEASED:
            raise RuntimeError("a fault of a watcher")

    chip.watch(fails)
    chip.watch(lambda event: told.append((event.type, event.info.offset)))
    request = chip.request([0, 1], [INPUT] * 2, program("test"))
    with pytest.raises(RuntimeError, match="a fault of a watcher"):
        request.release()
    assert used(chip) == []
    assert told[2:] == [(InfoEventType.RELEASED, 0), (InfoEventType.RELEASED, 1)]


def test_a_watcher_that_fails_leaves_no_line_unconfigured(chip: GpioChip) -> None:
    def fails(event: InfoEvent) -> None:
        if event.type is InfoEventType.CONFIG:
            raise RuntimeError("a fault of a watcher")

    request = chip.request([0, 1], [INPUT] * 2, program("test"))
    chip.watch(fails)
    with pytest.raises(RuntimeError, match="a fault of a watcher"):
        request.reconfigure({0: OUTPUT, 1: OUTPUT})
    request.set_values(0b11, 0b11)
    assert [chip.line_info(offset).direction for offset in (0, 1)] == [Direction.OUTPUT] * 2


@pytest.mark.parametrize("call", ["configure", "bind"])
def test_a_request_that_fails_holds_nothing(driver: FailingDriver, chip: GpioChip, call: str) -> None:
    driver.fails |= {(call, 1), ("free", 0)}
    with pytest.raises(HostError, match=f"cannot {call} line 1"):
        chip.request([0, 1], [OUTPUT] * 2, program("test"))
    assert used(chip) == []
    assert driver.held == set()


def test_lines_are_relinquished_beside_one_that_cannot_be(driver: FailingDriver, chip: GpioChip) -> None:
    request = chip.request([0, 1], [OUTPUT] * 2, program("test"))
    driver.fails.add(("free", 0))
    with pytest.raises(HostError, match="cannot free line 0"):
        request.relinquish(0b11)
    assert [chip.line_info(offset).direction for offset in (0, 1)] == [Direction.INPUT] * 2
    assert driver.held == {0, 1}


class ReplacedDriver(FailingDriver):
    """Its line 0 vanishes, and comes back as an output."""

    is_there = True

    def attach(self, edge: PhysicalEdge, presence: PresenceSink) -> None:
        self.presence = presence

    def is_output(self, offset: int) -> bool:
        return offset == 0 and not self.is_there


def test_a_held_line_that_comes_back_as_an_output_can_be_set_without_a_word_about_the_others() -> None:
    driver = ReplacedDriver()
    chip = GpioChip(driver, FakeClock())
    request = chip.request([1, 0], [INPUT] * 2, program("test"))
    driver.is_there = False
    with pytest.raises(NotPermittedError, match="not an output"):
        request.set_values(0b10, 0b10)
    driver.presence(0, False)
    driver.presence(0, True)
    request.set_values(0b10, 0b10)
    with pytest.raises(NotPermittedError, match="not an output"):
        request.set_values(0b01, 0b01)


def test_lines_of_a_mask_are_picked_again_when_it_is_another() -> None:
    lines = [f"line {i}" for i in range(1024)]
    picked = Picked(lines)
    for mask in (1, 1, 1 << 1023, 0b1010, 0, 0b1010, (1 << 1024) - 1, 1):
        expected = [(1 << i, line) for i, line in enumerate(lines) if mask >> i & 1]
        assert picked.pick(mask) == expected
