# SPDX-License-Identifier: MIT
"""Random sequences do on gpio-sim what they do on our simulated chips.

More of them: GPIOVIRT_SEEDS="FIRST COUNT" python -m pytest tests/guest/test_differential.py
"""

from __future__ import annotations

import os
import sys

import pytest

from guests.guest import uml
from tests.guest.conftest import ROOT

SEEDS = os.environ.get("GPIOVIRT_SEEDS", "0 30")


@pytest.mark.usefixtures("has_uml")
def test_random_sequences_get_the_same_answers_errnos_and_events() -> None:
    result = uml(
        f"cd {ROOT} && guests/gpio-sim sim 8 '' '' DOOR '' '' LAMP >/dev/null && "
        f"{sys.executable} -m tests.guest.differential {SEEDS}",
        timeout_s=60 + int(SEEDS.split()[1]),
    )
    assert result.status == 0, result.stdout[-10000:] + result.stderr[-3000:]
    assert result.stdout == f"{SEEDS.split()[1]} sequences are the same\n"
