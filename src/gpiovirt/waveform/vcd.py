# SPDX-License-Identifier: MIT
"""Recordings as Value Change Dump, IEEE 1364: a scope for each chip, a wire for each line.

Within each chip's scope, the scope `output` says in wires NAME_output when a line is an output: what was
driven by the program, and what by the world. Levels that are not known are `x`. pyvcd reads and writes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import IO, NamedTuple

from gpiovirt.errors import HostError, UsageError
from gpiovirt.host.installation import how_to_install

__all__ = ["OUTPUT", "Recording", "Signal", "VcdWriter", "check_installed", "read_vcd", "signal_names"]

OUTPUT = "output"
_SUFFIX = f"_{OUTPUT}"
_US = 1000  # the timescale, in ns
_SIGNALS_MAX = 4096
_CHANGES_MAX = 10_000_000
_VERSION = "gpiovirt"


class Signal(NamedTuple):
    """A line, by its chip and by the name that it has in a recording."""

    chip: str
    name: str


Changes = list[tuple[int, int | None]]
"""(time in ns, level from then on; None: not known), in order"""


class Recording(NamedTuple):
    """What was read from a file; `outputs` is there for signals of which it says when they are outputs."""

    levels: dict[Signal, Changes]
    outputs: dict[Signal, Changes]
    end_ns: int

    def scaled(self, speed: float) -> Recording:
        """The same, so many times as fast."""

        def faster(signals: dict[Signal, Changes]) -> dict[Signal, Changes]:
            return {
                signal: [(int(time_ns / speed), level) for time_ns, level in changes]
                for signal, changes in signals.items()
            }

        return Recording(faster(self.levels), faster(self.outputs), int(self.end_ns / speed))


def signal_names(names: Sequence[str]) -> list[str]:
    """What the lines of a chip are called in a recording: each differently, and without spaces."""
    found: list[str] = []
    for offset, name in enumerate(names):
        clean = "".join(c if c.isprintable() and not c.isspace() else "_" for c in name) or f"line{offset}"
        found.append(f"{clean}_{offset}" if clean in found else clean)
    return found


def _identifier(chip: str) -> str:
    return re.sub(r"\s", "_", chip) or "chip"


def check_installed() -> None:
    """HostError if pyvcd is not there. It is imported now: later a program would have to wait for that."""
    try:
        import vcd.reader  # noqa: F401
    except ImportError as error:
        raise HostError(f"recordings need pyvcd; install: {how_to_install('vcd')}") from error


class VcdWriter:
    """Writes signals to a file; times are in ns from 0 on, and never go back: those that would are moved.

    Without `outputs`, nothing is written of which lines are.

    HostError if pyvcd is not there.
    """

    def __init__(
        self,
        file: IO[str],
        signals: Sequence[Signal],
        levels: Sequence[int | None],
        outputs: Sequence[bool] | None,
        began: datetime,
    ) -> None:
        check_installed()
        from vcd import VCDWriter

        self._writer = VCDWriter(
            file, "1 us", began.astimezone().isoformat(), version=_VERSION, scope_sep="\0", check_values=False
        )
        self._levels = [
            self._writer.register_var(
                (_identifier(signal.chip),), signal.name, "wire", 1, "x" if level is None else level
            )
            for signal, level in zip(signals, levels, strict=True)
        ]
        self._outputs = [
            self._writer.register_var(
                (_identifier(signal.chip), OUTPUT), signal.name + _SUFFIX, "wire", 1, int(is_output)
            )
            for signal, is_output in zip(signals, outputs or (), strict=outputs is not None)
        ]
        self._now_us = 0

    def level(self, index: int, time_ns: int, level: int | None) -> None:
        """A signal has this level from now on."""
        self._writer.change(self._levels[index], self._at(time_ns), "x" if level is None else level)

    def lost(self, index: int, time_ns: int) -> None:
        """Changes of this signal are missing; what it is next is shown a microsecond later at least."""
        self._writer.change(self._levels[index], self._at(time_ns), "x")
        self._now_us += 1

    def output(self, index: int, time_ns: int, is_output: bool) -> None:
        """The line is an output from now on, or none."""
        self._writer.change(self._outputs[index], self._at(time_ns), int(is_output))

    def _at(self, time_ns: int) -> int:
        self._now_us = max(self._now_us, time_ns // _US)
        return self._now_us

    def flush(self) -> None:
        """Have what there is in the file."""
        self._writer.flush()

    def close(self, time_ns: int) -> None:
        """The recording ends."""
        self._writer.close(self._at(time_ns))


def read_vcd(path: str) -> Recording:
    """The one-bit signals of a file; HostError if it cannot be read, UsageError if it is none."""
    check_installed()
    from vcd.reader import TokenKind, VCDParseError, tokenize

    scopes: list[str] = []
    signals: dict[str, list[tuple[Signal, bool]]] = {}
    levels: dict[Signal, Changes] = {}
    outputs: dict[Signal, Changes] = {}
    unit_ns, now, number, is_whole = 1.0, 0, 0, False
    try:
        with open(path, "rb") as file:
            for token in tokenize(file):
                match token.kind:
                    case TokenKind.TIMESCALE:
                        unit_ns = int(token.timescale.magnitude) * _UNIT_NS[token.timescale.unit.value]
                    case TokenKind.ENDDEFINITIONS:
                        is_whole = True
                    case TokenKind.SCOPE:
                        scopes.append(token.scope.ident)
                    case TokenKind.UPSCOPE:
                        del scopes[-1:]
                    case TokenKind.VAR if token.var.size == 1:
                        is_output = len(scopes) > 1 and scopes[-1] == OUTPUT
                        chip = ".".join(scopes[:-1] if is_output else scopes)
                        name = token.var.reference
                        signal = Signal(chip, name.removesuffix(_SUFFIX) if is_output else name)
                        signals.setdefault(token.var.id_code, []).append((signal, is_output))
                        (outputs if is_output else levels).setdefault(signal, [])
                        if len(levels) > _SIGNALS_MAX:
                            raise UsageError(f"{path}: more than {_SIGNALS_MAX} signals")
                    case TokenKind.CHANGE_TIME:
                        if token.time_change < now:
                            raise UsageError(f"{path}: time goes back at {token.span.start}")
                        now = token.time_change
                    case TokenKind.CHANGE_SCALAR:
                        change = token.scalar_change
                        number += 1
                        if number > _CHANGES_MAX:
                            raise UsageError(f"{path}: more than {_CHANGES_MAX} changes")
                        for signal, is_output in signals.get(change.id_code, ()):
                            of = outputs if is_output else levels
                            of[signal].append((int(now * unit_ns), _LEVELS.get(change.value)))
    except (VCDParseError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a VCD file: {error}") from error
    except OSError as error:
        raise HostError.of(f"cannot read {path}", error) from error
    if not levels or not is_whole:
        raise UsageError(f"{path} has no signal of one bit, or no end of its definitions")
    return Recording(levels, outputs, int(now * unit_ns))


_LEVELS = {"0": 0, "1": 1}
_UNIT_NS = {"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1.0, "ps": 1e-3, "fs": 1e-6}
