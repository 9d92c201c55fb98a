# SPDX-License-Identifier: MIT
"""What a holder remembers of its lines, to request them again as they are from whoever serves them next.

Without I/O: what was asked and granted goes in, the ioctls that ask for the same come out.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Protocol

from gpiovirt.core.line import Direction, LineSettings
from gpiovirt.protocols.gpiochip.caller import flags_of
from gpiovirt.protocols.gpiochip.v2 import decode_config
from gpiovirt.uapi import gpio as u

__all__ = ["Memory", "memory_of"]

Ioctl = tuple[int, bytes]


class Memory(Protocol):
    """Of the lines of one file."""

    def remember(self, cmd: int, arg: bytes) -> None:
        """This was done."""

    def again(self) -> list[Ioctl]:
        """The request, and what is to be done on the file that it opens."""


def memory_of(cmd: int, arg: bytes) -> Memory:
    """Of the lines that this request has opened a file of."""
    if cmd == u.GPIO_V2_GET_LINE_IOCTL:
        return _Lines(arg)
    return _Handle(arg) if cmd == u.GPIO_GET_LINEHANDLE_IOCTL else _Fixed(cmd, arg)


class _Lines:
    """uAPI v2: each line has its own settings, and keeps them where a new configuration has no direction."""

    def __init__(self, request: bytes) -> None:
        self._asked = request
        self._known: list[LineSettings] = []  # once it matters: most requests are never asked for again
        self._bits = self._mask = 0  # driven since it was configured

    def remember(self, cmd: int, arg: bytes) -> None:
        if cmd == u.GPIO_V2_LINE_SET_VALUES_IOCTL:
            bits, mask = u.gpio_v2_line_values.unpack(arg)
            self._bits = self._bits & ~mask | bits & mask
            self._mask |= mask
        elif cmd == u.GPIO_V2_LINE_SET_CONFIG_IOCTL:
            lines = self._settings()
            for i, settings in enumerate(decode_config(arg, len(lines))):
                if settings.direction is not Direction.AS_IS:
                    lines[i] = settings

    def _settings(self) -> list[LineSettings]:
        """Of each line; what was driven is as good as configured."""
        if not self._known:
            fields = u.gpio_v2_line_request.unpack(self._asked)
            self._known = list(decode_config(fields[2], fields[3]))
        for i, settings in enumerate(self._known):
            if self._mask >> i & 1:
                self._known[i] = settings._replace(output_value=self._bits >> i & 1)
        self._bits = self._mask = 0
        return self._known

    def again(self) -> list[Ioctl]:
        everything = dict(enumerate(self._settings()))
        config = _encode(everything)
        if config is not None:
            return [self._request(config)]
        # too many kinds of lines for one: they are taken as they are, and configured a kind at a time
        kinds: defaultdict[tuple[int, int], dict[int, LineSettings]] = defaultdict(dict)
        for i, settings in everything.items():
            kinds[flags_of(settings), settings.debounce_period_us][i] = settings
        configs = [config for kind in kinds.values() if (config := _encode(kind)) is not None]
        return [
            self._request(u.gpio_v2_line_config.pack(0, 0, b"", b"")),
            *((u.GPIO_V2_LINE_SET_CONFIG_IOCTL, config) for config in configs),
        ]

    def _request(self, config: bytes) -> Ioctl:
        offsets, consumer, _, *rest = u.gpio_v2_line_request.unpack(self._asked)
        return u.GPIO_V2_GET_LINE_IOCTL, u.gpio_v2_line_request.pack(offsets, consumer, config, *rest)


def _encode(lines: dict[int, LineSettings]) -> bytes | None:
    """A gpio_v2_line_config for these lines, by index, that leaves others alone; None: too many kinds."""
    flags: defaultdict[int, int] = defaultdict(int)
    debounce: defaultdict[int, int] = defaultdict(int)
    bits = outputs = 0
    for i, settings in lines.items():
        flags[flags_of(settings)] |= 1 << i
        if settings.debounce_period_us:
            debounce[settings.debounce_period_us] |= 1 << i
        if settings.direction is Direction.OUTPUT:
            outputs |= 1 << i
            bits |= settings.output_value << i
    flags.pop(0, None)  # what the others have
    attrs = [(u.GPIO_V2_LINE_ATTR_ID_FLAGS, value, mask) for value, mask in flags.items()]
    attrs += [(u.GPIO_V2_LINE_ATTR_ID_DEBOUNCE, value, mask) for value, mask in debounce.items()]
    if outputs:
        attrs.append((u.GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES, bits, outputs))
    if len(attrs) > u.GPIO_V2_LINE_NUM_ATTRS_MAX:
        return None
    raw = b"".join(u.gpio_v2_line_config_attribute.pack(id_, 0, value, mask) for id_, value, mask in attrs)
    return u.gpio_v2_line_config.pack(0, len(attrs), b"", raw)


class _Handle:
    """uAPI v1: all lines have the same flags."""

    def __init__(self, request: bytes) -> None:
        self._asked = request
        self._flags: int | None = None  # as they were asked for
        self._values: bytes | None = None

    def remember(self, cmd: int, arg: bytes) -> None:
        if cmd == u.GPIOHANDLE_SET_CONFIG_IOCTL:
            self._flags, self._values = u.gpiohandle_config.unpack(arg)
        elif cmd == u.GPIOHANDLE_SET_LINE_VALUES_IOCTL:
            self._values = arg

    def again(self) -> list[Ioctl]:
        *offsets, flags, values, consumer, num_lines, _ = u.gpiohandle_request.unpack(self._asked)
        flags = flags if self._flags is None else self._flags
        values = values if self._values is None else self._values
        request = u.gpiohandle_request.pack(*offsets, flags, values, consumer, num_lines, 0)
        return [(u.GPIO_GET_LINEHANDLE_IOCTL, request)]


class _Fixed:
    """uAPI v1's events: nothing about them can be changed."""

    def __init__(self, cmd: int, request: bytes) -> None:
        self._again = [(cmd, request)]

    def remember(self, cmd: int, arg: bytes) -> None:
        """There is nothing to remember."""

    def again(self) -> list[Ioctl]:
        return list(self._again)
