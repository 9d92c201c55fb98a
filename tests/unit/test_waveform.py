# SPDX-License-Identifier: MIT
"""Recordings: what is written is what is read, what is not known is x, and what differs is said."""

from __future__ import annotations

import io
import time
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpiovirt.core.line import LineSettings
from gpiovirt.core.record import RingReader, RingWriter, What, ring_size
from gpiovirt.errors import HostError, UsageError
from gpiovirt.host.clock import now_ns
from gpiovirt.host.reactor import Reactor
from gpiovirt.testing import FakeClock, Simulator
from gpiovirt.waveform.compare import expected_of, first_difference
from gpiovirt.waveform.levels import LineLevels
from gpiovirt.waveform.live import Beginning, LiveRecording, Stimulus, steps_of
from gpiovirt.waveform.text import draw
from gpiovirt.waveform.vcd import Changes, Recording, Signal, VcdWriter, read_vcd, signal_names
from tests.holders import program

LAMP, DOOR = Signal("panel", "LAMP"), Signal("panel", "DOOR")
MS = 1_000_000


def writer_of(file: io.StringIO, *signals: Signal) -> VcdWriter:
    return VcdWriter(file, signals, [0] * len(signals), [False] * len(signals), datetime(2026, 1, 1))


def read_text(folder: Path, text: str) -> Recording:
    path = folder / "x.vcd"
    path.write_text(text)
    return read_vcd(str(path))


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    file = io.StringIO()
    writer = writer_of(file, LAMP, DOOR)
    writer.level(0, 1 * MS, 1)
    writer.output(0, 1 * MS, True)
    writer.level(1, 2 * MS, None)
    writer.level(0, 3 * MS, 0)
    writer.close(5 * MS)
    read = read_text(tmp_path, file.getvalue())
    assert read.levels == {LAMP: [(0, 0), (MS, 1), (3 * MS, 0)], DOOR: [(0, 0), (2 * MS, None)]}
    assert read.outputs == {LAMP: [(0, 0), (MS, 1)], DOOR: [(0, 0)]}
    assert read.end_ns == 5 * MS


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 10**10), st.integers(0, 1), st.sampled_from([0, 1, None])), max_size=30)
)
def test_whatever_is_written_time_never_goes_back(changes: list[tuple[int, int, int | None]]) -> None:
    file = io.StringIO()
    writer = writer_of(file, LAMP, DOOR)
    for time_ns, index, level in changes:
        writer.level(index, time_ns, level)
    writer.close(0)
    times = [int(line[1:]) for line in file.getvalue().splitlines() if line.startswith("#")]
    assert times == sorted(times)


def test_lost_changes_are_seen_as_x_for_a_microsecond_at_least(tmp_path: Path) -> None:
    file = io.StringIO()
    writer = writer_of(file, LAMP)
    writer.lost(0, MS)
    writer.level(0, MS, 1)
    writer.close(MS)
    assert read_text(tmp_path, file.getvalue()).levels[LAMP] == [(0, 0), (MS, None), (MS + 1000, 1)]


def test_names_are_made_different_and_without_spaces() -> None:
    assert signal_names(["A", "", "A", "MOTOR FWD", "x\n"]) == ["A", "line1", "A_2", "MOTOR_FWD", "x_"]


@pytest.mark.parametrize(
    "text",
    ["", "no vcd", "$var wire 1 ! A $end", "$timescale 1 us $end\n$enddefinitions $end\n#0\n", "\xff\xfe#"],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError):
        read_text(tmp_path, text)


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(HostError):
        read_vcd("/nonexistent.vcd")


@pytest.mark.parametrize("cut", range(0, 300, 7))
def test_a_cut_file_is_a_recording_or_refused(tmp_path: Path, cut: int) -> None:
    file = io.StringIO()
    writer = writer_of(file, LAMP, DOOR)
    for number in range(10):
        writer.level(0, number * MS, number & 1)
    writer.close(20 * MS)
    try:
        read = read_text(tmp_path, file.getvalue()[:cut])
    except UsageError:
        return
    assert set(read.levels) <= {LAMP, DOOR}


def test_the_timescale_of_others_counts(tmp_path: Path) -> None:
    text = (
        "$timescale 10 ns $end $scope module logic $end $var wire 1 a D0 $end $upscope $end "
        "$enddefinitions $end\n#0\n0a\n#5\n1a\n#9\n"
    )
    read = read_text(tmp_path, text)
    assert read.levels == {Signal("logic", "D0"): [(0, 0), (50, 1)]}
    assert read.outputs == {}
    assert read.end_ns == 90
    assert read.scaled(2).levels == {Signal("logic", "D0"): [(0, 0), (25, 1)]}


