# SPDX-License-Identifier: MIT
"""The options of a line as people write them, the same everywhere: `pull-up,debounce=5ms,safe=low`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from gpiovirt.core.line import PLAIN, Bias, Direction, Drive, LineOptions, LineSettings
from gpiovirt.errors import UsageError
from gpiovirt.virtual.limits import check_line_name

__all__ = ["HELP", "SAFE_STATES", "WORDS", "add_options", "format_options", "has_rule", "parse_options"]

WORDS = (
    "pull-up, pull-down, bias-disabled, open-drain, open-source, active-low, debounce=TIME, "
    "safe=low|high|input|hold, direction=input|output, min-on=TIME, min-off=TIME, max-rate=HZ, name=NAME"
)
HELP = (
    f"OPTIONS is a list of: {WORDS}. TIME is e.g. 5ms or 500us. They hold for every consumer of the chip. "
    "It may ask for another bias, drive or debounce; direction, min-on, min-off and max-rate are rules that "
    "it cannot break. A line with a safe state takes it whenever nobody holds it"
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
_DIRECTIONS = {"input": Direction.INPUT, "output": Direction.OUTPUT}
_RATE = r"[0-9]{1,4}(\.[0-9]{1,3})?"
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


def _direction(text: str) -> Direction:
    if text not in _DIRECTIONS:
        raise UsageError(f"{text!r} is not a direction; use input or output")
    return _DIRECTIONS[text]


def _rate_hz(text: str) -> float:
    if not re.fullmatch(_RATE, text) or not 0.001 <= float(text) <= 1000:
        raise UsageError(f"{text!r} is not a rate; use 0.001 to 1000 times a second")
    return float(text)


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
    "direction": ("direction", _direction),
    "min-on": ("min_on_us", _period_us),
    "min-off": ("min_off_us", _period_us),
    "max-rate": ("max_rate_hz", _rate_hz),
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
    _check(options)
    return options


def add_options(options: dict[str, str], line: str, words: str) -> None:
    """Say more of a line: what is said last counts."""
    options[line] = f"{options[line]},{words}" if line in options else words


def has_rule(options: LineOptions) -> bool:
    """Whether they say what consumers may not do."""
    return bool(
        options.direction is not Direction.AS_IS
        or options.min_on_us
        or options.min_off_us
        or options.max_rate_hz
    )


def _check(options: LineOptions) -> None:
    """UsageError for words that contradict each other."""
    safe = options.safe and options.safe.direction
    if options.direction is Direction.OUTPUT and safe is Direction.INPUT:
        raise UsageError("safe=input turns the line, and direction=output says that it is never turned")
    is_safe_on = safe is Direction.OUTPUT and options.safe and options.safe.output_value ^ options.active_low
    if is_safe_on and (options.min_off_us or options.max_rate_hz):
        raise UsageError("a safe state of 1 switches the line on at any time: no min-off or max-rate then")
    if options.direction is Direction.INPUT:
        if safe is Direction.OUTPUT:
            raise UsageError(
                "safe=low and safe=high drive the line, and direction=input says that nobody does"
            )
        if options.min_on_us or options.min_off_us or options.max_rate_hz:
            raise UsageError("min-on, min-off and max-rate are for outputs, and the line has direction=input")


def _time(period_us: int) -> str:
    unit = next(unit for unit in ("s", "ms", "us") if period_us % _UNITS[unit] == 0)
    return f"{period_us // _UNITS[unit]}{unit}"


def format_options(options: LineOptions) -> str:
    """The words that parse back to `options`, in the order of WORDS."""
    words = [
        word for word, fields in _FLAGS.items() if all(getattr(options, key) == fields[key] for key in fields)
    ]
    if options.debounce_period_us:
        words.append(f"debounce={_time(options.debounce_period_us)}")
    if options.safe is not None:
        words.append(f"safe={next(word for word, state in SAFE_STATES.items() if state == options.safe)}")
    if options.direction is not Direction.AS_IS:
        words.append(f"direction={options.direction.name.lower()}")
    if options.min_on_us:
        words.append(f"min-on={_time(options.min_on_us)}")
    if options.min_off_us:
        words.append(f"min-off={_time(options.min_off_us)}")
    if options.max_rate_hz:
        words.append(f"max-rate={options.max_rate_hz:.3f}".rstrip("0").rstrip("."))
    if options.name:
        words.append(f"name={options.name}")
    return ",".join(words)
