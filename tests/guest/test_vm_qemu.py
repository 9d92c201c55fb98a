# SPDX-License-Identifier: MIT
"""A chip in a QEMU guest, through vhost-user-gpio-pci: what users have."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpiovirt.testing.service import Service
from guests.guest import Qemu

pytestmark = pytest.mark.usefixtures("has_x86")

HOLD = "gpioset --mode=time --sec=100 gpiochip0 2=1 >/dev/null 2>&1 &"
TRAFFIC = """
import gpiod, os, sys, time
from gpiod.line import Direction, Value
folder = sys.argv[1]
outputs = gpiod.LineSettings(direction=Direction.OUTPUT)
done = wrong = longest = 0
with gpiod.request_lines("/dev/gpiochip0", config={0: outputs, 1: None}) as request:
    open(folder + "/ready", "w").close()
    while not os.path.exists(folder + "/enough"):
        began = time.monotonic()
        for value in (1, 0, 0, 1, 1, 0):
            request.set_value(0, Value(value))
            wrong += request.get_value(1).value != value
            done += 1
        longest = max(longest, time.monotonic() - began)
print(done, wrong, longest > 0.5)
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "chip.sock")


@pytest.fixture
def service(path: str) -> Iterator[Service]:
    with Service(["--sim", "s:DOOR,LAMP,X,", "--wire", "s:0=s:1", "--vm", f"s={path}"]) as service:
        yield service
        assert "fault of ours" not in service.log()
        assert "refused" not in service.log()


def test_tools_list_drive_and_read_the_lines(service: Service, path: str) -> None:
    with Qemu(vhost_gpio=[path]) as guest:
        shown = [line.split()[:4] for line in guest.run("gpioinfo").check().splitlines()]
        assert shown[0][2] == "4"
        assert shown[1:] == [
            ["line", "0:", '"DOOR"', "unused"],
            ["line", "1:", '"LAMP"', "unused"],
            ["line", "2:", '"X"', "unused"],
            ["line", "3:", "unnamed", "unused"],
        ]
        guest.run(HOLD)
        service.wait_for_consumer("s:2", "vm:qemu-system-x86:")
        time.sleep(0.2)
        assert service.sim.get("s:2") == 1
        assert guest.run("gpioget gpiochip0 3").check() == "0\n"
        service.sim.pull("s:3", "up")
        assert guest.run("gpioget gpiochip0 3").check() == "1\n"


def test_lines_of_a_killed_guest_are_released_and_the_next_is_served(service: Service, path: str) -> None:
    for _ in range(2):
        with Qemu(vhost_gpio=[path]) as guest:
            guest.run(HOLD)
            service.wait_for_consumer("s:2", "vm:qemu-system-x86:")
        service.wait_for_consumer("s:2", "")
        assert service.sim.get("s:2") == 0


def test_guest_that_reboots_gets_a_fresh_device(service: Service, path: str) -> None:
    with Qemu(vhost_gpio=[path]) as guest:
        guest.run(HOLD)
        service.wait_for_consumer("s:2", "vm:qemu-system-x86:")
        guest.reboot()
        service.wait_for_consumer("s:2", "")
        assert guest.run("gpioget gpiochip0 2").check() == "0\n"
        assert service.log().count("has connected") == 1


@pytest.mark.parametrize("gently", [False, True])
def test_guest_goes_on_when_we_are_killed_in_mid_traffic(
    service: Service, path: str, tmp_path: Path, gently: bool
) -> None:
    with Qemu(vhost_gpio=[f"{path},reconnect=1"], host_root=True, mem="512M") as guest:
        guest.run(f"{shlex.join([sys.executable, '-c', TRAFFIC, str(tmp_path)])} >/run/traffic 2>&1 &")
        deadline = time.monotonic() + 30
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for restart in (1, 2, 3):
            time.sleep(0.3)
            if gently:
                assert service.stop() == 0
            else:
                service.kill()
            service.start()
            while service.log().count("goes on with its lines") < restart:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        time.sleep(0.3)
        (tmp_path / "enough").touch()
        done, wrong, stood_still = guest.run("sleep 0.5; cat /run/traffic").check().split()
        assert int(done) > 100
        assert (wrong, stood_still) == ("0", "True")
        assert guest.run("gpioget gpiochip0 3").check() == "0\n"


def test_guest_goes_on_with_an_output_that_it_does_not_touch(service: Service, path: str) -> None:
    with Qemu(vhost_gpio=[f"{path},reconnect=1"]) as guest:
        guest.run(HOLD)
        service.wait_for_consumer("s:2", "vm:qemu-system-x86:")
        time.sleep(0.2)
        service.kill()
        service.start()
        assert service.sim.get("s:2") == 0
        service.wait_for_log("goes on with its lines")
        assert service.sim.get("s:2") == 1
        guest.run("killall gpioset").check()
        service.wait_for_consumer("s:2", "")


def test_qemu_takes_the_arguments_of_vm_args(service: Service, path: str) -> None:
    for options in ([], ["--reconnect"]):
        command = [sys.executable, "-m", "gpiovirt", "vm-args", "qemu", path, "--memory", "128M", *options]
        arguments = subprocess.check_output(command, text=True).split()
        qemu = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-M", "q35", "-S"]
        shown = subprocess.run(
            [*qemu, *arguments, "-monitor", "stdio"],
            input="info qtree\ninfo memory-devices\nquit\n",
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert "dev: vhost-user-gpio-pci" in shown.stdout, shown.stderr
        assert shown.stderr == ""
