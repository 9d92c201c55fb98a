# SPDX-License-Identifier: MIT
"""`gpiovirt doctor` tells the truth about this machine."""

from __future__ import annotations

import subprocess

from tests.integration.conftest import Runner
from tests.integration.test_run import assert_nothing_left


def test_doctor_finds_that_run_works(run: Runner) -> None:
    done = subprocess.run(
        [run.python, "-m", "gpiovirt", "doctor"], capture_output=True, text=True, check=False, **run.options()
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"gpiovirt run works here for uid {run.uid}."
    assert "MISSING" not in done.stdout
    assert run("true").returncode == 0
    assert_nothing_left(run)


def test_doctor_finds_that_a_second_listener_cannot_be(run: Runner) -> None:
    done = run(run.python, "-m", "gpiovirt", "doctor")
    assert done.returncode == 1
    assert "MISSING seccomp user notification" in done.stdout
    assert "under another seccomp listener already" in done.stdout
    assert done.stdout.splitlines()[-1] == f"gpiovirt run does not work here for uid {run.uid}."
