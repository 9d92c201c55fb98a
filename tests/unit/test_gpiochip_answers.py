# SPDX-License-Identifier: MIT
"""A refusal of the character device has an errno for the program, and a reason for people."""

from __future__ import annotations

import errno
import struct

import pytest

from gpiovirt.core.line import Direction, LineSettings
from gpiovirt.protocols.gpiochip import CHIP_FIFO, Answer, ChipFile, FifoShape, fifo_of
from gpiovirt.testing import FakeClock, Simulator
from gpiovirt.uapi import gpio as u
from tests.conformance.device import QueueFifo
from tests.holders import OPENER, program


def get_line(*offsets: int, flags: int = u.GPIO_V2_LINE_FLAG_INPUT, buffer_size: int = 0) -> bytes:
    config = u.gpio_v2_line_config.pack(flags, 0, b"", b"")
    raw = struct.pack(f"={len(offsets)}I", *offsets)
    return u.gpio_v2_line_request.pack(raw, b"", config, len(offsets), buffer_size, b"", 0)


def ask(cmd: int, arg: bytes) -> Answer:
    chip = Simulator(FakeClock()).add_chip("sim-a", ["DOOR", ""])
    chip.request([0], [LineSettings(Direction.INPUT)], program("spi0"))
    return ChipFile(chip, "gpiochip0", QueueFifo, OPENER).ioctl(cmd, arg)


@pytest.mark.parametrize(
    ("cmd", "arg", "number", "why"),
    [
        (u.GPIO_V2_GET_LINE_IOCTL, get_line(0), errno.EBUSY, 'line sim-a:0 (DOOR) is held by "spi0"'),
        (u.GPIO_V2_GET_LINE_IOCTL, get_line(7), errno.EINVAL, "sim-a has no line 7"),
        (u.GPIO_V2_GET_LINE_IOCTL, get_line(1, flags=12), errno.EINVAL, "line flags 0xc contradict"),
        (u.GPIO_V2_GET_LINE_IOCTL, get_line(), errno.EINVAL, "a request for 0 lines"),
        (u.GPIO_GET_LINEINFO_UNWATCH_IOCTL, bytes(4), errno.EBUSY, "does not watch line 0"),
        (u.GPIO_V2_LINE_GET_VALUES_IOCTL, bytes(16), errno.EINVAL, "not an ioctl of this kind of file"),
        (u.GPIO_GET_LINEHANDLE_IOCTL, bytes(364), errno.EINVAL, "a request for 0 lines"),
    ],
)
def test_a_refusal_says_why(cmd: int, arg: bytes, number: int, why: str) -> None:
    answer = ask(cmd, arg)
    assert answer.errno == number
    assert why in answer.why


def test_a_consumer_cannot_write_to_the_terminal_of_who_reads_a_reason() -> None:
    chip = Simulator(FakeClock()).add_chip("sim-a", [""])
    chip.request([0], [LineSettings(Direction.INPUT)], program("\x1b]0;title\x07\n\udc95"))
    answer = ChipFile(chip, "gpiochip0", QueueFifo, OPENER).ioctl(u.GPIO_V2_GET_LINE_IOCTL, get_line(0))
    assert answer.why.isprintable()
    assert "]0;title" in answer.why


def test_the_shape_of_a_fifo_is_told_by_the_request() -> None:
    seen: list[FifoShape] = []

    def open_fifo(shape: FifoShape) -> QueueFifo:
        seen.append(shape)
        return QueueFifo(shape)

    chip = Simulator(FakeClock()).add_chip("sim-a", [""] * 64)
    file = ChipFile(chip, "gpiochip0", open_fifo, OPENER)
    assert seen.pop() == CHIP_FIFO
    for cmd, arg in (
        (u.GPIO_V2_GET_LINE_IOCTL, get_line(0, 1, 2)),
        (u.GPIO_V2_GET_LINE_IOCTL, get_line(3, buffer_size=100)),
        (u.GPIO_V2_GET_LINE_IOCTL, get_line(4, buffer_size=1 << 20)),
        (u.GPIO_GET_LINEEVENT_IOCTL, u.gpioevent_request.pack(5, 0, 3, b"", 0)),
        (u.GPIO_GET_LINEHANDLE_IOCTL, u.gpiohandle_request.pack(*range(6, 70), 1, b"", b"", 1, 0)),
    ):
        for compat in (False, True):
            answer = file.ioctl(cmd, arg, compat)
            assert answer.file is not None, answer.why
            assert seen.pop() == fifo_of(cmd, arg, compat)
            answer.file.close()
