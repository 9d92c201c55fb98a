# SPDX-License-Identifier: MIT
"""uAPI v2 of the character device: line requests, their configuration, values and edge events.

Specification: Documentation/userspace-api/gpio/gpio-v2-*.rst; checks and their order as Linux 6.12.
"""

import errno
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from gpiovirt.core.chip import Chip
from gpiovirt.core.holder import Holder
from gpiovirt.core.line import (
    Bias,
    Clock,
    Direction,
    Drive,
    Edge,
    EdgeEvent,
    InfoEvent,
    LineInfo,
    LineSettings,
)
from gpiovirt.errors import GpiovirtError, InvalidError
from gpiovirt.protocols.gpiochip.file import (
    DONE,
    GONE,
    UNKNOWN,
    Answer,
    Fifo,
    FifoFactory,
    FifoShape,
    RequestFile,
    invalid,
    refusal,
    rounded_capacity,
)
from gpiovirt.uapi import gpio as u

__all__ = ["LineFile", "decode_config", "encode_info", "encode_info_changed", "get_line", "line_fifo"]

_DIRECTION = u.GPIO_V2_LINE_FLAG_INPUT | u.GPIO_V2_LINE_FLAG_OUTPUT
_EDGE = u.GPIO_V2_LINE_FLAG_EDGE_RISING | u.GPIO_V2_LINE_FLAG_EDGE_FALLING
_DRIVE = u.GPIO_V2_LINE_FLAG_OPEN_DRAIN | u.GPIO_V2_LINE_FLAG_OPEN_SOURCE
_BIAS = (
    u.GPIO_V2_LINE_FLAG_BIAS_PULL_UP | u.GPIO_V2_LINE_FLAG_BIAS_PULL_DOWN | u.GPIO_V2_LINE_FLAG_BIAS_DISABLED
)
_VALID = (
    u.GPIO_V2_LINE_FLAG_ACTIVE_LOW
    | _DIRECTION
    | _EDGE
    | _DRIVE
    | _BIAS
    | u.GPIO_V2_LINE_FLAG_EVENT_CLOCK_REALTIME
    | u.GPIO_V2_LINE_FLAG_EVENT_CLOCK_HTE
)
_BIAS_OF = {
    0: Bias.AS_IS,
    u.GPIO_V2_LINE_FLAG_BIAS_DISABLED: Bias.DISABLED,
    u.GPIO_V2_LINE_FLAG_BIAS_PULL_UP: Bias.PULL_UP,
    u.GPIO_V2_LINE_FLAG_BIAS_PULL_DOWN: Bias.PULL_DOWN,
}
_DRIVE_OF = {
    0: Drive.PUSH_PULL,
    u.GPIO_V2_LINE_FLAG_OPEN_DRAIN: Drive.OPEN_DRAIN,
    u.GPIO_V2_LINE_FLAG_OPEN_SOURCE: Drive.OPEN_SOURCE,
}
_DIRECTION_OF = {
    0: Direction.AS_IS,
    u.GPIO_V2_LINE_FLAG_INPUT: Direction.INPUT,
    u.GPIO_V2_LINE_FLAG_OUTPUT: Direction.OUTPUT,
}
_FLAGS_OF_BIAS = {bias: flag for flag, bias in _BIAS_OF.items()}
_FLAGS_OF_DRIVE = {drive: flag for flag, drive in _DRIVE_OF.items()}


class _UnsupportedError(GpiovirtError):
    errno = errno.EOPNOTSUPP


def _validate(flags: int) -> None:
    """gpio_v2_line_flag: the combinations that are refused."""
    if not flags & ~_VALID and flags & u.GPIO_V2_LINE_FLAG_EVENT_CLOCK_HTE:
        raise _UnsupportedError("no hardware timestamp engine")
    bias = flags & _BIAS
    if (
        flags & ~_VALID
        or flags & _DIRECTION == _DIRECTION
        or (flags & _EDGE and not flags & u.GPIO_V2_LINE_FLAG_INPUT)
        or flags & _DRIVE == _DRIVE
        or (flags & _DRIVE and not flags & u.GPIO_V2_LINE_FLAG_OUTPUT)
        or (bias and not flags & _DIRECTION)
        or bias not in _BIAS_OF
    ):
        raise InvalidError(f"line flags {flags:#x} contradict each other")


