# SPDX-License-Identifier: MIT
"""The options of a line as people write them, the same everywhere: `pull-up,debounce=5ms,safe=low`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from gpiovirt.core.line import PLAIN, Bias, Direction, Drive, LineOptions, LineSettings
from gpiovirt.errors import UsageError
from gpiovirt.virtual.limits import check_line_name

__all__ = ["HELP", "SAFE_STATES", "WORDS", "format_options", "parse_options"]

WORDS = (
    "pull-up, pull-down, bias-disabled, open-drain, open-source, active-low, debounce=TIME, "
    "safe=low|high|input|hold, name=NAME"
)
HELP = (
    f"OPTIONS is a list of: {WORDS}. TIME is e.g. 5ms or 500us. They hold for every consumer of the chip, "
    "unless it asks for something else; a line with a safe state takes it whenever nobody holds it"
)

_FLAGS: Mapping[str, Mapping[str, object]] = {
    "pull-up": {"bias": Bias.PULL_UP},
    "pull-down": {"bias": Bias.PULL_DOWN},
    "bias-disabled": {"bias": Bias.DISABLED},
    "open-drain": {"drive": Drive.OPEN_DRAIN},
    "open-source": {"drive": Drive.OPEN_SOURCE},
    "active-low": {"active_low": True},
}
_UNITS = {"us": 1, "ms": 1000, "s": 1_000_000}
_TIME = r"([0-9]{1,10})(us|ms|s)"  # compiled when first used: a start feels it

SAFE_STATES: Mapping[str, LineSettings | None] = {
    "low": LineSettings(Direction.OUTPUT),
    "high": LineSettings(Direction.OUTPUT, output_value=1),
    "input": LineSettings(Direction.INPUT),
    "hold": None,
}
"""Physical: how the line is driven, or an input; `hold`: as it is"""


def _period_us(text: str) -> int:
    match = re.fullmatch(_TIME, text)
    period_us = int(match[1]) * _UNITS[match[2]] if match else 1 << 32
    if period_us >= 1 << 32:
        raise UsageError(f"{text!r} is not a duration; use e.g. 5ms or 500us")
    return period_us


def _safe(text: str) -> LineSettings | None:
    if text not in SAFE_STATES:
        raise UsageError(f"{text!r} is not a safe state; use one of: {', '.join(SAFE_STATES)}")
    return SAFE_STATES[text]


def _name(text: str) -> str:
    if not text:
        raise UsageError("name= without a name")
    check_line_name(text)
    return text


_VALUES: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "debounce": ("debounce_period_us", _period_us),
    "safe": ("safe", _safe),
    "name": ("name", _name),
}


def parse_options(text: str, options: LineOptions = PLAIN) -> LineOptions:
    """`options`, changed by the words of `text`, separated by commas; UsageError names a bad one."""
    for word in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = word.partition("=")
        if word in _FLAGS:
            options = options._replace(**_FLAGS[word])  # type: ignore[arg-type]
        elif equals and key in _VALUES:
            field, parse = _VALUES[key]
            options = options._replace(**{field: parse(value)})  # type: ignore[arg-type]
        else:
            raise UsageError(f"{word!r} is not one of {WORDS}")
    return options


def format_options(options: LineOptions) -> str:
    """The words that parse back to `options`, in the order of WORDS."""
    words = [
        word for word, fields in _FLAGS.items() if all(getattr(options, key) == fields[key] for key in fields)
    ]
    if period_us := options.debounce_period_us:
        unit = next(unit for unit in ("s", "ms", "us") if period_us % _UNITS[unit] == 0)
        words.append(f"debounce={period_us // _UNITS[unit]}{unit}")
    if options.safe is not None:
        words.append(f"safe={next(word for word, state in SAFE_STATES.items() if state == options.safe)}")
    if options.name:
        words.append(f"name={options.name}")
    return ",".join(words)
