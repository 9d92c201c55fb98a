# SPDX-License-Identifier: MIT
"""GPIO programs in other languages, and of other releases than Debian's, unmodified, on virtual chips."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import PROGRAMS, ROOT, Runner
from tests.integration.test_clients import LOOP, ok
from tests.machine import outside

RESULTS = ["rising", "falling", "rising"]
DOWNLOAD = """
import sys
from pathlib import Path
from guests import debian
print(debian.download(sys.argv[1], "trixie", Path(sys.argv[2])))
"""


def build(*command: str, **environment: str) -> str:
    """What a command prints that makes a client, and may ask a registry for it."""
    done = subprocess.run(
        [*outside(), *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gpiovirt-clients-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def node_modules(folder: Path) -> str:
    for file in PROGRAMS.glob("*.js*"):
        shutil.copy(file, folder)
    build(
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--no-package-lock",
        "--nodedir=/usr",
        "--prefix",
        str(folder),
    )
    return str(folder)


@pytest.fixture(scope="module")
def gpiod_2(folder: Path) -> list[str]:
    """What runs a tool of libgpiod 2.2, which needs a younger C library than ours."""
    for package in ("gpiod", "libgpiod3", "libc6"):
        deb = build(sys.executable, "-c", DOWNLOAD, package, str(folder / package))
        build("dpkg-deb", "--extract", deb.strip(), str(folder / "trixie"))
    (libraries,) = (folder / "trixie/usr/lib").glob("*-linux-gnu")
    (loader,) = libraries.glob("ld-linux-*")
    return [str(loader), "--library-path", str(libraries)]


def test_a_program_in_rust(run: Runner, folder: Path) -> None:
    program = folder / "client-rs"
    if not program.exists():
        options = ["-O", "-C", "target-feature=+crt-static", "--edition", "2021"]
        build("/usr/bin/rustc", *options, "-o", str(program), str(PROGRAMS / "client.rs"))
    assert ok(run(str(program), **LOOP)).splitlines() == [*RESULTS, "resource busy"]


def test_a_static_program_in_go(run: Runner, folder: Path) -> None:
    program = folder / "client-go"
    if not program.exists():
        options = {"CGO_ENABLED": "0", "GO111MODULE": "off", "GOCACHE": str(folder / "go")}
        build("/usr/bin/go", "build", "-o", str(program), str(PROGRAMS / "client.go"), **options)
    assert ok(run(str(program), **LOOP)).splitlines() == [*RESULTS, "device or resource busy"]


def test_node_libgpiod_of_npm(run: Runner, node_modules: str) -> None:
    assert ok(run("node", f"{node_modules}/libgpiod.js", **LOOP)) == "a 4 1 0 1\n"


def test_onoff_of_npm(run: Runner, node_modules: str) -> None:
    command = [run.python, "-m", "gpiovirt", "run", "--board", "zero2", "--sysfs-gpio", "--"]
    program = [*command, "node", f"{node_modules}/onoff.js"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, **run.options()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "accessible true\n"
        run.sim("pull", "GPIO17", "up")
        assert process.stdout.readline() == "button 1 lamp 1\n"
        run.sim("pull", "GPIO17", "down")
        assert process.stdout.readline() == "button 0 lamp 0\n"
        assert process.wait(20) == 0


def test_the_tools_of_libgpiod_2(run: Runner, folder: Path, gpiod_2: list[str]) -> None:
    def tool(*words: str, **options: Any) -> str:
        return ok(run(*gpiod_2, str(folder / "trixie/usr/bin" / words[0]), *words[1:], **options))

    named: dict[str, Any] = {"sims": ["a:DOOR,LAMP"], "wires": ["a:0=a:1"]}
    assert tool("gpiodetect", **named) == "gpiochip0 [a] (2 lines)\n"
    assert "LAMP" in tool("gpioinfo", **named)
    assert tool("gpioget", "DOOR", **named) == '"DOOR"=inactive\n'
    script = '"$@"/gpiomon --num-events 2 --format %E DOOR & sleep 0.5; "$@"/gpioset -t 50ms,0 LAMP=1; wait'
    tools = str(folder / "trixie/usr/bin")
    done = ok(run("sh", "-c", script, "sh", *gpiod_2, tools, **named))
    assert done.split() == ["rising", "falling"]


def test_the_binding_of_libgpiod_2(run: Runner) -> None:
    out = run.script(
        """
import gpiod
from gpiod.line import Direction, Edge, Value
lines = {0: gpiod.LineSettings(direction=Direction.OUTPUT), 1: gpiod.LineSettings(edge_detection=Edge.BOTH)}
with gpiod.request_lines("/dev/gpiochip0", lines, consumer="binding") as request:
    for value in (Value.ACTIVE, Value.INACTIVE):
        request.set_value(0, value)
        print([event.event_type.name for event in request.read_edge_events()], request.get_value(1).value)
print(gpiod.api_version.split(".")[0])
""",
        **LOOP,
    )
    assert out == "['RISING_EDGE'] 1\n['FALLING_EDGE'] 0\n2\n"


def test_the_binding_of_libgpiod_1(run: Runner) -> None:
    """Debian's, for its own Python."""
    script = """
import gpiod
chip = gpiod.Chip("a")
output, watched = chip.get_lines([0]), chip.get_line(1)
output.request(consumer="old", type=gpiod.LINE_REQ_DIR_OUT, default_vals=[0])
watched.request(consumer="old", type=gpiod.LINE_REQ_EV_BOTH_EDGES)
for level in (1, 0):
    output.set_values([level])
    assert watched.event_wait(sec=5)
    print(watched.event_read().type == gpiod.LineEvent.RISING_EDGE, watched.get_value())
print(gpiod.version_string().split(".")[0])
"""
    environment = {key: value for key, value in run.environment.items() if key != "PYTHONPATH"}
    program = ["env", "-i", *(f"{key}={value}" for key, value in environment.items())]
    assert ok(run(*program, "/usr/bin/python3", "-c", script, **LOOP)) == "True 1\nFalse 0\n1\n"


def test_busybox_in_the_old_interface(run: Runner) -> None:
    script = """
cd /sys/class/gpio; echo 27 >export; echo out >gpio27/direction
for level in 1 0 1; do echo $level >gpio27/value; cat gpio27/value; done
echo 27 >unexport
"""
    command = [run.python, "-m", "gpiovirt", "run", "--board", "pi3", "--sysfs-gpio", "--"]
    done = subprocess.run(
        [*command, "busybox", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        **run.options(),
    )
    assert (ok(done), done.stderr) == ("1\n0\n1\n", "")


def test_each_program_that_the_readme_names_is_run_as_root_and_as_a_user() -> None:
    (table,) = re.findall(r"^## Programs\n(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S)
    rows = re.findall(r"^\| (.+) \| `(test_\w+)\.py`: (.+) \|$", table, re.M)
    assert len(rows) == table.count("\n|") - 2, "a row without a test"
    for program, module, tests in rows:
        functions = vars(importlib.import_module(f"tests.integration.{module}"))
        for test in re.findall(r"`(\w+)`", tests):
            assert "run" in inspect.signature(functions[test]).parameters, (program, test)
