# SPDX-License-Identifier: MIT
"""The record of a chip: what happened to its lines and who did it, in a ring of fixed-size entries.

One process writes, never waits, and overwrites what nobody has read; sequence numbers tell a reader what it
has missed. A reader believes nothing that it finds. Times are CLOCK_REALTIME in ns, as it was then.

Layout, native byte order; the number of entries and of lines is agreed, not read:

    header      64 bytes    magic, version, number of lines; at 16 the sequence number of the next entry;
                            at 24 that of the next holder
    holders      4 bytes a line    the number of its holder (0: none), padded to 64 bytes
    entries     32 bytes each      entry n is at place n modulo CAPACITY
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from gpiovirt.core.chip import PresenceSink
from gpiovirt.core.gpiolib import Driver, PhysicalEdge, Values
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Clock, Direction, LineSettings
from gpiovirt.errors import GpiovirtError, PeerError

__all__ = [
    "CAPACITY",
    "NO_LINE",
    "RING_START",
    "TEXT_MAX",
    "Entry",
    "Lost",
    "RecordingDriver",
    "RingReader",
    "RingWriter",
    "What",
    "is_ring",
    "ring_size",
]

CAPACITY = 1 << 16
"""Entries of a ring: more than a second at 50,000 a second"""
TEXT_MAX = 192
"""Bytes of an entry's text"""
NO_LINE = 0xFFFF
"""The offset of what is about no line, or about all of them"""

_header = Struct("=4sHH")
_MAGIC, _VERSION = b"gpvr", 1
RING_START = 64
"""Bytes before the lines' holders"""
_head = Struct("@Q")
_HEAD_AT = 16
_entry = Struct("@QBBHIQII")  # sequence number, what, value, offset, holder, time, two details
_level = Struct("@QBBHIQ")  # the same without the details, which are then left as they were
_text = Struct("@QBBHI16s")  # the same of a text, which belongs to the entry after it
_ENTRY = _entry.size
_TEXT = 16
_UNKNOWN = 2
_KINDS = tuple(HolderKind)
_SEQ_MAX = 1 << 62
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1


class What(IntEnum):
    """What an entry says happened; `value` is a level unless it says otherwise."""

    TEXT = 1
    """Part of the next entry's text"""
    HOLDER = 2
    """Whose number this is from now on: `value` is the kind, the details are pid and uid, text the label,
    and after a NUL what a container is called"""
    REQUESTED = 3
    RELEASED = 4
    CONFIGURED = 5
    """`value`: the level (bit 0), whether it is an output (bit 1), the edges watched for (from bit 2)"""
    SET = 6
    EDGE = 7
    MISSED = 8
    """So many edges (the first detail) were lost before they got here"""
    GONE = 9
    BACK = 10
    REFUSED = 11
    """`value` is an errno, text the reason; so is the text of those that follow"""
    TRIPPED = 12
    REARMED = 13
    FORCED = 14
    """`value` is a level, or 2: no longer forced"""
    # of a chip as a whole, and never in its ring
    MADE = 32
    DELETED = 33
    CHANGED = 34
    LOST = 35
    """So many entries (`value`) are not in the record"""


_SET, _EDGE = int(What.SET), int(What.EDGE)  # an enumeration's member costs a look-up
_OF_RING = {int(what) for what in What if what < What.MADE}


class Entry(NamedTuple):
    """`holder` is a number that a HOLDER entry explains; 0 is nobody, or the chip itself."""

    seq: int
    what: int
    value: int
    offset: int
    holder: int
    time_ns: int
    first: int
    second: int
    text: str = ""

    def as_holder(self) -> Holder:
        """Of a HOLDER entry."""
        label, _, about = self.text.partition("\0")
        return Holder(label, _KINDS[self.value % len(_KINDS)], self.first, self.second, about)


class Lost(NamedTuple):
    """So many entries before the next one are gone, overwritten or nonsense."""

    number: int