class _Attribute(NamedTuple):
    id: int
    padding: int
    value: int
    mask: int


@lru_cache(maxsize=64)  # programs ask for the same again and again
def decode_config(raw: bytes, num_lines: int) -> tuple[LineSettings, ...]:
    """Settings by line of a gpio_v2_line_config; InvalidError if it contradicts itself."""
    flags, num_attrs, padding, attrs_raw = u.gpio_v2_line_config.unpack(raw)
    if num_attrs > u.GPIO_V2_LINE_NUM_ATTRS_MAX or any(padding):
        raise InvalidError("a bad number of attributes, or padding that is not zero")
    attrs = [_Attribute(*fields) for fields in u.gpio_v2_line_config_attribute.iter_unpack(attrs_raw)]
    if any(map(any, attrs[num_attrs:])) or any(attr.padding for attr in attrs):
        raise InvalidError("an unused attribute or padding that is not zero")
    return tuple(_decode_line(i, flags, attrs[:num_attrs]) for i in range(num_lines))


def _decode_line(index: int, flags: int, attrs: list[_Attribute]) -> LineSettings:
    """Settings of one line: of the attributes of a kind, the first that covers it counts."""
    found: dict[int, int] = {}
    for attr in attrs:
        if attr.mask >> index & 1:
            found.setdefault(attr.id, attr.value)
    flags = found.get(u.GPIO_V2_LINE_ATTR_ID_FLAGS, flags)
    _validate(flags)
    debounce = found.get(u.GPIO_V2_LINE_ATTR_ID_DEBOUNCE)
    if debounce is not None and not flags & u.GPIO_V2_LINE_FLAG_INPUT:
        raise InvalidError("debounce needs an input")
    return LineSettings(
        _DIRECTION_OF[flags & _DIRECTION],
        Edge((flags & _EDGE) >> 4),
        _BIAS_OF[flags & _BIAS],
        _DRIVE_OF[flags & _DRIVE],
        bool(flags & u.GPIO_V2_LINE_FLAG_ACTIVE_LOW),
        (debounce or 0) & 0xFFFFFFFF,
        Clock.REALTIME if flags & u.GPIO_V2_LINE_FLAG_EVENT_CLOCK_REALTIME else Clock.MONOTONIC,
        found.get(u.GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES, 0) >> index & 1,
    )


class LineFile(RequestFile):
    """The file a GPIO_V2_GET_LINE opens."""

    def __init__(
        self,
        chip: Chip,
        offsets: tuple[int, ...],
        settings: Sequence[LineSettings],
        holder: Holder,
        fifo: Fifo,
        buffers_events: bool,
    ) -> None:
        super().__init__(fifo)
        self._all = (1 << len(offsets)) - 1
        on_edge = self._on_edge if buffers_events else None
        self._request = chip.request(offsets, settings, holder, on_edge, self._on_presence)

    def _on_edge(self, event: EdgeEvent) -> None:
        self.fifo.put(
            u.gpio_v2_line_event.pack(
                event.timestamp_ns,
                u.GPIO_V2_LINE_EVENT_RISING_EDGE if event.rising else u.GPIO_V2_LINE_EVENT_FALLING_EDGE,
                event.offset,
                event.seqno & 0xFFFFFFFF,
                event.line_seqno & 0xFFFFFFFF,
            )
        )

    def ioctl(self, cmd: int, arg: bytes, compat: bool = False) -> Answer:
        if self._gone:
            return GONE
        try:
            if cmd == u.GPIO_V2_LINE_GET_VALUES_IOCTL:
                _, mask = u.gpio_v2_line_values.unpack(arg)
                if not mask & self._all:
                    return invalid("a mask without any line of the request")
                return Answer(0, u.gpio_v2_line_values.pack(self._request.get_values(mask & self._all), mask))
            if cmd == u.GPIO_V2_LINE_SET_VALUES_IOCTL:
                bits, mask = u.gpio_v2_line_values.unpack(arg)
                mask &= self._all
                if not mask:
                    return invalid("a mask without any line of the request")
                self._request.set_values(mask, bits & mask)
                return DONE
            if cmd == u.GPIO_V2_LINE_SET_CONFIG_IOCTL:
                settings = decode_config(arg, len(self._request.offsets))
                self._request.reconfigure(dict(enumerate(settings)))
                return DONE
        except GpiovirtError as error:
            return refusal(error)
        return UNKNOWN


