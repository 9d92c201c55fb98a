# SPDX-License-Identifier: MIT
"""The rules of a virtual chip as people write them.

Interlocks and the watchdog are tables with the same keys in TOML, in JSON and in records; what is said of one
line alone is among its options.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeVar, cast

from gpiovirt.core.line import Direction, LineOptions
from gpiovirt.errors import GpiovirtError, UsageError
from gpiovirt.virtual.limits import OFFSET_MAX
from gpiovirt.virtual.options import format_options, parse_options

__all__ = [
    "NO_RULES",
    "Exclusion",
    "Permissive",
    "Rules",
    "Timeout",
    "line_options",
    "parse_rules",
    "read_rules",
    "rules_of",
]

_INTERLOCKS_MAX = 64
_LINES_MAX = 64  # of one interlock
_DEAD_TIME_MS = (0.0, 60_000.0)
_TIMEOUT_MS = (10.0, 3_600_000.0)
_SPANS = {
    "min_on_ms": (0.001, 3_600_000.0),
    "min_off_ms": (0.001, 3_600_000.0),
    "max_rate_hz": (0.001, 1000.0),
}
_SHOWN_MAX = 40
_T = TypeVar("_T")

Locate = Callable[[str], str]
"""From how a line was called to its offset, as text; UsageError"""


class Exclusion(NamedTuple):
    """`never_both`: of these lines one at most is 1."""

    lines: tuple[str, ...]
    dead_time_ms: float | None = None
    """break-before-make with so long between them; None: the other is refused"""

    def located(self, locate: Locate) -> "Exclusion":
        return self._replace(lines=tuple(map(locate, self.lines)))

    def raw(self) -> dict[str, Any]:
        """As a table."""
        if self.dead_time_ms is None:
            return {"never_both": list(self.lines)}
        return {
            "never_both": list(self.lines),
            "policy": "break-before-make",
            "dead_time_ms": _plain(self.dead_time_ms),
        }

    def driven(self) -> list[int]:
        """Lines that it lets be driven."""
        return list(map(int, self.lines))

    @staticmethod
    def inputs(_options: Sequence[LineOptions]) -> list[int]:
        """Lines that it reads: none."""
        return []

    def check(self, options: Sequence[LineOptions], names: Sequence[str]) -> None:
        """UsageError if the lines cannot be like this."""
        offsets = list(map(int, self.lines))
        if len(set(offsets)) < len(offsets):
            raise UsageError(f"never_both: {names[_twice(offsets)]} is there twice")
        for offset in offsets:
            if options[offset].direction is Direction.INPUT:
                raise UsageError(f"never_both: {names[offset]} is an input, and is never driven")
            if _safe_level(options[offset]) == 1:
                raise UsageError(
                    f"never_both: the safe state of {names[offset]} is 1, which it may not be while another "
                    "is; make that safe=low, or input"
                )


class Permissive(NamedTuple):
    """`only_while`: the line is 1 only while others have these levels."""

    line: str
    conditions: Mapping[str, int]

    def located(self, locate: Locate) -> "Permissive":
        conditions = {locate(line): level for line, level in self.conditions.items()}
        if len(conditions) < len(self.conditions):
            raise UsageError("only_while: a line is named twice")
        return Permissive(locate(self.line), conditions)

    def raw(self) -> dict[str, Any]:
        """As a table."""
        return {"only_while": {"line": self.line, "is": dict(self.conditions)}}

    def check(self, options: Sequence[LineOptions], names: Sequence[str]) -> None:
        """UsageError if the lines cannot be like this."""
        offset = int(self.line)
        name, line = names[offset], options[offset]
        if line.direction is Direction.INPUT:
            raise UsageError(f"only_while: {name} is an input, and is never driven")
        if line.safe is None or _safe_level(line) == 1:
            has = "has none" if line.safe is None else "is 1"
            raise UsageError(
                f"only_while: {name} goes to its safe state when it may not be 1 any more, and that {has}; "
                "give it safe=low, or input"
            )
        if self.line in self.conditions:
            raise UsageError(f"only_while: {name} cannot be its own condition")
        for other in self.inputs(options):
            if _drives(options[other]):
                raise UsageError(
                    f"only_while: {names[other]} is read, so it is an input, and its safe state would drive "
                    "it; if it is an output, say direction=output"
                )

    def driven(self) -> list[int]:
        """Lines that it lets be driven."""
        return [int(self.line)]

    def inputs(self, options: Sequence[LineOptions]) -> list[int]:
        """Conditions that are not said to be outputs are inputs."""
        return [o for o in map(int, self.conditions) if options[o].direction is not Direction.OUTPUT]


class Timeout(NamedTuple):
    """`watchdog`: the line toggles, or outputs are made safe."""

    line: str
    timeout_ms: float
    rearm: Literal["consumer", "operator"] = "consumer"

    def located(self, locate: Locate) -> "Timeout":
        return self._replace(line=locate(self.line))

    def raw(self) -> dict[str, Any]:
        """As a table."""
        return {"line": self.line, "timeout_ms": _plain(self.timeout_ms), "rearm": self.rearm}

    def check(self, options: Sequence[LineOptions], names: Sequence[str]) -> None:
        """UsageError if the lines cannot be like this."""
        offset = int(self.line)
        if all(line.safe is None for other, line in enumerate(options) if other != offset):
            raise UsageError("no line has a safe state, so nothing would be made safe; give lines safe=low")
        if options[offset].direction is Direction.INPUT:
            return
        if options[offset].safe is not None and not _drives(options[offset]):
            raise UsageError(f"{names[offset]} is to toggle, and its safe state is to be an input")


class Rules(NamedTuple):
    """Of a chip; lines are named as people did, or by offset once they are settled."""

    interlocks: tuple[Exclusion | Permissive, ...] = ()
    watchdog: Timeout | None = None

    def raw(self) -> dict[str, Any]:
        """As tables, which parse to the same; empty if there are none."""
        raw: dict[str, Any] = {}
        if self.interlocks:
            raw["interlock"] = [interlock.raw() for interlock in self.interlocks]
        if self.watchdog is not None:
            raw["watchdog"] = self.watchdog.raw()
        return raw

    def offsets(self) -> set[int]:
        """Of all lines that settled rules are about."""
        lines: set[str] = set() if self.watchdog is None else {self.watchdog.line}
        for rule in self.interlocks:
            lines |= set(rule.lines) if isinstance(rule, Exclusion) else {rule.line, *rule.conditions}
        return {int(line) for line in lines if line.isdecimal()}

    def located(self, locate: Locate) -> "Rules":
        """With lines called otherwise; UsageError with the key of the rule at fault."""
        return self._each(lambda rule: rule.located(locate))

    def check(self, options: Sequence[LineOptions], names: Sequence[str]) -> None:
        """UsageError, with a key, if a rule, by offsets, is impossible for such lines."""
        read = {o: f"interlock.{i}" for i, rule in enumerate(self.interlocks) for o in rule.inputs(options)}
        if self.watchdog is not None and options[int(self.watchdog.line)].direction is Direction.INPUT:
            read[int(self.watchdog.line)] = "watchdog"
        for index, rule in enumerate(self.interlocks):
            for offset in rule.driven():
                if offset in read:
                    raise UsageError(
                        f"interlock.{index}: {names[offset]} is read as an input by {read[offset]}, "
                        "and is never driven"
                    )

        def checked(rule: _T) -> _T:
            cast("Exclusion", rule).check(options, names)
            return rule

        self._each(checked)

    def _each(self, change: Callable[[Any], Any]) -> "Rules":
        interlocks = []
        for index, interlock in enumerate(self.interlocks):
            with _Key(f"interlock.{index}"):
                interlocks.append(change(interlock))
        watchdog = None
        if self.watchdog is not None:
            with _Key("watchdog"):
                watchdog = change(self.watchdog)
        return Rules(tuple(interlocks), watchdog)


NO_RULES = Rules()


class _Key:
    """Says in a UsageError which key it is about."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, UsageError):
            error.args = (f"{self._key}: {error}",)


