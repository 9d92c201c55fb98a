# SPDX-License-Identifier: MIT
"""Pull the lines of a simulator in another process at the times of a recording."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gpiovirt.control.simulator import SimClient
from gpiovirt.errors import UsageError
from gpiovirt.waveform.live import steps_of
from gpiovirt.waveform.vcd import Recording, Signal, signal_names

__all__ = ["Driven", "drive", "match", "named"]

Line = tuple[str, int]
"""(chip, offset)"""


class Driven(NamedTuple):
    """What was done; `missing` are the names of signals that have no line."""

    changes: int
    end_ns: int
    late_ns: int
    missing: list[str]


def named(label: str, names: Iterable[str]) -> dict[tuple[str, str], Line]:
    """The lines of a chip by (chip, name in recordings)."""
    return {(label, name): (label, offset) for offset, name in enumerate(signal_names(list(names)))}


def match(
    recording: Recording, lines: Mapping[tuple[str, str], Line]
) -> tuple[dict[Signal, Line], list[str]]:
    """The line of each signal, by chip and name or by a unique name, and the names of those without one."""
    by_name: dict[str, list[Line]] = {}
    for (_, name), line in lines.items():
        by_name.setdefault(name, []).append(line)
    found: dict[Signal, Line] = {}
    for each in recording.levels:
        if (each.chip, each.name) in lines:
            found[each] = lines[each.chip, each.name]
        elif len(by_name.get(each.name, ())) == 1:
            (found[each],) = by_name[each.name]
    if not found:
        there = ", ".join(sorted(name for _, name in lines)[:20])
        raise UsageError(f"no signal of the recording has the name of a line; the lines are: {there}")
    return found, [each.name for each in recording.levels if each not in found]


def drive(client: SimClient, recording: Recording, label: str | None = None) -> Driven:
    """Pull lines of a running simulator, or of one of its chips, until the recording is over."""
    names: dict[str, list[str]] = {}
    for line in client.lines():
        names.setdefault(line["chip"], []).append(line["name"])
    if label is not None and label not in names:
        raise UsageError(f"the simulator has no chip {label!r}; its chips are: {', '.join(names)}")
    lines: dict[tuple[str, str], Line] = {}
    for chip in names if label is None else [label]:
        lines.update(named(chip, names[chip]))
    matched, missing = match(recording, lines)
    steps = steps_of(recording, matched)
    began_ns = time.monotonic_ns()
    late_ns = 0
    for time_ns, (chip, offset), level in steps:
        _sleep_until(began_ns + time_ns)
        client.pull(f"{chip}:{offset}", level)
        late_ns = max(late_ns, time.monotonic_ns() - began_ns - time_ns)
    _sleep_until(began_ns + recording.end_ns)
    return Driven(len(steps), recording.end_ns, late_ns, missing)


def _sleep_until(then_ns: int) -> None:
    early_ns = then_ns - time.monotonic_ns()
    if early_ns > 0:
        time.sleep(early_ns / 1e9)
