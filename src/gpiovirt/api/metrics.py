# SPDX-License-Identifier: MIT
"""Metrics of a daemon's chips, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gpiovirt.core.text import printable
from gpiovirt.protocols.control.answers import ChipDetails, DaemonState

__all__ = ["MEDIA_TYPE", "exposition"]

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STATES = ("live", "starting", "waiting")
_SERIES_MAX = 1000
"""Of lines, and of rules, of all chips: each is a series that a Prometheus has to keep"""


class _Told(Collector):
    def __init__(self, state: DaemonState, chips: Sequence[ChipDetails]) -> None:
        self._state = state
        self._chips = chips

    def collect(self) -> Iterable[Metric]:
        info = InfoMetricFamily("gpiovirt", "The daemon")
        info.add_metric([], {"version": self._state.version})
        watchers = GaugeMetricFamily("gpiovirt_watchers", "Connections that wait for events")
        watchers.add_metric([], self._state.watchers)
        chips = GaugeMetricFamily("gpiovirt_chips", "Virtual chips, by state", labels=["state"])
        states = Counter[str](told.chip.state for told in self._chips)
        for state in _STATES:
            chips.add_metric([state], states[state])
        lines = GaugeMetricFamily("gpiovirt_lines", "Lines of a chip", labels=["chip"])
        held = GaugeMetricFamily("gpiovirt_lines_held", "Lines that somebody holds", labels=["chip"])
        gone = GaugeMetricFamily("gpiovirt_lines_gone", "Lines that are not there now", labels=["chip"])
        consumers = GaugeMetricFamily("gpiovirt_consumers", "Who has the chip open", labels=["chip"])
        restarts = CounterMetricFamily(
            "gpiovirt_worker_restarts", "How often its process was started anew", labels=["chip"]
        )
        for told in self._chips:
            label = [told.chip.name]
            there = sum(line.there for line in told.lines)
            lines.add_metric(label, told.chip.num_lines)
            held.add_metric(label, sum(line.used for line in told.lines))
            gone.add_metric(label, told.chip.num_lines - there)
            consumers.add_metric(label, len(told.consumers) + (told.vm_consumer is not None))
            restarts.add_metric(label, told.chip.restarts)
        families = (info, watchers, chips, lines, held, gone, consumers, restarts)
        return *families, *self._of_lines(), *self._of_rules()

    def _of_lines(self) -> Iterable[Metric]:
        labels = ["chip", "offset", "line"]
        held = GaugeMetricFamily("gpiovirt_line_held", "Somebody holds the line", labels=labels)
        forced = GaugeMetricFamily("gpiovirt_line_forced", "An operator forces the line", labels=labels)
        untold = GaugeMetricFamily(
            "gpiovirt_untold_series", "Lines, or rules, that have no series of their own"
        )
        every = [(told.chip.name, line) for told in self._chips for line in told.lines]
        for chip, line in every[:_SERIES_MAX]:
            label = [chip, str(line.offset), printable(line.name)]
            held.add_metric(label, line.used)
            forced.add_metric(label, bool(line.forced))
        rules = sum(len(told.rule_states) for told in self._chips)
        untold.add_metric([], max(len(every) - _SERIES_MAX, 0) + max(rules - _SERIES_MAX, 0))
        return held, forced, untold

    def _of_rules(self) -> Iterable[Metric]:
        labels = ["chip", "rule"]
        refused = CounterMetricFamily("gpiovirt_rule_refused", "What a rule has refused", labels=labels)
        trips = CounterMetricFamily("gpiovirt_rule_trips", "How often it has made lines safe", labels=labels)
        tripped = GaugeMetricFamily("gpiovirt_rule_tripped", "It keeps lines safe now", labels=labels)
        every = {
            (told.chip.name, printable(state.text)): state
            for told in self._chips
            for state in told.rule_states
        }
        for label, state in islice(every.items(), _SERIES_MAX):
            refused.add_metric(label, state.refused)
            trips.add_metric(label, state.trips)
            tripped.add_metric(label, state.tripped)
        return refused, trips, tripped


def exposition(state: DaemonState, chips: Sequence[ChipDetails]) -> bytes:
    """Of the daemon, and of each chip."""
    registry = CollectorRegistry()
    registry.register(_Told(state, chips))
    return generate_latest(registry)
