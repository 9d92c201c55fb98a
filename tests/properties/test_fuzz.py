# SPDX-License-Identifier: MIT
"""Every fuzz harness runs, for a moment; run them longer by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "fuzz"


@pytest.mark.parametrize("harness", sorted(path.name for path in FOLDER.glob("fuzz_*.py")))
def test_a_fuzz_harness_finds_nothing(harness: str) -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / harness, "--seconds", "5"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 10
