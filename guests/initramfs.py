# SPDX-License-Identifier: MIT
"""Making the initramfs of QEMU guests: a cpio archive, written here so that it takes no root."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path

from guests.debian import BuildError
from guests.recipes import HERE, Initramfs

FOLDERS = ("bin", "dev", "proc", "sys", "tmp", "run", "etc", "host")


class Archive:
    """A cpio archive in the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._paths: set[str] = set()

    def folder(self, path: str) -> None:
        if path and path not in self._paths:
            self._add(path, stat.S_IFDIR | 0o755, b"")

    def file(self, path: str, content: bytes) -> None:
        self._add(path, stat.S_IFREG | 0o755, content)

    def link(self, path: str, target: str) -> None:
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def finished(self) -> bytes:
        self._add("TRAILER!!!", 0, b"")
        return b"".join(self._parts)

    def _add(self, path: str, mode: int, content: bytes) -> None:
        if "/" in path:
            self.folder(path.rpartition("/")[0])
        self._paths.add(path)
        name = path.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device and rdev (major, minor each), name size, check
        fields = (len(self._paths), mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._parts += [_padded(header + name), _padded(content)]


def build(recipe: Initramfs, into: Path) -> None:
    """Put `initramfs.cpio` into a directory."""
    archive = Archive()
    for folder in FOLDERS:
        archive.folder(folder)
    busybox = _where("busybox")
    archive.file("bin/busybox", busybox.read_bytes())
    for applet in _output(str(busybox), "--list").split():
        if applet != "busybox":
            archive.link(f"bin/{applet}", "busybox")
    libraries = set()
    for program in map(_where, recipe.programs):
        archive.file(f"bin/{program.name}", program.read_bytes())
        libraries.update(re.findall(r"/lib\S+", _output("ldd", str(program))))
    for library in sorted(libraries):
        archive.file(library.lstrip("/"), Path(library).read_bytes())
    for file, inside in recipe.files:
        archive.file(inside, (HERE / file).read_bytes())
    (into / "initramfs.cpio").write_bytes(archive.finished())


def _where(program: str) -> Path:
    found = shutil.which(program, path="/usr/bin:/bin:/usr/sbin:/sbin")
    if not found:
        raise BuildError(f"there is no {program}, though its package is installed")
    return Path(found)


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
