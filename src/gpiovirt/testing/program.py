# SPDX-License-Identifier: MIT
"""A program under test, running on simulated chips, with the outside of them at hand.

What was expected and has not come is an AssertionError that draws the lines. Times are judged by when a line
changed, not by when that was heard of here.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

from gpiovirt.control.simulator import SimClient
from gpiovirt.core.text import printable
from gpiovirt.errors import HostError, UsageError
from gpiovirt.testing.asynchronous import Asynchronous
from gpiovirt.testing.launched import Launched
from gpiovirt.testing.levels import Edges, Levels, Line

__all__ = ["Program"]

T = TypeVar("T")

_QUIET_S = 0.1
_POLL_S = 0.01
_SHOWN_MAX = 8
_ERRORS_SHOWN = 12
_CLOSE_S = 5


class Program:
    """A running program; `process` is the program itself. Lines are CHIP:OFFSET, CHIP:NAME or a unique NAME.

    `sim` is the connection to its simulator. Methods may be called from any thread.
    """

    def __init__(self, launched: Launched) -> None:
        self.process: subprocess.Popen[Any] = launched.process
        self.sim: SimClient = launched.client
        self._launched = launched
        self._levels: Levels = launched.levels

    @property
    def aio(self) -> Asynchronous:
        """The same methods to be awaited: `await program.aio.expect("LAMP", 1)`."""
        return Asynchronous(self)

    # the outside of its lines

    def pull(self, line: str, level: str | int) -> None:
        """Pull a line "up" or "down" ("high" or "low", 1 or 0), as the world outside would."""
        __tracebackhide__ = True
        self._do(lambda sim: sim.pull(line, level))

    def toggle(self, line: str) -> None:
        """Pull a line to where it is not pulled."""
        __tracebackhide__ = True
        self._do(lambda sim: sim.toggle(line))

    def pulse(self, line: str, width_ms: float, times: int = 1, period_ms: float = 0) -> None:
        """Pull a line away for a while, so often; returns when that is over."""
        __tracebackhide__ = True
        self._do(lambda sim: sim.pulse(line, width_ms, times, period_ms))

    def bounce(
        self, line: str, for_ms: float = 8, every_ms: float = 1, level: str | int | None = None
    ) -> None:
        """Pull a line to the other level (or `level`) as a contact that bounces; returns when it is over."""
        __tracebackhide__ = True
        self._do(lambda sim: sim.bounce(line, for_ms, every_ms, level))

    def stick(self, line: str, level: str | int) -> None:
        """Have a line stuck at a level, whoever drives it, until unstick()."""
        __tracebackhide__ = True
        self._do(lambda sim: sim.stick(line, level))

    def unstick(self, line: str) -> None:
        """It is stuck no more."""
        __tracebackhide__ = True
        self._do(lambda sim: sim.unstick(line))

    def unplug(self, chip: str) -> None:
        """Have a chip vanish: what the program has open of it hangs up, and calls fail with ENODEV."""
        __tracebackhide__ = True
        self._do(lambda sim: sim.unplug(chip))

    def plug(self, chip: str) -> None:
        """It is back, as new."""
        __tracebackhide__ = True
        self._do(lambda sim: sim.plug(chip))

    def play(self, path: str | os.PathLike[str], speed: float = 1, chip: str | None = None) -> None:
        """Pull lines (of one chip) as a recording (VCD) says; returns when it is over."""
        from gpiovirt.waveform.drive import drive
        from gpiovirt.waveform.vcd import read_vcd

        __tracebackhide__ = True
        recording = read_vcd(os.fspath(path)).scaled(speed)
        with SimClient(self._launched.name) as client:
            drive(client, recording, chip)

    def level(self, line: str) -> int:
        """The level of a line now."""
        __tracebackhide__ = True
        return self._do(lambda sim: sim.get(line))

    def lines(self) -> list[dict[str, Any]]:
        """All lines: chip, offset, name, direction, consumer, level, stuck, unplugged."""
        __tracebackhide__ = True
        return self._do(lambda sim: sim.lines())

    def edges(self, line: str) -> Edges:
        """The edges of a line since the program was started, with their times."""
        __tracebackhide__ = True
        found = self._levels.find(line)
        self._levels.sync()
        return self._levels.edges(found)

    # what is expected of it

    def expect(self, line: str, level: str | int, within_ms: float = 1000) -> None:
        """The line has that level now, or has it within a time."""
        __tracebackhide__ = True
        found, wanted = self._levels.find(line), _level(level)
        began_ns = time.monotonic_ns()
        self._levels.sync()
        if self._levels.at(found, began_ns) == wanted:
            return
        deadline_ns = began_ns + int(within_ms * 1e6)
        self._levels.wait_for(lambda: self._levels.first(found, began_ns, wanted), deadline_ns)
        self._levels.sync()
        change = self._levels.first(found, began_ns, wanted)
        if change is not None and change.timestamp_ns <= deadline_ns:
            return
        late = "" if change is None else f": it was {(change.timestamp_ns - deadline_ns) / 1e6:.1f} ms late"
        raise self._failure(f"{line} did not become {wanted} within {within_ms:g} ms{late}", found, began_ns)

    def expect_no_change(self, line: str, for_ms: float) -> None:
        """The line keeps its level from now on for a time, and the program does not end."""
        __tracebackhide__ = True
        found = self._levels.find(line)
        began_ns = time.monotonic_ns()
        deadline_ns = began_ns + int(for_ms * 1e6)
        self._levels.wait_for(lambda: self._levels.first(found, began_ns), deadline_ns)
        self._levels.sync()
        change = self._levels.first(found, began_ns)
        if change is not None and change.timestamp_ns <= deadline_ns:
            after_ms = (change.timestamp_ns - began_ns) / 1e6
            raise self._failure(
                f"{line} became {change.level} after {after_ms:.1f} ms, and was to stay for {for_ms:g} ms",
                found,
                began_ns,
            )
        if (status := self._status()) is not None:
            raise self._failure(f"the program ended with status {status} meanwhile", found, began_ns)

    def expect_held(self, line: str, consumer: str | None = None, within_ms: float = 5000) -> None:
        """Somebody (that consumer; "": nobody) holds the line now, or does within a time."""
        __tracebackhide__ = True
        found = self._levels.find(line)
        began_ns = time.monotonic_ns()
        while True:
            holder = self._holders()[found]
            if holder == consumer or (consumer is None and holder):
                return
            if time.monotonic_ns() > began_ns + within_ms * 1e6:
                held = f"is held by {printable(holder)!r}" if holder else "is held by nobody"
                raise self._failure(f"{line} {held} after {within_ms:g} ms", found, began_ns)
            time.sleep(_POLL_S)

    def expect_exit(self, status: int = 0, within_ms: float = 5000) -> None:
        """The program ends within a time, with that status (-N: killed by signal N)."""
        __tracebackhide__ = True
        began_ns = time.monotonic_ns()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(within_ms / 1e3)
        ended = self.process.returncode
        if ended is None:
            raise self._failure(f"the program runs on after {within_ms:g} ms", None, began_ns)
        if ended != status:
            raise self._failure(f"the program ended with status {ended}, not {status}", None, began_ns)

    def wait_for_level(self, line: str, level: int, timeout_s: float = 5) -> None:
        """As expect(), with a TimeoutError."""
        try:
            self.expect(line, level, timeout_s * 1000)
        except AssertionError as error:
            raise TimeoutError(str(error)) from None

    def wait_for_consumer(self, line: str, consumer: str, timeout_s: float = 5) -> None:
        """As expect_held(), with a TimeoutError."""
        try:
            self.expect_held(line, consumer, timeout_s * 1000)
        except AssertionError as error:
            raise TimeoutError(str(error)) from None

    # what there is to see

    def output(self) -> str:
        """What it has printed so far, unless `stdout` was given."""
        return self._launched.read("stdout")

    def errors(self) -> str:
        """What it has printed to standard error so far, unless `stderr` was given."""
        return self._launched.read("stderr")

    def drawing(self, *lines: str, last_ms: float = 1000) -> str:
        """The levels of lines (those that changed, or are held) in the last while, as text."""
        with suppress(HostError):
            self._levels.sync()
        now_ns = time.monotonic_ns()
        shown = [self._levels.find(line) for line in lines] or self._of_interest(
            None, now_ns - int(last_ms * 1e6)
        )
        return self._draw(shown, now_ns - int(last_ms * 1e6), now_ns)

    def vcd(self, path: str | os.PathLike[str]) -> None:
        """Write what has happened to all lines since the program was started, as VCD."""
        from gpiovirt.waveform.vcd import Signal, VcdWriter, signal_names

        self._levels.sync()
        by_chip: dict[str, list[Line]] = {}
        for line in self._levels.lines():
            by_chip.setdefault(line[0], []).append(line)
        places = {}
        signals: list[Signal] = []
        for chip, lines in by_chip.items():
            for line, name in zip(lines, signal_names([self._short(line) for line in lines]), strict=True):
                places[line] = len(signals)
                signals.append(Signal(chip, name))
        changes = sorted(
            (change for line in places for change in self._levels.edges(line)),
            key=lambda each: each.timestamp_ns,
        )
        began_ns = self._levels.began_ns
        began = datetime.fromtimestamp(time.time() - (time.monotonic_ns() - began_ns) / 1e9)
        initial = [self._levels.at(line, 0) for line in places]
        with open(path, "w", encoding="utf-8", errors="replace") as file:
            writer = VcdWriter(file, signals, initial, None, began)
            for change in changes:
                place = places[change.chip, change.offset]
                writer.level(place, change.timestamp_ns - began_ns, change.level)
            writer.close(time.monotonic_ns() - began_ns)

    # inside

    def close(self) -> None:
        """End the program and what it has started, as kill -9 does."""
        self._launched.close()

    def await_ready(self, lines: Iterable[str] | bool, timeout_s: float) -> None:
        """Wait until these lines are held, or (True) until some are and no more come."""
        __tracebackhide__ = True
        wanted = [] if isinstance(lines, bool) else [self._levels.find(line) for line in lines]
        before = {line for line, holder in self._holders_then().items() if holder}
        began_ns = time.monotonic_ns()
        last, since_ns = set(before), began_ns
        while True:
            if self.process.poll() is not None:
                if self.process.returncode:
                    raise self._failure(
                        f"the program ended with status {self.process.returncode}", None, began_ns
                    )
                return
            try:
                held = {line for line, holder in self._holders().items() if holder}
            except AssertionError:
                continue  # it has ended meanwhile
            now_ns = time.monotonic_ns()
            if held != last:
                last, since_ns = held, now_ns
            quiet = now_ns - since_ns > _QUIET_S * 1e9
            if held.issuperset(wanted) if wanted else held - before and quiet:
                return
            if now_ns > began_ns + timeout_s * 1e9:
                which = ", ".join(self._short(line) for line in wanted if line not in held) or "a line"
                raise self._failure(
                    f"the program has not requested {which} within {timeout_s:g} s", None, began_ns
                )
            time.sleep(_POLL_S)

    def _holders_then(self) -> dict[Line, str]:
        return {(line["chip"], line["offset"]): line["consumer"] for line in self._launched.lines_then}

    def _holders(self) -> dict[Line, str]:
        __tracebackhide__ = True
        return {(line["chip"], line["offset"]): line["consumer"] for line in self.lines()}

    def _status(self) -> int | None:
        """With which it has ended; its simulator ends a moment before that can be told."""
        if self._levels.has_ended:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_CLOSE_S)
        return self.process.poll()

    def _do(self, command: Callable[[SimClient], T]) -> T:
        __tracebackhide__ = True
        try:
            with self._launched.lock:
                return command(self.sim)
        except HostError:
            with suppress(subprocess.TimeoutExpired):  # its simulator ends with it
                self.process.wait(_CLOSE_S)
            if self.process.returncode is None:
                raise
        raise self._failure(
            f"the program has ended with status {self.process.returncode}", None, time.monotonic_ns()
        )

    def _failure(self, what: str, line: Line | None, from_ns: int) -> AssertionError:
        """What went wrong, the lines around that time, and what the program has said."""
        __tracebackhide__ = True
        now_ns = time.monotonic_ns()
        from_ns -= max((now_ns - from_ns) // 4, 20_000_000)
        if (status := self._status()) is not None and "ended" not in what:
            what += f"; the program has ended with status {status}"
        parts = [what, self._draw(self._of_interest(line, from_ns), from_ns, now_ns)]
        errors = self.errors().rstrip().splitlines()[-_ERRORS_SHOWN:]
        if errors:
            parts.append(
                "\n".join(["the program's standard error ends:", *(f"  {printable(e)}" for e in errors)])
            )
        return AssertionError("\n\n".join(part for part in parts if part))

    def _of_interest(self, line: Line | None, from_ns: int) -> list[Line]:
        changed = [each for each in self._levels.lines() if self._levels.first(each, from_ns)]
        held: list[Line] = []
        with suppress(HostError), self._launched.lock:
            held = [(each["chip"], each["offset"]) for each in self.sim.lines() if each["consumer"]]
        then = {where for where, holder in self._holders_then().items() if holder}
        lines = dict.fromkeys(
            [*([line] if line else []), *changed, *(each for each in held if each not in then)]
        )
        return list(lines)[:_SHOWN_MAX]

    def _draw(self, lines: Iterable[Line], from_ns: int, until_ns: int) -> str:
        from gpiovirt.waveform.text import draw

        named = {self._short(line): self._levels.of(line) for line in lines}
        return draw(named, from_ns, until_ns) if named else ""

    def _short(self, line: Line) -> str:
        return self._levels.name(line)


def _level(level: str | int) -> int:
    levels = {"up": 1, "high": 1, "1": 1, "down": 0, "low": 0, "0": 0}
    if str(level) not in levels:
        raise UsageError(f"a level is 1 or 0 (high or low, up or down), not {level!r}")
    return levels[str(level)]