class TestLevels:
    """From the record to levels."""

    def read(self, folder: Path, *entries: tuple[What, int, int]) -> Recording:
        levels = LineLevels(0, 1)
        file = io.StringIO()
        writer = VcdWriter(file, [LAMP], [None], [False], datetime(2026, 1, 1))
        for what, value, time_ms in entries:
            levels.take(what, 0, value, time_ms * MS)
        levels.write_to(writer)
        writer.close(100 * MS)
        return read_text(folder, file.getvalue())

    def test_an_output_is_known_until_it_is_released_and_stays(self, tmp_path: Path) -> None:
        read = self.read(
            tmp_path, (What.CONFIGURED, 0b10, 1), (What.SET, 1, 2), (What.SET, 0, 3), (What.RELEASED, 0, 4)
        )
        assert read.levels[LAMP] == [(0, None), (MS, 0), (2 * MS, 1), (3 * MS, 0)]
        assert read.outputs[LAMP] == [(0, 0), (MS, 1), (4 * MS, 0)]

    def test_an_input_is_known_from_its_first_edge_on(self, tmp_path: Path) -> None:
        read = self.read(tmp_path, (What.CONFIGURED, 0b1100, 1), (What.EDGE, 1, 2), (What.RELEASED, 0, 3))
        assert read.levels[LAMP] == [(0, None), (2 * MS, 1), (3 * MS, None)]

    def test_edges_that_were_missed_and_sources_that_are_gone_are_x(self, tmp_path: Path) -> None:
        read = self.read(
            tmp_path,
            (What.EDGE, 1, 1),
            (What.MISSED, 0, 2),
            (What.EDGE, 1, 2),
            (What.GONE, 0, 3),
        )
        assert read.levels[LAMP] == [(0, None), (MS, 1), (2 * MS, None), (2 * MS + 1000, 1), (3 * MS, None)]


def differs(expected: Changes, seen: Changes, tolerance_ms: float = 1) -> str:
    found = first_difference({LAMP: expected}, {LAMP: seen}, int(tolerance_ms * MS))
    return str(found) if found else ""


class TestCompare:
    """What is the same, and what is not."""

    good: Changes = [(0, 0), (10 * MS, 1), (20 * MS, 0)]

    def test_the_same_is_the_same(self) -> None:
        assert differs(self.good, self.good, 0) == ""

    def test_within_the_tolerance_it_is_the_same(self) -> None:
        assert differs(self.good, [(0, 0), (10 * MS + 900_000, 1), (19 * MS + 1, 0)]) == ""

    @pytest.mark.parametrize(
        ("seen", "what"),
        [
            (
                [(0, 0), (12 * MS, 1), (20 * MS, 0)],
                "panel.LAMP at 0.010000 s: expected 1, which came 2",
            ),
            ([(0, 0)], "panel.LAMP at 0.010000 s: expected 1, it was 0"),
            ([(0, 0), (8 * MS, 1), (20 * MS, 0)], "panel.LAMP at 0.008000 s: became 1, unexpectedly"),
            ([(0, 1), (20 * MS, 0)], "panel.LAMP at 0.000000 s: expected 0, which came 20.000 ms"),
            ([*good, (50 * MS, 1)], "panel.LAMP at 0.050000 s: became 1, unexpectedly"),
            ([(0, 0), (10 * MS, None), (20 * MS, 0)], "panel.LAMP at 0.010000 s: expected 1, it was x"),
        ],
    )
    def test_the_first_difference_is_said(self, seen: Changes, what: str) -> None:
        assert differs(self.good, seen).startswith(what)

    def test_a_signal_that_is_not_there_differs(self) -> None:
        found = first_difference({LAMP: self.good}, {}, MS)
        assert found is not None
        assert found.what == "there is no such signal"

    def test_only_outputs_are_expected_while_they_are(self) -> None:
        recording = Recording(
            {LAMP: [(0, 0), (5 * MS, 1), (15 * MS, 0)], DOOR: [(0, 1)]},
            {LAMP: [(0, 0), (10 * MS, 1), (20 * MS, 0)], DOOR: [(0, 0)]},
            30 * MS,
        )
        assert expected_of(recording) == {LAMP: [(0, None), (10 * MS, 1), (15 * MS, 0), (20 * MS, None)]}
        wanted = expected_of(recording)[LAMP]
        assert differs(wanted, [(0, 1), (15 * MS, 0), (25 * MS, 1)]) == ""
        assert differs(wanted, [(0, 1), (15 * MS, 0), (17 * MS, 1)]) != ""

    def test_of_others_recordings_all_is_expected(self) -> None:
        assert expected_of(Recording({DOOR: [(0, 1)]}, {}, MS)) == {DOOR: [(0, 1)]}

    @settings(deadline=None)
    @given(st.lists(st.integers(1, 50), max_size=10), st.integers(-20, 20))
    def test_a_shift_by_more_than_the_tolerance_differs_and_by_less_does_not(
        self, gaps: list[int], shift: int
    ) -> None:
        times, now = [], 0
        for gap in gaps:
            now += 100 + gap  # farther apart than shift and tolerance
            times.append(now)
        expected: Changes = [(0, 0), *((t * MS, i & 1 ^ 1) for i, t in enumerate(times))]
        seen: Changes = [(0, 0), *(((t + shift) * MS, i & 1 ^ 1) for i, t in enumerate(times))]
        assert (differs(expected, seen, 10) == "") == (abs(shift) <= 10 or not times)


