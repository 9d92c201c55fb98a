# SPDX-License-Identifier: MIT
"""A program starts when its supervisor says so, and only then."""

from __future__ import annotations

import os

import pytest

from gpiovirt.errors import HostError
from gpiovirt.exports.process.launch import await_supervisor


def await_one_that_says(*said: bytes) -> None:
    from_supervisor, to_program = os.pipe()
    for part in said:
        os.write(to_program, part)
    os.close(to_program)
    try:
        await_supervisor(from_supervisor)
    finally:
        os.close(from_supervisor)


def test_a_program_starts_when_its_supervisor_is_ready() -> None:
    await_one_that_says(b"!")


def test_no_program_starts_after_its_supervisor_has_died() -> None:
    with pytest.raises(HostError, match="ended before the program was started"):
        await_one_that_says()


def test_no_program_starts_that_its_supervisor_cannot_reach() -> None:
    with pytest.raises(HostError, match=r"^no access$"):
        await_one_that_says(b"!no access")
