# SPDX-License-Identifier: MIT
from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from gpiovirt.core.chip import LineRequest
from gpiovirt.core.line import Bias, Direction, Drive, LineSettings
from gpiovirt.errors import GpiovirtError, HostError, LineBusyError, PeerError, UsageError
from gpiovirt.protocols.guest_memory import GuestMemory
from gpiovirt.protocols.vhost_user import SplitRingLog, inflight_size, log_area
from gpiovirt.protocols.virtio_gpio import (
    IRQ_TRANSITIONS,
    GpioDevice,
    IrqAction,
    IrqEvent,
    IrqState,
    names_block,
)
from gpiovirt.protocols.virtqueue import InFlightLog, Virtqueue
from gpiovirt.sources.simulator import Simulator
from gpiovirt.testing.clock import FakeClock
from gpiovirt.testing.virtio_driver import DriverQueue, GpioDriver, GuestRam, RequestFailedError
from gpiovirt.uapi import virtio_gpio as u
from tests.holders import VMM, program

NONE, OUT, IN = u.VIRTIO_GPIO_DIRECTION_NONE, u.VIRTIO_GPIO_DIRECTION_OUT, u.VIRTIO_GPIO_DIRECTION_IN
RISING, FALLING, BOTH = 1, 2, 3
HIGH, LOW = u.VIRTIO_GPIO_IRQ_TYPE_LEVEL_HIGH, u.VIRTIO_GPIO_IRQ_TYPE_LEVEL_LOW
VALID, INVALID = u.VIRTIO_GPIO_IRQ_STATUS_VALID, u.VIRTIO_GPIO_IRQ_STATUS_INVALID


class Bench:
    """A guest's driver on a device over a simulated chip "s" with lines A, B, C and D."""

    def __init__(self, defaults: Mapping[int, LineSettings] | None = None, chip_names: str = "ABCD") -> None:
        self.simulator = Simulator(FakeClock())
        self.chip = self.simulator.add_chip("s", chip_names)
        self.calls: list[int] = []
        self.refused: list[tuple[int | None, GpiovirtError]] = []
        self.broken: list[tuple[int, PeerError]] = []
        self.tracked = memoryview(bytearray(inflight_size(2, 64)))
        self.device = self.new_device(defaults)
        self.boot()

    def new_device(self, defaults: Mapping[int, LineSettings] | None = None) -> GpioDevice:
        device = GpioDevice(
            self.chip,
            self.calls.append,
            lambda offset, error: self.refused.append((offset, error)),
            lambda index, error: self.broken.append((index, error)),
            holder=VMM,
            defaults=defaults,
        )
        device.negotiate(1 << u.VIRTIO_GPIO_F_IRQ)
        return device

    def boot(self) -> None:
        self.ram = GuestRam(memoryview(bytearray(1 << 18)))
        self.memory = GuestMemory([self.ram.region])
        self.queues = [DriverQueue(self.ram), DriverQueue(self.ram)]
        self.driver = GpioDriver(self.queues[0], self.queues[1], self.kick)
        self.start()

    def kick(self, index: int) -> None:
        self.device.kick(index)

    def start(self, bases: tuple[int, int] = (0, 0), log: InFlightLog | None = None) -> None:
        for index, queue in enumerate(self.queues):
            ring = Virtqueue(self.memory, queue.ring, bases[index], log=log if index else None)
            self.device.start(index, ring)

    def log(self) -> SplitRingLog:
        return SplitRingLog(log_area(self.tracked, 1, 64), 64)

    def direction(self, offset: int) -> Direction:
        return self.chip.line_info(offset).direction

    def used(self) -> list[int]:
        return [offset for offset in range(4) if self.chip.line_info(offset).used]

    def hold(self, offset: int) -> LineRequest:
        return self.chip.request([offset], [LineSettings()], program("spi0"))

    def level(self, offset: int) -> int:
        return self.simulator.level("s", offset)

    def pull(self, offset: int, *levels: int) -> None:
        for level in levels:
            self.simulator.pull("s", offset, level)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_config_space_has_ngpio_and_the_size_of_the_names(bench: Bench) -> None:
    assert bench.device.config == bytes((4, 0, 0, 0, 8, 0, 0, 0))


def test_names_reach_the_guest(bench: Bench) -> None:
    assert bench.driver.names(4, 8) == ["A", "B", "C", "D"]


