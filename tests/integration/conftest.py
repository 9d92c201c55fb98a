# SPDX-License-Identifier: MIT
"""Run programs under `gpiovirt run`, as root and as an ordinary user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.machine import outside, the_only_one

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).with_name("programs")
USERS = {"gpvalice": 7101, "gpvbob": 7102, "gpvboss": 7103}
GROUPS = {"gpvplc": 7201}
CLIENTS = """\
gpiod gpiod.libs lgpio.py _lgpio* lgpio.libs periphery gpiozero colorzero RPi
adafruit_blinka adafruit_platformdetect board.py digitalio.py microcontroller *_imports.json packaging
vcd typing_extensions.py pytest _pytest py.py pluggy iniconfig pygments"""


class Installation:
    """gpiovirt and the client libraries in a folder that every user can read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o755)
        site = Path(sysconfig.get_paths()["platlib"])
        shutil.copytree(
            ROOT / "src/gpiovirt", folder / "gpiovirt", ignore=shutil.ignore_patterns("__pycache__")
        )
        for pattern in CLIENTS.split():
            for path in site.glob(pattern):
                (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
        for metadata in site.glob("gpiozero*.dist-info"):
            shutil.copytree(metadata, folder / metadata.name)
        self.python = self._python()

    def _python(self) -> str:
        """An interpreter of our version that an ordinary user can start."""
        version = "import sys; print(sys.version_info[:2])"
        for python in (sys.executable, "/usr/bin/python3"):
            try:
                found = subprocess.check_output([python, "-c", version], text=True, **as_user(ordinary_uid()))
            except OSError:
                continue
            if found.strip() == str(sys.version_info[:2]):
                return python
        pytest.fail("an ordinary user can start no Python of this version here")


def ordinary_uid() -> int:
    return os.getuid() or 4242


def as_user(uid: int) -> dict[str, Any]:
    """Keywords of subprocess that start a program as that user."""
    return {} if uid == os.getuid() else {"user": uid, "group": uid, "extra_groups": []}


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="gpiovirt-test-") as folder:
        yield Installation(Path(folder))


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package, built."""
    built = subprocess.run(
        [*outside(), ROOT / "scripts/build-deb", tmp_path_factory.mktemp("deb")],
        env={**os.environ, "PAGES_PYTHON": sys.executable, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Path(built.stdout.splitlines()[-1])


class Runner:
    """`gpiovirt run` as one user."""

    def __init__(self, installation: Installation, uid: int) -> None:
        self.uid = uid
        self.home = installation.folder / f"home-{uid}"
        if not self.home.exists():
            self.home.mkdir()
            os.chown(self.home, uid, uid)
        self.python = installation.python
        self.environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONPATH": str(installation.folder),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
        }

    def options(self) -> dict[str, Any]:
        return {"cwd": self.home, "env": self.environment, **as_user(self.uid)}

    def command(
        self,
        program: Sequence[str],
        sims: Sequence[str] = ("sim-a:8",),
        chips: Sequence[str] = (),
        wires: Sequence[str] = (),
        board: str | None = None,
    ) -> list[str]:
        command = [self.python, "-m", "gpiovirt", "run"]
        if board:
            command += ["--board", board]
            sims = ()
        for option, texts in (("--sim", sims), ("--chip", chips), ("--wire", wires)):
            for text in texts:
                command += [option, text]
        return [*command, "--", *program]

    def __call__(
        self,
        *program: str,
        sims: Sequence[str] = ("sim-a:8",),
        chips: Sequence[str] = (),
        wires: Sequence[str] = (),
        board: str | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        options = {"capture_output": True, "timeout": 60, **self.options(), **options}
        command = self.command(program, sims, chips, wires, board)
        return subprocess.run(command, text=True, check=False, **options)

    def script(self, source: str, **options: Any) -> str:
        """Run a Python program; its standard output, once it has succeeded."""
        done = self(self.python, "-c", source, **options)
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        return str(done.stdout)

    def popen(self, *program: str, **options: Any) -> subprocess.Popen[str]:
        chips = {name: options.pop(name) for name in ("sims", "chips", "wires", "board") if name in options}
        options = {"text": True, **self.options(), **options}
        return subprocess.Popen(self.command(program, **chips), **options)

    def processes(self) -> list[str]:
        """The processes that still run in this runner's environment."""
        mark = f"HOME={self.home}\0".encode()
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in environment.read_bytes():
                    found.append(environment.with_name("cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found

    def sim(self, *arguments: str) -> str:
        """`gpiovirt sim` from outside."""
        command = [self.python, "-m", "gpiovirt", "sim", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **self.options())
        assert done.returncode == 0, done.stderr
        return str(done.stdout).strip()


@pytest.fixture(params=["root", "user"] if os.getuid() == 0 else ["user"])
def run(request: pytest.FixtureRequest, installation: Installation) -> Runner:
    return Runner(installation, 0 if request.param == "root" else ordinary_uid())


@pytest.fixture(scope="session")
def c_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The C client, built statically for 64-bit and for 32-bit, by architecture."""
    with tempfile.TemporaryDirectory(prefix="gpiovirt-c-") as folder:
        Path(folder).chmod(0o755)
        built = {}
        for name, flags in (("x86_64", []), ("i386", ["-m32"])):
            built[name] = f"{folder}/client-{name}"
            source = str(PROGRAMS / "client.c")
            subprocess.run(["gcc", "-O2", "-Wall", "-static", *flags, "-o", built[name], source], check=True)
        yield built


@pytest.fixture(scope="module")
def users() -> Iterator[None]:
    """alice is in the group plc, boss in the group gpiovirt, bob in no other than bob's own."""
    if os.getuid():
        pytest.fail("users can be made by root only")
    with the_only_one():
        yield from _users()


def _users() -> Iterator[None]:
    made_group = subprocess.run(["groupadd", "--system", "gpiovirt"], check=False).returncode == 0
    subprocess.run(["groupadd", "-g", str(GROUPS["gpvplc"]), "gpvplc"], check=True)
    for name, uid in USERS.items():
        subprocess.run(["useradd", "-u", str(uid), "-M", "-s", "/bin/sh", name], check=True)
    subprocess.run(["usermod", "-aG", "gpvplc", "gpvalice"], check=True)
    subprocess.run(["usermod", "-aG", "gpiovirt", "gpvboss"], check=True)
    yield
    for name in USERS:
        subprocess.run(["userdel", name], check=True)
    subprocess.run(["groupdel", "gpvplc"], check=True)
    if made_group:
        subprocess.run(["groupdel", "gpiovirt"], check=True)


def let_all_pass(folder: Path) -> None:
    """Have a folder of a test where every user can reach it."""
    for each in (folder, *folder.parents):
        if each.stat().st_uid == os.getuid() and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o055)
