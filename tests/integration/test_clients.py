# SPDX-License-Identifier: MIT
"""Real GPIO programs, unmodified, on virtual chips."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from tests.integration.conftest import ROOT, Runner

PLC: dict[str, Any] = {"sims": ["sim-a:8", "sim-b:DOOR,LAMP"], "chips": ["plc=sim-a 0 3, sim-b 0-1"]}
needs_lgpio = pytest.mark.skipif(find_spec("lgpio") is None, reason="lgpio has no wheel for this Python")
LOOP: dict[str, Any] = {"sims": ["a:4"], "wires": ["a:0=a:1"]}


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_gpiodetect_finds_the_virtual_chip_only(run: Runner) -> None:
    assert ok(run("gpiodetect", **PLC)) == "gpiochip0 [plc] (4 lines)\n"


def test_chips_are_numbered_in_the_order_given(run: Runner) -> None:
    out = ok(run("gpiodetect", sims=["s:8"], chips=["one=s 5", "two=s 1-2", "three=one 0"]))
    assert out == "gpiochip0 [one] (1 lines)\ngpiochip1 [two] (2 lines)\ngpiochip2 [three] (1 lines)\n"


def test_without_chip_the_simulated_chips_are_shown(run: Runner) -> None:
    assert ok(run("gpiodetect", sims=["s:8", "t:X"])) == "gpiochip0 [s] (8 lines)\ngpiochip1 [t] (1 lines)\n"


def test_gpioinfo_lists_names_and_consumers(run: Runner) -> None:
    out = ok(run("sh", "-c", "gpioset -m time -s 2 gpiochip0 3=1 & sleep 0.5; gpioinfo", **PLC))
    lines = [line.split() for line in out.splitlines()[1:]]
    assert [line[2] for line in lines] == ["unnamed", "unnamed", '"DOOR"', '"LAMP"']
    assert lines[3][3:5] == ['"gpioset"', "output"]


def test_gpioget_reads_what_the_world_pulls(run: Runner) -> None:
    script = "python=$1; $python -m gpiovirt sim pull sim-b:DOOR up && gpioget gpiochip0 1 2 3"
    assert ok(run("sh", "-c", script, "sh", run.python, **PLC)) == "0 1 0\n"


def test_gpioset_drives_the_source_line(run: Runner) -> None:
    script = "gpioset -m time -s 2 gpiochip0 1=1 & sleep 0.5; $1 -m gpiovirt sim get sim-a:3"
    assert ok(run("sh", "-c", script, "sh", run.python, **PLC)) == "1\n"


def test_gpiofind_finds_by_name(run: Runner) -> None:
    assert ok(run("gpiofind", "LAMP", **PLC)) == "gpiochip0 3\n"


def test_gpiomon_sees_edges(run: Runner) -> None:
    script = "gpiomon -n 2 gpiochip0 1 & sleep 0.3; gpioset gpiochip0 0=1; wait"
    out = ok(run("sh", "-c", script, **LOOP))
    assert [event.split()[1] for event in re.findall(r"event: +\w+ \w+", out)] == ["RISING", "FALLING"]


@needs_lgpio
def test_lgpio(run: Runner) -> None:
    out = run.script(
        """
import lgpio, time
h = lgpio.gpiochip_open(0)
print(lgpio.gpio_get_chip_info(h))
seen = []
lgpio.gpio_claim_alert(h, 1, lgpio.BOTH_EDGES)
callback = lgpio.callback(h, 1, lgpio.BOTH_EDGES, lambda chip, gpio, level, tick: seen.append(level))
lgpio.gpio_claim_output(h, 0, 0)
for level in (1, 0, 1):
    lgpio.gpio_write(h, 0, level)
    time.sleep(0.05)
print(seen, lgpio.gpio_read(h, 1))
""",
        **LOOP,
    )
    assert out == "[0, 4, 'gpiochip0', 'a']\n[1, 0, 1] 1\n"


def test_python_periphery(run: Runner) -> None:
    out = run.script(
        """
import periphery
out = periphery.GPIO("/dev/gpiochip0", 0, "out")
seen = periphery.GPIO("/dev/gpiochip0", 1, "in", edge="both", bias="default")
out.write(True)
assert seen.poll(5)
event = seen.read_event()
print(event.edge, seen.read(), seen.chip_label, out.direction)
out.write(False)
assert seen.poll(5)
print(seen.read_event().edge)
out.close(); seen.close()
""",
        **LOOP,
    )
    assert out == "rising True a out\nfalling\n"


def test_periphery_of_uapi_v1(run: Runner) -> None:
    out = run.script(
        """
import periphery
from periphery.gpio_cdev1 import Cdev1GPIO
out = Cdev1GPIO("/dev/gpiochip0", 0, "out")
seen = Cdev1GPIO("/dev/gpiochip0", 1, "in", edge="both", label="periphery")
out.write(True)
assert seen.poll(5)
print(seen.read_event().edge, seen.read(), seen.label)
""",
        **LOOP,
    )
    assert out == "rising True periphery\n"


@needs_lgpio
def test_gpiozero_led_and_button(run: Runner) -> None:
    out = run.script(
        """
import threading
from gpiozero import LED, Button, Device
from gpiozero.pins.lgpio import LGPIOFactory
LGPIOFactory._get_revision = lambda self: 0xA03111  # gpiozero wants to know which Pi this is
Device.pin_factory = LGPIOFactory(chip=0)
pressed = threading.Event()
led, button = LED(0), Button(1, pull_up=None, active_state=True)
button.when_pressed = pressed.set
led.on()
print(pressed.wait(5), button.is_pressed, led.value)
led.off()
print(button.wait_for_release(5))
Device.pin_factory.close()
""",
        **LOOP,
    )
    assert out == "True True 1\nTrue\n"


@pytest.mark.parametrize("architecture", ["x86_64", "i386"])
def test_a_static_c_program(run: Runner, c_programs: dict[str, str], architecture: str) -> None:
    out = ok(run(c_programs[architecture], **LOOP))
    assert out.splitlines() == [
        "gpiochip0 a 4",
        "v2 value 1 event 1 seqno 1 offset 1",
        "v2 value 0 event 2 seqno 2 offset 1",
        "v2 value 1 event 1 seqno 3 offset 1",
        f"v1 event 1 size {12 if architecture == 'i386' else 16}",
        "bad address: Bad address",
    ]


def test_the_conformance_suite_through_the_gpiod_binding() -> None:
    """It needs this environment's pytest and files, so it runs as whoever runs the tests."""
    suite = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/conformance"]
    command = [sys.executable, "-m", "gpiovirt", "run", "--sim", "bank-a:,,DOOR,", "--sim", "bank-b:,LAMP,,"]
    done = subprocess.run(
        [*command, "--chip", "plc=bank-a 0-3, bank-b 0-3", "--", *suite],
        cwd=ROOT,
        env={**os.environ, "GPIOVIRT_RIG": "/dev/gpiochip0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b1[0-9]{2} passed", done.stdout)
    assert "skipped" not in done.stdout
