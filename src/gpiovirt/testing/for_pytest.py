# SPDX-License-Identifier: MIT
"""What the fixture is: a Gpio that fails a test in one line where programs cannot run."""

from __future__ import annotations

from typing import Any

import pytest

from gpiovirt.errors import GpiovirtError
from gpiovirt.testing.gpio import Gpio
from gpiovirt.testing.program import Program

__all__ = ["PytestGpio"]


class PytestGpio(Gpio):
    """Its run() ends the test where nothing can be run."""

    def run(self, *arguments: Any, **keywords: Any) -> Program:
        __tracebackhide__ = True
        try:
            return super().run(*arguments, **keywords)
        except GpiovirtError as error:
            why = str(error)
        pytest.fail(f"gpio.run: {why}", pytrace=False)