def _buffer_size(asked: int, num_lines: int) -> int:
    return min(asked or num_lines * 16, u.GPIO_V2_LINES_MAX * 16)


def _fifo(buffer_size: int) -> FifoShape:
    return FifoShape(u.gpio_v2_line_event.size, rounded_capacity(buffer_size), True)


def line_fifo(arg: bytes) -> FifoShape:
    """What the events of this gpio_v2_line_request go through."""
    _, _, _, num_lines, buffer_size, _, _ = u.gpio_v2_line_request.unpack(arg)
    return _fifo(_buffer_size(buffer_size, num_lines))


def get_line(chip: Chip, arg: bytes, open_fifo: FifoFactory, opener: Holder) -> Answer:
    """GPIO_V2_GET_LINE_IOCTL, on a chip that `opener` has open."""
    offsets, consumer, config_raw, num_lines, buffer_size, padding, _ = u.gpio_v2_line_request.unpack(arg)
    if not 0 < num_lines <= u.GPIO_V2_LINES_MAX or any(padding):
        return invalid(f"a request for {num_lines} lines, or padding that is not zero")
    try:
        settings = decode_config(config_raw, num_lines)
        buffer_size = _buffer_size(buffer_size, num_lines)
        file = LineFile(
            chip,
            tuple(memoryview(offsets).cast("I")[:num_lines]),
            settings,
            opener.labelled(u.string(consumer) or "?"),
            open_fifo(_fifo(buffer_size)),
            buffers_events=buffer_size >= 2,  # linux/kfifo.h: there is no fifo of one record
        )
    except GpiovirtError as error:
        return refusal(error)
    return Answer(0, arg, file, u.gpio_v2_line_request.size - 4)


def encode_info(info: LineInfo) -> bytes:
    """A gpio_v2_line_info."""
    s = info.settings
    flags = (
        (u.GPIO_V2_LINE_FLAG_USED if info.used else 0)
        | (u.GPIO_V2_LINE_FLAG_OUTPUT if info.direction is Direction.OUTPUT else u.GPIO_V2_LINE_FLAG_INPUT)
        | (u.GPIO_V2_LINE_FLAG_ACTIVE_LOW if s.active_low else 0)
        | s.edge << 4
        | _FLAGS_OF_DRIVE[s.drive]
        | _FLAGS_OF_BIAS[s.bias]
        | (u.GPIO_V2_LINE_FLAG_EVENT_CLOCK_REALTIME if s.event_clock is Clock.REALTIME else 0)
    )
    attrs = b""
    if s.debounce_period_us:
        attrs = u.gpio_v2_line_attribute.pack(u.GPIO_V2_LINE_ATTR_ID_DEBOUNCE, 0, s.debounce_period_us)
    return u.gpio_v2_line_info.pack(
        u.cstring(info.name), u.cstring(info.consumer), info.offset, bool(attrs), flags, attrs, b""
    )


def encode_info_changed(event: InfoEvent) -> bytes:
    """A gpio_v2_line_info_changed."""
    return u.gpio_v2_line_info_changed.pack(encode_info(event.info), event.timestamp_ns, event.type)
