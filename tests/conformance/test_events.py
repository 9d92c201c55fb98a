# SPDX-License-Identifier: MIT
"""Kernel behaviour of edge events, debounce and info events."""

from __future__ import annotations

import errno
import time

import pytest

from gpiovirt.core.line import Bias, Clock, Direction, Edge, InfoEventType, LineSettings
from tests.conformance.rigs import Rig
from tests.conformance.test_lines import refused

INPUT = LineSettings(Direction.INPUT)
BOTH = LineSettings(Direction.INPUT, Edge.BOTH)


def toggle(rig: Rig, offset: int, times: int) -> None:
    for i in range(times):
        rig.pull(offset, (i + 1) % 2)


def test_edges_are_told_with_offset_and_kind(rig: Rig) -> None:
    request = rig.request({2: BOTH, 5: BOTH})
    rig.pull(5, 1)
    rig.pull(2, 1)
    rig.pull(5, 0)
    assert [(e.offset, e.rising) for e in request.events(3)] == [(5, True), (2, True), (5, False)]
    assert request.no_event()


def test_sequence_numbers_count_per_request_and_per_line(rig: Rig) -> None:
    request = rig.request({2: BOTH, 5: BOTH})
    for offset in (5, 2, 5):
        rig.pull(offset, 1)
        rig.pull(offset, 0)
    events = request.events(6)
    assert [e.seqno for e in events] == [1, 2, 3, 4, 5, 6]
    assert [e.line_seqno for e in events] == [1, 2, 1, 2, 3, 4]


def test_a_new_request_counts_from_one(rig: Rig) -> None:
    request = rig.request({2: BOTH})
    rig.pull(2, 1)
    request.events(1)
    request.release()
    rig.pull(2, 0)
    request = rig.request({2: BOTH})
    rig.pull(2, 1)
    assert [(e.seqno, e.line_seqno) for e in request.events(1)] == [(1, 1)]


@pytest.mark.parametrize(("edge", "expected"), [(Edge.RISING, [True, True]), (Edge.FALLING, [False, False])])
def test_only_the_asked_edge_is_told(rig: Rig, edge: Edge, expected: list[bool]) -> None:
    request = rig.request({0: INPUT._replace(edge=edge)})
    toggle(rig, 0, 4)
    assert [e.rising for e in request.events(2)] == expected
    assert request.no_event()


def test_active_low_swaps_edges(rig: Rig) -> None:
    request = rig.request({0: INPUT._replace(edge=Edge.RISING, active_low=True)})
    toggle(rig, 0, 2)
    assert [e.rising for e in request.events(1)] == [True]
    assert request.get(1) == 1
    assert request.no_event()


def test_without_edge_detection_there_are_no_events(rig: Rig) -> None:
    request = rig.request({0: INPUT})
    toggle(rig, 0, 2)
    assert request.no_event()


def test_a_pull_that_changes_nothing_is_no_edge(rig: Rig) -> None:
    request = rig.request({0: BOTH})
    rig.pull(0, 0)
    assert request.no_event()


def test_timestamps_never_go_back(rig: Rig) -> None:
    request = rig.request({0: BOTH, 1: BOTH})
    for _ in range(3):
        toggle(rig, 0, 2)
        toggle(rig, 1, 2)
    stamps = [e.timestamp_ns for e in request.events(12)]
    assert stamps == sorted(stamps)


def test_the_realtime_clock_can_be_had(rig: Rig) -> None:
    request = rig.request({0: BOTH._replace(event_clock=Clock.REALTIME)})
    before = time.time_ns()
    rig.pull(0, 1)
    (event,) = request.events(1)
    assert before - 10_000_000 <= event.timestamp_ns <= time.time_ns() + 10_000_000
    assert rig.line_info(0).settings.event_clock is Clock.REALTIME


def test_a_full_buffer_drops_the_oldest(rig: Rig) -> None:
    request = rig.request({0: BOTH}, buffer_size=4)
    toggle(rig, 0, 6)
    rig.wait(0.05)
    assert [e.seqno for e in request.events(4)] == [3, 4, 5, 6]
    assert request.no_event()


def test_the_buffer_of_a_line_is_sixteen_events(rig: Rig) -> None:
    request = rig.request({0: BOTH})
    toggle(rig, 0, 20)
    rig.wait(0.05)
    assert [e.seqno for e in request.events(16)] == list(range(5, 21))


