# SPDX-License-Identifier: MIT
"""/sys/class/gpio under `gpiovirt run --sysfs-gpio`: what old scripts and programs do there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpiovirt.testing import Gpio, Program
from tests.integration.conftest import Runner
from tests.integration.test_run import PRELUDE, assert_nothing_left

SYSFS = ["--sysfs-gpio", "--"]


def run_sysfs(
    run: Runner, *program: str, board: str = "zero2", options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    command = [run.python, "-m", "gpiovirt", "run", "--board", board, *options, *SYSFS, *program]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **run.options())


SCRIPT = """
cd /sys/class/gpio
cat gpiochip0/label gpiochip0/base gpiochip0/ngpio
echo 17 >export; echo 27 >export
cat gpio17/direction gpio17/value gpio17/edge gpio17/active_low
echo out >gpio27/direction; echo 1 >gpio27/value; cat gpio27/value gpio27/direction
sim() { $0 -m gpiovirt sim "$@"; }
sim get GPIO27; sim pull GPIO17 high; cat gpio17/value
echo 1 >gpio17/active_low; cat gpio17/value
gpioinfo gpiochip0 | grep sysfs | tr -s ' \\t' ' '
echo 27 >unexport; sim get GPIO27; ls
"""


def test_a_shell_script_of_2012(run: Runner) -> None:
    done = run_sysfs(run, "sh", "-c", SCRIPT, run.python)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *("pinctrl-bcm2835", "0", "54"),
        *("in", "0", "none", "0"),
        *("1", "out"),
        *("1", "1", "0"),
        ' line 17: "GPIO17" "sysfs" input active-low [used]',
        ' line 27: "GPIO27" "sysfs" output active-high [used]',
        *("0", "export", "gpio17", "gpiochip0", "unexport"),
    ]
    assert_nothing_left(run)


def test_python_periphery(run: Runner) -> None:
    source = """
import subprocess, sys
from periphery.gpio_sysfs import SysfsGPIO
def sim(*words):
    subprocess.run([sys.executable, "-m", "gpiovirt", "sim", *words], check=True)
lamp, door = SysfsGPIO(27, "out"), SysfsGPIO(17, "in")
lamp.write(True)
print(lamp.read(), door.read(), lamp.direction, flush=True)
sim("get", "GPIO27")
door.edge = "rising"
print(door.poll(0.1))
sim("pull", "GPIO17", "high")
print(door.poll(10), door.read())
sim("pull", "GPIO17", "low")
print(door.poll(0.1), door.read())
lamp.close(); door.close()
"""
    done = run_sysfs(run, run.python, "-c", source)
    assert done.stderr == ""
    assert done.stdout.split("\n") == ["True False out", "1", "False", "True True", "False False", ""]


ERRORS = """
import errno, os, sys
def write(path, text):
    try:
        fd = os.open("/sys/class/gpio/" + path, os.O_WRONLY)
        try: return os.write(fd, text.encode())
        finally: os.close(fd)
    except OSError as error: return errno.errorcode[error.errno]
print(*(write("export", text) for text in ("17\\n", "17", "99", "x", "29")))
print(write("gpio17/value", "1"), write("gpio17/direction", "up"), write("gpio17/edge", "neither"))
print(write("gpio17/direction", "high"), write("gpio17/edge", "both"), write("gpio17/value", "x"))
print(write("unexport", "18"), write("unexport", "17"), write("gpio17/value", "1"), end=" ")
print(write("gpiochip0/base", "5"))
for path in ("gpio18", "nosuch", "gpiochip0/nosuch"):
    try: os.stat("/sys/class/gpio/" + path)
    except OSError as error: print(errno.errorcode[error.errno], end=" ")
"""


def test_errors_are_the_kernels(run: Runner) -> None:
    done = run_sysfs(run, run.python, "-c", ERRORS)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[:3] == ["3 EBUSY EINVAL EINVAL EBUSY", "EPERM EINVAL EINVAL", "4 EIO EINVAL"]
    assert lines[3] == "EINVAL 2 ENOENT EACCES"
    assert lines[4] == "ENOENT ENOENT ENOENT "


def test_numbers_begin_where_asked_and_chips_follow_each_other(run: Runner) -> None:
    command = [
        run.python,
        "-m",
        "gpiovirt",
        "run",
        "--sim",
        "a:4",
        "--sim",
        "b:DOOR,LAMP",
        "--sysfs-gpio",
        "512",
    ]
    script = "cd /sys/class/gpio; ls; cat gpiochip516/label; echo 517 >export; cat gpio517/value"
    done = subprocess.run(
        [*command, "--", "sh", "-c", script], capture_output=True, text=True, check=False, **run.options()
    )
    assert done.stdout.split() == ["export", "gpiochip512", "gpiochip516", "unexport", "b", "0"]


def test_a_virtual_chip_is_shown_like_any(run: Runner) -> None:
    options = ("--chip", "plc=pinctrl-bcm2835 17 27")
    script = (
        "cd /sys/class/gpio; cat gpiochip0/label gpiochip0/ngpio; echo 1 >export; echo high >gpio1/direction"
    )
    done = run_sysfs(run, "sh", "-c", f"{script}; $0 -m gpiovirt sim get GPIO27", run.python, options=options)
    assert done.stdout.split() == ["plc", "2", "1"]


def test_a_line_that_is_held_elsewhere_is_busy_both_ways(run: Runner) -> None:
    script = """
