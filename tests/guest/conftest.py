# SPDX-License-Identifier: MIT
"""The guests that tests here need, built if they are not there."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.conftest import installation, package

__all__ = ["ROOT", "build", "has_uml", "has_x86", "installation", "package"]

ROOT = Path(__file__).resolve().parents[2]


def build(target: str) -> float:
    """Have a guest built; the seconds that took."""
    started = time.monotonic()
    built = subprocess.run([ROOT / "guests/build", target], check=True, stdout=subprocess.PIPE, text=True)
    assert Path(built.stdout.splitlines()[-1]).is_dir()
    return time.monotonic() - started


@pytest.fixture(scope="session")
def has_uml() -> None:
    build("uml")


@pytest.fixture(scope="session")
def has_x86() -> None:
    build("x86")