@contextmanager
def rules_of(path: str) -> Iterator[None]:
    """Say in an error about a key of rules that they are of this file ("": of none)."""
    try:
        yield
    except GpiovirtError as error:
        if path and str(error).startswith(("interlock.", "watchdog: ")):
            error.args = (f"{path}: {error}",)
        raise


def parse_rules(raw: object) -> Rules:
    """From tables: `interlock`, a list, and `watchdog`; UsageError says which key is wrong, and why."""
    if not raw:
        return NO_RULES
    table = _table(raw, {"interlock", "watchdog"})
    interlocks = table.get("interlock", [])
    if not isinstance(interlocks, list | tuple):
        raise UsageError("interlock: expected tables, [[interlock]]")
    if len(interlocks) > _INTERLOCKS_MAX:
        raise UsageError(f"interlock: {len(interlocks)} of them; a chip has at most {_INTERLOCKS_MAX}")
    found: list[Exclusion | Permissive] = []
    for index, interlock in enumerate(interlocks):
        with _Key(f"interlock.{index}"):
            found.append(_interlock(interlock))
    watchdog = None
    if (told := table.get("watchdog")) is not None:
        with _Key("watchdog"):
            watchdog = _watchdog(told)
    return Rules(tuple(found), watchdog)


def read_rules(path: str) -> tuple[dict[str, str], dict[str, Any]]:
    """(options by line, interlocks and watchdog as tables), from a TOML file of rules alone.

    UsageError, with the file's name and the key, if it is not one.
    """
    import tomllib  # rarely needed

    with _Key(path):
        try:
            with open(path, "rb") as file:
                raw = tomllib.load(file)
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"not TOML: {error}") from error
        table = _table(raw, {"line", "interlock", "watchdog"})
        options = {}
        for line, said in _table(table.get("line", {}), None).items():
            with _Key(f"line.{line[:_SHOWN_MAX]}"):
                options[line] = line_options(said)
        rules = {key: value for key, value in raw.items() if key != "line"}
        parse_rules(rules)
        return options, rules