def test_only_what_was_no_output_is_driven() -> None:
    recording = Recording(
        {LAMP: [(0, 0), (5, 1)], DOOR: [(0, 0), (7, 1), (9, None)]},
        {LAMP: [(0, 1)], DOOR: [(0, 0)]},
        10,
    )
    assert steps_of(recording, {LAMP: ("panel", 1), DOOR: ("panel", 0)}) == [
        (0, ("panel", 0), 0),
        (7, ("panel", 0), 1),
    ]


def test_lines_of_the_kernels_chips_are_recorded_by_what_happens_to_them(tmp_path: Path) -> None:
    memory = memoryview(bytearray(ring_size(1)))
    ring = RingWriter(memory, 1, time.time_ns, time.monotonic_ns, lambda: None)
    simulator, reactor, path = Simulator(now_ns), Reactor(), tmp_path / "x.vcd"
    chip = simulator.add_chip("panel", ["DOOR"])
    recording = LiveRecording(
        path.open("w"), simulator, {"plc": (["LAMP"], RingReader(memory, 1))}, reactor, Beginning([chip])
    )
    chip.request([0], [LineSettings()], program("me"))
    ring.write(0, What.CONFIGURED, 0b10)
    ring.write(0, What.SET, 1)
    simulator.pull("panel", 0, 1)
    recording.close()
    reactor.close()
    read = read_vcd(str(path))
    assert [level for _, level in read.levels[Signal("plc", "LAMP")]][-1] == 1
    assert [level for _, level in read.outputs[Signal("plc", "LAMP")]][-1] == 1
    assert [level for _, level in read.levels[DOOR]] == [0, 1]
    assert read.end_ns < 10**9


def test_lines_are_driven_from_the_first_request_on() -> None:
    clock = FakeClock()
    simulator = Simulator(clock)
    chip = simulator.add_chip("panel", ["DOOR"])
    recording = Recording({DOOR: [(0, 1)]}, {}, 0)
    ended: list[bool] = []
    Stimulus(recording, {DOOR: ("panel", 0)}, simulator, Beginning([chip]), MS, lambda: ended.append(True))
    assert simulator.level("panel", 0) == 1
    assert simulator.deadlines.next_deadline_ns() is None
    chip.request([0], [LineSettings()], program("me"))
    assert simulator.deadlines.next_deadline_ns() is not None


def test_lines_are_drawn_as_text() -> None:
    ms = 1_000_000
    lines: dict[str, Changes] = {
        "DOOR": [(0, 0), (30 * ms, 1)],
        "LAMP": [(0, 1), (40 * ms, 0), (41 * ms, 1), (42 * ms, 0)],
        "dark\x1b[2J": [(50 * ms, 1), (90 * ms, None)],
    }
    assert draw(lines, 0, 100 * ms, width=20).splitlines() == [
        "       DOOR ______/‾‾‾‾‾‾‾‾‾‾‾‾‾",
        "       LAMP ‾‾‾‾‾‾‾‾#___________",
        "dark\\x1b[2J ........../‾‾‾‾‾‾‾..",
        "            -100 ms          now",
    ]


def test_a_drawing_begins_with_what_was_before_it() -> None:
    assert draw({"a": [(0, 0), (10, 1), (95, 0)]}, 50, 100, width=10).splitlines()[0] == "a ‾‾‾‾‾‾‾‾‾\\"
    assert draw({}, 0, 2000).split() == ["-2", "us", "now"]
