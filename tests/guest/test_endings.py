# SPDX-License-Identifier: MIT
"""On a real kernel: whoever drives an output may end in any way, and gpio-sim says that it is low."""

from __future__ import annotations

import sys

import pytest

from guests.guest import uml
from tests.guest.conftest import ROOT
from tests.guest.endings_program import ENDINGS


@pytest.mark.usefixtures("has_uml")
def test_an_output_is_safe_however_its_consumer_ends() -> None:
    result = uml(
        f"cd {ROOT} && guests/gpio-sim sim 8 >/dev/null && {sys.executable} -m tests.guest.endings_program 1",
        timeout_s=240,
    )
    assert result.status == 0, result.stdout + result.stderr
    assert [row.split("\t")[0] for row in result.stdout.splitlines()] == list(ENDINGS)
