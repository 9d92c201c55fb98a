# SPDX-License-Identifier: MIT
"""Whether a recording is what was expected: each level at its time, give or take a tolerance.

A signal is compared where the expected recording says that it is an output and what its level is; where the
recording does not say which signals are outputs, all of them are.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from gpiovirt.waveform.vcd import Changes, Recording, Signal

__all__ = ["Difference", "differences", "expected_of", "first_difference", "level_at"]


class Difference(NamedTuple):
    """What differed at a time."""

    time_ns: int
    signal: Signal
    what: str

    def __str__(self) -> str:
        name = f"{self.signal.chip}.{self.signal.name}".lstrip(".")
        return f"{name} at {self.time_ns / 1e9:.6f} s: {self.what}"


def expected_of(recording: Recording) -> dict[Signal, Changes]:
    """The level that each signal should have; None where any will do."""
    found: dict[Signal, Changes] = {}
    for signal, changes in recording.levels.items():
        if not recording.outputs:
            found[signal] = changes
        elif any(is_output for _, is_output in recording.outputs.get(signal, ())):
            found[signal] = _where(changes, recording.outputs[signal])
    return found


def _where(levels: Changes, outputs: Changes) -> Changes:
    times = sorted({time_ns for time_ns, _ in (*levels, *outputs)})
    made: Changes = []
    for time_ns in times:
        level = level_at(levels, time_ns) if level_at(outputs, time_ns) else None
        if not made or made[-1][1] != level:
            made.append((time_ns, level))
    return made


def level_at(changes: Changes, time_ns: int) -> int | None:
    """The level at that time."""
    place = bisect_right(changes, time_ns, key=lambda change: change[0])
    return changes[place - 1][1] if place else None


def _between(changes: Changes, first_ns: int, last_ns: int) -> set[int | None]:
    """All levels that there are in that time."""
    first = bisect_right(changes, first_ns, key=lambda change: change[0])
    last = bisect_right(changes, last_ns, key=lambda change: change[0])
    return {level for _, level in changes[max(first - 1, 0) : last]} or {None}


def first_difference(
    expected: dict[Signal, Changes], seen: dict[Signal, Changes], tolerance_ns: int
) -> Difference | None:
    """The earliest one; None if there is none. Signals that were expected and not seen differ from 0 on."""
    return next(iter(differences(expected, seen, tolerance_ns)), None)


def differences(
    expected: dict[Signal, Changes], seen: dict[Signal, Changes], tolerance_ns: int
) -> list[Difference]:
    """The earliest one of each signal that has any, in the order of time."""
    found = (
        _of_signal(signal, changes, seen.get(signal), tolerance_ns) for signal, changes in expected.items()
    )
    return sorted((difference for difference in found if difference is not None), key=_time_of)


def _time_of(difference: Difference) -> int:
    return difference.time_ns


def _of_signal(
    signal: Signal, expected: Changes, seen: Changes | None, tolerance_ns: int
) -> Difference | None:
    if seen is None:
        return Difference(0, signal, "there is no such signal")
    found: list[Difference] = []
    for time_ns, level in expected:
        if level is not None and level not in _between(seen, time_ns - tolerance_ns, time_ns + tolerance_ns):
            found.append(
                Difference(time_ns, signal, f"expected {level}, {_seen_later(seen, time_ns, level)}")
            )
            break
    for time_ns, level in seen:
        wanted = _between(expected, time_ns - tolerance_ns, time_ns + tolerance_ns)
        if level not in wanted and None not in wanted:
            found.append(
                Difference(time_ns, signal, f"became {'x' if level is None else level}, unexpectedly")
            )
            break
    return min(found, key=_time_of, default=None)


def _seen_later(seen: Changes, time_ns: int, level: int) -> str:
    for other_ns, other in seen:
        if other_ns > time_ns and other == level:
            return f"which came {(other_ns - time_ns) / 1e6:.3f} ms later"
    was = level_at(seen, time_ns)
    return f"it was {'x' if was is None else was}"
