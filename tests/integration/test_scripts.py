# SPDX-License-Identifier: MIT
"""scripts/: what they say to who calls them wrongly. That they work, CI sees, which runs them."""

from __future__ import annotations

import os
import subprocess

from tests.integration.conftest import ROOT, as_user, ordinary_uid


def fresh(*arguments: str, uid: int = os.getuid()) -> subprocess.CompletedProcess[str]:
    # by its text: where it lies may be closed to others
    script = (ROOT / "scripts/fresh").read_text()
    command = ["bash", "-c", script, "scripts/fresh", *arguments]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **as_user(uid))


def test_fresh_tells_an_ordinary_user_that_it_needs_root() -> None:
    done = fresh("demo", uid=ordinary_uid())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("scripts/fresh: needs root, ")


def test_fresh_refuses_what_it_does_not_know() -> None:
    done = fresh("tests")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: scripts/fresh ")


def test_what_a_script_cannot_install_it_names() -> None:
    command = ["sh", "-c", (ROOT / "scripts/install-tools").read_text(), "sh", "no-such-package", "dpkg"]
    done = subprocess.run(
        command, cwd="/", capture_output=True, text=True, check=False, **as_user(ordinary_uid())
    )
    assert done.returncode == 1
    assert done.stderr == (
        "some packages are missing; install them with: sudo apt-get install no-such-package\n"
    )