def _entries_at(num_lines: int) -> int:
    return RING_START + -(-num_lines * 4 // 64) * 64


def ring_size(num_lines: int) -> int:
    """Bytes of memory of a chip's ring."""
    return _entries_at(num_lines) + CAPACITY * _ENTRY


def is_ring(start: bytes, num_lines: int) -> bool:
    """Whether the first RING_START bytes of a memory are of a ring of so many lines, or a new one."""
    identity, (head,) = start[: _header.size], _head.unpack_from(start, _HEAD_AT)
    return identity in (bytes(_header.size), _header.pack(_MAGIC, _VERSION, num_lines)) and head <= _SEQ_MAX


class RingWriter:
    """Writes to such a memory, whose entries a former writer may have left. PeerError if it is another's.

    `realtime_ns` and `monotonic_ns` are clocks; `wake` is called now and then while entries are written.
    """

    def __init__(
        self,
        memory: memoryview,
        num_lines: int,
        realtime_ns: Callable[[], int],
        monotonic_ns: Callable[[], int],
        wake: Callable[[], object],
    ) -> None:
        if not is_ring(bytes(memory[:RING_START]), num_lines):
            raise PeerError("the record of another chip, or of another version")
        memory[: _header.size] = _header.pack(_MAGIC, _VERSION, num_lines)
        self.num_lines = num_lines
        self.realtime_ns = realtime_ns
        self.monotonic_ns = monotonic_ns
        self.holders = memory[RING_START : RING_START + num_lines * 4].cast("I")
        """The number of each line's holder; as a former writer left it"""
        self._next_holder = memory[24:28].cast("I")
        self._memory = memory
        self._at = _entries_at(num_lines)
        self._head = memory[_HEAD_AT : _HEAD_AT + _head.size].cast("Q")
        self._define(wake)

    write: Callable[..., None]
    """Write an entry: offset, what, value, two details, and the time if it is not now"""
    write_level: Callable[[int, int, int], None]
    """The same of what has no details, and of now: as often as a line is set"""

    def _define(self, wake: Callable[[], object]) -> None:
        memory, at, head, holders = self._memory, self._at, self._head, self.holders
        pack, pack_level, realtime_ns = _entry.pack_into, _level.pack_into, self.realtime_ns
        seq = head[0]
        woken_ns = 0

        def write(
            offset: int, what: int, value: int, first: int = 0, second: int = 0, time_ns: int = 0
        ) -> None:
            nonlocal seq, woken_ns
            now_ns = realtime_ns()
            pack(
                memory,
                at + (seq & 0xFFFF) * 32,
                seq,
                what,
                value,
                offset,
                holders[offset],
                time_ns or now_ns,
                first,
                second,
            )
            seq += 1
            head[0] = seq
            if (now_ns - woken_ns) >> 22:  # 4 ms, or the clock was set back
                woken_ns = now_ns
                wake()

        def write_level(offset: int, what: int, value: int) -> None:
            nonlocal seq, woken_ns
            now_ns = realtime_ns()
            pack_level(memory, at + (seq & 0xFFFF) * 32, seq, what, value, offset, holders[offset], now_ns)
            seq += 1
            head[0] = seq
            if (now_ns - woken_ns) >> 22:
                woken_ns = now_ns
                wake()

        def write_text(offset: int, text: bytes) -> None:
            nonlocal seq
            _text.pack_into(
                memory, at + (seq & 0xFFFF) * 32, seq, What.TEXT, len(text), offset, holders[offset], text
            )
            seq += 1
            head[0] = seq

        self._write_text = write_text
        self.write = write
        self.write_level = write_level

    def text(self, offset: int, text: str) -> None:
        """The text of the entry that is written next, of the same line; what is too long is cut."""
        raw = text.encode(errors="replace")[:TEXT_MAX]
        for start in range(0, len(raw), _TEXT):
            self._write_text(offset, raw[start : start + _TEXT])

    def introduce(self, offset: int, holder: Holder) -> int:
        """Give a holder a number, which is the line's holder's until something else is written there."""
        number = self._next_holder[0] % 0xFFFFFFFF + 1
        self._next_holder[0] = number
        self.holders[offset] = number
        self.text(offset, f"{holder.label}\0{holder.about}" if holder.about else holder.label)
        self.write(offset, What.HOLDER, _KINDS.index(holder.kind), holder.pid & _U32, holder.uid & _U32)
        return number


class RingReader:
    """Reads such a memory from entry `next_seq` on, whatever is in it; never more than it is asked for."""

    def __init__(self, memory: memoryview, num_lines: int, next_seq: int = 0) -> None:
        self._memory = memory
        self._num_lines = num_lines
        self._at = _entries_at(num_lines)
        self._head = memory[_HEAD_AT : _HEAD_AT + _head.size].cast("Q")
        self._text = b""
        self._text_of = NO_LINE
        self._text_from = 0
        self.next_seq = next_seq

    @property
    def resume_seq(self) -> int:
        """Where to begin to miss nothing: a text that is not whole yet is read again."""
        return self._text_from if self._text else self.next_seq

    @property
    def has_more(self) -> bool:
        """Whether there seems to be anything to read."""
        return self._head[0] != self.next_seq

    def rewind(self, seq: int) -> None:
        """Read again from there."""
        self.next_seq = seq
        self._text = b""

    def read(self, most: int) -> list[Entry | Lost]:
        """At most that many entries, and what was lost between them."""
        head = self._head[0]
        seq = self.next_seq
        lost = 0
        if head < seq or head > _SEQ_MAX:  # no writer of ours goes back, or comes so far
            self.next_seq = min(head, _SEQ_MAX)
            self._text = b""
            return [Lost(1)] if self.next_seq != seq else []
        if head - seq > CAPACITY:
            lost = head - CAPACITY - seq
            seq = head - CAPACITY
        count = min(head - seq, most)
        raw = self._copy(seq, count)
        # entries that the writer has reached again meanwhile may be half of each
        torn = min(max(self._head[0] - CAPACITY + 1 - seq, 0), count)
        self.next_seq = seq + count
        lost += torn
        found: list[Entry | Lost] = []
        expected = range(seq + torn, seq + count)
        num_lines, text = self._num_lines, int(What.TEXT)
        for seq, entry in zip(expected, _entry.iter_unpack(raw[torn * _ENTRY :]), strict=True):
            what = entry[1]
            if entry[0] != seq or what not in _OF_RING or entry[3] >= num_lines:
                lost += 1
                continue
            if lost:
                self._text = b""
                found.append(Lost(lost))
                lost = 0
            if what == text:
                self._add_text(raw, entry, seq)
            elif self._text:
                found.append(Entry._make((*entry, self._take_text(entry[3]))))
            else:
                found.append(Entry._make((*entry, "")))
        if lost:
            self._text = b""
            found.append(Lost(lost))
        return found

    def _copy(self, seq: int, count: int) -> bytes:
        first = seq % CAPACITY
        straight = min(count, CAPACITY - first)
        start = self._at + first * _ENTRY
        return bytes(self._memory[start : start + straight * _ENTRY]) + bytes(
            self._memory[self._at : self._at + (count - straight) * _ENTRY]
        )

    def _add_text(self, raw: bytes, entry: tuple[int, ...], seq: int) -> None:
        place = len(raw) - (self.next_seq - seq) * _ENTRY
        part = raw[place + _ENTRY - _TEXT : place + _ENTRY][: min(entry[2], _TEXT)]
        if not self._text or self._text_of != entry[3]:
            self._text = b""
            self._text_from = seq
        self._text_of = entry[3]
        self._text = (self._text + part)[:TEXT_MAX]

    def _take_text(self, offset: int) -> str:
        text, self._text = self._text, b""
        return text.decode(errors="replace") if self._text_of == offset else ""


class RecordingDriver:
    """A Driver around a Driver that writes down what becomes of its lines, refusals of the hardware included.

    It stands directly above the hardware, so that it sees safe states, too. Values are written when they
    change. A line's release is for the layer above to tell: what the hardware is told then is another matter.
    """

    def __init__(self, inner: Driver, ring: RingWriter) -> None:
        self.label = inner.label
        self.names: Sequence[str] = inner.names
        self._inner = inner
        self._ring = ring
        self._write = ring.write
        self._driven = bytearray([_UNKNOWN]) * len(inner.names)
        self._realtime: set[int] = set()
        """Lines whose edges have times of that clock"""
        self._last: tuple[Holder, int] | None = None

    def attach(self, edge: PhysicalEdge, presence: PresenceSink) -> None:
        write, realtime = self._write, self._realtime
        realtime_ns, monotonic_ns = self._ring.realtime_ns, self._ring.monotonic_ns

        def on_edge(offset: int, rising: bool, timestamp_ns: int, lost: int = 0, /) -> None:
            if lost:
                write(offset, What.MISSED, 0, min(lost, _U32))
            ahead_ns = 0 if offset in realtime else realtime_ns() - monotonic_ns()
            write(offset, _EDGE, rising, 0, 0, (timestamp_ns + ahead_ns) & _U64)
            edge(offset, rising, timestamp_ns, lost)

        def on_presence(offset: int, there: bool) -> None:
            self._driven[offset] = _UNKNOWN
            write(offset, What.BACK if there else What.GONE, 0)
            presence(offset, there)

        self._inner.attach(on_edge, on_presence)

    def is_output(self, offset: int) -> bool:
        return self._inner.is_output(offset)

    def request(self, offset: int, holder: Holder) -> None:
        self._take(offset, holder)
        self._write(offset, What.REQUESTED, 0)
        self._inner.request(offset, holder)

    def _take(self, offset: int, holder: Holder) -> None:
        if self._last is not None and self._last[0] == holder:
            self._ring.holders[offset] = self._last[1]
        else:
            self._last = (holder, self._ring.introduce(offset, holder))

    def configure(self, offset: int, settings: LineSettings) -> None:
        try:
            self._inner.configure(offset, settings)
        except GpiovirtError as error:
            self._driven[offset] = _UNKNOWN
            self.refused(offset, error.errno, str(error))
            raise
        is_output = settings.direction is Direction.OUTPUT
        (self._realtime.add if settings.event_clock is Clock.REALTIME else self._realtime.discard)(offset)
        level = settings.output_value & 1
        self._driven[offset] = level if is_output else _UNKNOWN
        self._write(offset, What.CONFIGURED, level * is_output | is_output << 1 | settings.edge << 2)

    def free(self, offset: int) -> None:
        self._driven[offset] = _UNKNOWN
        self._inner.free(offset)

    def catch_up(self) -> None:
        self._inner.catch_up()

    def bind(self, offsets: Sequence[int]) -> Values:
        return _RecordedValues(self, self._inner.bind(offsets), offsets)

    # told by the layer above

    def released(self, offset: int) -> None:
        """The line's holder is gone, or gives it up."""
        self._write(offset, What.RELEASED, 0)
        self._ring.holders[offset] = 0

    def refused(self, offset: int, number: int, why: str, holder: Holder | None = None) -> None:
        """Something was refused with an errno, to the line's holder or to another one."""
        self._note(What.REFUSED, offset, number, why, holder)

    def tripped(self, offset: int, why: str) -> None:
        """A rule has taken the line to its safe state."""
        self._note(What.TRIPPED, offset, 0, why, None)

    def rearmed(self, offset: int, why: str, holder: Holder | None = None) -> None:
        """What had tripped is over."""
        self._note(What.REARMED, offset, 0, why, holder)

    def forced(self, offset: int, value: int | None, why: str, holder: Holder | None = None) -> None:
        """An operator holds the line at a level, whatever its holder says; None: no longer."""
        self._note(What.FORCED, offset, _UNKNOWN if value is None else value, why, holder)

    def _note(self, what: What, offset: int, value: int, why: str, holder: Holder | None) -> None:
        holders = self._ring.holders
        former = holders[offset]
        if holder is not None:
            self._take(offset, holder)
        self._ring.text(offset, why)
        self._write(offset, what, value & 0xFF)
        holders[offset] = former


class _RecordedValues:
    """Reading costs nothing; a value that is driven is written down if it is another than before."""

    __slots__ = ("get", "set")

    def __init__(self, driver: RecordingDriver, values: Values, offsets: Sequence[int]) -> None:
        self.get = values.get
        self.set = _recorded(driver, values, offsets)


def _recorded(driver: RecordingDriver, values: Values, offsets: Sequence[int]) -> Callable[[int, int], None]:
    """What sets `values` and writes it down."""
    inner, driven, write = values.set, driver._driven, driver._ring.write_level
    lines = [(1 << i, offset) for i, offset in enumerate(offsets)]

    def failed(mask: int, error: GpiovirtError) -> None:
        """Which of the lines are set is not known."""
        for bit, offset in lines:
            if mask & bit:
                driven[offset] = _UNKNOWN
                driver.refused(offset, error.errno, str(error))

    def set_all(mask: int, bits: int) -> None:
        try:
            inner(mask, bits)
        except GpiovirtError as error:
            failed(mask, error)
            raise
        for bit, offset in lines:
            if mask & bit:
                level = 1 if bits & bit else 0
                if driven[offset] != level:
                    driven[offset] = level
                    write(offset, _SET, level)

    (_, only), *others = lines

    def set_one(mask: int, bits: int) -> None:
        try:
            inner(mask, bits)
        except GpiovirtError as error:
            failed(mask, error)
            raise
        level = bits & 1
        if driven[only] != level and mask & 1:
            driven[only] = level
            write(only, _SET, level)

    return set_all if others else set_one
