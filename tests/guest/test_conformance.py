# SPDX-License-Identifier: MIT
"""The conformance suite over the kernel's own gpio-sim: where we differ from it, we are wrong."""

from __future__ import annotations

import re
import sys

import pytest

from guests.guest import uml
from tests.guest.conftest import ROOT


@pytest.mark.usefixtures("has_uml")
def test_the_kernels_gpio_sim_passes_the_conformance_suite() -> None:
    result = uml(
        f"cd {ROOT} && set -- $(guests/gpio-sim sim 8 '' '' DOOR '' '' LAMP '' '') && "
        f"GPIOVIRT_RIG=/dev/$1@$2 {sys.executable} -m pytest -p no:cacheprovider tests/conformance",
        timeout_s=180,
    )
    assert result.status == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert re.search(r"\b1[0-9]{2} passed", result.stdout)
    assert "skipped" not in result.stdout
