# SPDX-License-Identifier: MIT
"""For tests of GPIO programs: simulated chips, programs that run on them, and a clock to turn by hand.

Public: the tests of this project use nothing else.
"""

from __future__ import annotations

from gpiovirt.sources.simulator import LevelChange, SimChip, Simulator
from gpiovirt.testing.clock import FakeClock
from gpiovirt.testing.gpio import Gpio, running
from gpiovirt.testing.levels import Edges
from gpiovirt.testing.program import Program

__all__ = ["Edges", "FakeClock", "Gpio", "LevelChange", "Program", "SimChip", "Simulator", "running"]
