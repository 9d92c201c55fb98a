# SPDX-License-Identifier: MIT
"""uAPI v1 of the character device: line handles, line events and line info.

Specification: Documentation/userspace-api/gpio/chardev_v1.rst; checks and their order as Linux 6.12.
"""

from __future__ import annotations

from gpiovirt.core.chip import Chip
from gpiovirt.core.holder import Holder
from gpiovirt.core.line import Bias, Direction, Drive, Edge, EdgeEvent, InfoEvent, LineInfo, LineSettings
from gpiovirt.errors import GpiovirtError, InvalidError, NotPermittedError
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
)
from gpiovirt.uapi import gpio as u

__all__ = [
    "HANDLE_FIFO",
    "EventFile",
    "HandleFile",
    "encode_info",
    "encode_info_changed",
    "event_fifo",
    "get_lineevent",
    "get_linehandle",
]

_DIRECTION = u.GPIOHANDLE_REQUEST_INPUT | u.GPIOHANDLE_REQUEST_OUTPUT
_DRIVE = u.GPIOHANDLE_REQUEST_OPEN_DRAIN | u.GPIOHANDLE_REQUEST_OPEN_SOURCE
_BIAS_OF = {
    0: Bias.AS_IS,
    u.GPIOHANDLE_REQUEST_BIAS_DISABLE: Bias.DISABLED,
    u.GPIOHANDLE_REQUEST_BIAS_PULL_UP: Bias.PULL_UP,
    u.GPIOHANDLE_REQUEST_BIAS_PULL_DOWN: Bias.PULL_DOWN,
}
_BIAS = sum(_BIAS_OF)
_DRIVE_OF = {
    0: Drive.PUSH_PULL,
    u.GPIOHANDLE_REQUEST_OPEN_DRAIN: Drive.OPEN_DRAIN,
    u.GPIOHANDLE_REQUEST_OPEN_SOURCE: Drive.OPEN_SOURCE,
}
_DIRECTION_OF = {
    0: Direction.AS_IS,
    u.GPIOHANDLE_REQUEST_INPUT: Direction.INPUT,
    u.GPIOHANDLE_REQUEST_OUTPUT: Direction.OUTPUT,
}
HANDLE_FIFO = FifoShape(u.gpioevent_data.size, 1, False)
"""Nothing ever comes through it"""
_VALID = _DIRECTION | _DRIVE | _BIAS | u.GPIOHANDLE_REQUEST_ACTIVE_LOW
_LINE_FLAG_OF_BIAS = {
    Bias.AS_IS: 0,
    Bias.DISABLED: u.GPIOLINE_FLAG_BIAS_DISABLE,
    Bias.PULL_UP: u.GPIOLINE_FLAG_BIAS_PULL_UP,
    Bias.PULL_DOWN: u.GPIOLINE_FLAG_BIAS_PULL_DOWN,
}
_LINE_FLAG_OF_DRIVE = {
    Drive.PUSH_PULL: 0,
    Drive.OPEN_DRAIN: u.GPIOLINE_FLAG_OPEN_DRAIN,
    Drive.OPEN_SOURCE: u.GPIOLINE_FLAG_OPEN_SOURCE,
}


def _settings(flags: int, output_value: int = 0, edge: Edge = Edge.NONE) -> LineSettings:
    """Settings from GPIOHANDLE_REQUEST_* flags; InvalidError for a combination that is refused."""
    if (
        flags & ~_VALID
        or flags & _DIRECTION == _DIRECTION
        or flags & _DRIVE == _DRIVE
        or (flags & _DRIVE and not flags & u.GPIOHANDLE_REQUEST_OUTPUT)
        or (flags & _BIAS and not flags & _DIRECTION)
        or flags & _BIAS not in _BIAS_OF
    ):
        raise InvalidError(f"handle flags {flags:#x} contradict each other")
    return LineSettings(
        _DIRECTION_OF[flags & _DIRECTION],
        edge,
        _BIAS_OF[flags & _BIAS],
        _DRIVE_OF[flags & _DRIVE],
        bool(flags & u.GPIOHANDLE_REQUEST_ACTIVE_LOW),
        output_value=output_value,
        is_v1=True,
    )


def _values_reply(bits: int, num_lines: int) -> Answer:
    return Answer(0, u.gpiohandle_data.pack(bytes(bits >> i & 1 for i in range(num_lines))))


