# SPDX-License-Identifier: MIT
"""The guests that tests here need, built if they are not there."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import installation, package
from tests.machine import outside

__all__ = ["ROOT", "build", "has_uml", "has_x86", "installation", "package"]

ROOT = Path(__file__).resolve().parents[2]


def build(target: str) -> float:
    """Have a guest built; the seconds of CPU that took, of which others that run meanwhile take none."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [*outside(), str(ROOT / "guests/build"), target]
    built = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert Path(built.stdout.splitlines()[-1]).is_dir()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="session")
def has_uml() -> None:
    build("uml")


@pytest.fixture(scope="session")
def has_x86() -> None:
    build("x86")
