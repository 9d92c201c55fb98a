# SPDX-License-Identifier: MIT
"""A source chip that vanishes and comes back, on a real kernel: only its own lines are hurt."""

from __future__ import annotations

import sys

import pytest

from guests.guest import uml
from tests.guest.conftest import ROOT

PROGRAM = f"{sys.executable} {ROOT}/tests/guest/hotplug_program.py"
GPIOVIRT = f"{sys.executable} -m gpiovirt"


@pytest.mark.usefixtures("has_uml")
def test_lines_fail_while_their_chip_is_away_and_work_when_it_is_back() -> None:
    result = uml(
        f"cd {ROOT} && guests/gpio-sim sim 8 >/dev/null && "
        f"{GPIOVIRT} run --sim s:1 --chip 'plc=sim 3, s 0' -- {PROGRAM}",
    )
    assert result.status == 0, result.stdout + result.stderr
    assert result.stdout.splitlines() == [
        "before: works works",
        "hung up: True",
        "gone: ENODEV works",
        "asked anew: ENODEV",
        "back: 1",
        "edges: True works",
    ]
    assert result.stderr == ""


@pytest.mark.usefixtures("has_uml")
def test_a_chip_that_is_not_there_is_told_with_those_that_are() -> None:
    result = uml(
        f"cd {ROOT} && guests/gpio-sim sim 8 >/dev/null && {GPIOVIRT} run --chip 'plc=fpga 3' -- true"
    )
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == "gpiovirt: no chip 'fpga'; the chips here are: sim\n"


@pytest.mark.usefixtures("has_uml")
def test_wait_waits_for_a_chip_that_is_not_there_yet() -> None:
    later = f"(sleep 1; {ROOT}/guests/gpio-sim fpga 8 >/dev/null) &"
    run = f"{GPIOVIRT} run --wait 20 --chip 'plc=fpga 3' -- gpiodetect"
    assert uml(f"cd {ROOT}; {later} {run}").check() == "gpiochip0 [plc] (1 lines)\n"
    given_up = uml(f"cd {ROOT}; {GPIOVIRT} run --wait 0.5 --chip 'plc=fpga 3' -- gpiodetect")
    assert given_up.status == 2
    assert "no chip 'fpga'" in given_up.stderr
