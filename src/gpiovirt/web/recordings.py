# SPDX-License-Identifier: MIT
"""Recordings as a page shows them: each chip of each file, all over the same time, which begins at 0."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from typing import Any

from gpiovirt.core.text import printable
from gpiovirt.errors import UsageError
from gpiovirt.waveform.compare import differences, expected_of
from gpiovirt.waveform.thin import UNKNOWN, Piece, Trace, thin
from gpiovirt.waveform.vcd import Recording
from gpiovirt.web.clock import ORIGIN_NS

__all__ = ["Recordings"]


class Recordings:
    """By path; of two, the second is compared with what the first one has."""

    def __init__(self, recordings: Sequence[tuple[str, Recording]], tolerance_ns: int) -> None:
        self.tolerance_ns = tolerance_ns
        self.end_ns = max(recording.end_ns for _, recording in recordings)
        self._chips: dict[str, dict[str, Any]] = {}
        self._traces: dict[str, dict[int, Trace]] = {}
        for number, (path, recording) in enumerate(recordings):
            self._add(number, path, recording)
        self._found: list[str] | None = None
        if len(recordings) == 2:
            (_, one), (_, other) = recordings
            found = differences(expected_of(one), other.levels, tolerance_ns)
            self._found = [printable(str(difference)) for difference in found]

    def _add(self, number: int, path: str, recording: Recording) -> None:
        for signal, changes in recording.levels.items():
            key = f"file:{number}:{signal.chip}"
            traces = self._traces.setdefault(key, {})
            lines = self._chips.setdefault(key, _chip(key, signal.chip, path))["lines"]
            offset = len(traces)
            traces[offset] = Trace(
                array("q", (ORIGIN_NS + time_ns for time_ns, _ in changes)),
                array("B", (UNKNOWN if level is None else level for _, level in changes)),
            )
            is_output = any(value for _, value in recording.outputs.get(signal, ()))
            lines.append(_line(offset, signal.name, is_output, changes[-1][1] if changes else None))

    def chips(self) -> list[dict[str, Any]]:
        """All of them."""
        return list(self._chips.values())

    def pieces(self, key: str, since_ns: int, until_ns: int, columns: int) -> dict[int, list[Piece]]:
        """What a picture of a chip's lines shows."""
        if key not in self._traces:
            raise UsageError("no such chip was recorded")
        return {
            offset: [
                Piece(since_ns, since_ns, trace.level_at(since_ns)),
                *thin(trace, since_ns, until_ns, columns),
            ]
            for offset, trace in self._traces[key].items()
        }

    def compared(self) -> dict[str, Any] | None:
        """Where the second one differs first, line by line; None if there are not two."""
        if self._found is None:
            return None
        return {"found": self._found, "tolerance": f"{self.tolerance_ns / 1e6:g} ms"}


def _chip(key: str, name: str, path: str) -> dict[str, Any]:
    return {
        "key": key,
        "kind": "recorded",
        "name": printable(name) or "-",
        "state": "live",
        "trouble": "",
        "about": printable(os.path.basename(path)),
        "lines": [],
        "rules": [],
        "headers": [],
    }


def _line(offset: int, name: str, is_output: bool, level: int | None) -> dict[str, Any]:
    return {
        "offset": offset,
        "name": printable(name),
        "direction": "output" if is_output else "input",
        "level": level,
        "consumer": "",
        "holder": "",
        "used": is_output,
        "can": [],
        "stuck": None,
        "options": "",
        "forced": "",
        "there": True,
    }
