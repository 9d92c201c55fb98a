# SPDX-License-Identifier: MIT
"""Debian packages: which are here, how to get the rest, and how to get one from another suite."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path


class BuildError(Exception):
    """A guest cannot be built: one line of what and what to do, then the end of the log if there is one."""


def package_version(package: str) -> str:
    """The installed version, else the one apt would install, else ""."""
    return _installed_version(package) or _candidate_version(package)


def require(packages: Iterable[str]) -> None:
    """Install `packages`: as root itself, otherwise by telling how."""
    missing = [package for package in packages if not _installed_version(package)]
    if not missing:
        return
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        raise BuildError(f"Debian packages are missing; run: sudo {shlex.join(install)}")
    print(f"installing {' '.join(missing)}", file=sys.stderr, flush=True)
    if not all(map(_candidate_version, missing)):
        _apt("apt-get", "update")
    _apt(*install)


def mirror() -> str:
    """The mirror that this system's own suite comes from."""
    listing = _output("apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)")
    codename = re.search(r"^VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    entry = re.search(rf"^{codename[1] if codename else ''} main (\S+)$", listing, re.MULTILINE)
    if not entry:
        raise BuildError("apt knows no mirror for this Debian; run apt-get update and try again")
    return entry[1]


def download(package: str, suite: str, work: Path) -> Path:
    """Fetch a package from a suite on the system's own mirror; the system's lists stay as they are."""
    origin = mirror()
    for folder in ("lists/partial", "archives/partial"):
        (work / folder).mkdir(parents=True)
    (work / "sources.list").write_text(f"deb {origin} {suite} main\n")
    private = [
        *("-o", f"Dir::Etc::SourceList={work}/sources.list", "-o", "Dir::Etc::SourceParts=-"),
        *("-o", f"Dir::State::Lists={work}/lists", "-o", f"Dir::Cache={work}"),
        *("-o", "APT::Sandbox::User="),
    ]
    _apt("apt-get", *private, "update", cwd=work)
    if not _candidate_version(package, *private):
        raise BuildError(f"{suite} on {origin} has no {package}; this guest cannot be built from there")
    _apt("apt-get", *private, "download", package, cwd=work)
    return next(work.glob("*.deb"))


def extract(package: str, suite: str, into: Path) -> None:
    """What a package of a suite has, by path; nothing is installed."""
    with tempfile.TemporaryDirectory() as work:
        _apt("dpkg-deb", "--extract", str(download(package, suite, Path(work))), str(into))


def unpack(package: str, suite: str, tree: Path) -> None:
    """A system of a suite, on the system's own mirror, that has a package; takes root."""
    if os.geteuid() != 0:
        raise BuildError(f"{package} of {suite} is unpacked by debootstrap, which needs root")
    _apt("debootstrap", "--variant=minbase", f"--include={package}", suite, str(tree), mirror())


def _installed_version(package: str) -> str:
    shown = _output("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", package).split()
    return shown[1] if len(shown) == 2 and shown[0] == "installed" else ""


def _candidate_version(package: str, *options: str) -> str:
    found = re.search(r"Candidate: (\d\S*)", _output("apt-cache", *options, "policy", package))
    return found[1] if found else ""


def _output(*argv: str) -> str:
    try:
        return subprocess.run(argv, check=False, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise BuildError(f"guests are built from Debian packages, and there is no {argv[0]} here") from None


def _apt(*argv: str, cwd: Path | None = None) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, check=False, env=environment, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise BuildError(f"{shlex.join(argv)} failed with status {done.returncode}\n{tail}")
