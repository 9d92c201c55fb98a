# SPDX-License-Identifier: MIT
"""gpiovirtd on a real kernel: its processes are killed, and gpio-sim says that no output moved."""

from __future__ import annotations

import os
import sys

import pytest

from guests.guest import uml
from tests.guest.conftest import ROOT

TIMES = int(os.environ.get("GPIOVIRT_FAULTS", "3"))


@pytest.mark.usefixtures("has_uml")
@pytest.mark.parametrize(
    "what",
    [
        "kill-workers",
        "kill-daemons",
        "kill-daemon-then-worker",
        "execute-again",
        "all-die",
        "unplug",
    ],
)
def test_no_output_moves_and_no_request_is_lost(what: str) -> None:
    result = uml(
        f"cd {ROOT} && guests/gpio-sim sim 8 >/dev/null && "
        f"{sys.executable} -m tests.guest.daemon_program {what} {TIMES}",
        timeout_s=60 + 40 * TIMES,
    )
    assert result.status == 0, result.stdout + result.stderr
    assert result.stdout == "nothing moved, nothing was lost\n"
