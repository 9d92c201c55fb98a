# SPDX-License-Identifier: MIT
"""Programs written for boards, unmodified and without environment variables, under `gpiovirt run --board`."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from gpiovirt import boards
from gpiovirt.control.simulator import socket_of
from gpiovirt.errors import HostError
from tests.integration.conftest import ROOT, Runner
from tests.integration.test_clients import needs_lgpio, ok

PIS = {"pi3": "3B+", "pi4": "4B", "pi5": "5B", "zero2": "Zero2W"}
WORLD = """
import subprocess, sys
def sim(*words):
    command = [sys.executable, "-m", "gpiovirt", "sim", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
"""


def wait_for_simulator(pid: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket_of(pid)
            return
        except HostError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def gpiovirt(run: Runner, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [run.python, "-m", "gpiovirt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, **run.options())


@pytest.mark.parametrize("name", boards.names())
def test_a_program_sees_the_chips_of_the_board(run: Runner, name: str) -> None:
    board = boards.load(name)
    said = ok(run("gpiodetect", board=name)).splitlines()
    for chip in board.chips:
        assert f"gpiochip{chip.number} [{chip.label}] ({len(chip.lines)} lines)" in said
    assert len(said) == sum(1 + len(chip.links) for chip in board.chips)


@needs_lgpio
@pytest.mark.parametrize(("board", "model"), PIS.items())
def test_gpiozero(run: Runner, board: str, model: str) -> None:
    out = run.script(
        WORLD
        + """
import os, threading
from gpiozero import LED, Button, Device
pressed = threading.Event()
led, button = LED(27), Button(17)
button.when_pressed = pressed.set
led.on()
sim("pull", "GPIO17", "down")
factory = Device.pin_factory
print(type(factory).__name__, factory.board_info.model, pressed.wait(5), sim("get", "GPIO27"))
sys.stdout.flush()
# at exit gpiozero claims the button's line anew, while lgpio's thread may still poll the former request of it
os._exit(0)
""",
        board=board,
    )
    assert out == f"LGPIOFactory {model} True 1\n"


@needs_lgpio
@pytest.mark.parametrize("board", PIS)
def test_rpi_gpio_code_through_rpi_lgpio(run: Runner, board: str) -> None:
    out = run.script(
        WORLD
        + """
import threading
import RPi.GPIO as GPIO
GPIO.setmode(GPIO.BOARD)
GPIO.setup(13, GPIO.OUT, initial=GPIO.LOW)
GPIO.setup(11, GPIO.IN, pull_up_down=GPIO.PUD_UP)
GPIO.output(13, GPIO.HIGH)
fell = threading.Event()
print(GPIO.RPI_INFO["TYPE"], GPIO.input(11), sim("get", "GPIO27"))
GPIO.add_event_detect(11, GPIO.FALLING, callback=lambda channel: fell.set())
sim("pull", "GPIO17", "low")
print(fell.wait(5), GPIO.input(11))
GPIO.cleanup()
""",
        board=board,
    )
    types = {"pi3": "Pi 3 Model B+", "pi4": "Pi 4 Model B", "pi5": "Pi 5 Model B", "zero2": "Zero 2 W"}
    assert out == f"{types[board]} 1 1\nTrue 0\n"


@pytest.mark.parametrize("board", PIS)
def test_blinka_digitalio(run: Runner, board: str) -> None:
    out = run.script(
        WORLD
        + """
import board, digitalio
led = digitalio.DigitalInOut(board.D27)
led.direction = digitalio.Direction.OUTPUT
button = digitalio.DigitalInOut(board.D17)
button.switch_to_input(pull=digitalio.Pull.UP)
led.value = True
print(board.board_id, button.value, sim("get", "GPIO27"))
sim("pull", "GPIO17", "low")
print(button.value)
""",
        board=board,
    )
    ids = {"pi3": "3B_PLUS", "pi4": "4B", "pi5": "5", "zero2": "ZERO_2_W"}
    assert out == f"RASPBERRY_PI_{ids[board]} True 1\nFalse\n"


def test_what_the_system_says_is_the_boards(run: Runner) -> None:
    script = """
cat /sys/firmware/devicetree/base/model | tr '\\0' '\\n'
od -An -tx1 '/sys/firmware/devicetree/base/system/linux,revision'
tail -n 1 /proc/cpuinfo
grep -c ^processor /proc/cpuinfo
readlink /dev/gpiochip4
cat /sys/bus/gpio/devices/gpiochip0/of_node/compatible | tr '\\0' '\\n'
ls -d /dev/gpiomem* /sys/class/gpio/* /sys/firmware/acpi /sys/firmware/fdt 2>/dev/null
gpioset gpiochip12 9=1
"""
    done = run("sh", "-c", script, board="pi5")
    assert done.stdout.splitlines() == [
        "Raspberry Pi 5 Model B Rev 1.0",
        " 00 c0 41 70",
        "Model\t\t: Raspberry Pi 5 Model B Rev 1.0",
        "4",
        "gpiochip0",
        "raspberrypi,rp1-gpio",
    ]
    assert "Device or resource busy" in done.stderr  # the board's own LED


def test_without_a_board_the_machine_is_what_it_is(run: Runner) -> None:
    paths = "/proc/cpuinfo /proc/mounts"
    seen = ok(run("sh", "-c", f"cat {paths}", sims=["a:1"]))
    assert "/sys/firmware" not in [
        line.split()[1] for line in seen.splitlines() if line.startswith("gpiovirt ")
    ]
    assert "Raspberry" not in seen


def test_simulated_and_virtual_chips_go_beside_a_boards(run: Runner) -> None:
    both = run("gpiodetect", board="pi5", sims=())
    assert both.returncode == 0
    command = [run.python, "-m", "gpiovirt", "run", "--board", "pi5", "--sim", "panel:DOOR"]
    for options, seen in (
        (["--wire", "panel:DOOR=GPIO17"], "gpiochip14 [panel] (1 lines)"),
        (["--chip", "plc=pinctrl-rp1 17 27, panel 0"], "gpiochip0 [plc] (3 lines)"),
    ):
        done = subprocess.run(
            [*command, *options, "--", "gpiodetect"],
            capture_output=True,
            text=True,
            check=True,
            **run.options(),
        )
        assert seen in done.stdout.splitlines()


def test_a_board_of_ones_own(run: Runner) -> None:
    (run.home / "plant.toml").write_text(
        '[[chip]]\nnumber = 2\nlabel = "io"\nlines = ["DOOR", "LAMP"]\n'
        '[device-tree]\nmodel = "Plant controller"\n'
        '[[header]]\nname = "X1"\npins = ["24V", "DOOR", "0V", "LAMP"]\n'
    )
    assert ok(run("gpiodetect", board="./plant.toml")) == "gpiochip2 [io] (2 lines)\n"
    picture = gpiovirt(run, "pinout", "plant.toml").stdout
    assert picture.splitlines() == ["plant, X1", " 24V    1 | 2    DOOR 2:0", "  0V    3 | 4    LAMP 2:1"]
    (run.home / "plant.toml").write_text('[[chip]]\nnumber = 2\nlabel = "io"\nlines = 8\n')
    said = gpiovirt(run, "pinout", "plant.toml")
    assert (said.returncode, said.stdout) == (2, "")
    assert "has no header; write one as [[header]]" in said.stderr


def test_boards_are_listed(run: Runner) -> None:
    listed = gpiovirt(run, "boards").stdout.splitlines()
    assert [line.split()[0] for line in listed] == boards.names()
    (pi,) = json.loads(gpiovirt(run, "boards", "--json", "pi5").stdout)
    assert pi["name"] == "Raspberry Pi 5 Model B"
    assert [chip["device"] for chip in pi["chips"]] == [f"gpiochip{number}" for number in (0, 10, 11, 12, 13)]
    assert pi["chips"][0]["lines"][17] == {"offset": 17, "name": "GPIO17"}
    assert pi["headers"][0]["pins"][10] == {"pin": 11, "name": "GPIO17", "chip": "pinctrl-rp1", "offset": 17}


def test_a_pinout_is_that_of_the_board_with_the_levels_of_a_program(run: Runner) -> None:
    still = gpiovirt(run, "pinout", "pi4").stdout.splitlines()
    assert len(still) == 21
    assert still[6].split() == ["GPIO17", "0:17", "11", "|", "12", "GPIO18", "0:18"]
    program = run.popen("gpioset", "--mode=signal", "gpiochip0", "17=1", board="pi4")
    try:
        deadline = time.monotonic() + 10
        while (row := gpiovirt(run, "pinout", "pi4", "--pid", str(program.pid)).stdout.splitlines()[6:7]) != [
            ">gpioset GPIO17 0:17 * 11 | 12 . GPIO18 0:18"
        ]:
            assert time.monotonic() < deadline, row
            time.sleep(0.05)
        other = gpiovirt(run, "pinout", "pi5", "--pid", str(program.pid))
        assert "no program runs on the board pi5; start one with" in other.stderr
    finally:
        program.kill()
        program.wait()


def test_a_watched_pinout_is_drawn_anew_until_the_program_ends(run: Runner) -> None:
    program = run.popen("cat", board="pi4", stdin=subprocess.PIPE)
    pid = str(program.pid)
    watch = [run.python, "-m", "gpiovirt", "pinout", "pi4", "--watch", "--pid", pid]
    wait_for_simulator(program.pid)
    with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True, **run.options()) as watching:
        assert watching.stdout is not None
        drawn = [watching.stdout.readline() for _ in range(21)]
        run.sim("--pid", pid, "pull", "GPIO18", "high")
        drawn += [watching.stdout.readline() for _ in range(21)]
        program.communicate()
        assert watching.stdout.read() == ""
        assert watching.wait(10) == 0
    drawn = [line.rstrip() for line in drawn]
    assert len(drawn) == 2 * 21
    assert drawn[6].endswith(". GPIO18 0:18")
    assert drawn[6 + 21].endswith("* GPIO18 0:18")


def test_the_page_about_boards_names_each() -> None:
    page = Path(ROOT / "docs/boards.md").read_text()
    for name in boards.names():
        assert f"| `{name}` |" in page
