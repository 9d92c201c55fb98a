# SPDX-License-Identifier: MIT
"""What doctor says of container engines, on machines made of a few files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpiovirt.cli.engines import HOOKS, engines


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    for name, said in (
        ("podman", "podman version 4.3.1"),
        ("dockerd", "Docker version 28.2.2, build e6534b4"),
        ("containerd", "containerd github.com/containerd/containerd v2.4.0 abc"),
        ("runc", "nonsense"),
    ):
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\necho '{said}'\n")
        program.chmod(0o755)
    return tmp_path


def missing(root: Path, uid: int = 0) -> dict[str, list[str]]:
    environment = {"PATH": str(root / "bin"), "HOME": str(root / "home")}
    return {engine.name: list(engine.missing) for engine in engines(str(root), environment, uid)}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_engines_are_those_in_path_with_their_versions(root: Path) -> None:
    found = [(engine.name, engine.version) for engine in engines(str(root), {"PATH": str(root / "bin")}, 0)]
    assert found == [
        ("runc", "of an unknown version"),
        ("podman", "4.3.1"),
        ("dockerd", "28.2.2"),
        ("containerd", "v2.4.0"),
    ]


def test_the_lines_to_add_make_each_engine_ready(root: Path) -> None:
    write(root / HOOKS[1:] / "gpiovirt.json", "{}")
    wanted = missing(root, uid=1000)
    assert wanted["runc"] == []
    for name, lines in wanted.items():
        if lines:
            path = lines[0].removeprefix("in ").partition(",")[0].rstrip(":")
            text = "\n".join(lines[1:]).replace(f'"{HOOKS}"', f'"{root}{HOOKS}"')
            write(Path(path), f"{{{text}}}" if name == "dockerd" else text)
    assert missing(root, uid=1000) == {name: [] for name in wanted}


def test_roots_podman_finds_the_hook_of_the_package_by_itself(root: Path) -> None:
    assert "the Debian package has" in missing(root)["podman"][-1]
    write(root / HOOKS[1:] / "gpiovirt.json", "{}")
    assert missing(root)["podman"] == []
    assert missing(root, uid=1000)["podman"][0] == f"in {root}/home/.config/containers/containers.conf:"


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"runtimes": {"x": {"path": "/usr/bin/runc"}}})])
def test_a_file_that_says_nothing_of_us_is_not_taken_for_ready(root: Path, text: str) -> None:
    write(root / "etc/docker/daemon.json", text)
    write(root / "etc/containerd/config.toml", text)
    write(root / "etc/containers/containers.conf", text)
    assert all(lines for name, lines in missing(root).items() if name != "runc")