def test_names_need_room_for_all_of_them(bench: Bench) -> None:
    for size in (0, 1, 2, 8):
        response = bench.driver.request(u.VIRTIO_GPIO_MSG_GET_NAMES, 0, 0, max(size, 1))
        assert response.status == u.VIRTIO_GPIO_STATUS_ERR


def test_names_that_cannot_be_said_are_left_out() -> None:
    assert names_block(["A", "", "LED\N{DEGREE SIGN}", "A", "B", "a\0b"]) == b"A\0\0\0\0B\0\0"


def test_chip_without_names_has_no_names_block() -> None:
    assert names_block(["", ""]) == b""
    bench = Bench(chip_names="\N{OHM SIGN}\N{OHM SIGN}")
    assert bench.device.config[4:] == bytes(4)
    assert bench.driver.request(u.VIRTIO_GPIO_MSG_GET_NAMES, 0, 0, 64).status == u.VIRTIO_GPIO_STATUS_ERR


def test_indirect_descriptors_are_offered_where_events_need_the_room() -> None:
    assert not Bench().device.features >> 28 & 1
    assert Bench(chip_names="x" * 101).device.features >> 28 & 1


def test_chip_of_no_or_too_many_lines_is_refused() -> None:
    simulator = Simulator(FakeClock())
    chip = simulator.add_chip("big", [""] * 0x10000)
    with pytest.raises(UsageError, match="65535"):
        GpioDevice(chip, print, print, print, holder=VMM)


# directions and values


def test_no_line_is_held_until_the_guest_uses_it(bench: Bench) -> None:
    for offset in range(4):
        assert bench.driver.get_direction(offset) == IN
    assert bench.used() == []


def test_direction_input_holds_and_reads_the_line(bench: Bench) -> None:
    bench.driver.direction_input(1)
    info = bench.chip.line_info(1)
    assert (info.consumer, info.direction) == (VMM.label, Direction.INPUT)
    assert bench.driver.get_direction(1) == IN
    for level in (0, 1, 0):
        bench.pull(1, level)
        assert bench.driver.get_value(1) == level


def test_value_before_direction_is_the_first_value(bench: Bench) -> None:
    levels: list[int] = []
    bench.simulator.observers.append(lambda change: levels.append(change.level))
    bench.driver.set_value(2, 1)
    assert levels == []
    bench.driver.set_direction(2, OUT)
    assert levels == [1]
    assert bench.driver.get_direction(2) == OUT
    assert bench.driver.get_value(2) == 1


def test_output_follows_its_value(bench: Bench) -> None:
    bench.driver.direction_output(2, 0)
    for value in (1, 0, 1):
        bench.driver.set_value(2, value)
        assert bench.level(2) == value


def test_same_direction_again_changes_nothing(bench: Bench) -> None:
    levels: list[int] = []
    bench.driver.direction_output(2, 1)
    bench.simulator.observers.append(lambda change: levels.append(change.level))
    bench.driver.set_direction(2, OUT)
    assert levels == []


def test_direction_may_change_while_the_line_is_held(bench: Bench) -> None:
    bench.driver.direction_output(0, 1)
    bench.driver.direction_input(0)
    assert bench.driver.get_direction(0) == IN
    assert bench.direction(0) is Direction.INPUT
    bench.driver.set_direction(0, OUT)
    assert bench.level(0) == 1


def test_direction_none_releases_the_line_and_forgets_its_value(bench: Bench) -> None:
    bench.driver.direction_output(0, 1)
    bench.driver.release(0)
    assert bench.used() == []
    bench.driver.direction_input(0)
    bench.driver.set_direction(0, OUT)
    assert bench.level(0) == 0


def test_direction_none_of_a_line_not_in_use_is_fine(bench: Bench) -> None:
    bench.driver.release(3)


def test_reading_a_line_without_a_direction_takes_it_as_it_is(bench: Bench) -> None:
    bench.pull(3, 1)
    assert bench.driver.get_value(3) == 1
    assert bench.used() == [3]
    bench.driver.release(3)
    assert bench.used() == []


def test_output_left_as_it_is_can_be_driven(bench: Bench) -> None:
    bench.driver.direction_output(3, 0)
    bench.driver.release(3)
    assert bench.driver.get_direction(3) == OUT
    bench.driver.set_value(3, 1)
    assert bench.level(3) == 1


