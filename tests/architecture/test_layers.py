# SPDX-License-Identifier: MIT
"""The layers of docs/architecture.md, as pyproject.toml tells import-linter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_imports_keep_the_contracts() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_names_its_licence() -> None:
    missing = [
        path
        for folder in ("src", "tests", "benchmarks", "examples", "fuzz", "guests", "docs")
        for path in (ROOT / folder).rglob("*.py")
        if path.stat().st_size and "SPDX-License-Identifier: MIT" not in path.read_text()[:200]
    ]
    assert not missing


def test_every_module_says_what_it_owns() -> None:
    silent = [path for path in SOURCES if path.stat().st_size and '"""' not in path.read_text()[:400]]
    assert not silent


def imported_by(statements: str) -> set[str]:
    """What a Python that executes these statements has imported."""
    script = (
        f"import sys; before = set(sys.modules)\n{statements}\n"
        "print(*{n.partition('.')[0] for n in set(sys.modules) - before})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return set(
        subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
    )


@pytest.fixture(scope="module")
def started() -> set[str]:
    """What `gpiovirt run` on simulated chips has imported when the program starts."""
    return imported_by(
        "import gpiovirt.cli.main, gpiovirt.cli.run\n"
        "gpiovirt.cli.main.parser_for('run').parse_args(['--sim', 'a:1', '--', 'true'])"
    )


def test_a_program_starts_with_the_standard_library_only(started: set[str]) -> None:
    assert {name for name in started if name not in sys.stdlib_module_names} == {"gpiovirt"}


def test_a_program_starts_without_what_is_slow_to_import(started: set[str]) -> None:
    assert not started & {
        "asyncio", "dataclasses", "inspect", "json", "logging", "pathlib", "shutil", "socket", "subprocess",
    }  # fmt: skip


@pytest.mark.parametrize(
    "modules",
    [
        "gpiovirt.cli.new, gpiovirt.cli.list",
        "gpiovirt.cli.daemon, gpiovirt.daemon.service",
        "gpiovirt.worker.forkserver",
    ],
    ids=["commands", "gpiovirtd", "workers"],
)
def test_what_is_slow_to_import_is_for_configuration_and_api_only(modules: str) -> None:
    assert not imported_by(f"import {modules}") & {
        "pydantic",
        "pydantic_core",
        "tomllib",
        "tomli_w",
        "fastapi",
    }


def test_the_schema_is_what_is_slow_to_import() -> None:
    assert "pydantic" in imported_by("import gpiovirt.configuration.model")
