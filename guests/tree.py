# SPDX-License-Identifier: MIT
"""Making the tree of an emulated board: Debian's kernel, and an initramfs of its packages.

The packages are unpacked and nothing of theirs is run, so any machine makes one for any architecture.
"""

from __future__ import annotations

import gzip
import io
import re
import subprocess
import tarfile
from pathlib import Path

from guests import debian
from guests.initramfs import Archive
from guests.recipes import HERE, Tree

FOLDERS = ("dev", "proc", "sys", "tmp", "run", "root", "mnt", "var/lib", "etc")
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib"}
"""What base-files' scripts would make, were they run"""

DROPPED = re.compile(
    r"(boot|dev|var|etc/(?!ld\.so|alternatives)|usr/(share|include|games|lib/(linux-image-|modules/|klibc))"
    r"|usr/bin/perl|usr/lib/udev|usr/lib/systemd|usr/lib/[^/]*/(perl|systemd|gconv)"
    r"|usr/lib/python3[^/]*/(test|idlelib|pydoc_data|ensurepip|lib2to3|turtledemo|tkinter)/)"
)
KERNEL = re.compile(r"boot/vmlinu[xz]-")  # of RISC-V it is not compressed
MODULE = re.compile(r"usr/lib/modules/[^/]+/(modules\.[^/]*|kernel/.*/([^/]+)\.ko(\.xz)?)")

USERS = "root:x:0:0::/root:/bin/sh\npi:x:1000:1000::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
GROUPS = "root:x:0:\ngpio:x:997:pi\npi:x:1000:\nnogroup:x:65534:\n"


def build(recipe: Tree, into: Path, log: Path) -> None:
    """Put `vmlinuz`, `initrd.gz` and the device trees into a directory."""
    command = [
        *("mmdebstrap", "--variant=extract", f"--architectures={recipe.arch}", "--format=tar"),
        *(f"--include={','.join(recipe.packages)}", recipe.suite, "-", debian.mirror()),
    ]
    with log.open("wb") as record, (into / "initrd.gz").open("wb") as compressed:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=record) as packages:
            try:
                archive = _initramfs(recipe, packages.stdout or io.BytesIO(), into)
            except tarfile.ReadError:
                archive = b""
        if packages.returncode or not archive:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise debian.BuildError(f"mmdebstrap failed; all of its output is in {log}, the end:\n{tail}")
        compressed.write(gzip.compress(archive, 1))


def _initramfs(recipe: Tree, packages: io.BufferedIOBase | object, into: Path) -> bytes:
    archive = Archive()
    for folder in FOLDERS:
        archive.folder(folder)
    for name, target in LINKS.items():
        archive.link(name, target)
    contents: dict[str, bytes] = {}
    with tarfile.open(fileobj=packages, mode="r|") as tar:  # type: ignore[call-overload]
        for member in tar:
            path = _merged(member.name.removeprefix("./"))
            if KERNEL.match(path):
                _extract(tar, member, into / "vmlinuz")
            elif path.rpartition("/")[2] in recipe.device_trees:
                _extract(tar, member, into / path.rpartition("/")[2])
            elif path in LINKS or (DROPPED.match(path) and not _wanted(path, recipe)):
                continue
            elif member.isdir():
                archive.folder(path)
            elif member.issym():
                archive.link(path, member.linkname)
            elif member.islnk():
                archive.file(path, contents[_merged(member.linkname.removeprefix("./"))])
            elif (opened := tar.extractfile(member)) is not None:
                contents[path] = opened.read()
                archive.file(path, contents[path])
    archive.file("etc/passwd", USERS.encode())
    archive.file("etc/group", GROUPS.encode())
    archive.file("init", (HERE / "board-init").read_bytes())
    archive.file("guest-init", (HERE / "init").read_bytes())
    return archive.finished()


def _merged(path: str) -> str:
    """Where a file lies once /bin, /sbin and /lib are links; suites up to bookworm have files in those."""
    top, _, rest = path.partition("/")
    return f"{LINKS[top]}/{rest}" if rest and top in LINKS else path


def _wanted(path: str, recipe: Tree) -> bool:
    module = MODULE.fullmatch(path)
    return module is not None and (module[2] is None or module[2] in recipe.modules)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, to: Path) -> None:
    opened = tar.extractfile(member)
    assert opened
    to.write_bytes(opened.read())