def test_bias_and_debounce_come_from_the_definition() -> None:
    wanted = LineSettings(bias=Bias.PULL_UP, debounce_period_us=500, drive=Drive.OPEN_DRAIN, active_low=True)
    bench = Bench({1: wanted})
    bench.driver.direction_input(1)
    settings = bench.chip.line_info(1).settings
    assert settings == wanted._replace(direction=Direction.INPUT, drive=Drive.PUSH_PULL)
    bench.driver.direction_output(1, 1)
    settings = bench.chip.line_info(1).settings
    assert settings == wanted._replace(direction=Direction.OUTPUT, debounce_period_us=0, output_value=1)
    bench.driver.direction_input(0)
    assert bench.chip.line_info(0).settings == LineSettings(Direction.INPUT)


def test_line_held_by_another_is_refused_and_logged(bench: Bench) -> None:
    request = bench.hold(1)
    for attempt in (bench.driver.direction_input, bench.driver.get_value):
        with pytest.raises(RequestFailedError):
            attempt(1)
    assert [offset for offset, _ in bench.refused] == [1, 1]
    assert all(isinstance(error, LineBusyError) and "spi0" in str(error) for _, error in bench.refused)
    request.release()
    bench.driver.direction_input(1)


def test_error_of_the_source_is_an_error_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.driver.direction_input(1)

    def gone(mask: int) -> int:
        raise HostError("unplugged")

    monkeypatch.setattr(
        bench.device._lines[1], "request", type("Gone", (), {"get_values": staticmethod(gone)})
    )
    with pytest.raises(RequestFailedError):
        bench.driver.get_value(1)
    assert "unplugged" in str(bench.refused[-1][1])


@pytest.mark.parametrize(
    ("kind", "gpio", "value"),
    [
        (u.VIRTIO_GPIO_MSG_GET_VALUE, 4, 0),
        (u.VIRTIO_GPIO_MSG_GET_VALUE, 0xFFFF, 0),
        (u.VIRTIO_GPIO_MSG_SET_VALUE, 0, 2),
        (u.VIRTIO_GPIO_MSG_SET_VALUE, 0, 0xFFFF_FFFF),
        (u.VIRTIO_GPIO_MSG_SET_DIRECTION, 0, 3),
        (u.VIRTIO_GPIO_MSG_SET_DIRECTION, 4, 1),
        (u.VIRTIO_GPIO_MSG_IRQ_TYPE, 0, 5),
        (u.VIRTIO_GPIO_MSG_IRQ_TYPE, 0, 0x100),
        (u.VIRTIO_GPIO_MSG_IRQ_TYPE, 4, 1),
        (0, 0, 0),
        (7, 0, 0),
        (0xFFFF, 0xFFFF, 0xFFFF_FFFF),
    ],
)
def test_request_that_makes_no_sense_gets_an_error(bench: Bench, kind: int, gpio: int, value: int) -> None:
    response = bench.driver.request(kind, gpio, value)
    assert (response.status, response.written) == (u.VIRTIO_GPIO_STATUS_ERR, 2)
    assert isinstance(bench.refused[-1][1], PeerError)
    assert bench.used() == []
    bench.driver.direction_input(0)


@pytest.mark.parametrize("size", [0, 1, 2, 7, 9, 16, 100])
def test_request_of_another_size_gets_an_error(bench: Bench, size: int) -> None:
    queue = bench.queues[0]
    queue.add([bytes(size)] if size else [], [2])
    bench.kick(0)
    (completion,) = queue.collect()
    assert (completion.written, completion.data) == (2, b"\1\0")


def test_request_cut_at_each_byte_gets_an_error(bench: Bench) -> None:
    request = u.virtio_gpio_request.pack(u.VIRTIO_GPIO_MSG_SET_DIRECTION, 1, IN)
    for size in range(1, 8):
        bench.queues[0].add([request[:size]], [2])
        bench.kick(0)
        assert bench.queues[0].collect()[0].data == b"\1\0"
    assert bench.used() == []


@pytest.mark.parametrize("size", [0, 1])
def test_response_buffer_too_small_gets_no_more_than_fits(bench: Bench, size: int) -> None:
    queue = bench.queues[0]
    queue.add([u.virtio_gpio_request.pack(u.VIRTIO_GPIO_MSG_SET_DIRECTION, 1, IN)], [size] if size else [])
    bench.kick(0)
    (completion,) = queue.collect()
    assert (completion.written, completion.data) == (size, b"\1"[:size])
    assert bench.used() == []


