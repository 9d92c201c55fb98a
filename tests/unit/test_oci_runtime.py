# SPDX-License-Identifier: MIT
"""The wrapper of runtimes, and the hooks: what they do before anybody is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpiovirt.cli.oci_runtime import bundle_of, edit_bundle, known_flags
from gpiovirt.errors import GpiovirtError
from gpiovirt.protocols.oci import WAIT_KILLABLE

NODE = "/run/gpiovirt/containers/nodes/plc"


@pytest.mark.parametrize(
    ("arguments", "bundle"),
    [
        (["create", "--bundle", "/b", "x"], "/b"),
        (["run", "-b", "/b", "x"], "/b"),
        (["--root", "/r", "--log", "/l", "--systemd-cgroup", "create", "--bundle=/b", "x"], "/b"),
        (["--log-format=json", "restore", "x"], "."),
        (["--root", "create", "state", "x"], None),
        (["exec", "--bundle", "/b"], None),
        (["--version"], None),
        ([], None),
    ],
)
def test_the_bundle_of_what_makes_a_container_is_found(arguments: list[str], bundle: str | None) -> None:
    assert bundle_of(arguments) == bundle


def asking() -> dict[str, object]:
    return {"mounts": [{"destination": "/dev/gpiochip0", "source": NODE, "options": ["bind"]}], "linux": {}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (json.dumps(asking())[:-1], "not JSON"),
        (f'["{NODE}"]', "not a JSON object"),
        (f'{{"mounts": "{NODE}"}}', "not a list"),
        (json.dumps(asking()) + " " * (1 << 24), "too long"),
    ],
)
def test_a_configuration_that_is_none_is_refused_and_left_as_it_is(
    tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(GpiovirtError, match=why):
        edit_bundle(str(tmp_path))
    assert (tmp_path / "config.json").read_text() == text


def test_a_bundle_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(GpiovirtError, match=r"cannot read .*config\.json"):
        edit_bundle(str(tmp_path))


@pytest.mark.parametrize(
    ("said", "status", "flags"),
    [
        ({"linux": {"seccomp": {"supportedFlags": ["X", WAIT_KILLABLE]}}}, 0, [WAIT_KILLABLE]),
        ({"linux": {"seccomp": {"supportedFlags": ["X", WAIT_KILLABLE]}}}, 1, []),
        ({"linux": {"seccomp": {"supportedFlags": ["X"]}}}, 0, []),
        ({"linux": None}, 0, []),
        ([], 0, []),
    ],
)
def test_a_flag_is_used_if_the_runtime_lists_it(
    tmp_path: Path, said: object, status: int, flags: list[str]
) -> None:
    runtime = tmp_path / "runtime"
    runtime.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\nexit {status}\n")
    runtime.chmod(0o755)
    assert known_flags(str(runtime)) == flags


def program(
    module: str, function: str, *arguments: str, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    script = f"import sys; from gpiovirt.cli.{module} import {function}; sys.exit({function}())"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        input=stdin,
        capture_output=True,
        check=False,
        env={**os.environ, "GPIOVIRT_RUNTIME_DIR": "/nowhere", **variables},
    )


def test_the_wrapper_tells_an_engine_that_reads_its_log(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(asking()).replace("/run/gpiovirt", "/nowhere"))
    log = tmp_path / "log.json"
    done = program(
        "oci_runtime", "runc", "--log", str(log), "create", "--bundle", str(tmp_path), "x", RUNC="false"
    )
    assert done.returncode == 1
    told = json.loads(log.read_text())
    assert told["level"] == "error"
    assert told["msg"] + "\n" == done.stderr.decode()
    assert "nobody serves containers at /nowhere/containers/listener" in told["msg"]


def test_the_wrapper_becomes_the_runtime(tmp_path: Path) -> None:
    done = program("oci_runtime", "crun", "state", "x", CRUN="echo")
    assert done.stdout == b"state x\n"
    done = program("oci_runtime", "crun", "state", "x", CRUN=str(tmp_path / "none"))
    assert (done.returncode, done.stderr.count(b"install it")) == (127, 1)


@pytest.mark.parametrize("text", [b"", b"{", b'{"mounts": []}\n', b"\xff\x00"])
def test_the_hook_hands_on_what_has_no_chip_byte_by_byte(text: bytes) -> None:
    done = program("oci_hook", "main", stdin=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, text, b"")


def test_the_hook_has_a_container_fail_that_may_not_have_its_chip() -> None:
    text = json.dumps(asking()).replace("/run/gpiovirt", "/nowhere").encode()
    done = program("oci_hook", "main", stdin=text)
    assert done.returncode == 0
    path = json.loads(done.stdout)["linux"]["seccomp"]["listenerPath"]
    assert path.startswith("/gpiovirt: nobody serves containers at /nowhere/containers/listener")
    cut = program("oci_hook", "main", stdin=text[:-1])
    assert cut.returncode == 1
    assert b"not JSON" in cut.stderr


@pytest.mark.parametrize(
    ("config", "status"),
    [
        ({"linux": {"seccomp": {"listenerPath": "/nowhere/containers/listener"}}}, 0),
        ({"linux": {"seccomp": {"listenerPath": "/elsewhere/containers/listener"}}}, 1),
        ({"linux": {}}, 1),
        ([], 1),
    ],
)
def test_the_guard_lets_containers_start_that_were_edited(
    tmp_path: Path, config: object, status: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = program("oci_guard", "main", stdin=json.dumps({"bundle": str(tmp_path)}).encode())
    assert done.returncode == status
    assert bool(done.stderr) is bool(status)
    assert program("oci_guard", "main", stdin=b"nonsense").returncode == 1
