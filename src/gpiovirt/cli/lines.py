# SPDX-License-Identifier: MIT
"""CHIP:LINE, as commands take it, for lines of gpiovirtd's chips."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gpiovirt.control.client import Client
from gpiovirt.core.text import near
from gpiovirt.errors import UsageError
from gpiovirt.protocols.control.answers import ChipDetails, LineState
from gpiovirt.uapi.gpio import GPIO_V2_LINES_MAX

__all__ = ["LEVELS", "Target", "Targets", "assignment", "each_once", "level_of"]

LEVELS = {"0": 0, "1": 1, "low": 0, "high": 1, "off": 0, "on": 1}


class Target(NamedTuple):
    """A line that was named, and the chip that it is of."""

    chip: ChipDetails
    line: LineState

    def __str__(self) -> str:
        return f"{self.chip.chip.name}:{self.line.name or self.line.offset}"


class Targets:
    """Finds them; each chip is asked about once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._chips: dict[str, ChipDetails] = {}

    def chip(self, name: str) -> ChipDetails:
        """UsageError if there is none."""
        if name not in self._chips:
            self._chips[name] = self._client.show(name)
        return self._chips[name]

    def line(self, text: str) -> Target:
        """The line that `text`, CHIP:LINE, names; UsageError."""
        name, colon, line = text.partition(":")
        if not (name and colon and line):
            raise UsageError(f"{text!r}: write CHIP:LINE, as in plc:LAMP or plc:4")
        chip = self.chip(name)
        found = [
            state for state in chip.lines if line in (str(state.offset) if line.isdecimal() else state.name,)
        ]
        if len(found) == 1:
            return Target(chip, found[0])
        if found:
            offsets = ", ".join(str(state.offset) for state in found)
            raise UsageError(f"{text!r}: lines {offsets} of {name} have that name; use an offset")
        if not chip.lines:
            raise UsageError(f"{text!r}: {name} waits for its lines")
        if line.isdecimal():
            raise UsageError(f"{text!r}: {name} has no such line; its offsets are 0 to {len(chip.lines) - 1}")
        names = [state.name for state in chip.lines if state.name]
        there = f"its lines are: {', '.join(names) or 'unnamed'}"
        meant = near(line, names)
        hint = f"did you mean {' or '.join(meant)}?" if meant else there
        raise UsageError(f"{text!r}: {name} has no such line; {hint}")


def assignment(targets: Targets, text: str) -> tuple[Target, int]:
    """The line and the level that `text`, CHIP:LINE=LEVEL, names; UsageError."""
    line, equals, word = text.rpartition("=")
    if not equals:
        raise UsageError(f"{text!r}: write CHIP:LINE=LEVEL, as in plc:LAMP=1")
    return targets.line(line), level_of(word)


def each_once(targets: Iterable[Target]) -> dict[str, list[Target]]:
    """Lines by chip; UsageError if one is named twice, or more than a request can have."""
    found: dict[str, list[Target]] = {}
    for target in targets:
        of_chip = found.setdefault(target.chip.chip.name, [])
        if any(other.line.offset == target.line.offset for other in of_chip):
            raise UsageError(f"{target} is named twice")
        of_chip.append(target)
    for name, of_chip in found.items():
        if len(of_chip) > GPIO_V2_LINES_MAX:
            raise UsageError(f"{len(of_chip)} lines of {name}; at most {GPIO_V2_LINES_MAX} at a time")
    return found


def level_of(text: str) -> int:
    """Of 0, low, off, 1, high, on; UsageError."""
    if text not in LEVELS:
        raise UsageError(f"{text!r} is no level; use one of {', '.join(LEVELS)}")
    return LEVELS[text]
