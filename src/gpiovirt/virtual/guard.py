# SPDX-License-Identifier: MIT
"""From the rules that a chip's definition has to those that core.guards applies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gpiovirt.core.guards.direction import KeepsDirection
from gpiovirt.core.guards.dwell import Dwells
from gpiovirt.core.guards.never_both import NeverBoth
from gpiovirt.core.guards.only_while import OnlyWhile
from gpiovirt.core.guards.rate import RateLimit
from gpiovirt.core.guards.rule import Rule
from gpiovirt.core.guards.watchdog import Watchdog
from gpiovirt.core.line import Direction, LineOptions
from gpiovirt.virtual.rules import Exclusion, Permissive, Rules, Timeout

__all__ = ["guard"]


def guard(rules: Rules, options: Sequence[LineOptions], names: Sequence[str]) -> list[Rule]:
    """All that holds for a chip of such lines: what their options say, and `rules`, settled."""
    names = [name or f"line {offset}" for offset, name in enumerate(names)]
    interlocks = [_interlock(interlock, options, names) for interlock in rules.interlocks]
    sensed = frozenset().union(*(rule.senses for rule in interlocks))
    watchdog = rules.watchdog
    if watchdog is not None and options[int(watchdog.line)].direction is Direction.INPUT:
        sensed |= {int(watchdog.line)}
    found: list[Rule] = []
    for offset, (line, name) in enumerate(zip(options, names, strict=True)):
        if offset in sensed or line.direction is not Direction.AS_IS:
            found.append(KeepsDirection(offset, name, line.direction is Direction.OUTPUT))
        if line.min_on_us or line.min_off_us:
            found.append(Dwells(offset, name, line.min_on_us, line.min_off_us))
        if line.max_rate_hz:
            found.append(RateLimit(offset, name, line.max_rate_hz))
    found += interlocks
    if watchdog is not None:
        outputs = [
            offset
            for offset, line in enumerate(options)
            if line.direction is not Direction.INPUT and offset not in sensed
        ]
        found.append(_watchdog(watchdog, outputs, names, int(watchdog.line) in sensed))
    return found


def _interlock(rule: Exclusion | Permissive, options: Sequence[LineOptions], names: Sequence[str]) -> Rule:
    if isinstance(rule, Exclusion):
        dead_time_us = None if rule.dead_time_ms is None else int(rule.dead_time_ms * 1000)
        return NeverBoth({int(line): names[int(line)] for line in rule.lines}, dead_time_us)
    conditions = {int(line): level for line, level in rule.conditions.items()}
    return OnlyWhile(int(rule.line), conditions, rule.inputs(options), dict(enumerate(names)))


def _watchdog(rule: Timeout, outputs: Iterable[int], names: Sequence[str], is_input: bool) -> Rule:
    offset = int(rule.line)
    by_consumer = rule.rearm == "consumer"
    return Watchdog(offset, names[offset], outputs, int(rule.timeout_ms * 1000), by_consumer, is_input)
