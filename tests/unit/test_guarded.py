# SPDX-License-Identifier: MIT
"""What a definition says of a line, whoever its consumer is; and what is known of holders that are gone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gpiovirt.core.gpiolib import GpioChip, PhysicalEdge
from gpiovirt.core.guarded import GuardedDriver
from gpiovirt.core.holder import Holder
from gpiovirt.core.line import PLAIN, Bias, Direction, Drive, Edge, EdgeEvent, LineOptions, LineSettings
from gpiovirt.testing import FakeClock
from gpiovirt.virtual.memory import KeptMemory, held_lines, new_memory
from gpiovirt.virtual.options import parse_options
from tests.holders import program

INPUT = LineSettings(Direction.INPUT)
HIGH = LineSettings(Direction.OUTPUT, output_value=1)


class FakeDriver:
    """Lines that remember how they were configured last; `levels` are physical."""

    label = "fake"

    def __init__(self, num_lines: int) -> None:
        self.names: Sequence[str] = [f"L{offset}" for offset in range(num_lines)]
        self.settings: dict[int, LineSettings] = {}
        self.freed: list[int] = []
        self.levels = 0

    def attach(self, edge: PhysicalEdge, presence: object) -> None:
        self.edge = edge

    def is_output(self, offset: int) -> bool:
        return self.settings.get(offset, INPUT).direction is Direction.OUTPUT

    def catch_up(self) -> None: ...

    def request(self, offset: int, holder: Holder) -> None: ...

    def configure(self, offset: int, settings: LineSettings) -> None:
        self.settings[offset] = settings

    def free(self, offset: int) -> None:
        self.freed.append(offset)

    def bind(self, offsets: Sequence[int]) -> FakeDriver:
        return self

    def get(self, mask: int) -> int:
        return self.levels & mask

    def set(self, mask: int, bits: int) -> None:
        self.levels = self.levels & ~mask | bits


def guarded(*options: str) -> tuple[FakeDriver, GuardedDriver, GpioChip]:
    driver = FakeDriver(len(options))
    made = GuardedDriver(driver, [parse_options(text) for text in options])
    return driver, made, GpioChip(made, FakeClock())


def test_options_fill_in_what_a_consumer_leaves_open() -> None:
    driver, _, chip = guarded("pull-up,debounce=5ms", "open-drain", "")
    chip.request([0, 1, 2], [INPUT, HIGH, INPUT], program("me"))
    assert (driver.settings[0].bias, driver.settings[0].debounce_period_us) == (Bias.PULL_UP, 5000)
    assert driver.settings[1].drive is Drive.OPEN_DRAIN
    assert driver.settings[2] == INPUT


def test_a_consumer_that_asks_for_something_else_gets_that() -> None:
    driver, _, chip = guarded("pull-up,debounce=5ms", "open-drain")
    asked = [
        INPUT._replace(bias=Bias.DISABLED, debounce_period_us=7),
        HIGH._replace(drive=Drive.OPEN_SOURCE),
    ]
    chip.request([0, 1], asked, program("me"))
    assert (driver.settings[0].bias, driver.settings[0].debounce_period_us) == (Bias.DISABLED, 7)
    assert driver.settings[1].drive is Drive.OPEN_SOURCE


def test_active_low_turns_values_and_edges_for_every_consumer() -> None:
    driver, _, chip = guarded("active-low", "")
    events: list[EdgeEvent] = []
    request = chip.request([0, 1], [HIGH, HIGH], program("me"))
    assert [driver.settings[offset].output_value for offset in (0, 1)] == [0, 1]
    request.set_values(0b11, 0b01)
    assert driver.levels == 0
    assert request.get_values(0b11) == 0b01
    request.release()
    chip.request([0], [INPUT._replace(edge=Edge.RISING)], program("me"), events.append)
    assert driver.settings[0].edge is Edge.FALLING
    driver.edge(0, False, 5)
    assert [event.rising for event in events] == [True]


@pytest.mark.parametrize(("safe", "level"), [("low", 0), ("high", 1)])
def test_safe_state_is_physical_and_comes_with_the_release(safe: str, level: int) -> None:
    driver, _, chip = guarded(f"active-low,safe={safe}", "")
    chip.request([0, 1], [HIGH, HIGH], program("me")).release()
    assert (driver.settings[0].direction, driver.settings[0].output_value) == (Direction.OUTPUT, level)
    assert driver.freed == [1]
    assert not chip.line_info(0).used


def test_lines_that_nobody_holds_are_made_safe_and_no_others() -> None:
    driver, made, chip = guarded("safe=low", "safe=low")
    chip.request([0], [INPUT], program("me"))
    made.make_safe([0, 1])
    assert driver.settings[0].direction is Direction.INPUT
    assert driver.settings[1].direction is Direction.OUTPUT
    assert chip.line_info(1).direction is Direction.OUTPUT


def test_holders_of_a_dead_process_may_come_back_until_they_may_not() -> None:
    memory = new_memory("plc", 3, 0)
    options = [LineOptions(safe=HIGH)] * 3
    first = GuardedDriver(FakeDriver(3), options, KeptMemory(memory, 3, 0))
    chip = GpioChip(first, FakeClock())
    chip.request([0, 1], [INPUT, INPUT], program("me"))
    assert held_lines(memory, 3) == [0, 1]

    driver = FakeDriver(3)
    kept = KeptMemory(memory, 3, 0)
    assert not kept.is_output(0, otherwise=True)
    second = GuardedDriver(driver, options, kept)
    again = GpioChip(second, FakeClock())
    assert second.num_held == 2
    again.request([1], [INPUT], program("me"))
    second.free_unclaimed(range(3))
    assert {offset: settings.direction for offset, settings in driver.settings.items()} == {
        0: Direction.OUTPUT,
        1: Direction.INPUT,
    }
    assert held_lines(memory, 3) == [1]


def test_first_holder_and_the_end_of_the_last_are_told() -> None:
    told: list[int] = []
    made = GuardedDriver(FakeDriver(2), [PLAIN] * 2, None, lambda: told.append(made.num_held))
    chip = GpioChip(made, FakeClock())
    one, other = chip.request([0], [INPUT], program("a")), chip.request([1], [INPUT], program("b"))
    one.release()
    other.release()
    assert told == [1, 0]
