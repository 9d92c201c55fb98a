# SPDX-License-Identifier: MIT
"""Fuzz the reader of a chip's record, which a worker writes that somebody may have taken over."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import harness
from gpiovirt.core.record import CAPACITY, Entry, RingReader, RingWriter, What, ring_size

INVARIANT = (
    "whatever is in the memory, and whenever it changes, a reader returns no more than it was asked for, "
    "of lines that there are, and raises nothing"
)
LINES = 4
ENTRIES = 128  # where they begin, with so few lines


def once(choose: random.Random) -> Counter[str]:
    memory = memoryview(bytearray(ring_size(LINES)))
    head = memory[16:24].cast("Q")
    writer = RingWriter(memory, LINES, lambda: choose.getrandbits(64), lambda: 0, lambda: None)
    reader = RingReader(memory, LINES)
    seen: Counter[str] = Counter()
    for _ in range(30):
        match choose.randrange(6):
            case 0:
                head[0] = choose.choice(
                    [
                        0,
                        head[0] ^ 1 << choose.randrange(64),
                        choose.getrandbits(64),
                        reader.next_seq + CAPACITY,
                    ]
                )
            case 1:
                at = ENTRIES + choose.randrange(64) * 32
                memory[at : at + 32] = choose.randbytes(32)
            case 2:
                at = ENTRIES + reader.next_seq % CAPACITY * 32
                memory[at + 8 : at + 12] = choose.randbytes(4)
            case _:
                writer.text(choose.randrange(LINES), "x" * choose.randrange(100))
                writer.write(choose.randrange(LINES), choose.choice(list(What)), choose.randrange(256))
        most = choose.choice([0, 1, 7, 100])
        told = reader.read(most)
        assert len(told) <= 2 * most + 1
        assert 0 <= reader.next_seq <= 1 << 62
        for item in told:
            if isinstance(item, Entry):
                assert item.offset < LINES
                if item.what == What.HOLDER:
                    item.as_holder()
                assert item.what < What.MADE
                seen[What(item.what).name.lower()] += 1
            else:
                assert 0 < item.number < 1 << 63
                seen["lost"] += 1
    return seen


if __name__ == "__main__":
    sys.exit(harness.main(INVARIANT, once))
