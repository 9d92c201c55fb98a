# SPDX-License-Identifier: MIT
"""<linux/gpio.h>: the GPIO character device's constants and structures, v1 and v2, its names kept.

Structures are `struct.Struct`s in native byte order; all sizes are the same for 32-bit and 64-bit
callers but that of `gpioevent_data`.
"""

from __future__ import annotations

from struct import Struct

GPIO_MAX_NAME_SIZE = 32
GPIO_V2_LINES_MAX = 64
GPIO_V2_LINE_NUM_ATTRS_MAX = 10
GPIOHANDLES_MAX = 64

# ioctl numbers: _IOC(direction, 0xB4, number, size)
GPIO_IOC_TYPE = 0xB4
GPIO_GET_CHIPINFO_IOCTL = 0x8044B401
GPIO_GET_LINEINFO_IOCTL = 0xC048B402
GPIO_GET_LINEHANDLE_IOCTL = 0xC16CB403
GPIO_GET_LINEEVENT_IOCTL = 0xC030B404
GPIO_V2_GET_LINEINFO_IOCTL = 0xC100B405
GPIO_V2_GET_LINEINFO_WATCH_IOCTL = 0xC100B406
GPIO_V2_GET_LINE_IOCTL = 0xC250B407
GPIOHANDLE_GET_LINE_VALUES_IOCTL = 0xC040B408
GPIOHANDLE_SET_LINE_VALUES_IOCTL = 0xC040B409
GPIOHANDLE_SET_CONFIG_IOCTL = 0xC054B40A
GPIO_GET_LINEINFO_WATCH_IOCTL = 0xC048B40B
GPIO_GET_LINEINFO_UNWATCH_IOCTL = 0xC004B40C
GPIO_V2_LINE_SET_CONFIG_IOCTL = 0xC110B40D
GPIO_V2_LINE_GET_VALUES_IOCTL = 0xC010B40E
GPIO_V2_LINE_SET_VALUES_IOCTL = 0xC010B40F

# gpio_v2_line_flag
GPIO_V2_LINE_FLAG_USED = 1 << 0
GPIO_V2_LINE_FLAG_ACTIVE_LOW = 1 << 1
GPIO_V2_LINE_FLAG_INPUT = 1 << 2
GPIO_V2_LINE_FLAG_OUTPUT = 1 << 3
GPIO_V2_LINE_FLAG_EDGE_RISING = 1 << 4
GPIO_V2_LINE_FLAG_EDGE_FALLING = 1 << 5
GPIO_V2_LINE_FLAG_OPEN_DRAIN = 1 << 6
GPIO_V2_LINE_FLAG_OPEN_SOURCE = 1 << 7
GPIO_V2_LINE_FLAG_BIAS_PULL_UP = 1 << 8
GPIO_V2_LINE_FLAG_BIAS_PULL_DOWN = 1 << 9
GPIO_V2_LINE_FLAG_BIAS_DISABLED = 1 << 10
GPIO_V2_LINE_FLAG_EVENT_CLOCK_REALTIME = 1 << 11
GPIO_V2_LINE_FLAG_EVENT_CLOCK_HTE = 1 << 12

# gpio_v2_line_attr_id
GPIO_V2_LINE_ATTR_ID_FLAGS = 1
GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES = 2
GPIO_V2_LINE_ATTR_ID_DEBOUNCE = 3

# gpio_v2_line_event_id; GPIOEVENT_EVENT_* of v1 are the same
GPIO_V2_LINE_EVENT_RISING_EDGE = 1
GPIO_V2_LINE_EVENT_FALLING_EDGE = 2

# v1: GPIOLINE_FLAG_*
GPIOLINE_FLAG_KERNEL = 1 << 0
GPIOLINE_FLAG_IS_OUT = 1 << 1
GPIOLINE_FLAG_ACTIVE_LOW = 1 << 2
GPIOLINE_FLAG_OPEN_DRAIN = 1 << 3
GPIOLINE_FLAG_OPEN_SOURCE = 1 << 4
GPIOLINE_FLAG_BIAS_PULL_UP = 1 << 5
GPIOLINE_FLAG_BIAS_PULL_DOWN = 1 << 6
GPIOLINE_FLAG_BIAS_DISABLE = 1 << 7

# v1: GPIOHANDLE_REQUEST_* and GPIOEVENT_REQUEST_*
GPIOHANDLE_REQUEST_INPUT = 1 << 0
GPIOHANDLE_REQUEST_OUTPUT = 1 << 1
GPIOHANDLE_REQUEST_ACTIVE_LOW = 1 << 2
GPIOHANDLE_REQUEST_OPEN_DRAIN = 1 << 3
GPIOHANDLE_REQUEST_OPEN_SOURCE = 1 << 4
GPIOHANDLE_REQUEST_BIAS_PULL_UP = 1 << 5
GPIOHANDLE_REQUEST_BIAS_PULL_DOWN = 1 << 6
GPIOHANDLE_REQUEST_BIAS_DISABLE = 1 << 7
GPIOEVENT_REQUEST_RISING_EDGE = 1 << 0
GPIOEVENT_REQUEST_FALLING_EDGE = 1 << 1

gpiochip_info = Struct("=32s32sI")  # name, label, lines
gpioline_info = Struct("=II32s32s")  # line_offset, flags, name, consumer
# lineoffsets[64], flags, default_values, consumer_label, lines, fd
gpiohandle_request = Struct("=64II64s32sIi")
gpiohandle_data = Struct("=64s")  # values
gpiohandle_config = Struct("=I64s16x")  # flags, default_values
gpioevent_request = Struct("=III32si")  # lineoffset, handleflags, eventflags, consumer_label, fd
gpioevent_data = Struct("=QI4x")  # timestamp, id
gpioevent_data_i386 = Struct("=QI")  # the same, where u64 is aligned to 4
gpioline_info_changed = Struct("=72sQI20x")  # info, timestamp, event_type

gpio_v2_line_values = Struct("=QQ")  # bits, mask
gpio_v2_line_attribute = Struct("=IIQ")  # id, padding, flags or values or debounce_period_us
gpio_v2_line_config_attribute = Struct("=IIQQ")  # attribute, mask
gpio_v2_line_config = Struct("=QI20s240s")  # flags, num_attrs, padding, attrs[10]
# offsets, consumer, config, num_lines, event_buffer_size, padding, fd
gpio_v2_line_request = Struct("=256s32s272sII20si")
# name, consumer, offset, num_attrs, flags, attrs[10], padding
gpio_v2_line_info = Struct("=32s32sIIQ160s16s")
gpio_v2_line_info_changed = Struct("=256sQI20x")  # info, timestamp_ns, event_type
gpio_v2_line_event = Struct("=QIIII24x")  # timestamp_ns, id, offset, seqno, line_seqno


def ioc_size(cmd: int) -> int:
    """Bytes of the argument an ioctl number names. asm-generic/ioctl.h: _IOC_SIZE"""
    return cmd >> 16 & 0x3FFF


def cstring(text: str, size: int = GPIO_MAX_NAME_SIZE) -> bytes:
    """`text` as the kernel's strscpy leaves it: cut to size - 1 bytes, padded with zeros."""
    return text.encode(errors="surrogateescape")[: size - 1].ljust(size, b"\0")


def string(raw: bytes, size: int = GPIO_MAX_NAME_SIZE) -> str:
    """What the kernel reads from a char[size]: up to the first zero, at most size - 1 bytes."""
    return raw[: size - 1].split(b"\0", 1)[0].decode(errors="surrogateescape")