def test_request_in_three_descriptors_is_fine(bench: Bench) -> None:
    bench.queues[0].add([u.virtio_gpio_request.pack(u.VIRTIO_GPIO_MSG_SET_DIRECTION, 1, IN)], [1, 1])
    bench.kick(0)
    assert bench.queues[0].collect()[0][1:] == (2, b"\0\0")
    assert bench.used() == [1]


def test_many_requests_at_once_are_answered_in_order_and_in_bounded_kicks(bench: Bench) -> None:
    ram = GuestRam(memoryview(bytearray(1 << 18)))
    queue = DriverQueue(ram, 256)
    heads = [
        queue.add([u.virtio_gpio_request.pack(u.VIRTIO_GPIO_MSG_GET_VALUE, 0, 0)], [2]) for _ in range(100)
    ]
    bench.device.stop(0)
    assert bench.device.start(0, Virtqueue(GuestMemory([ram.region]), queue.ring))
    assert 0 < len(done := [c.head for c in queue.collect()]) < 100
    while bench.device.kick(0):
        pass
    assert done + [c.head for c in queue.collect()] == heads


def test_broken_ring_stops_and_the_other_goes_on(bench: Bench) -> None:
    bench.driver.direction_input(0)
    bench.driver.set_irq_type(0, RISING)
    bench.queues[0].available16[1] = 0x8000
    bench.kick(0)
    assert [index for index, _ in bench.broken] == [0]
    bench.kick(0)
    assert len(bench.broken) == 1
    bench.driver.unmask(0)
    bench.pull(0, 1)
    assert bench.driver.events() == [(0, VALID)]


# interrupts


@pytest.mark.parametrize(
    ("irq_type", "levels", "count"),
    [(RISING, (1, 0, 1), 2), (FALLING, (1, 0, 1, 0), 2), (BOTH, (1, 0, 1), 3)],
)
def test_each_edge_of_its_type_is_an_event(
    bench: Bench, irq_type: int, levels: tuple[int, ...], count: int
) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, irq_type)
    seen = []
    bench.driver.unmask(1)
    for level in levels:
        bench.pull(1, level)
        for event in bench.driver.events():
            seen.append(event)
            bench.driver.unmask(1)
    assert seen == [(1, VALID)] * count


