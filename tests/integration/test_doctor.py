# SPDX-License-Identifier: MIT
"""`gpiovirt doctor` tells the truth about this machine."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from gpiovirt.host.installation import how_to_install
from tests.integration.conftest import Runner
from tests.integration.test_run import assert_nothing_left


def test_doctor_finds_that_run_works(run: Runner) -> None:
    done = subprocess.run(
        [run.python, "-m", "gpiovirt", "doctor"], capture_output=True, text=True, check=False, **run.options()
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"gpiovirt run works here for uid {run.uid}."
    assert "MISSING" not in done.stdout
    assert run("true").returncode == 0
    assert_nothing_left(run)


def test_doctor_finds_that_a_second_listener_cannot_be(run: Runner) -> None:
    done = run(run.python, "-m", "gpiovirt", "doctor")
    assert done.returncode == 1
    assert "MISSING seccomp user notification" in done.stdout
    assert "under another seccomp listener already" in done.stdout
    assert done.stdout.splitlines()[-1] == f"gpiovirt run does not work here for uid {run.uid}."


@pytest.mark.parametrize(
    ("module", "what"),
    [
        ("pydantic", "chips described by files"),
        ("tomli_w", "chips described by files"),
        ("fastapi", "HTTP and metrics"),
        ("prometheus_client", "HTTP and metrics"),
        ("uvicorn", "HTTP and metrics"),
    ],
)
def test_doctor_finds_a_library_that_a_part_lacks(tmp_path: Path, module: str, what: str) -> None:
    (tmp_path / f"{module}.py").write_text(f"raise ImportError('no {module} here')")
    done = subprocess.run(
        [sys.executable, "-m", "gpiovirt", "doctor"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (found,) = (line.split(maxsplit=1) for line in done.stdout.splitlines() if what in line)
    assert found[0] == "no"
    assert f"no {module} here; {how_to_install('daemon')}" in found[1]


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        ({"url": "file://CLONE", "dir_info": {"editable": True}}, ["-e", "CLONE[daemon]"]),
        ({"url": "file://CLONE", "dir_info": {}}, ["CLONE[daemon]"]),
        ({"url": "file://CLONE/gone", "dir_info": {}}, ["gpiovirt[daemon]"]),
        (None, ["gpiovirt[daemon]"]),
    ],
    ids=["clone", "copy", "gone", "index"],
)
def test_what_is_missing_is_installed_from_where_we_came(
    tmp_path: Path, origin: dict[str, object] | None, wanted: list[str]
) -> None:
    site, clone = tmp_path / "site", tmp_path / "a clone"
    (site / "gpiovirt-0.dist-info").mkdir(parents=True)
    clone.mkdir()
    (site / "gpiovirt-0.dist-info/METADATA").write_text("Name: gpiovirt\nVersion: 0\n")
    if origin:
        text = json.dumps(origin).replace("CLONE", str(clone).replace(" ", "%20"))
        (site / "gpiovirt-0.dist-info/direct_url.json").write_text(text)
    asks = "from gpiovirt.host.installation import how_to_install; print(how_to_install('daemon'))"
    printed = subprocess.check_output(
        [sys.executable, "-c", asks], env={**os.environ, "PYTHONPATH": str(site)}, text=True
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *(word.replace("CLONE", str(clone)) for word in wanted),
    ]
    assert shlex.split(printed) == command


def test_the_extra_of_the_hint_is_one() -> None:
    assert "daemon" in (metadata.metadata("gpiovirt").get_all("Provides-Extra") or [])
