# SPDX-License-Identifier: MIT
"""The character device's ioctls, v1 and v2: layouts, validation and errno as the kernel has them.

Structures are packed here by hand from <linux/gpio.h>, not with the code under test.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from tests.conformance.device import Device, Devices
from tests.conformance.rigs import Rig
from tests.conformance.test_lines import refused

CHIPINFO, V1_LINEINFO, V1_HANDLE, V1_EVENT = 0x8044B401, 0xC048B402, 0xC16CB403, 0xC030B404
LINEINFO, WATCH, GET_LINE = 0xC100B405, 0xC100B406, 0xC250B407
V1_GET, V1_SET, V1_CONFIG, V1_WATCH, UNWATCH = 0xC040B408, 0xC040B409, 0xC054B40A, 0xC048B40B, 0xC004B40C
SET_CONFIG, GET, SET = 0xC110B40D, 0xC010B40E, 0xC010B40F

ACTIVE_LOW, INPUT, OUTPUT, RISING, FALLING = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
OPEN_DRAIN, OPEN_SOURCE, PULL_UP, PULL_DOWN, NO_BIAS = 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10
REALTIME, HTE = 1 << 11, 1 << 12
FLAGS, VALUES, DEBOUNCE = 1, 2, 3

V1_IN, V1_OUT, V1_LOW, V1_DRAIN, V1_SOURCE, V1_UP, V1_DOWN, V1_NO_BIAS = (1 << i for i in range(8))


def config(flags: int, *attrs: tuple[int, int, int], padding: int = 0) -> bytes:
    raw = struct.pack("=QI5I", flags, len(attrs), padding, 0, 0, 0, 0)
    raw += b"".join(struct.pack("=IIQQ", kind, 0, value, mask) for kind, value, mask in attrs)
    return raw.ljust(272, b"\0")


def line_request(
    offsets: list[int], flags: int, *attrs: tuple[int, int, int], consumer: bytes = b"t", size: int = 0
) -> bytes:
    return (
        struct.pack("=64I", *offsets, *[0] * (64 - len(offsets)))
        + consumer.ljust(32, b"\0")
        + config(flags, *attrs)
        + struct.pack("=II5Ii", len(offsets), size, 0, 0, 0, 0, 0, 0)
    )


def handle_request(offsets: list[int], flags: int, values: bytes = b"", consumer: bytes = b"t") -> bytes:
    return struct.pack("=64I", *offsets, *[0] * (64 - len(offsets))) + struct.pack(
        "=I64s32sIi", flags, values, consumer, len(offsets), 0
    )


def event_request(offset: int, handle_flags: int, event_flags: int) -> bytes:
    return struct.pack("=III32si", offset, handle_flags, event_flags, b"t", 0)


def line_info(offset: int, padding: int = 0) -> bytes:
    return struct.pack("=64xIIQ160x4I", offset, 0, 0, padding, 0, 0, 0)


@pytest.fixture
def devices(rig: Rig) -> Iterator[Devices]:
    made = Devices(rig)
    yield made
    made.close()


@pytest.fixture
def chip(devices: Devices) -> Device:
    return devices.open()


def test_chip_info(chip: Device) -> None:
    name, _label, lines = struct.unpack("=32s32sI", chip.ioctl(CHIPINFO, bytes(68)))
    assert name.rstrip(b"\0").startswith(b"gpiochip")
    assert lines == 8


def test_line_info_of_both_versions(chip: Device) -> None:
    chip.opened(GET_LINE, line_request([2], OUTPUT | ACTIVE_LOW | OPEN_DRAIN | PULL_UP, consumer=b"plc"))
    name, consumer, offset, attrs, flags = struct.unpack_from(
        "=32s32sIIQ", chip.ioctl(LINEINFO, line_info(2))
    )
    assert (name.rstrip(b"\0"), consumer.rstrip(b"\0"), offset, attrs) == (b"DOOR", b"plc", 2, 0)
    assert flags == 1 | OUTPUT | ACTIVE_LOW | OPEN_DRAIN | PULL_UP
    offset, flags, name, consumer = struct.unpack(
        "=II32s32s", chip.ioctl(V1_LINEINFO, struct.pack("=I68x", 2))
    )
    assert (name.rstrip(b"\0"), consumer.rstrip(b"\0"), offset) == (b"DOOR", b"plc", 2)
    assert flags == 0b0101111


def test_debounce_shows_as_an_attribute(chip: Device) -> None:
    chip.opened(GET_LINE, line_request([2], INPUT, (DEBOUNCE, 5000, 1)))
    raw = chip.ioctl(LINEINFO, line_info(2))
    assert struct.unpack_from("=I", raw, 68) == (1,)
    assert struct.unpack_from("=IIQ", raw, 80) == (DEBOUNCE, 0, 5000)


def test_a_consumer_is_cut_to_31_bytes_and_an_empty_one_is_a_question_mark(chip: Device) -> None:
    chip.opened(GET_LINE, line_request([0], INPUT, consumer=b"c" * 32))
    chip.opened(GET_LINE, line_request([1], INPUT, consumer=b""))
    chip.opened(V1_HANDLE, handle_request([2], V1_IN, consumer=b"h" * 32))
    shown = [chip.ioctl(LINEINFO, line_info(offset))[32:64].rstrip(b"\0") for offset in range(3)]
    assert shown == [b"c" * 31, b"?", b"h" * 31]


@pytest.mark.parametrize(
    "flags",
    [
        1,  # USED is for the kernel to tell
        1 << 13,
        1 << 63,
        INPUT | OUTPUT,
        RISING,
        OUTPUT | RISING,
        OUTPUT | OPEN_DRAIN | OPEN_SOURCE,
        INPUT | OPEN_DRAIN,
        OPEN_SOURCE,
        PULL_UP,
        NO_BIAS,
        INPUT | PULL_UP | PULL_DOWN,
        INPUT | NO_BIAS | PULL_UP,
        OUTPUT | NO_BIAS | PULL_DOWN,
    ],
)
def test_contradicting_flags_are_invalid(chip: Device, flags: int) -> None:
    with refused(errno.EINVAL):
        chip.ioctl(GET_LINE, line_request([0], flags))
    with refused(errno.EINVAL):
        chip.ioctl(GET_LINE, line_request([0, 1], INPUT, (FLAGS, flags, 0b10)))
    file = chip.opened(GET_LINE, line_request([0], INPUT))
    with refused(errno.EINVAL):
        file.ioctl(SET_CONFIG, config(flags))


@pytest.mark.parametrize(
    "flags",
    [
        0,
        ACTIVE_LOW,
        INPUT | RISING | FALLING | PULL_UP | ACTIVE_LOW | REALTIME,
        OUTPUT | OPEN_SOURCE | NO_BIAS,
        REALTIME,
    ],
)
def test_sound_flags_are_taken(chip: Device, flags: int) -> None:
    chip.opened(GET_LINE, line_request([0], flags)).close()


def test_hardware_timestamps_are_not_supported(chip: Device) -> None:
    with refused(errno.EOPNOTSUPP):
        chip.ioctl(GET_LINE, line_request([0], INPUT | RISING | HTE))
    with refused(errno.EOPNOTSUPP):
        chip.ioctl(GET_LINE, line_request([0], INPUT | OUTPUT | HTE))


@pytest.mark.parametrize("count", [0, 65, 0xFFFFFFFF])
def test_a_request_has_1_to_64_lines(chip: Device, count: int) -> None:
    raw = bytearray(line_request([0], INPUT))
    struct.pack_into("=I", raw, 560, count)
    with refused(errno.EINVAL):
        chip.ioctl(GET_LINE, bytes(raw))
    raw = bytearray(handle_request([0], V1_IN))
    struct.pack_into("=I", raw, 356, count)
    with refused(errno.EINVAL):
        chip.ioctl(V1_HANDLE, bytes(raw))


@pytest.mark.parametrize("at", [568, 584, 300, 304, 316, 560 - 8, 324])
def test_padding_and_unused_attributes_must_be_zero(chip: Device, at: int) -> None:
    raw = bytearray(line_request([0], INPUT))
    raw[at] = 1
    with refused(errno.EINVAL):
        chip.ioctl(GET_LINE, bytes(raw))


def test_more_than_ten_attributes_are_invalid(chip: Device) -> None:
    raw = bytearray(line_request([0], INPUT))
    struct.pack_into("=I", raw, 296, 11)
    with refused(errno.EINVAL):
        chip.ioctl(GET_LINE, bytes(raw))


def test_an_attributes_padding_must_be_zero(chip: Device) -> None:
    raw = bytearray(line_request([0], INPUT, (FLAGS, INPUT, 1)))
    raw[324] = 1
    with refused(errno.EINVAL):
        chip.ioctl(GET_LINE, bytes(raw))


def test_a_line_named_twice_is_busy(chip: Device) -> None:
    with refused(errno.EBUSY):
        chip.ioctl(GET_LINE, line_request([3, 3], INPUT))
    with refused(errno.EBUSY):
        chip.ioctl(V1_HANDLE, handle_request([3, 3], V1_IN))
    chip.opened(GET_LINE, line_request([3], INPUT))


def test_an_offset_past_the_end_is_invalid(chip: Device) -> None:
    for cmd, raw in (
        (GET_LINE, line_request([8], INPUT)),
        (V1_HANDLE, handle_request([8], V1_IN)),
        (V1_EVENT, event_request(8, V1_IN, 1)),
        (LINEINFO, line_info(8)),
        (WATCH, line_info(0xFFFFFFFF)),
        (V1_LINEINFO, struct.pack("=I68x", 8)),
        (UNWATCH, struct.pack("=I", 8)),
    ):
        with refused(errno.EINVAL):
            chip.ioctl(cmd, raw)


def test_debounce_needs_an_input(chip: Device) -> None:
    for flags in (0, OUTPUT):
        with refused(errno.EINVAL):
            chip.ioctl(GET_LINE, line_request([0], flags, (DEBOUNCE, 100, 1)))


def test_the_first_attribute_of_a_kind_counts(chip: Device, rig: Rig) -> None:
    chip.opened(
        GET_LINE,
        line_request([0, 1, 2], INPUT, (FLAGS, OUTPUT, 0b110), (FLAGS, INPUT, 0b010), (VALUES, 0b100, 0b110)),
    )
    assert [rig.level(offset) for offset in range(3)] == [0, 0, 1]
    flags = [struct.unpack_from("=Q", chip.ioctl(LINEINFO, line_info(o)), 72)[0] for o in range(3)]
    assert flags == [1 | INPUT, 1 | OUTPUT, 1 | OUTPUT]


def test_an_edge_buffer_of_one_event_cannot_be_had(chip: Device) -> None:
    with refused(errno.EINVAL):
        chip.ioctl(GET_LINE, line_request([0], INPUT | RISING, size=1))
    chip.opened(GET_LINE, line_request([0], INPUT, size=1))


def test_a_busy_line_is_noticed_before_an_edge_buffer_of_one_event(chip: Device) -> None:
    chip.opened(GET_LINE, line_request([0], INPUT))
    with refused(errno.EBUSY):
        chip.ioctl(GET_LINE, line_request([0, 1], INPUT | RISING, size=1))
    with refused(errno.EINVAL):
        chip.ioctl(GET_LINE, line_request([1, 0], INPUT | RISING, size=1))


def test_edges_cannot_be_added_to_a_buffer_of_one_event(chip: Device) -> None:
    file = chip.opened(GET_LINE, line_request([0], OUTPUT, size=1))
    with refused(errno.EINVAL):
        file.ioctl(SET_CONFIG, config(INPUT | RISING | ACTIVE_LOW, (DEBOUNCE, 100, 1)))
    num_attrs, flags = struct.unpack_from("=IQ", chip.ioctl(LINEINFO, line_info(0)), 68)
    assert (num_attrs, flags) == (0, 1 | INPUT | RISING | ACTIVE_LOW)  # the rest of it was done
    with refused(errno.EPERM):
        file.ioctl(SET, struct.pack("=QQ", 1, 1))
    file.ioctl(SET_CONFIG, config(INPUT))


@pytest.mark.shows_the_consumers_request
def test_the_event_clock_in_a_lines_info_outlives_its_request(chip: Device) -> None:
    chip.opened(GET_LINE, line_request([0], INPUT | REALTIME)).close()
    (flags,) = struct.unpack_from("=Q", chip.ioctl(LINEINFO, line_info(0)), 72)
    assert flags == INPUT | REALTIME
    chip.opened(V1_HANDLE, handle_request([0], V1_IN)).close()
    (flags,) = struct.unpack_from("=Q", chip.ioctl(LINEINFO, line_info(0)), 72)
    assert flags == INPUT | REALTIME
    chip.opened(GET_LINE, line_request([0], INPUT)).close()
    (flags,) = struct.unpack_from("=Q", chip.ioctl(LINEINFO, line_info(0)), 72)
    assert flags == INPUT


@pytest.mark.shows_the_consumers_request
def test_edges_of_a_v1_event_request_do_not_show_in_a_lines_info(chip: Device) -> None:
    chip.opened(V1_EVENT, event_request(0, V1_IN, 3))
    (flags,) = struct.unpack_from("=Q", chip.ioctl(LINEINFO, line_info(0)), 72)
    assert flags == 1 | INPUT


@pytest.mark.parametrize(("size", "kept"), [(2, 2), (3, 4), (17, 32), (0, 16)])
def test_an_edge_buffer_is_a_power_of_two(chip: Device, rig: Rig, size: int, kept: int) -> None:
    file = chip.opened(GET_LINE, line_request([0], INPUT | RISING | FALLING, size=size))
    for i in range(kept + 3):
        rig.pull(0, (i + 1) % 2)
    rig.wait(0.05)
    seqnos = [struct.unpack_from("=I", record, 16)[0] for record in file.read()]
    assert seqnos == list(range(4, kept + 4))


def test_an_edge_event_is_laid_out_as_documented(chip: Device, rig: Rig) -> None:
    file = chip.opened(GET_LINE, line_request([6, 1], INPUT | RISING | FALLING))
    rig.pull(1, 1)
    rig.pull(1, 0)
    rig.wait(0.05)
    events = [struct.unpack("=QIIII24s", record) for record in file.read()]
    assert [event[1:] for event in events] == [(1, 1, 1, 1, bytes(24)), (2, 1, 2, 2, bytes(24))]


def test_values_by_mask(chip: Device, rig: Rig) -> None:
    file = chip.opened(GET_LINE, line_request([4, 5], INPUT))
    rig.pull(5, 1)
    assert struct.unpack("=QQ", file.ioctl(GET, struct.pack("=QQ", 0xFF, 0b11))) == (0b10, 0b11)
    assert struct.unpack("=QQ", file.ioctl(GET, struct.pack("=QQ", 0, 1 << 63 | 0b10))) == (
        0b10,
        1 << 63 | 0b10,
    )


def test_an_empty_mask_is_invalid(chip: Device) -> None:
    file = chip.opened(GET_LINE, line_request([4, 5], OUTPUT))
    for cmd in (GET, SET):
        for mask in (0, 0b100, 1 << 63):
            with refused(errno.EINVAL):
                file.ioctl(cmd, struct.pack("=QQ", 0, mask))


def test_setting_inputs_is_not_permitted(chip: Device) -> None:
    file = chip.opened(GET_LINE, line_request([4, 5], INPUT, (FLAGS, OUTPUT, 1)))
    file.ioctl(SET, struct.pack("=QQ", 1, 1))
    with refused(errno.EPERM):
        file.ioctl(SET, struct.pack("=QQ", 0b11, 0b11))


def test_ioctls_are_for_their_kind_of_file(chip: Device) -> None:
    v2 = chip.opened(GET_LINE, line_request([0], OUTPUT))
    handle = chip.opened(V1_HANDLE, handle_request([1], V1_OUT))
    event = chip.opened(V1_EVENT, event_request(2, V1_IN, 1))
    for file, wrong in (
        (chip, (GET, SET, SET_CONFIG, V1_GET, V1_SET, V1_CONFIG)),
        (v2, (V1_GET, V1_SET, V1_CONFIG, CHIPINFO, GET_LINE, V1_HANDLE)),
        (handle, (GET, SET, SET_CONFIG, LINEINFO)),
        (event, (GET, SET, V1_SET, V1_CONFIG, UNWATCH)),
    ):
        for cmd in wrong:
            with refused(errno.EINVAL):
                file.ioctl(cmd, bytes(cmd >> 16 & 0x3FFF))


def test_an_unknown_ioctl_is_invalid(chip: Device) -> None:
    with refused(errno.EINVAL):
        chip.ioctl(0xC010B410, bytes(16))


@pytest.mark.parametrize(
    "flags",
    [
        1 << 8,
        V1_IN | V1_OUT,
        V1_OUT | V1_DRAIN | V1_SOURCE,
        V1_IN | V1_DRAIN,
        V1_SOURCE,
        V1_UP,
        V1_IN | V1_UP | V1_DOWN,
        V1_OUT | V1_NO_BIAS | V1_UP,
    ],
)
def test_contradicting_handle_flags_are_invalid(chip: Device, flags: int) -> None:
    with refused(errno.EINVAL):
        chip.ioctl(V1_HANDLE, handle_request([0], flags))
    handle = chip.opened(V1_HANDLE, handle_request([0], V1_IN))
    with refused(errno.EINVAL):
        handle.ioctl(V1_CONFIG, struct.pack("=I64s16x", flags, b""))


def test_a_handle_reads_and_sets_all_its_lines(chip: Device, rig: Rig) -> None:
    handle = chip.opened(V1_HANDLE, handle_request([3, 6], V1_OUT, bytes([0, 5])))
    assert [rig.level(3), rig.level(6)] == [0, 1]
    handle.ioctl(V1_SET, bytes([7, 0]).ljust(64, b"\1"))
    assert [rig.level(3), rig.level(6)] == [1, 0]
    assert handle.ioctl(V1_GET, bytes([9] * 64)) == bytes([1, 0]).ljust(64, b"\0")


def test_a_handle_of_inputs_cannot_be_set(chip: Device) -> None:
    handle = chip.opened(V1_HANDLE, handle_request([3], V1_IN))
    with refused(errno.EPERM):
        handle.ioctl(V1_SET, bytes(64))


def test_a_handle_is_reconfigured_as_a_whole(chip: Device, rig: Rig) -> None:
    handle = chip.opened(V1_HANDLE, handle_request([3, 4], V1_IN))
    handle.ioctl(V1_CONFIG, struct.pack("=I64s16x", V1_OUT | V1_LOW, bytes([1, 0])))
    assert [rig.level(3), rig.level(4)] == [0, 1]
    with refused(errno.EINVAL):
        handle.ioctl(V1_CONFIG, struct.pack("=I64s16x", 0, b""))


@pytest.mark.parametrize(
    ("handle_flags", "event_flags"),
    [(V1_OUT, 1), (V1_DRAIN, 1), (V1_IN | V1_SOURCE, 1), (V1_IN, 4), (1 << 8, 1), (V1_UP | V1_DOWN, 1)],
)
def test_contradicting_event_flags_are_invalid(chip: Device, handle_flags: int, event_flags: int) -> None:
    with refused(errno.EINVAL):
        chip.ioctl(V1_EVENT, event_request(0, handle_flags, event_flags))


def test_a_line_event_tells_edges_and_values(chip: Device, rig: Rig) -> None:
    event = chip.opened(V1_EVENT, event_request(0, V1_LOW, 3))
    rig.pull(0, 1)
    rig.pull(0, 0)
    rig.wait(0.05)
    assert [struct.unpack("=QI4x", record)[1] for record in event.read()] == [2, 1]
    assert event.ioctl(V1_GET, bytes(64))[0] == 1


def test_a_line_event_drops_the_newest_past_sixteen(chip: Device, rig: Rig) -> None:
    event = chip.opened(V1_EVENT, event_request(0, V1_IN, 1))
    for i in range(19):
        rig.pull(0, 1)
        if i == 15:
            rig.wait(0.05)
        rig.pull(0, 0)
    rig.wait(0.05)
    assert len(event.read()) == 16


def test_watches_of_both_versions_do_not_mix(chip: Device) -> None:
    chip.ioctl(WATCH, line_info(0))
    with refused(errno.EPERM):
        chip.ioctl(V1_WATCH, struct.pack("=I68x", 1))


def test_a_line_is_watched_once(chip: Device) -> None:
    chip.ioctl(WATCH, line_info(0))
    with refused(errno.EBUSY):
        chip.ioctl(WATCH, line_info(0))
    chip.ioctl(UNWATCH, struct.pack("=I", 0))
    with refused(errno.EBUSY):
        chip.ioctl(UNWATCH, struct.pack("=I", 0))
    chip.ioctl(WATCH, line_info(0))


def test_an_info_padding_must_be_zero(chip: Device) -> None:
    with refused(errno.EINVAL):
        chip.ioctl(LINEINFO, line_info(0, padding=1))


def test_a_watch_tells_changes_made_through_other_files(devices: Devices, chip: Device, rig: Rig) -> None:
    chip.ioctl(WATCH, line_info(5))
    devices.open().opened(GET_LINE, line_request([5], OUTPUT, consumer=b"other")).close()
    rig.wait(0.05)
    requested, released = chip.read()
    assert struct.unpack_from("=QI", requested, 256)[1] == 1
    assert requested[32:37] == b"other"
    assert struct.unpack_from("=I", requested, 64)[0] == 5
    assert struct.unpack_from("=QI", released, 256)[1] == 2


def test_a_v1_watch_tells_v1_events(devices: Devices, rig: Rig) -> None:
    chip = devices.open(info_event_size=104)
    chip.ioctl(V1_WATCH, struct.pack("=I68x", 5))
    chip.opened(V1_HANDLE, handle_request([5], V1_OUT)).close()
    rig.wait(0.05)
    requested, released = chip.read()
    assert struct.unpack("=II32s32sQI20x", requested)[:4] == (
        5,
        3,
        b"LAMP".ljust(32, b"\0"),
        b"t".ljust(32, b"\0"),
    )
    assert struct.unpack_from("=QI", released, 72)[1] == 2


def test_a_watch_keeps_the_first_32_changes(chip: Device, rig: Rig) -> None:
    chip.ioctl(WATCH, line_info(0))
    for _ in range(17):
        chip.opened(GET_LINE, line_request([0], INPUT, consumer=b"first")).close()
    rig.wait(0.05)
    assert len(chip.read()) == 32
