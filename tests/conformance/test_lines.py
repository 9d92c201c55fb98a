# SPDX-License-Identifier: MIT
"""Kernel behaviour of a chip's lines: holding, values, directions, bias, drive."""

from __future__ import annotations

import errno

import pytest

from gpiovirt.core.line import Bias, Direction, Drive, Edge, LineSettings
from tests.conformance.rigs import LINE_NAMES, Rig

INPUT = LineSettings(Direction.INPUT)
LOW = LineSettings(Direction.OUTPUT)
HIGH = LineSettings(Direction.OUTPUT, output_value=1)
AS_IS = LineSettings()


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def test_names_are_the_lines(rig: Rig) -> None:
    assert [rig.line_info(offset).name for offset in range(8)] == LINE_NAMES


def test_an_unrequested_line_is_an_unused_input(rig: Rig) -> None:
    info = rig.line_info(0)
    assert (info.used, info.consumer, info.direction) == (False, "", Direction.INPUT)
    assert info.settings == LineSettings()


def test_info_past_the_end_is_invalid(rig: Rig) -> None:
    with refused(errno.EINVAL):
        rig.line_info(8)


def test_a_held_line_shows_its_consumer_and_settings(rig: Rig) -> None:
    wanted = LineSettings(
        Direction.INPUT, Edge.RISING, Bias.PULL_UP, active_low=True, debounce_period_us=2000
    )
    rig.request({3: wanted}, consumer="plc")
    info = rig.line_info(3)
    assert (info.used, info.consumer, info.direction) == (True, "plc", Direction.INPUT)
    assert info.settings._replace(direction=Direction.INPUT) == wanted


def test_a_held_line_is_busy(rig: Rig) -> None:
    rig.request({1: INPUT})
    with refused(errno.EBUSY):
        rig.request({1: AS_IS})


def test_a_refused_request_holds_nothing(rig: Rig) -> None:
    rig.request({1: INPUT})
    with refused(errno.EBUSY):
        rig.request({0: INPUT, 1: INPUT})
    assert not rig.line_info(0).used
    rig.request({0: INPUT})


def test_a_request_past_the_end_is_invalid_and_holds_nothing(rig: Rig) -> None:
    with refused(errno.EINVAL):
        rig.request({0: INPUT, 8: INPUT})
    assert not rig.line_info(0).used


def test_release_frees_lines_for_the_next_request(rig: Rig) -> None:
    rig.request({1: INPUT, 2: LOW}).release()
    info = rig.line_info(1)
    assert (info.used, info.consumer) == (False, "")
    rig.request({2: INPUT, 1: INPUT}).release()


def test_settings_end_with_the_request(rig: Rig) -> None:
    rig.request({1: LineSettings(Direction.INPUT, Edge.BOTH, active_low=True)}).release()
    assert rig.line_info(1).settings == LineSettings()


def test_an_input_reads_what_the_world_pulls(rig: Rig) -> None:
    request = rig.request({0: INPUT, 5: INPUT})
    rig.pull(5, 1)
    assert request.get(0b11) == 0b10
    rig.pull(0, 1)
    rig.pull(5, 0)
    assert request.get(0b11) == 0b01


def test_a_mask_reads_only_its_lines(rig: Rig) -> None:
    request = rig.request({0: INPUT, 3: INPUT, 4: INPUT})
    for offset in (0, 3, 4):
        rig.pull(offset, 1)
    assert request.get(0b101) == 0b101
    assert request.get(0b010) == 0b010


def test_an_output_drives_its_line(rig: Rig) -> None:
    request = rig.request({6: LOW, 7: HIGH})
    assert (rig.level(6), rig.level(7)) == (0, 1)
    request.set(0b11, 0b01)
    assert (rig.level(6), rig.level(7)) == (1, 0)
    assert request.get(0b11) == 0b01


def test_a_mask_sets_only_its_lines(rig: Rig) -> None:
    request = rig.request({1: LOW, 4: LOW, 5: LOW})
    request.set(0b101, 0b111)
    assert [rig.level(offset) for offset in (1, 4, 5)] == [1, 0, 1]


def test_lines_keep_the_order_of_the_request(rig: Rig) -> None:
    request = rig.request({7: LOW, 0: LOW, 4: LOW})
    request.set(0b111, 0b001)
    assert [rig.level(offset) for offset in (0, 4, 7)] == [0, 0, 1]


def test_the_world_cannot_pull_an_output(rig: Rig) -> None:
    rig.request({2: LOW})
    rig.pull(2, 1)
    assert rig.level(2) == 0


@pytest.mark.lines_are_given_back
def test_a_released_output_goes_where_the_world_pulls(rig: Rig) -> None:
    request = rig.request({2: LOW})
    rig.pull(2, 1)
    request.release()
    rig.wait(0.05)
    assert rig.level(2) == 1


def test_a_released_output_still_shows_as_output(rig: Rig) -> None:
    rig.request({2: LOW}).release()
    assert rig.line_info(2).direction is Direction.OUTPUT


def test_setting_an_input_is_not_permitted(rig: Rig) -> None:
    request = rig.request({2: INPUT, 3: LOW})
    with refused(errno.EPERM):
        request.set(0b11, 0b11)
    assert rig.level(3) == 0


