# SPDX-License-Identifier: MIT
"""Test blink.py, unmodified, on simulated lines: pytest test_blink.py"""

import subprocess
import sys
from pathlib import Path

from gpiovirt.testing import running

BLINK = [sys.executable, str(Path(__file__).with_name("blink.py")), "/dev/gpiochip0"]
PANEL = ["panel:DOOR,LAMP"]


def test_the_lamp_goes_on_and_off_and_on() -> None:
    with running([*BLINK, "LAMP", "1000"], sims=PANEL) as program:
        for level in (1, 0, 1):
            program.wait_for_level("panel:LAMP", level)


def test_the_lamp_is_held_while_it_blinks() -> None:
    with running([*BLINK, "LAMP", "1000"], sims=PANEL) as program:
        program.wait_for_consumer("panel:1", "blink")


def test_it_ends_by_itself() -> None:
    with running([*BLINK, "LAMP", "2"], sims=PANEL) as program:
        assert program.process.wait(10) == 0


def test_a_line_that_is_not_there_is_an_error() -> None:
    with running([*BLINK, "GATE", "1"], sims=PANEL, stderr=subprocess.PIPE) as program:
        _, errors = program.process.communicate(timeout=10)
    assert program.process.returncode == 1
    assert "GATE" in errors
