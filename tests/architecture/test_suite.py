# SPDX-License-Identifier: MIT
"""The tests' own rules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT

LEFT_OUT = """
import pytest

def test_that_runs(): pass

@pytest.mark.skip(reason="for no reason")
def test_that_is_left_out(): pass
"""


@pytest.mark.parametrize(("ci", "status"), [("true", 1), ("", 0)], ids=["in CI", "at home"])
def test_one_that_is_skipped_fails_in_ci(tmp_path: Path, ci: str, status: int) -> None:
    (tmp_path / "test_some.py").write_text(LEFT_OUT)
    options = ["-q", "-p", "no:cacheprovider", "-p", "tests.conftest", f"--basetemp={tmp_path}/temporary"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tmp_path],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CI": ci},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    assert ("in CI no test is left out" in done.stdout) == bool(ci)
