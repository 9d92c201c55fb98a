# SPDX-License-Identifier: MIT
"""What has happened to the lines of a simulator since it was watched; a thread of its own reads that."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from gpiovirt.control.simulator import SimWatcher
from gpiovirt.core.text import nearest
from gpiovirt.errors import HostError, NoSuchLineError
from gpiovirt.sources.simulator import LevelChange

__all__ = ["Edges", "Levels", "Line"]

Line = tuple[str, int]
"""(chip, offset)"""

_CHANGES_MAX = 1_000_000
_SYNC_S = 5


class Edges:
    """Edges of a line, in order; `times_ms` are since its program was started."""

    def __init__(self, changes: Sequence[LevelChange], began_ns: int) -> None:
        self._changes = changes
        self.times_ms = [(change.timestamp_ns - began_ns) / 1e6 for change in changes]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._changes)

    @property
    def rising(self) -> int:
        """How many of them are rising."""
        return sum(change.level for change in self._changes)

    @property
    def falling(self) -> int:
        """How many of them are falling."""
        return self.count - self.rising

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[LevelChange]:
        return iter(self._changes)

    def __getitem__(self, index: int) -> LevelChange:
        return self._changes[index]

    def __repr__(self) -> str:
        edges = zip(self._changes, self.times_ms, strict=True)
        told = ", ".join(f"{'rising' if change.level else 'falling'} at {ms:.3f} ms" for change, ms in edges)
        return f"<{self.count} edges: {told}>" if told else "<no edges>"


class Levels:
    """The levels of all lines over time. What was lost of it is said, and is an error for who asks."""

    def __init__(self, socket_name: str, look: Callable[[], Iterable[dict[str, Any]]]) -> None:
        """`look` tells the lines as they are now."""
        self._watcher = SimWatcher(socket_name)
        self.began_ns = time.monotonic_ns()
        self._changed = threading.Condition()
        self._initial: dict[Line, int] = {}
        self._changes: dict[Line, list[LevelChange]] = {}
        self._number = 0
        self._lost = 0
        self._synced = 0
        self._asked = 0
        self.has_ended = False
        """The simulator has"""
        self._names: dict[str, list[Line]] = {}
        for line in look():
            self._add(line)
        self._thread = threading.Thread(target=self._read, name="gpiovirt-levels", daemon=True)
        self._thread.start()

    def _add(self, line: dict[str, Any]) -> None:
        where = line["chip"], line["offset"]
        self._initial[where] = line["level"]
        self._changes[where] = []
        names = {f"{where[0]}:{where[1]}", f"{where[0]}:{line['name']}", line["name"]}
        for name in names - {"", f"{where[0]}:"}:
            self._names.setdefault(name, []).append(where)

    def find(self, text: str) -> Line:
        """The line CHIP:OFFSET, CHIP:NAME or NAME; NoSuchLineError, which offers the nearest ones."""
        found = self._names.get(text, [])
        if len(found) == 1:
            return found[0]
        what = f"{len(found)} lines are" if found else "no line is"
        near = "" if found else nearest(text, self._names)
        chips = ", ".join(dict.fromkeys(chip for chip, _ in self._initial))
        raise NoSuchLineError(
            f"{what} named {text!r}{near}; write CHIP:OFFSET or CHIP:NAME; the chips are: {chips}"
        )

    def lines(self) -> list[Line]:
        """All lines."""
        return list(self._initial)

    def name(self, line: Line) -> str:
        """What a line is called for short: a unique name, or CHIP:OFFSET."""
        return next(
            (name for name, lines in self._names.items() if lines == [line] and ":" not in name), ""
        ) or (f"{line[0]}:{line[1]}")

    # what has happened

    def sync(self) -> None:
        """Have all read that there has been until now; HostError if something was lost."""
        with self._changed:
            if not self.has_ended:
                self._asked += 1
                asked = self._asked
                try:
                    self._watcher.sync()
                except HostError:
                    self._changed.wait_for(lambda: self.has_ended, _SYNC_S)
                if not self._changed.wait_for(lambda: self.has_ended or self._synced >= asked, _SYNC_S):
                    raise HostError(f"the simulator does not answer within {_SYNC_S} s")
            if self._lost:
                raise HostError(f"{self._lost} changes of level were lost: they came too fast")

    def of(self, line: Line) -> list[tuple[int, int | None]]:
        """(time in ns, level from then on) of a line."""
        with self._changed:
            changes = [(change.timestamp_ns, change.level) for change in self._changes[line]]
        return [(0, self._initial[line]), *changes]

    def edges(self, line: Line) -> Edges:
        """All edges of a line."""
        with self._changed:
            return Edges(list(self._changes[line]), self.began_ns)

    def at(self, line: Line, time_ns: int) -> int:
        """The level at a time."""
        changes = self._changes[line]
        place = bisect_right(changes, time_ns, key=_time_of)
        return changes[place - 1].level if place else self._initial[line]

    def first(self, line: Line, from_ns: int, level: int | None = None) -> LevelChange | None:
        """The first change after a time, or to a level."""
        changes = self._changes[line]
        for change in changes[bisect_right(changes, from_ns, key=_time_of) :]:
            if level is None or change.level == level:
                return change
        return None

    def wait_for(self, condition: Callable[[], object], deadline_ns: int) -> None:
        """Return when it is true, the time is over or the simulator has ended; it is asked at each change."""
        timeout_s = max((deadline_ns - time.monotonic_ns()) / 1e9, 0)
        with self._changed:
            self._changed.wait_for(lambda: condition() or self.has_ended, timeout_s)

    # the thread

    def _read(self) -> None:
        while True:
            try:
                said = self._watcher.read()
            except (HostError, TypeError, ValueError, KeyError):
                break
            with self._changed:
                if said is None:
                    self._synced += 1
                elif isinstance(said, int):
                    self._lost += said
                elif self._number >= _CHANGES_MAX:
                    self._lost += 1
                else:
                    self._number += 1
                    changes = self._changes.setdefault((said.chip, said.offset), [])
                    if not changes:  # which may have been before we looked
                        self._initial[said.chip, said.offset] = said.level ^ 1
                    changes.append(said)
                self._changed.notify_all()
        with self._changed:
            self.has_ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Read no more; what was read can still be asked for."""
        self._watcher.shut_down()
        self._thread.join(_SYNC_S)
        self._watcher.close()


def _time_of(change: LevelChange) -> int:
    return change.timestamp_ns
