# SPDX-License-Identifier: MIT
"""Metrics of a daemon's chips, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gpiovirt.protocols.control.answers import ChipDetails, DaemonState

__all__ = ["MEDIA_TYPE", "exposition"]

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STATES = ("live", "starting", "waiting")


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
        return info, watchers, chips, lines, held, gone, consumers, restarts


def exposition(state: DaemonState, chips: Sequence[ChipDetails]) -> bytes:
    """Of the daemon, and of each chip."""
    registry = CollectorRegistry()
    registry.register(_Told(state, chips))
    return generate_latest(registry)
