# SPDX-License-Identifier: MIT
"""Making a kernel from a recipe: unpack, edit, configure, compile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from guests import debian
from guests.debian import BuildError
from guests.recipes import Edit, Kernel

# Two thirds of the source that no guest compiles; every Kconfig and Makefile has to be there.
_LEFT_PACKED = (
    *("*/drivers/gpu/*.[ch]", "*/drivers/net/*/*.[ch]", "*/drivers/media/*.[ch]", "*/drivers/staging/*.[ch]"),
    *("*/drivers/infiniband/*.[ch]", "*/drivers/scsi/*.[ch]", "*/sound/*.[ch]"),
    *("*/Documentation/*.rst", "*.yaml", "*.dts", "*.dtsi", "*/tools/testing/*", "*/tools/perf/*"),
)


class Progress:
    """What goes on, on stderr: a line kept up to date on a terminal, now and then a line elsewhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._next_s = 0.0

    def show(self, text: str, *, new_step: bool = True) -> None:
        now = time.monotonic()
        if not new_step and now < self._next_s:
            return
        self._next_s = now + (0.2 if self._terminal else 30)
        line = f"{self._name}: {text}, {now - self._started:.0f} s"
        print(f"\r\033[K{line}" if self._terminal else line, end="", file=sys.stderr)
        print(end="" if self._terminal else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._terminal:
            print(file=sys.stderr, flush=True)


def build(kernel: Kernel, into: Path, log: Path) -> None:
    """Put the kernel's image and its `config` into a directory."""
    work = into / "work"
    work.mkdir()
    progress = Progress(kernel.name)
    try:
        progress.show("unpacking")
        source = _unpack(kernel, work, log)
        for edit in kernel.edits:
            apply(edit, source)
        make = ("make", "-C", str(source), f"-j{len(os.sched_getaffinity(0))}", f"ARCH={kernel.arch}")
        progress.show("configuring")
        _configure(kernel.options, make, source, log)
        _compile(make, log, progress)
        image = into / Path(kernel.image).name
        shutil.copy2(source / kernel.image, image)
        shutil.copy(source / ".config", into / "config")
        if kernel.arch == "um":
            run(["strip", str(image)], log)
        progress.show("removing the source tree")
        shutil.rmtree(work)
        progress.show("built")
    finally:
        progress.end()


def _unpack(kernel: Kernel, work: Path, log: Path) -> Path:
    tarball = Path(f"/usr/src/{kernel.source}.tar.xz")
    if kernel.suite:
        package = debian.download(kernel.source, kernel.suite, work / "apt")
        run(["dpkg-deb", "--extract", str(package), str(work)], log)
        tarball = work / tarball.relative_to("/")
    excluded = [f"--exclude={pattern}" for pattern in _LEFT_PACKED]
    run(["tar", "-C", str(work), "-I", "xz --threads=0", *excluded, "-xf", str(tarball)], log)
    return work / kernel.source


def apply(edit: Edit, source: Path) -> None:
    """Make one edit in a source tree; BuildError if the tree is not as the edit expects."""
    path = source / edit.path
    text = path.read_text() if path.exists() else ""
    if text.count(edit.old) != 1:
        raise BuildError(
            f"{edit.path} of {source.name} does not hold, exactly once, the text to edit: {edit.old!r}; "
            "adapt the edit in guests/recipes.py to this version"
        )
    path.write_text(text.replace(edit.old, edit.new))


def _configure(options: list[str], make: Sequence[str], source: Path, log: Path) -> None:
    wanted = source / "wanted.config"
    wanted.write_text("\n".join(options))
    run([*make, f"KCONFIG_ALLCONFIG={wanted}", "allnoconfig"], log)
    refused = set(options) - set((source / ".config").read_text().splitlines())
    if refused:
        raise BuildError(f"this kernel's configuration does not take {' '.join(sorted(refused))}")


def _compile(make: Sequence[str], log: Path, progress: Progress) -> None:
    compiled = 0
    with log.open("a") as record:
        compiler = subprocess.Popen(make, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert compiler.stdout
        for line in compiler.stdout:
            record.write(line)
            compiled += line.startswith(("  CC ", "  AS "))
            progress.show(f"{compiled} files compiled", new_step=False)
    if compiler.wait():
        raise _failure("compilation", log)


def run(argv: Sequence[str], log: Path) -> None:
    """Run a program; what it prints goes to the log. BuildError if it fails."""
    with log.open("a") as record:
        done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=record, stderr=record)
    if done.returncode:
        raise _failure(argv[0], log)


def _failure(what: str, log: Path) -> BuildError:
    tail = "\n".join(log.read_text().splitlines()[-20:])
    return BuildError(f"{what} failed; all of its output is in {log}, the end:\n{tail}")
