# SPDX-License-Identifier: MIT
"""The pytest plugin: the fixture `gpio`. Nothing else is imported until a test uses it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gpiovirt.testing.gpio import Gpio


@pytest.fixture
def gpio() -> Iterator[Gpio]:
    """Runs programs on simulated chips: app = gpio.run([...], board="pi5"); they end with the test.

    A test fails, and is never skipped, where that does not work.
    """
    from gpiovirt.testing.for_pytest import PytestGpio

    made = PytestGpio()
    yield made
    made.close()
