# SPDX-License-Identifier: MIT
"""Random sequences on /sys/class/gpio do on ours what they do on the kernel's, on gpio-sim.

More of them: GPIOVIRT_SYSFS_SEEDS="FIRST COUNT" python -m pytest tests/guest/test_sysfs.py
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from guests.guest import uml
from tests.guest.conftest import ROOT

SEEDS = os.environ.get("GPIOVIRT_SYSFS_SEEDS", "0 15")
PROGRAM = [sys.executable, "-m", "tests.guest.sysfs_program", *SEEDS.split()]


@pytest.mark.usefixtures("has_uml")
def test_random_sequences_get_the_same_answers_errnos_and_wakeups() -> None:
    timeout_s = 60 + 3 * int(SEEDS.split()[1])
    command = [
        sys.executable,
        "-m",
        "gpiovirt",
        "run",
        "--sim",
        "bank:8",
        "--sysfs-gpio",
        "512",
        "--",
        *PROGRAM,
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as ours:
        theirs = uml(
            f"cd {ROOT} && guests/gpio-sim sim 8 '' '' DOOR '' '' LAMP >/dev/null && {' '.join(PROGRAM)}",
            timeout_s=timeout_s,
        )
        printed, _ = ours.communicate(timeout=timeout_s)
    assert theirs.status == 0, theirs.stderr[-3000:]
    assert ours.returncode == 0
    assert printed.splitlines() == theirs.stdout.splitlines()
    assert len(printed.splitlines()) == 60 * int(SEEDS.split()[1])