def test_as_is_keeps_an_input_an_input(rig: Rig) -> None:
    request = rig.request({1: AS_IS})
    assert rig.line_info(1).direction is Direction.INPUT
    with refused(errno.EPERM):
        request.set(1, 1)


def test_as_is_keeps_an_output_an_output(rig: Rig) -> None:
    rig.request({1: HIGH}).release()
    request = rig.request({1: AS_IS})
    request.set(1, 1)
    assert rig.level(1) == 1


@pytest.mark.lines_are_given_back
def test_an_output_taken_as_it_is_keeps_its_level_whatever_pulls(rig: Rig) -> None:
    rig.request({1: HIGH}).release()
    request = rig.request({1: AS_IS})
    rig.pull(1, 1)
    assert (rig.level(1), request.get(1)) == (0, 0)


def test_active_low_inverts_an_input(rig: Rig) -> None:
    request = rig.request({0: INPUT._replace(active_low=True), 1: INPUT})
    assert request.get(0b11) == 0b01
    rig.pull(0, 1)
    assert request.get(0b11) == 0b00


def test_active_low_inverts_an_output(rig: Rig) -> None:
    request = rig.request({0: HIGH._replace(active_low=True), 1: LOW._replace(active_low=True)})
    assert (rig.level(0), rig.level(1)) == (0, 1)
    request.set(0b11, 0b10)
    assert (rig.level(0), rig.level(1)) == (1, 0)
    assert request.get(0b11) == 0b10


def test_a_bias_pulls_the_line(rig: Rig) -> None:
    request = rig.request({3: INPUT._replace(bias=Bias.PULL_UP)})
    assert request.get(1) == 1
    request.reconfigure({3: INPUT._replace(bias=Bias.PULL_DOWN)})
    assert request.get(1) == 0


def test_an_open_drain_output_drives_low_only(rig: Rig) -> None:
    request = rig.request({3: LOW._replace(drive=Drive.OPEN_DRAIN)})
    assert rig.level(3) == 0
    assert rig.line_info(3).settings.drive is Drive.OPEN_DRAIN
    assert rig.line_info(3).direction is Direction.OUTPUT
    request.set(1, 1)
    assert rig.line_info(3).direction is Direction.OUTPUT


def test_an_open_drain_output_that_is_not_driven_follows_the_next_pull(rig: Rig) -> None:
    request = rig.request({3: LOW._replace(drive=Drive.OPEN_DRAIN)})
    rig.pull(3, 1)
    assert rig.level(3) == 0
    request.set(1, 1)
    assert request.get(1) == 0
    rig.pull(3, 1)
    assert request.get(1) == 1
    rig.pull(3, 0)
    assert request.get(1) == 0
    request.set(1, 0)
    rig.pull(3, 1)
    assert request.get(1) == 0


@pytest.mark.lines_are_given_back
def test_an_open_drain_output_released_while_high_is_an_input_to_the_next_holder(rig: Rig) -> None:
    rig.request({3: HIGH._replace(drive=Drive.OPEN_DRAIN)}).release()
    rig.request({3: AS_IS})
    assert rig.line_info(3).direction is Direction.INPUT


def test_an_open_source_output_drives_high_only(rig: Rig) -> None:
    request = rig.request({3: HIGH._replace(drive=Drive.OPEN_SOURCE)})
    assert rig.level(3) == 1
    request.set(1, 0)
    assert rig.line_info(3).direction is Direction.OUTPUT


def test_reconfigure_turns_an_input_into_an_output(rig: Rig) -> None:
    request = rig.request({4: INPUT, 5: INPUT})
    request.reconfigure({4: INPUT, 5: HIGH})
    assert rig.line_info(5).direction is Direction.OUTPUT
    assert rig.level(5) == 1
    request.set(0b10, 0)
    assert rig.level(5) == 0


def test_reconfigure_turns_an_output_into_an_input(rig: Rig) -> None:
    request = rig.request({4: HIGH})
    request.reconfigure({4: INPUT})
    rig.pull(4, 1)
    assert request.get(1) == 1
    rig.pull(4, 0)
    assert request.get(1) == 0
    with refused(errno.EPERM):
        request.set(1, 1)


def test_an_output_made_an_input_keeps_its_level_until_it_is_pulled(rig: Rig) -> None:
    request = rig.request({4: HIGH, 5: HIGH})
    request.reconfigure({4: INPUT, 5: INPUT._replace(bias=Bias.PULL_DOWN)})
    assert (request.get(0b11), rig.level(4)) == (0b01, 1)
    rig.pull(4, 0)
    assert request.get(1) == 0


def test_reconfigure_as_is_leaves_a_line_alone(rig: Rig) -> None:
    request = rig.request({4: HIGH._replace(active_low=True)})
    request.reconfigure({4: AS_IS})
    assert rig.line_info(4).settings.active_low
    assert rig.level(4) == 0


def test_reconfigure_can_change_polarity(rig: Rig) -> None:
    request = rig.request({4: INPUT})
    request.reconfigure({4: INPUT._replace(active_low=True)})
    assert request.get(1) == 1
