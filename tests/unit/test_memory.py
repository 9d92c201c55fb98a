# SPDX-License-Identifier: MIT
"""Lines are requested again as they are: configured, driven and left alone."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpiovirt.core.line import Direction, LineInfo
from gpiovirt.protocols.gpiochip import ChipFile, File
from gpiovirt.protocols.gpiochip.memory import Memory, memory_of
from gpiovirt.testing import FakeClock, SimChip, Simulator
from gpiovirt.uapi import gpio as u
from tests.conformance.device import QueueFifo
from tests.holders import OPENER

IN, OUT = u.GPIO_V2_LINE_FLAG_INPUT, u.GPIO_V2_LINE_FLAG_OUTPUT
RISING, FALLING, LOW = (
    u.GPIO_V2_LINE_FLAG_EDGE_RISING,
    u.GPIO_V2_LINE_FLAG_EDGE_FALLING,
    u.GPIO_V2_LINE_FLAG_ACTIVE_LOW,
)
FLAGS, VALUES, DEBOUNCE = (
    u.GPIO_V2_LINE_ATTR_ID_FLAGS,
    u.GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES,
    u.GPIO_V2_LINE_ATTR_ID_DEBOUNCE,
)
Attr = tuple[int, int, int]


def config(flags: int, *attrs: Attr) -> bytes:
    raw = b"".join(u.gpio_v2_line_config_attribute.pack(id_, 0, value, mask) for id_, value, mask in attrs)
    return u.gpio_v2_line_config.pack(flags, len(attrs), b"", raw)


def request(count: int, flags: int, *attrs: Attr) -> bytes:
    offsets = struct.pack(f"={count}I", *range(count))
    return u.gpio_v2_line_request.pack(offsets, b"me", config(flags, *attrs), count, 0, b"", 0)


class Holder:
    """Lines of a chip of its own, held by the ioctls that are done."""

    def __init__(self, count: int) -> None:
        self.simulator = Simulator(FakeClock())
        self.chip: SimChip = self.simulator.add_chip("s", [""] * count)
        self._chip_file = ChipFile(self.chip, "gpiochip0", QueueFifo, OPENER)
        self.file: File | None = None

    def do(self, cmd: int, arg: bytes) -> None:
        target = self.file or self._chip_file
        answer = target.ioctl(cmd, arg)
        assert not answer.errno, answer.why
        self.file = answer.file or self.file

    def state(self) -> list[tuple[LineInfo, int]]:
        count = self.chip.info.num_lines
        infos = [self.chip.line_info(i) for i in range(count)]
        # what an output was configured with counts no more once it is driven
        infos = [info._replace(settings=info.settings._replace(output_value=0)) for info in infos]
        return [(info, self.simulator.level("s", info.offset)) for info in infos]


def same_again(count: int, asked: list[tuple[int, bytes]]) -> Memory:
    """What comes of asking, and of asking again for what is remembered, is the same."""
    first, again = Holder(count), Holder(count)
    memory = memory_of(*asked[0])
    first.do(*asked[0])
    for cmd, arg in asked[1:]:
        first.do(cmd, arg)
        memory.remember(cmd, arg)
    for cmd, arg in memory.again():
        again.do(cmd, arg)
    assert again.state() == first.state()
    return memory


def test_a_configuration_without_a_direction_leaves_a_line_as_it_was_configured() -> None:
    memory = same_again(
        3,
        [
            (u.GPIO_V2_GET_LINE_IOCTL, request(3, IN | RISING, (FLAGS, OUT, 4), (VALUES, 4, 4))),
            (u.GPIO_V2_LINE_SET_CONFIG_IOCTL, config(0, (FLAGS, IN | FALLING | LOW, 1))),
        ],
    )
    assert len(memory.again()) == 1


def test_what_was_driven_last_is_driven_again() -> None:
    values = u.gpio_v2_line_values
    same_again(
        4,
        [
            (u.GPIO_V2_GET_LINE_IOCTL, request(4, OUT, (VALUES, 0b0011, 0b1111), (FLAGS, OUT | LOW, 0b1000))),
            (u.GPIO_V2_LINE_SET_VALUES_IOCTL, values.pack(0b1100, 0b1101)),
        ],
    )


def test_ten_attributes_and_what_was_driven_are_both_kept() -> None:
    debounce = [(DEBOUNCE, 1000 * (i + 1), 1 << i) for i in range(8)]
    asked = [
        (u.GPIO_V2_GET_LINE_IOCTL, request(10, IN, *debounce, (FLAGS, OUT, 0b11 << 8))),
        (u.GPIO_V2_LINE_SET_VALUES_IOCTL, u.gpio_v2_line_values.pack(0b10 << 8, 0b11 << 8)),
    ]
    memory = same_again(10, asked)
    assert len(memory.again()) > 1  # more than a request has room for


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_was_configured_is_asked_for_again(data: st.DataObject) -> None:
    kinds = st.sampled_from([0, IN, IN | RISING, IN | FALLING | LOW, OUT, OUT | LOW])
    masks = st.integers(0, 0xFF)
    attrs = st.lists(st.tuples(st.just(FLAGS), kinds, masks), max_size=8)
    first_attrs = [*data.draw(attrs), (VALUES, 0x5A, 0xFF)]
    asked = [(u.GPIO_V2_GET_LINE_IOCTL, request(8, data.draw(kinds), *first_attrs))]
    for _ in range(data.draw(st.integers(0, 3))):
        asked.append((u.GPIO_V2_LINE_SET_CONFIG_IOCTL, config(data.draw(kinds), *data.draw(attrs))))
    first = Holder(8)
    memory = memory_of(*asked[0])
    for cmd, arg in asked:
        first.do(cmd, arg)
        memory.remember(cmd, arg)
    again = Holder(8)
    for cmd, arg in memory.again():
        again.do(cmd, arg)
    for (info, level), (other, other_level) in zip(first.state(), again.state(), strict=True):
        assert info == other
        assert info.direction is Direction.INPUT or level == other_level


@pytest.mark.parametrize(
    ("cmd", "arg"),
    [
        (u.GPIOHANDLE_SET_CONFIG_IOCTL, u.gpiohandle_config.pack(2, bytes([1, 0, 1]))),
        (u.GPIOHANDLE_SET_LINE_VALUES_IOCTL, bytes([0, 1, 1]) + bytes(61)),
    ],
    ids=["configured", "driven"],
)
def test_a_handle_is_requested_again_as_it_is(cmd: int, arg: bytes) -> None:
    first = u.gpiohandle_request.pack(*range(64), u.GPIOHANDLE_REQUEST_OUTPUT, b"", b"me", 3, 0)
    same_again(3, [(u.GPIO_GET_LINEHANDLE_IOCTL, first), (cmd, arg)])
