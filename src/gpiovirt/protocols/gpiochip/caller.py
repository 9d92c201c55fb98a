# SPDX-License-Identifier: MIT
"""The other side of the character device, uAPI v2: what a holder of lines writes and reads.

Specification: Documentation/userspace-api/gpio/gpio-v2-*.rst.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

from gpiovirt.core.chip import ChipInfo
from gpiovirt.core.line import AS_IS, Bias, Clock, Direction, Drive, LineInfo, LineSettings
from gpiovirt.uapi import gpio as u

__all__ = [
    "decode_chip_info",
    "decode_line_info",
    "encode_config",
    "encode_info_query",
    "encode_output_request",
    "encode_request",
    "flags_of",
]

_u32 = Struct("=I")
_DIRECTION = {
    Direction.AS_IS: 0,
    Direction.INPUT: u.GPIO_V2_LINE_FLAG_INPUT,
    Direction.OUTPUT: u.GPIO_V2_LINE_FLAG_OUTPUT,
}
_BIAS = {
    Bias.AS_IS: 0,
    Bias.DISABLED: u.GPIO_V2_LINE_FLAG_BIAS_DISABLED,
    Bias.PULL_UP: u.GPIO_V2_LINE_FLAG_BIAS_PULL_UP,
    Bias.PULL_DOWN: u.GPIO_V2_LINE_FLAG_BIAS_PULL_DOWN,
}
_DRIVE = {
    Drive.PUSH_PULL: 0,
    Drive.OPEN_DRAIN: u.GPIO_V2_LINE_FLAG_OPEN_DRAIN,
    Drive.OPEN_SOURCE: u.GPIO_V2_LINE_FLAG_OPEN_SOURCE,
}


def flags_of(settings: LineSettings) -> int:
    """gpio_v2_line_flag"""
    return (
        _DIRECTION[settings.direction]
        | settings.edge << 4
        | _BIAS[settings.bias]
        | _DRIVE[settings.drive]
        | (u.GPIO_V2_LINE_FLAG_ACTIVE_LOW if settings.active_low else 0)
        | (u.GPIO_V2_LINE_FLAG_EVENT_CLOCK_REALTIME if settings.event_clock is Clock.REALTIME else 0)
    )


def encode_config(settings: LineSettings) -> bytes:
    """A gpio_v2_line_config that gives `settings` to the one line of a request."""
    attrs = b""
    if settings.direction is Direction.OUTPUT:
        attrs = _attribute(u.GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES, settings.output_value)
    elif settings.debounce_period_us:
        attrs = _attribute(u.GPIO_V2_LINE_ATTR_ID_DEBOUNCE, settings.debounce_period_us)
    return u.gpio_v2_line_config.pack(flags_of(settings), 1 if attrs else 0, b"", attrs)


def _attribute(kind: int, value: int, mask: int = 1) -> bytes:
    return u.gpio_v2_line_config_attribute.pack(kind, 0, value, mask)


def encode_request(offset: int, settings: LineSettings, consumer: str, event_buffer_size: int) -> bytes:
    """A gpio_v2_line_request for one line."""
    return u.gpio_v2_line_request.pack(
        _u32.pack(offset), u.cstring(consumer), encode_config(settings), 1, event_buffer_size, b"", 0
    )


def encode_output_request(levels: Mapping[int, int], consumer: str) -> bytes:
    """A gpio_v2_line_request for outputs, at most 64, with their first levels by offset."""
    values = sum(level << i for i, level in enumerate(levels.values()))
    attrs = _attribute(u.GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES, values, (1 << len(levels)) - 1)
    config = u.gpio_v2_line_config.pack(u.GPIO_V2_LINE_FLAG_OUTPUT, 1, b"", attrs)
    offsets = b"".join(map(_u32.pack, levels))
    return u.gpio_v2_line_request.pack(offsets, u.cstring(consumer), config, len(levels), 0, b"", 0)


def encode_info_query(offset: int) -> bytes:
    """A gpio_v2_line_info that asks for a line's."""
    return u.gpio_v2_line_info.pack(b"", b"", offset, 0, 0, b"", b"")


def decode_chip_info(raw: bytes) -> ChipInfo:
    """A gpiochip_info."""
    name, label, num_lines = u.gpiochip_info.unpack(raw)
    return ChipInfo(u.string(name), u.string(label), num_lines)


def decode_line_info(raw: bytes) -> LineInfo:
    """Name, consumer, use and direction of a gpio_v2_line_info."""
    name, consumer, offset, _, flags, _, _ = u.gpio_v2_line_info.unpack(raw)
    return LineInfo(
        offset,
        u.string(name),
        u.string(consumer),
        bool(flags & u.GPIO_V2_LINE_FLAG_USED),
        Direction.OUTPUT if flags & u.GPIO_V2_LINE_FLAG_OUTPUT else Direction.INPUT,
        AS_IS,
    )
