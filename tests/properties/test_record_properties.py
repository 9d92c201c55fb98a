# SPDX-License-Identifier: MIT
"""The ring of a record, whatever is written and however it is read: nothing is invented, loss is counted."""

from __future__ import annotations

from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from gpiovirt.core.record import CAPACITY, TEXT_MAX, Entry, Lost, RingReader, RingWriter, What, ring_size

LINES = 3
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, LINES - 1), st.text(max_size=40)),
        st.tuples(st.just("burst"), st.integers(0, CAPACITY + 50), st.just("")),
        st.tuples(st.just("read"), st.integers(0, 2 * CAPACITY), st.just("")),
        st.tuples(st.just("crash"), st.just(0), st.just("")),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_a_reader_gets_each_entry_once_in_order_or_has_it_counted(steps: list[tuple[str, int, str]]) -> None:
    memory = memoryview(bytearray(ring_size(LINES)))
    clock = count(1)

    def new_writer() -> RingWriter:
        return RingWriter(memory, LINES, lambda: next(clock), lambda: 0, lambda: None)

    writer, reader = new_writer(), RingReader(memory, LINES)
    texts: dict[int, str] = {}
    written, seen, told_lost = 0, 0, 0

    def read(most: int) -> None:
        nonlocal seen, told_lost
        for item in reader.read(most):
            if isinstance(item, Lost):
                told_lost += item.number
                continue
            assert item.seq >= seen
            assert item.what == What.REFUSED
            # only the first entry after a loss may lack what belongs to it
            assert item.text in ("", texts[item.seq]) or told_lost
            assert item.first == item.seq
            seen = item.seq + 1

    def write(offset: int, text: str) -> None:
        nonlocal written
        before = written
        writer.text(offset, text)
        raw = text.encode(errors="replace")[:TEXT_MAX]
        written = before + -(-len(raw) // 16)
        texts[written] = raw.decode(errors="replace")
        writer.write(offset, What.REFUSED, 1, written)
        written += 1

    for what, number, text in steps:
        if what == "write":
            write(number, text)
        elif what == "burst":
            for _ in range(number):
                write(0, "")
        elif what == "read":
            read(number)
        else:
            writer = new_writer()
    while reader.next_seq < written:
        read(1000)
    assert reader.next_seq == written
    assert told_lost <= written
    if written <= CAPACITY - 1:
        assert told_lost == 0
        assert seen == written


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_whatever_is_in_the_memory_a_reader_is_bounded(data: st.DataObject) -> None:
    memory = memoryview(bytearray(ring_size(LINES)))
    reader = RingReader(memory, LINES, data.draw(st.integers(0, 1 << 62)))
    for _ in range(5):
        memory[16:24].cast("Q")[0] = data.draw(st.integers(0, (1 << 64) - 1))
        start = data.draw(st.integers(0, 64))
        noise = data.draw(st.binary(max_size=200))
        memory[128 + start : 128 + start + len(noise)] = noise
        most = data.draw(st.integers(0, 100))
        told = reader.read(most)
        assert len(told) <= 2 * most + 1
        for item in told:
            if isinstance(item, Entry):
                assert 0 <= item.offset < LINES
                assert item.what < What.MADE
                assert len(item.text) <= TEXT_MAX
            else:
                assert 0 < item.number < 1 << 63
