# SPDX-License-Identifier: MIT
"""The conformance suite over the kernel's own gpio-sim: where we differ from it, we are wrong."""

from __future__ import annotations

import re
import sys

import pytest

from guests.guest import Uml, uml
from tests.guest.conftest import ROOT
from tests.integration.conftest import Installation

CHIP = "set -- $(guests/gpio-sim sim 8 '' '' DOOR '' '' LAMP '' '')"
SUITE = f"{sys.executable} -m pytest -p no:cacheprovider tests/conformance"
GPIOVIRT = f"{sys.executable} -m gpiovirt"


@pytest.mark.usefixtures("has_uml")
@pytest.mark.parametrize(
    ("command", "count"),
    [
        (f"GPIOVIRT_RIG=/dev/$1@$2 {SUITE}", 1),
        (f'GPIOVIRT_RIG="source:/dev/$1@$2 aggregate:/dev/$1@$2" {SUITE}', 2),
        (f'GPIOVIRT_RIG=/dev/gpiochip0@$2 {GPIOVIRT} run --chip "plc=$1 0-3, sim 4-7" -- {SUITE}', 1),
        (
            f"{{ {GPIOVIRT}.cli.daemon --no-files --no-api --no-config --state /run/state 2>/run/log & }}; "
            "until grep -qs ready /run/log; do sleep 0.1; done; "
            f'{GPIOVIRT} new plc "$1 0-3, sim 4-7" >/dev/null && '
            f"GPIOVIRT_RIG=kept:/dev/gpiochip0@$2 {GPIOVIRT} run --chip plc -- {SUITE}",
            1,
        ),
    ],
    ids=[
        "the kernel itself",
        "kernel chips as sources",
        "a program on kernel lines",
        "a program on gpiovirtd's chip of kernel lines",
    ],
)
def test_the_conformance_suite_passes_on_gpio_sim(command: str, count: int) -> None:
    result = uml(f"cd {ROOT} && {CHIP} && {command}", timeout_s=180)
    assert result.status == 0, result.stdout[-5000:] + result.stderr[-2000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None
    assert int(passed[1]) >= 120 * count
    assert "skipped" not in result.stdout


@pytest.mark.usefixtures("has_uml")
def test_kernel_lines_are_named_in_every_way() -> None:
    result = uml(
        f"cd {ROOT} && {CHIP} && for chip in $1 /dev/$1 sim; do "
        f'{GPIOVIRT} run --chip "plc=DOOR $chip 3, LAMP" -- gpioinfo; done',
    )
    lines = [line.split()[:3] for line in result.check().splitlines()]
    expected = [["line", "0:", '"DOOR"'], ["line", "1:", "unnamed"], ["line", "2:", '"LAMP"']]
    assert lines == [["gpiochip0", "-", "3"], *expected] * 3


@pytest.mark.usefixtures("has_uml")
def test_kernel_lines_are_held_for_the_virtual_chip_and_listed_so() -> None:
    result = uml(
        f'cd {ROOT} && {CHIP} && {GPIOVIRT} run --sim s:1 --chip "plc=$1 0-1" -- sleep 5 & '
        f"cd {ROOT}; sleep 1.5; "
        f"{GPIOVIRT} list; {GPIOVIRT} run --chip 'x=DOOR sim 1' -- true; echo $?"
    )
    shown = [line.split() for line in result.stdout.splitlines()]
    assert ["0", "-", "input", '"gpiovirt:plc"', "->", "plc"] in shown
    assert ["2", "DOOR", "input", "unused"] in shown
    assert shown[-1] == ["1"]
    assert 'line sim:1 is held by "gpiovirt:plc"; release it or choose another' in result.stderr


@pytest.mark.usefixtures("has_uml")
def test_an_ordinary_user_runs_on_kernel_lines_that_he_may_open(installation: Installation) -> None:
    gpiovirt = f"{installation.python} -m gpiovirt run --chip 'plc=gpiochip0 2' -- gpioinfo"
    environment = f"PYTHONPATH={installation.folder}"
    with Uml() as guest:
        guest.run(f"cd {ROOT} && {CHIP} && chmod 600 /dev/$1").check()
        refused = guest.run(f"{environment} {gpiovirt}", user="nobody")
        assert refused.status == 1
        assert refused.stderr == "gpiovirt: cannot open the chip gpiochip0: Permission denied\n"
        guest.run("chmod 666 /dev/gpiochip0").check()
        shown = guest.run(f"{environment} {gpiovirt}", user="nobody").check()
    assert shown.splitlines()[1].split()[2] == '"DOOR"'