def line_options(said: Mapping[str, Any]) -> str:
    """The options of a line, as they are written, from its table of rules; UsageError."""
    table = _table(said, {"options", "direction", "safe", *_SPANS})
    words = []
    for key in ("options", "direction", "safe"):
        if (word := table.get(key)) is not None:
            if not isinstance(word, str) or not word or (key != "options" and "," in word):
                raise UsageError(f"{key}: expected a text")
            words.append(word if key == "options" else f"{key}={word}")
    for key, span in _SPANS.items():
        if table.get(key, 0) != 0:
            number = _number(table, key, span)
            if key == "max_rate_hz":
                words.append(f"max-rate={number:.3f}")
            else:
                words.append(f"{key[:-3].replace('_', '-')}={round(number * 1000)}us")
    options = ",".join(words)
    return format_options(parse_options(options))


def _interlock(raw: object) -> Exclusion | Permissive:
    if not isinstance(raw, Mapping) or ("never_both" in raw) == ("only_while" in raw):
        raise UsageError("an interlock has never_both, or only_while")
    if "only_while" in raw:
        _table(raw, {"only_while"})
        with _Key("only_while"):
            table = _table(raw["only_while"], {"line", "is"})
            conditions = table.get("is")
            if not isinstance(conditions, Mapping) or not 0 < len(conditions) <= _LINES_MAX:
                raise UsageError('is: expected lines and their levels, as in is = {"DOOR" = 0}')
            for line, level in conditions.items():
                if isinstance(level, bool) or level not in (0, 1):
                    raise UsageError(f"is.{str(line)[:_SHOWN_MAX]}: expected 0 or 1")
            return Permissive(_line(table, "line"), {str(line): level for line, level in conditions.items()})
    table = _table(raw, {"never_both", "policy", "dead_time_ms"})
    lines = table["never_both"]
    if not isinstance(lines, list | tuple) or not 2 <= len(lines) <= _LINES_MAX:
        raise UsageError(f"never_both: expected 2 to {_LINES_MAX} lines")
    names = tuple(_line({str(index): line}, str(index)) for index, line in enumerate(lines))
    policy = table.get("policy", "break-before-make" if "dead_time_ms" in table else "refuse")
    if policy not in ("refuse", "break-before-make"):
        raise UsageError('policy: expected "refuse" or "break-before-make"')
    if policy == "refuse":
        if "dead_time_ms" in table:
            raise UsageError('dead_time_ms: that is for policy = "break-before-make"')
        return Exclusion(names)
    return Exclusion(names, _number(table, "dead_time_ms", _DEAD_TIME_MS))


def _watchdog(raw: object) -> Timeout:
    table = _table(raw, {"line", "timeout_ms", "rearm"})
    rearm = table.get("rearm", "consumer")
    if rearm not in ("consumer", "operator"):
        raise UsageError('rearm: expected "consumer" or "operator"')
    return Timeout(_line(table, "line"), _number(table, "timeout_ms", _TIMEOUT_MS), rearm)


def _table(raw: object, keys: set[str] | None) -> Mapping[str, Any]:
    """With these keys, or any."""
    if not isinstance(raw, Mapping):
        raise UsageError("expected a table" + (f" with {' and '.join(sorted(keys))}" if keys else ""))
    for key in raw:
        if keys is not None and key not in keys:
            raise UsageError(f"{str(key)[:_SHOWN_MAX]}: unknown key; the keys are: {', '.join(sorted(keys))}")
    return raw


def _line(table: Mapping[str, Any], key: str) -> str:
    line = table.get(key)
    if isinstance(line, int) and not isinstance(line, bool) and 0 <= line <= OFFSET_MAX:
        line = str(line)
    if not isinstance(line, str) or not line:
        raise UsageError(f"{key}: expected the name of a line, or its offset")
    return line


def _number(table: Mapping[str, Any], key: str, span: tuple[float, float]) -> float:
    number = table.get(key)
    lowest, highest = span
    if isinstance(number, bool) or not isinstance(number, int | float) or not lowest <= number <= highest:
        raise UsageError(f"{key}: expected a number from {lowest:g} to {highest:.0f}, without quotes")
    return float(number)


def _plain(number: float) -> float | int:
    return int(number) if math.floor(number) == number else number


def _drives(options: LineOptions) -> bool:
    """Whether the line is driven in its safe state."""
    return options.safe is not None and options.safe.direction is Direction.OUTPUT


def _safe_level(options: LineOptions) -> int | None:
    return options.safe.output_value ^ options.active_low if options.safe and _drives(options) else None


def _twice(offsets: Sequence[int]) -> int:
    return next(offset for index, offset in enumerate(offsets) if offset in offsets[:index])
