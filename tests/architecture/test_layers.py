# SPDX-License-Identifier: MIT
"""The layers of docs/architecture.md, as pyproject.toml tells import-linter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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


def test_the_hot_path_imports_the_standard_library_only() -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        "import gpiovirt.cli.run, gpiovirt.control.simulator\n"
        "print(*{n.partition('.')[0] for n in set(sys.modules) - before})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    names = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {name for name in names if name not in sys.stdlib_module_names} == {"gpiovirt"}


def test_imports_of_the_start_path_are_light() -> None:
    heavy = re.compile(r"^(?:import|from) (dataclasses|inspect|asyncio|subprocess|logging|pathlib)\b", re.M)
    start = [p for p in SOURCES if not {"testing", "doctor.py"} & {*p.parts}]
    assert not [path for path in start if heavy.search(path.read_text())]
