# SPDX-License-Identifier: MIT
"""Containers of an OCI runtime, made of this machine's own programs: nothing is fetched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpiovirt.errors import HostError

__all__ = ["configuration", "make_bundle", "make_root"]

PROGRAMS = ("gpiodetect", "gpiofind", "gpioget", "gpioinfo", "gpiomon", "gpioset")
SHELL = ("sh", "sleep", "cat", "ls", "id", "kill", "readlink", "true", "tty")


def make_root(folder: Path) -> Path:
    """A root file system with GPIO programs and a shell; HostError if this machine lacks them."""
    for each in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "usr/bin"):
        (folder / each).mkdir(parents=True)
    shutil.copy(_program("busybox", "busybox-static"), folder / "bin/busybox")
    for name in SHELL:
        (folder / "bin" / name).symlink_to("busybox")
    for name in PROGRAMS:
        path = _program(name, "gpiod")
        shutil.copy(path, folder / "usr/bin" / name)
        for word in subprocess.check_output(["ldd", path], text=True).split():
            if word.startswith("/") and not (folder / word[1:]).exists():
                (folder / word[1:]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(word, folder / word[1:])
    (folder / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
    return folder


def _program(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise HostError(f"there is no {name} here; apt-get install {package}")
    return os.path.realpath(path)


def make_bundle(folder: Path, root: Path, arguments: Sequence[str]) -> Path:
    """The bundle of a container that runs a program in a root file system."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(configuration(str(root), arguments)))
    return folder


def configuration(root: str, arguments: Sequence[str]) -> dict[str, Any]:
    """As `runc spec` writes it, with no cgroup and no terminal."""
    capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    kept = ["nosuid", "noexec"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(arguments),
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "noNewPrivileges": True,
        },
        "root": {"path": root, "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": [*kept, "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*kept, "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": ["/proc/kcore"],
        },
    }
