# SPDX-License-Identifier: MIT
"""The container engines of this machine: whether each finds its way to chips, or what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gpiovirt.control import runtime_directories
from gpiovirt.control.containers import listener_of

__all__ = ["Engine", "engines", "service"]

HOOKS = "/usr/share/containers/oci/hooks.d"
_HOOK = "gpiovirt.json"


class Engine(NamedTuple):
    """One that is installed; `missing` is what to add, and where, in lines."""

    name: str
    version: str
    missing: Sequence[str] = ()


def service() -> str:
    """Where the containers' service listens; empty if it does not."""
    listening = (listener_of(run) for run in runtime_directories())
    return next((path for path in listening if os.path.exists(path)), "")


def engines(root: str = "", environment: Mapping[str, str] = os.environ, uid: int = -1) -> Iterator[Engine]:
    """Those found in PATH; `root` is where the machine's files begin."""
    uid = os.getuid() if uid < 0 else uid
    found = environment.get("PATH", os.defpath)
    wrapper = shutil.which("gpiovirt-runc", path=found) or "/usr/bin/gpiovirt-runc"
    missing: dict[str, Callable[[], list[str]]] = {
        "crun": list,
        "runc": list,
        "podman": lambda: _podman(root, environment, uid),
        "dockerd": lambda: _docker(root, wrapper),
        "containerd": lambda: _containerd(root, wrapper),
    }
    for name, lines in missing.items():
        if path := shutil.which(name, path=f"{found}:{root}/usr/sbin"):
            yield Engine(name, _version(path), lines())


def _version(path: str) -> str:
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "of an unknown version"
    words = said.replace(",", " ").split()
    return next((word for word in words if word.lstrip("v")[:1].isdigit()), "of an unknown version")


def _podman(root: str, environment: Mapping[str, str], uid: int) -> list[str]:
    own = environment.get("XDG_CONFIG_HOME") or f"{environment.get('HOME', '')}/.config"
    paths = [f"{root}/usr/share/containers/containers.conf", f"{root}/etc/containers/containers.conf"]
    paths += [] if uid == 0 else [f"{own}/containers/containers.conf"]
    folders = [f"{root}{HOOKS}", f"{root}/etc/containers/oci/hooks.d"] if uid == 0 else []
    for path in paths:
        told = _toml(path).get("engine", {}).get("hooks_dir")
        if isinstance(told, list):
            folders = [str(folder) for folder in told]
    if any(os.path.exists(f"{folder}/{_HOOK}") for folder in folders):
        return []
    lines = [f"in {paths[-1]}:", "[engine]", f'hooks_dir = ["{HOOKS}"]']
    if not os.path.exists(f"{root}{HOOKS}/{_HOOK}"):
        lines.append(f"and {HOOKS}/{_HOOK}, which the Debian package has")
    return lines


def _docker(root: str, wrapper: str) -> list[str]:
    path = f"{root}/etc/docker/daemon.json"
    try:
        with open(path, "rb") as file:
            runtimes = json.load(file).get("runtimes", {})
        if any("gpiovirt-" in str(runtime.get("path")) for runtime in runtimes.values()):
            return []
    except (OSError, ValueError, AttributeError):
        pass
    return [
        f"in {path}, and reload dockerd:",
        json.dumps({"runtimes": {"gpiovirt": {"path": wrapper}}})[1:-1],
    ]


def _containerd(root: str, wrapper: str) -> list[str]:
    path = f"{root}/etc/containerd/config.toml"
    if "gpiovirt-runc" in json.dumps(_toml(path), default=str):
        return []
    table = '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gpiovirt'
    return [
        f"in {path}, for Kubernetes with a RuntimeClass, and restart containerd:",
        f"{table}]",
        'runtime_type = "io.containerd.runc.v2"',
        f"{table}.options]",
        f'BinaryName = "{wrapper}"',
    ]


def _toml(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError):
        return {}
