# SPDX-License-Identifier: MIT
"""Any bytes given to any ioctl get an errno the kernel knows, and never disturb the neighbour."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.fuzz_gpiochip import Run

ACTIONS = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 5), st.binary(max_size=620)), max_size=30)


@settings(max_examples=200, deadline=None)
@given(ACTIONS)
def test_any_sequence_of_ioctls_is_answered(actions: list[tuple[int, int, bytes]]) -> None:
    run = Run()
    for number, file, argument in actions:
        run.ioctl(number, file, argument)
    run.check_neighbour()
