# SPDX-License-Identifier: MIT
"""The lines of a virtual chip, watched: one that vanishes is noticed even where the kernel wakes nobody."""

from __future__ import annotations

import os
from collections.abc import Callable

from gpiovirt.sources.finder import LineAddress
from gpiovirt.sources.line_files import KernelLine
from gpiovirt.virtual.custody import Custody, HeldLine


class Deaf:
    """As Linux before 6.6 to who waits for a line's file."""

    def add_hangup(self, fd: int, callback: Callable[[], object]) -> None:
        pass

    def remove_reader(self, fd: int) -> None:
        pass


def test_a_line_that_vanished_unheard_is_gone_at_the_next_look() -> None:
    gone: list[int] = []
    reader, writer = os.pipe()
    line = HeldLine(LineAddress("panel", 8, 0), "DOOR", KernelLine(reader), False)
    custody = Custody("plc", Deaf(), gone.append, gone.append)
    custody.use([line])
    custody.look()
    assert not gone
    assert custody.is_complete
    os.close(writer)
    custody.look()
    custody.look()
    assert gone == [0]
    assert line.file is None
