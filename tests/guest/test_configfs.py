# SPDX-License-Identifier: MIT
"""Random sequences on our gpio-sim and gpio-aggregator do what they do on the kernel's, of Linux 7.3.

More of them: GPIOVIRT_CONFIGFS_SEEDS="FIRST COUNT" python -m pytest tests/guest/test_configfs.py
"""

from __future__ import annotations

import os
import subprocess
import sys

from guests.guest import uml
from tests.guest.configfs_program import STEPS
from tests.guest.conftest import ROOT, build

SEEDS = os.environ.get("GPIOVIRT_CONFIGFS_SEEDS", "0 20")
PROGRAM = [sys.executable, "-m", "tests.guest.configfs_program", *SEEDS.split()]


def test_random_sequences_get_the_same_answers_errnos_and_chips() -> None:
    build("uml-7.3")
    timeout_s = 60 + 5 * int(SEEDS.split()[1])
    command = [sys.executable, "-m", "gpiovirt", "run", "--gpio-sim", "--", *PROGRAM]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as ours:
        theirs = uml(f"cd {ROOT} && {' '.join(PROGRAM)}", timeout_s=timeout_s, kernel="uml-7.3")
        printed, _ = ours.communicate(timeout=timeout_s)
    assert theirs.status == 0, theirs.stderr[-3000:]
    assert ours.returncode == 0
    assert printed.splitlines() == theirs.stdout.splitlines()
    assert len(printed.splitlines()) == STEPS * int(SEEDS.split()[1])
