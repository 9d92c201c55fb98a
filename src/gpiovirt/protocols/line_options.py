# SPDX-License-Identifier: MIT
"""How people write what a line is to be: `pull-up,debounce=5ms`, and its safe state: `low`."""

from __future__ import annotations

from gpiovirt.core.line import AS_IS, Bias, Direction, Drive, LineSettings
from gpiovirt.errors import UsageError

__all__ = ["SAFE_STATES", "parse_how", "parse_safe"]

_HOWS = {
    "pull-up": {"bias": Bias.PULL_UP},
    "pull-down": {"bias": Bias.PULL_DOWN},
    "bias-disabled": {"bias": Bias.DISABLED},
    "open-drain": {"drive": Drive.OPEN_DRAIN},
    "open-source": {"drive": Drive.OPEN_SOURCE},
    "active-low": {"active_low": True},
}
_UNITS = {"us": 1, "ms": 1000, "s": 1_000_000}

SAFE_STATES = {
    "low": LineSettings(Direction.OUTPUT),
    "high": LineSettings(Direction.OUTPUT, output_value=1),
    "input": LineSettings(Direction.INPUT),
}
"""Physical: what the line is driven to, or not at all."""


def parse_how(text: str, settings: LineSettings = AS_IS) -> LineSettings:
    """`settings` with what the words of `text`, separated by commas, change; UsageError names a bad one."""
    for word in text.split(","):
        if word.startswith("debounce="):
            settings = settings._replace(debounce_period_us=_period_us(word[9:]))
        elif word in _HOWS:
            settings = settings._replace(**_HOWS[word])  # type: ignore[arg-type]
        else:
            raise UsageError(f"{word!r} is none of {', '.join(_HOWS)}, debounce=TIME")
    return settings


def _period_us(period: str) -> int:
    digits = period.rstrip("ums")
    unit = _UNITS.get(period[len(digits) :])
    if not digits.isdecimal() or unit is None or int(digits) * unit >= 1 << 32:
        raise UsageError(f"{period!r} is no time, as 5ms or 500us are")
    return int(digits) * unit


def parse_safe(text: str) -> LineSettings:
    """The settings of a safe state; UsageError if it is none."""
    if text not in SAFE_STATES:
        raise UsageError(f"{text!r} is no safe state; those are: {', '.join(SAFE_STATES)}")
    return SAFE_STATES[text]