def test_guest_is_called_for_an_event(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.driver.unmask(1)
    bench.calls.clear()
    bench.pull(1, 1)
    assert bench.calls == [u.VIRTIO_GPIO_EVENTQ]


def kinds(bench: Bench, count: int) -> list[int]:
    """What a driver that reads the level after each event takes `count` events for."""
    seen = []
    for _ in range(count):
        bench.driver.unmask(1)
        assert bench.driver.events() == [(1, VALID)]
        seen.append(bench.driver.get_value(1))
    bench.driver.unmask(1)
    assert bench.driver.events() == []
    return seen


def test_every_edge_while_masked_is_told_one_per_buffer(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.pull(1, 1, 0, 1, 0, 1)
    assert kinds(bench, 3) == [1, 1, 1]


def test_driver_that_reads_after_each_event_learns_which_edge_it_was(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, BOTH)
    bench.pull(1, 1, 0, 1, 0)
    assert kinds(bench, 4) == [1, 0, 1, 0]


def test_edge_that_comes_before_the_read_does_not_change_what_was_told(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, BOTH)
    bench.driver.unmask(1)
    bench.pull(1, 1)
    assert bench.driver.events() == [(1, VALID)]
    bench.pull(1, 0)
    assert bench.driver.get_value(1) == 1
    assert kinds(bench, 1) == [0]


def test_only_the_first_read_after_an_event_is_of_the_past(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, BOTH)
    bench.driver.unmask(1)
    bench.pull(1, 1, 0)
    assert [bench.driver.get_value(1) for _ in range(3)] == [1, 0, 0]


@pytest.mark.parametrize("irq_type", [RISING, FALLING])
def test_value_of_a_line_with_one_edge_is_always_the_present_one(bench: Bench, irq_type: int) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, irq_type)
    bench.driver.unmask(1)
    bench.pull(1, 1, 0, 1, 0)
    assert bench.driver.get_value(1) == 0
    bench.pull(1, 1)
    assert bench.driver.get_value(1) == 1


def test_line_that_moves_faster_than_the_guest_for_long_ends_at_its_level(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, BOTH)
    bench.pull(1, *[1, 0] * 600, 1)
    seen = kinds(bench, 1024)
    assert seen[:4] == [1, 0, 1, 0]
    assert seen[-1] == 1


def test_edge_between_event_and_unmask_is_latched(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.driver.unmask(1)
    bench.pull(1, 1, 0, 1)
    assert bench.driver.events() == [(1, VALID)]
    bench.driver.unmask(1)
    assert bench.driver.events() == [(1, VALID)]


def test_disabling_discards_the_latch(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.pull(1, 1, 0, 1)
    bench.driver.set_irq_type(1, NONE)
    bench.driver.set_irq_type(1, RISING)
    bench.driver.unmask(1)
    assert bench.driver.events() == []
    bench.pull(1, 0, 1)
    assert bench.driver.events() == [(1, VALID)]


def test_disabling_returns_the_buffer_as_invalid(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.driver.unmask(1)
    bench.calls.clear()
    bench.driver.set_irq_type(1, NONE)
    assert bench.driver.events() == [(1, INVALID)]
    assert u.VIRTIO_GPIO_EVENTQ in bench.calls


def test_releasing_the_line_returns_the_buffer_as_invalid(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.driver.unmask(1)
    bench.driver.release(1)
    assert bench.driver.events() == [(1, INVALID)]
    assert bench.used() == []


def test_buffer_for_a_disabled_interrupt_comes_back_as_invalid(bench: Bench) -> None:
    bench.driver.unmask(2)
    assert bench.driver.events() == [(2, INVALID)]


def test_second_buffer_for_a_line_comes_back_as_invalid(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.driver.unmask(1)
    bench.driver.unmask(1)
    assert bench.driver.events() == [(1, INVALID)]
    bench.pull(1, 1)
    assert bench.driver.events() == [(1, VALID)]


@pytest.mark.parametrize(("irq_type", "active"), [(HIGH, 1), (LOW, 0)])
def test_active_level_is_an_event_for_each_buffer(bench: Bench, irq_type: int, active: int) -> None:
    bench.pull(1, active)
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, irq_type)
    for _ in range(3):
        bench.driver.unmask(1)
        assert bench.driver.events() == [(1, VALID)]
    bench.pull(1, 1 - active)
    bench.driver.unmask(1)
    assert bench.driver.events() == []
    bench.pull(1, active)
    assert bench.driver.events() == [(1, VALID)]


def test_level_while_masked_is_not_latched(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, HIGH)
    bench.pull(1, 1, 0)
    bench.driver.unmask(1)
    assert bench.driver.events() == []


def test_interrupt_on_an_output_is_an_error(bench: Bench) -> None:
    bench.driver.direction_output(1, 0)
    with pytest.raises(RequestFailedError):
        bench.driver.set_irq_type(1, RISING)
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    with pytest.raises(RequestFailedError):
        bench.driver.set_direction(1, OUT)


def test_type_changes_only_through_none(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.driver.set_irq_type(1, RISING)
    with pytest.raises(RequestFailedError):
        bench.driver.set_irq_type(1, FALLING)
    bench.driver.set_irq_type(1, NONE)
    bench.driver.set_irq_type(1, FALLING)


def test_interrupt_without_a_direction_holds_the_line_while_it_is_enabled(bench: Bench) -> None:
    bench.driver.set_irq_type(1, RISING)
    assert bench.used() == [1]
    bench.driver.unmask(1)
    bench.pull(1, 1)
    assert bench.driver.events() == [(1, VALID)]
    bench.driver.set_irq_type(1, NONE)
    assert bench.used() == []


def test_interrupt_of_a_line_held_by_another_is_refused(bench: Bench) -> None:
    bench.hold(1)
    with pytest.raises(RequestFailedError):
        bench.driver.set_irq_type(1, RISING)
    bench.driver.unmask(1)
    assert bench.driver.events() == [(1, INVALID)]


def test_interrupts_need_their_feature(bench: Bench) -> None:
    bench.device.negotiate(0)
    bench.driver.direction_input(1)
    with pytest.raises(RequestFailedError):
        bench.driver.set_irq_type(1, RISING)


def test_value_of_a_line_with_an_armed_edge_is_read_at_once(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, BOTH)
    bench.driver.unmask(1)
    bench.pull(1, 1)
    assert bench.driver.get_value(1) == 1


def test_output_wired_to_an_input_gives_its_event(bench: Bench) -> None:
    bench.simulator.wire(("s", 0), ("s", 1))
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.driver.unmask(1)
    bench.driver.direction_output(0, 1)
    assert bench.driver.events() == [(1, VALID)]


@pytest.mark.parametrize(
    ("readable", "writable"), [([], [1]), ([b"\1"], [1]), ([b"\1\0\0"], [1]), ([b"\1\0"], [])]
)
def test_malformed_event_buffer_comes_back(bench: Bench, readable: list[bytes], writable: list[int]) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.queues[1].add(readable, writable) if readable or writable else None
    bench.kick(1)
    (completion,) = bench.queues[1].collect()
    assert completion.written == len(writable)
    assert isinstance(bench.refused[-1][1], PeerError)
    bench.driver.unmask(1)
    bench.pull(1, 1)
    assert bench.driver.events() == [(1, VALID)]


def test_event_buffer_for_no_line_comes_back_as_invalid(bench: Bench) -> None:
    bench.driver.unmask(4)
    assert bench.driver.events() == [(4, INVALID)]


def test_event_whose_memory_is_gone_breaks_the_event_queue_only(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.driver.unmask(1)
    queue = bench.device._queues[1]
    assert queue is not None
    region = bench.ram.region
    half = len(region.view) // 64
    queue.use(GuestMemory([region._replace(size=half, view=region.view[:half])]))
    queue._memory._regions = [region._replace(guest_address=0)]
    queue._memory.start = queue._memory.end = 0
    bench.pull(1, 1)
    assert [index for index, _ in bench.broken] == [1]
    assert bench.driver.get_value(1) == 1


# the end of a guest, and of us


def test_reset_releases_all_and_forgets_interrupts(bench: Bench) -> None:
    bench.driver.direction_output(0, 1)
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.pull(1, 1)
    bench.device.reset()
    assert bench.used() == []
    bench.boot()
    bench.driver.direction_input(1)
    bench.driver.unmask(1)
    assert bench.driver.events() == [(1, INVALID)]
    bench.driver.set_irq_type(1, FALLING)
    bench.driver.unmask(1)
    assert bench.driver.events() == []
    bench.pull(1, 0)
    assert bench.driver.events() == [(1, VALID)]


def test_next_guest_gets_a_line_left_with_an_armed_edge(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, BOTH)
    bench.driver.unmask(1)
    bench.device.reset()
    bench.hold(1).release()


def test_stopped_event_queue_gives_its_buffers_back(bench: Bench) -> None:
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.driver.unmask(1)
    bases = (bench.device.stop(0), bench.device.stop(1))
    assert bases == (bench.queues[0].avail_idx, 1)
    assert bench.driver.events() == [(1, INVALID)]
    bench.pull(1, 1)
    bench.start(bases)
    bench.driver.unmask(1)
    assert bench.driver.events() == [(1, VALID)]


def test_stopped_event_queue_with_a_log_keeps_its_buffers(bench: Bench) -> None:
    bench.device.reset()
    bench.start(log=bench.log())
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.driver.unmask(1)
    bases = (bench.device.stop(0), bench.device.stop(1))
    assert bench.driver.events() == []
    bench.start(bases, bench.log())
    bench.pull(1, 1)
    assert bench.driver.events() == [(1, VALID)]


@pytest.fixture
def killed(bench: Bench) -> Iterator[Bench]:
    """A bench whose device kept a record and a log, and then died; `restart` gives it a new one."""
    record = memoryview(bytearray(bench.device.record.size))
    bench.device.record.bind(record)
    bench.device.reset()
    bench.boot()
    bench.device.stop(1)
    bench.device.start(1, Virtqueue(bench.memory, bench.queues[1].ring, log=bench.log()))
    yield bench


def restart(bench: Bench, *levels: int) -> None:
    """Kill the device, move line 1 meanwhile, and start another."""
    view = bench.device.record._view
    bench.device.record.unbind()
    bench.device.reset()
    bench.pull(1, *levels)
    bench.device = bench.new_device()
    bench.device.record.bind(view)
    bench.device.restore()
    bench.start((bench.queues[0].used16[1], bench.queues[1].used16[1]), bench.log())


def test_lines_survive_a_restart(killed: Bench) -> None:
    killed.driver.direction_output(0, 1)
    killed.driver.set_value(2, 1)
    killed.driver.direction_input(3)
    restart(killed)
    assert killed.used() == [0, 3]
    assert (killed.driver.get_direction(0), killed.level(0)) == (OUT, 1)
    assert killed.driver.get_direction(3) == IN


def test_event_buffers_survive_a_restart(killed: Bench) -> None:
    for line in (1, 2):
        killed.driver.direction_input(line)
        killed.driver.set_irq_type(line, RISING)
        killed.driver.unmask(line)
    killed.pull(2, 1)
    assert killed.driver.events() == [(2, VALID)]
    killed.driver.unmask(2)
    restart(killed)
    assert killed.driver.events() == []
    killed.pull(1, 1)
    killed.pull(2, 0, 1)
    assert killed.driver.events() == [(1, VALID), (2, VALID)]


def test_latched_edge_survives_a_restart(killed: Bench) -> None:
    killed.driver.direction_input(1)
    killed.driver.set_irq_type(1, RISING)
    killed.pull(1, 1)
    restart(killed, 0)
    killed.driver.unmask(1)
    assert killed.driver.events() == [(1, VALID)]


def test_level_is_not_seen_before_its_edge_is_told(bench: Bench) -> None:
    """Who dies in between has it told by the next one."""
    seen: list[int] = []

    def call(index: int) -> None:
        if index == u.VIRTIO_GPIO_EVENTQ:
            seen.append(bench.device.record.load(1).level)

    bench.device.reset()
    bench.device = GpioDevice(bench.chip, call, lambda *_: None, lambda *_: None, holder=VMM)
    bench.device.negotiate(1 << u.VIRTIO_GPIO_F_IRQ)
    bench.boot()
    bench.driver.direction_input(1)
    bench.driver.set_irq_type(1, RISING)
    bench.driver.unmask(1)
    bench.pull(1, 1)
    assert seen == [0]
    assert bench.device.record.load(1).level == 1


def test_edge_during_a_restart_is_seen_by_its_level(killed: Bench) -> None:
    killed.driver.direction_input(1)
    killed.driver.set_irq_type(1, RISING)
    killed.driver.unmask(1)
    restart(killed, 1)
    assert killed.driver.events() == [(1, VALID)]


def test_edge_of_the_other_kind_during_a_restart_is_none(killed: Bench) -> None:
    killed.driver.direction_input(1)
    killed.driver.set_irq_type(1, FALLING)
    killed.driver.unmask(1)
    restart(killed, 1)
    assert killed.driver.events() == []


def test_line_taken_by_another_during_a_restart_is_refused(killed: Bench) -> None:
    killed.driver.direction_input(1)
    view = killed.device.record._view
    killed.device.record.unbind()
    killed.device.reset()
    killed.hold(1)
    killed.device = killed.new_device()
    killed.device.record.bind(view)
    killed.device.restore()
    assert isinstance(killed.refused[-1][1], LineBusyError)


def test_record_of_nonsense_is_no_danger(bench: Bench) -> None:
    good = bytes(bench.device.record._view[:16])
    bench.device.record.bind(memoryview(bytearray(good + b"\xff" * 16)))
    bench.device.restore()
    assert bench.used() == []
    with pytest.raises(UsageError):
        bench.device.record.bind(memoryview(b""))


@pytest.mark.parametrize("at", [0, 4, 6])
def test_record_that_is_not_ours_is_made_ours(bench: Bench, at: int) -> None:
    bench.driver.direction_output(0, 1)
    view = memoryview(bytearray(bench.device.record._view))
    view[at] ^= 1
    view[16:] = b"\1" * 16
    bench.device.record.bind(view)
    bench.device.restore()
    assert bench.used() == [0]


def test_suspended_lines_come_back(bench: Bench) -> None:
    bench.driver.direction_output(0, 1)
    bench.device.suspend()
    assert bench.used() == []
    bench.device.restore()
    assert (bench.used(), bench.level(0)) == ([0], 1)


def test_no_transition_loses_a_buffer() -> None:
    for (state, event), (after, action) in IRQ_TRANSITIONS.items():
        here = (state is IrqState.ARMED) + (event is IrqEvent.BUFFER)
        left = (after is IrqState.ARMED) + (action is not IrqAction.NOTHING)
        assert here == left, (state, event)