class HandleFile(RequestFile):
    """The file a GPIO_GET_LINEHANDLE opens."""

    def __init__(
        self, chip: Chip, offsets: tuple[int, ...], settings: list[LineSettings], holder: Holder, fifo: Fifo
    ) -> None:
        super().__init__(fifo)
        self._chip = chip
        self._request = chip.request(offsets, settings, holder, None, self._on_presence)

    def ioctl(self, cmd: int, arg: bytes, compat: bool = False) -> Answer:
        if self._gone:
            return GONE
        num_lines = len(self._request.offsets)
        try:
            if cmd == u.GPIOHANDLE_GET_LINE_VALUES_IOCTL:
                return _values_reply(self._request.get_values((1 << num_lines) - 1), num_lines)
            if cmd == u.GPIOHANDLE_SET_LINE_VALUES_IOCTL:
                return self._set_values(arg)
            if cmd == u.GPIOHANDLE_SET_CONFIG_IOCTL:
                flags, values = u.gpiohandle_config.unpack(arg)
                settings = {i: _settings(flags, int(values[i] != 0)) for i in range(num_lines)}
                if not flags & _DIRECTION:
                    return invalid("a configuration without a direction")
                self._request.reconfigure(settings)
                return DONE
        except GpiovirtError as error:
            return refusal(error)
        return UNKNOWN

    def _set_values(self, arg: bytes) -> Answer:
        """Only the first line's direction is checked; inputs among lines taken as they are stay inputs."""
        outputs = sum(
            1 << i for i, offset in enumerate(self._request.offsets) if self._chip.is_output(offset)
        )
        if not outputs & 1:
            raise NotPermittedError("the lines are not outputs")
        bits = sum(1 << i for i, value in enumerate(arg) if value)
        self._request.set_values(outputs, bits & outputs)
        return DONE


class EventFile(RequestFile):
    """The file a GPIO_GET_LINEEVENT opens."""

    def __init__(
        self, chip: Chip, offset: int, settings: LineSettings, holder: Holder, fifo: Fifo, compat: bool
    ) -> None:
        super().__init__(fifo)
        self._record = u.gpioevent_data_i386 if compat else u.gpioevent_data
        self._request = chip.request([offset], [settings], holder, self._on_edge, self._on_presence)

    def _on_edge(self, event: EdgeEvent) -> None:
        self.fifo.put(
            self._record.pack(
                event.timestamp_ns,
                u.GPIO_V2_LINE_EVENT_RISING_EDGE if event.rising else u.GPIO_V2_LINE_EVENT_FALLING_EDGE,
            )
        )

    def ioctl(self, cmd: int, arg: bytes, compat: bool = False) -> Answer:
        if self._gone:
            return GONE
        if cmd != u.GPIOHANDLE_GET_LINE_VALUES_IOCTL:
            return UNKNOWN
        try:
            return _values_reply(self._request.get_values(1), 1)
        except GpiovirtError as error:
            return refusal(error)


def event_fifo(compat: bool) -> FifoShape:
    """What the events of a GPIO_GET_LINEEVENT go through; an i386 program's are smaller."""
    return FifoShape((u.gpioevent_data_i386 if compat else u.gpioevent_data).size, 16, False)


def get_linehandle(chip: Chip, arg: bytes, open_fifo: FifoFactory, opener: Holder) -> Answer:
    """GPIO_GET_LINEHANDLE_IOCTL, on a chip that `opener` has open."""
    *offsets, flags, values, consumer, num_lines, _ = u.gpiohandle_request.unpack(arg)
    if not 0 < num_lines <= u.GPIOHANDLES_MAX:
        return invalid(f"a request for {num_lines} lines")
    try:
        file = HandleFile(
            chip,
            tuple(offsets[:num_lines]),
            [_settings(flags, int(values[i] != 0)) for i in range(num_lines)],
            opener.labelled(u.string(consumer) or "?"),
            open_fifo(HANDLE_FIFO),
        )
    except GpiovirtError as error:
        return refusal(error)
    return Answer(0, arg, file, u.gpiohandle_request.size - 4)


def get_lineevent(chip: Chip, arg: bytes, open_fifo: FifoFactory, opener: Holder, compat: bool) -> Answer:
    """GPIO_GET_LINEEVENT_IOCTL, on a chip that `opener` has open."""
    offset, flags, event_flags, consumer, _ = u.gpioevent_request.unpack(arg)
    if flags & (u.GPIOHANDLE_REQUEST_OUTPUT | _DRIVE) or event_flags & ~Edge.BOTH:
        return invalid(f"handle flags {flags:#x} or event flags {event_flags:#x} that no events can have")
    try:
        settings = _settings(flags | u.GPIOHANDLE_REQUEST_INPUT, edge=Edge(event_flags))
        fifo = open_fifo(event_fifo(compat))
        file = EventFile(chip, offset, settings, opener.labelled(u.string(consumer) or "?"), fifo, compat)
    except GpiovirtError as error:
        return refusal(error)
    return Answer(0, arg, file, u.gpioevent_request.size - 4)


def encode_info(info: LineInfo) -> bytes:
    """A gpioline_info."""
    s = info.settings
    flags = (
        (u.GPIOLINE_FLAG_KERNEL if info.used else 0)
        | (u.GPIOLINE_FLAG_IS_OUT if info.direction is Direction.OUTPUT else 0)
        | (u.GPIOLINE_FLAG_ACTIVE_LOW if s.active_low else 0)
        | _LINE_FLAG_OF_DRIVE[s.drive]
        | _LINE_FLAG_OF_BIAS[s.bias]
    )
    return u.gpioline_info.pack(info.offset, flags, u.cstring(info.name), u.cstring(info.consumer))


def encode_info_changed(event: InfoEvent) -> bytes:
    """A gpioline_info_changed."""
    return u.gpioline_info_changed.pack(encode_info(event.info), event.timestamp_ns, event.type)