gpioset --mode=signal gpiochip0 17=1 & P=$!; sleep 0.5
echo 17 >/sys/class/gpio/export; kill $P; wait $P 2>/dev/null
echo 27 >/sys/class/gpio/export; gpioget gpiochip0 27
"""
    done = run_sysfs(run, "bash", "-c", script)
    assert done.stderr.count("Device or resource busy") == 2, done.stderr


def test_the_rest_of_sys_class_is_as_it_was(run: Runner) -> None:
    done = run_sysfs(run, "ls", "/sys/class")
    assert sorted({*os.listdir("/sys/class"), "gpio"}) == done.stdout.split()
    assert (
        run_sysfs(run, "cat", "/sys/class/mem/null/dev").stdout == Path("/sys/class/mem/null/dev").read_text()
    )


def test_without_the_option_there_is_none(run: Runner) -> None:
    assert run("sh", "-c", "ls /sys/class/gpio/* 2>/dev/null | wc -l", board="zero2").stdout.strip() == "0"


def await_output(app: Program, word: str, times: int = 1) -> None:
    deadline = time.monotonic() + 20
    while app.output().count(word) < times:
        assert time.monotonic() < deadline, app.output()
        time.sleep(0.01)


def test_an_unplugged_chip_takes_its_lines_along(gpio: Gpio) -> None:
    script = "cd /sys/class/gpio; echo 17 >export; echo both >gpio17/edge; echo ready; read x; ls; read x; ls"
    app = gpio.run(
        ["sh", "-c", script], board="zero2", options=["--sysfs-gpio"], ready=["GPIO17"], stdin=subprocess.PIPE
    )
    assert app.process.stdin is not None
    await_output(app, "ready")
    app.unplug("pinctrl-bcm2835")
    app.process.stdin.write("\n")
    app.process.stdin.flush()
    await_output(app, "unexport")
    app.plug("pinctrl-bcm2835")
    app.process.stdin.write("\n")
    app.process.stdin.flush()
    app.expect_exit()
    assert app.output().split() == ["ready", "export", "unexport", "export", "gpiochip0", "unexport"]


POLL = (
    PRELUDE
    + """
def write(path, text):
    with open("/sys/class/gpio/" + path, "w") as file: file.write(text)
write("export", "0"); write("export", "1"); write("gpio0/edge", "both")
value = os.open("/sys/class/gpio/gpio0/value", os.O_RDONLY)
print(os.pread(value, 8, 0), flush=True)
if sys.argv[1] == "epoll":
    waits = select.epoll(); waits.register(value, select.EPOLLPRI | select.EPOLLERR)
else:
    waits = select.poll(); waits.register(value, select.POLLPRI | select.POLLERR)
print("ready", flush=True)
for _ in range(4):
    ((_, events),) = waits.poll(10 if sys.argv[1] == "epoll" else 10000)
    print(events == select.POLLPRI | select.POLLERR, os.pread(value, 8, 0), flush=True)
"""
)


@pytest.mark.parametrize("how", ["poll", "epoll"])
def test_poll_and_epoll_wake_up_at_edges(gpio: Gpio, how: str) -> None:
    program = [sys.executable, "-c", POLL, how]
    app = gpio.run(program, sims=["a:2"], options=["--sysfs-gpio"], ready=["a:0", "a:1"])
    await_output(app, "ready")
    for number in range(4):
        app.toggle("a:0")
        await_output(app, "True", number + 1)
    app.expect_exit()
    assert app.output().split("\n") == [
        "b'0\\n'",
        "ready",
        "True b'1\\n'",
        "True b'0\\n'",
        "True b'1\\n'",
        "True b'0\\n'",
        "",
    ]


def test_a_program_that_opens_without_end_starves_nobody_else(run: Runner) -> None:
    source = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
open("/sys/class/gpio/export", "w").write("17")
held = []
try:
    while True: held.append(os.open("/sys/class/gpio/gpio17/value", os.O_RDONLY))
except OSError as error: print(len(held) > 900, flush=True)
for fd in held: os.close(fd)
for _ in range(2000):
    try: open("/sys/class/gpio/gpio99/value")
    except FileNotFoundError: pass
os.system("gpioget gpiochip0 18")
"""
    assert run_sysfs(run, run.python, "-c", source).stdout.split() == ["True", "0"]


def test_what_cannot_be_shown_is_said(run: Runner) -> None:
    done = subprocess.run(
        [run.python, "-m", "gpiovirt", "run", "--sim", "a:1", "--sysfs-gpio", "-5", "--", "true"],
        capture_output=True,
        text=True,
        check=False,
        **run.options(),
    )
    assert done.returncode == 2
    assert "gpiovirt:" in done.stderr
