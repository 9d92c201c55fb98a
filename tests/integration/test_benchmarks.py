# SPDX-License-Identifier: MIT
"""`python -m benchmarks` measures what it says, and tells what it cannot measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def is_left() -> bool:
    return "gpiovirt-against" in subprocess.check_output(["git", "worktree", "list"], cwd=ROOT, text=True)


def test_a_commit_is_compared_in_turn_and_leaves_nothing(tmp_path: Path) -> None:
    done = benchmarks("--against", "HEAD", "--quick", "--anyway", "--json", str(tmp_path / "told.json"))
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    rows = {row["operation"]: row for row in told["against"]}
    ways = [f"{way} {name}" for way in ("run:", "gpiovirtd:") for name in ("get", "set", "request", "edge")]
    assert list(rows)[: len(ways)] == ways
    for operation, row in rows.items():
        assert f"| {operation} | {row['figures']['here, us']} |" in done.stdout
        assert len(row["samples"]["here / there"]) == 5
        assert all(ratio > 0 for ratio in row["samples"]["here / there"])
    assert not is_left()


def test_what_cannot_be_compared_is_told() -> None:
    done = benchmarks("--against", "no-such-commit", "--anyway")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "no commit is called no-such-commit"
    assert not is_left()
    assert "no benchmark is called nope" in benchmarks("nope").stderr