def test_edge_detection_can_be_added_and_removed(rig: Rig) -> None:
    request = rig.request({0: INPUT})
    request.reconfigure({0: BOTH})
    rig.pull(0, 1)
    assert request.events(1)[0].rising
    request.reconfigure({0: INPUT})
    rig.pull(0, 0)
    assert request.no_event()


def test_sequence_numbers_survive_reconfiguration(rig: Rig) -> None:
    request = rig.request({0: BOTH})
    rig.pull(0, 1)
    request.reconfigure({0: BOTH._replace(edge=Edge.FALLING)})
    rig.pull(0, 0)
    assert [e.seqno for e in request.events(2)] == [1, 2]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (BOTH, BOTH._replace(bias=Bias.PULL_UP), [True]),
        (BOTH, BOTH._replace(bias=Bias.PULL_UP, active_low=True), [False]),
        (BOTH, INPUT._replace(bias=Bias.PULL_UP), [True]),
        (BOTH._replace(edge=Edge.FALLING), BOTH._replace(bias=Bias.PULL_UP), []),
        (BOTH._replace(edge=Edge.FALLING, active_low=True), BOTH._replace(bias=Bias.PULL_UP), [False]),
        (INPUT, BOTH._replace(bias=Bias.PULL_UP), []),
        (BOTH._replace(debounce_period_us=10_000), BOTH._replace(bias=Bias.PULL_UP), []),
    ],
)
def test_a_bias_that_moves_a_line_is_an_edge_to_those_who_watched_it_before(
    rig: Rig, before: LineSettings, after: LineSettings, expected: list[bool]
) -> None:
    request = rig.request({0: before})
    request.reconfigure({0: after})
    assert [e.rising for e in request.events(len(expected))] == expected
    rig.wait(0.05)
    assert request.no_event()


def test_a_debounced_line_ignores_a_glitch(rig: Rig) -> None:
    request = rig.request({0: BOTH._replace(debounce_period_us=60_000)})
    toggle(rig, 0, 2)
    assert request.get(1) == 0
    rig.wait(0.2)
    assert request.no_event()


def test_a_debounced_line_follows_a_stable_level(rig: Rig) -> None:
    request = rig.request({0: BOTH._replace(debounce_period_us=60_000)})
    toggle(rig, 0, 3)
    assert request.get(1) == 0
    rig.wait(0.2)
    assert [(e.rising, e.seqno) for e in request.events(1)] == [(True, 1)]
    assert request.get(1) == 1


def test_debounce_without_edges_filters_the_value(rig: Rig) -> None:
    request = rig.request({0: INPUT._replace(debounce_period_us=60_000)})
    rig.pull(0, 1)
    assert request.get(1) == 0
    rig.wait(0.2)
    assert request.get(1) == 1
    assert request.no_event()


def test_a_watch_tells_request_config_and_release(rig: Rig) -> None:
    read = rig.watch(3)
    request = rig.request({3: INPUT}, consumer="watched")
    request.reconfigure({3: LineSettings(Direction.OUTPUT)})
    request.release()
    events = read(3)
    assert [e.type for e in events] == [
        InfoEventType.REQUESTED,
        InfoEventType.CONFIG,
        InfoEventType.RELEASED,
    ]
    assert [e.info.consumer for e in events] == ["watched", "watched", ""]
    assert [e.info.used for e in events] == [True, True, False]
    assert [e.info.direction for e in events] == [Direction.INPUT, Direction.OUTPUT, Direction.OUTPUT]


def test_a_watch_is_for_its_lines_only(rig: Rig) -> None:
    read = rig.watch(3)
    rig.request({2: INPUT}).release()
    rig.request({3: INPUT, 4: INPUT})
    (event,) = read(1)
    assert (event.info.offset, event.type) == (3, InfoEventType.REQUESTED)


def test_a_refused_request_undoes_what_it_told(rig: Rig) -> None:
    rig.request({4: INPUT})
    read = rig.watch(3)
    with refused(errno.EBUSY):
        rig.request({3: INPUT, 4: INPUT})
    assert [e.type for e in read(2)] == [InfoEventType.REQUESTED, InfoEventType.RELEASED]
