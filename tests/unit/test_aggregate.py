# SPDX-License-Identifier: MIT
"""What is special of aggregates beyond the conformance suite: order, batching, holding, nesting."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gpiovirt.core.aggregate import Aggregate
from gpiovirt.core.chip import EdgeSink, LineRequest, PresenceSink
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Clock, Direction, Edge, EdgeEvent, LineSettings
from gpiovirt.errors import LineBusyError
from gpiovirt.testing import FakeClock, SimChip, Simulator
from tests.holders import program

INPUT = LineSettings(Direction.INPUT)
OUTPUT = LineSettings(Direction.OUTPUT)


class Counting:
    """A chip that counts the calls its requests get."""

    def __init__(self, chip: SimChip) -> None:
        self.info = chip.info
        self.line_info = chip.line_info
        self.is_output = chip.is_output
        self.tell_once = chip.tell_once
        self.watch = chip.watch
        self._chip = chip
        self.calls: list[tuple[str, int]] = []

    def request(
        self,
        offsets: Sequence[int],
        settings: Sequence[LineSettings],
        holder: Holder,
        on_edge: EdgeSink | None = None,
        on_presence: PresenceSink | None = None,
    ) -> LineRequest:
        request: LineRequest = self._chip.request(offsets, settings, holder, on_edge, on_presence)
        calls = self.calls

        class Counted:
            offsets = request.offsets
            reconfigure = staticmethod(request.reconfigure)
            relinquish = staticmethod(request.relinquish)
            release = staticmethod(request.release)

            def get_values(self, mask: int) -> int:
                calls.append(("get", mask))
                return request.get_values(mask)

            def set_values(self, mask: int, bits: int) -> None:
                calls.append(("set", mask))
                request.set_values(mask, bits)

        return Counted()


def test_source_lines_are_held_in_the_aggregates_name_and_given_back() -> None:
    sim = Simulator(FakeClock())
    chip = sim.add_chip("a", ["X", "Y"])
    aggregate = Aggregate("plc", [(chip, 1)], FakeClock())
    assert chip.line_info(1).consumer == "gpiovirt:plc"
    assert chip.line_info(1).holder == Holder("gpiovirt:plc", HolderKind.CHIP, 0, 0)
    assert not chip.line_info(0).used
    with pytest.raises(LineBusyError, match=r'line a:1 \(Y\) is held by "gpiovirt:plc"'):
        chip.request([1], [INPUT], program("other"))
    aggregate.close()
    assert not chip.line_info(1).used


def test_a_failed_aggregate_holds_nothing() -> None:
    sim = Simulator(FakeClock())
    one, two = sim.add_chip("one", [""]), sim.add_chip("two", [""])
    two.request([0], [INPUT], program("somebody"))
    with pytest.raises(LineBusyError):
        Aggregate("plc", [(one, 0), (two, 0)], FakeClock())
    assert not one.line_info(0).used


def test_reserving_a_line_leaves_its_direction_and_level() -> None:
    sim = Simulator(FakeClock())
    chip = sim.add_chip("a", [""])
    sim.pull("a", 0, 1)
    aggregate = Aggregate("plc", [(chip, 0)], FakeClock())
    assert sim.level("a", 0) == 1
    assert aggregate.line_info(0).direction is Direction.INPUT


@pytest.mark.parametrize("order", [list(range(8)), list(range(7, -1, -1)), [3, 1, 4, 0, 5, 2, 6, 7]])
def test_values_are_batched_per_source_chip_in_any_order(order: list[int]) -> None:
    sim = Simulator(FakeClock())
    sources = [Counting(sim.add_chip(label, [""] * 4)) for label in "ab"]
    aggregate = Aggregate("plc", [(sources[i // 4], i % 4) for i in order], FakeClock())
    request = aggregate.request(range(8), [OUTPUT] * 8, program("test"))
    request.set_values(0b11111111, 0b10110010)
    levels = [sim.level("ab"[i // 4], i % 4) for i in order]
    assert levels == [0, 1, 0, 0, 1, 1, 0, 1]
    assert request.get_values(0b11111111) == 0b10110010
    for source in sources:
        assert [kind for kind, _ in source.calls] == ["set", "get"]


def test_a_mask_touches_only_the_sources_it_needs() -> None:
    sim = Simulator(FakeClock())
    sources = [Counting(sim.add_chip(label, [""] * 2)) for label in "ab"]
    aggregate = Aggregate("plc", [(sources[0], 0), (sources[1], 0)], FakeClock())
    request = aggregate.request([0, 1], [OUTPUT] * 2, program("test"))
    request.set_values(0b10, 0b10)
    assert sources[0].calls == []
    assert sources[1].calls == [("set", 1)]


def test_a_thousand_lines_of_fifty_chips() -> None:
    sim = Simulator(FakeClock())
    chips = [sim.add_chip(f"c{i}", [""] * 20) for i in range(50)]
    lines = [(chips[i % 50], i // 50) for i in range(1000)]
    aggregate = Aggregate("big", lines, FakeClock())
    assert aggregate.info.num_lines == 1000
    request = aggregate.request(range(1000), [OUTPUT] * 1000, program("test"))
    pattern = int("10110" * 200, 2)
    request.set_values((1 << 1000) - 1, pattern)
    assert request.get_values((1 << 1000) - 1) == pattern
    assert [sim.level(f"c{i % 50}", i // 50) for i in range(1000)] == [pattern >> i & 1 for i in range(1000)]


def test_edges_pass_through_nested_aggregates_with_the_sources_timestamp() -> None:
    clock = FakeClock(5_000)
    sim = Simulator(clock)
    chip = sim.add_chip("a", [""] * 3)
    inner = Aggregate("inner", [(chip, 2), (chip, 0)], lambda _: 0)
    outer = Aggregate("outer", [(inner, 1), (inner, 0)], lambda _: 0)
    seen: list[EdgeEvent] = []
    outer.request([1], [INPUT._replace(edge=Edge.BOTH, active_low=True)], program("test"), seen.append)
    sim.pull("a", 2, 1)
    assert seen == [EdgeEvent(1, False, 5_000, 1, 1)]


def test_releasing_in_an_aggregate_lets_the_source_line_go() -> None:
    sim = Simulator(FakeClock())
    chip = sim.add_chip("a", [""])
    aggregate = Aggregate("plc", [(chip, 0)], FakeClock())
    request = aggregate.request([0], [OUTPUT._replace(output_value=1)], program("test"))
    assert sim.level("a", 0) == 1
    request.release()
    assert sim.level("a", 0) == 0
    assert chip.line_info(0).consumer == "gpiovirt:plc"


def test_timestamps_are_of_the_clock_that_was_asked_for() -> None:
    clock = FakeClock(7)
    sim = Simulator(clock)
    chip = sim.add_chip("a", [""])
    aggregate = Aggregate("plc", [(chip, 0)], clock)
    seen: list[EdgeEvent] = []
    aggregate.request(
        [0], [INPUT._replace(edge=Edge.BOTH, event_clock=Clock.REALTIME)], program("test"), seen.append
    )
    sim.pull("a", 0, 1)
    assert seen[0].timestamp_ns == 7 + FakeClock.EPOCH_NS
