# SPDX-License-Identifier: MIT
"""Test suites of others, built from Debian's source packages: a GPIO library's, and the kernel's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from guests import debian, kernel
from guests.recipes import HERE, Selftests, Suite


def build(recipe: Suite, into: Path, log: Path) -> None:
    """Put a system with the built source at /suite into `into`/root; takes root."""
    root = into / "root"
    debian.unpack("ca-certificates", recipe.suite, root)
    script = root / "build-suite"
    script.write_text((HERE / recipe.script).read_text())
    # whatever it has mounted goes with its namespace
    inside = 'mount -t proc proc "$0/proc" && exec chroot "$0" /bin/sh -eu /build-suite "$@"'
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", inside, str(root)]
    words = [debian.mirror(), recipe.suite, recipe.source, *recipe.packages]
    with log.open("wb") as record:
        done = subprocess.run(
            [*command, *words], check=False, stdin=subprocess.DEVNULL, stdout=record, stderr=record
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise debian.BuildError(f"the suite {recipe.name} cannot be built; {log} ends:\n{tail}")


def build_selftests(recipe: Selftests, into: Path, log: Path) -> None:
    """Put the scripts and programs into a directory."""
    work = into / "work"
    work.mkdir()
    package = debian.download(recipe.source, recipe.suite, work / "apt")
    kernel.run(["dpkg-deb", "--extract", str(package), str(work)], log)
    tarball = work / f"usr/src/{recipe.source}.tar.xz"
    depth = recipe.folder.count("/") + 2
    unpack = [
        "tar",
        "-C",
        str(into),
        "-I",
        "xz --threads=0",
        f"--strip-components={depth}",
        "-xf",
        str(tarball),
    ]
    kernel.run([*unpack, f"{recipe.source}/{recipe.folder}"], log)
    for program in recipe.programs:
        kernel.run(["gcc", "-O2", "-o", str(into / program), str(into / f"{program}.c")], log)
    shutil.rmtree(work)
