# SPDX-License-Identifier: MIT
"""Virtual chips handed over to the kernel's gpio-aggregator.

By its sysfs interface in Linux 6.12, by configfs, which Linux 6.16 brought, in 7.3. Of one of them only:
GPIOVIRT_KERNELS=uml python -m pytest tests/guest/test_offload.py
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator

import pytest

from guests.guest import Result, Uml
from tests.guest.conftest import ROOT, build
from tests.integration.conftest import Installation

GPIOVIRT = f"{sys.executable} -m gpiovirt"
KERNELS = os.environ.get("GPIOVIRT_KERNELS", "uml uml-7.3").split()
NOTHING_LEFT = "gpiochip0\n"

CLEAN = """
for group in /sys/kernel/config/gpio-aggregator/[!_]*; do
    echo 0 >$group/live; rmdir $group/line* $group
done
for device in $(ls /sys/bus/platform/devices | grep gpio-agg); do
    echo $device >/sys/bus/platform/drivers/gpio-aggregator/delete_device
done
for chip in /sys/kernel/config/gpio-sim/*; do
    echo 0 >$chip/live; rmdir $chip/*/line* $chip/bank $chip
done
rm -f /run/gpiovirt/kernel/* /run/out
mkfifo /run/out
guests/gpio-sim sim 8 '' '' DOOR '' '' LAMP
"""


class Machine:
    """A guest with gpio-sim `sim` of 8 lines, 2 and 5 being DOOR and LAMP."""

    def __init__(self, guest: Uml) -> None:
        self.guest = guest

    def reset(self) -> None:
        """End what runs, delete every chip but gpio-sim's, and make that anew if it is not alone."""
        self.run(f"kill -KILL $(cat /run/pid); {CLEAN}")
        assert self.chips() == NOTHING_LEFT

    def run(self, command: str) -> Result:
        return self.guest.run(command, cwd=str(ROOT))

    def serve(self, *arguments: str) -> str:
        """Start `gpiovirt serve` in the background; what it prints once it is ready."""
        command = f"{GPIOVIRT} serve {shlex.join(arguments)} >/run/out 2>/run/err"
        wait = "read -r line; echo $line; " * arguments.count("--kernel")
        return self.run(f"{command} & echo $! >/run/pid; {{ {wait} }} </run/out").stdout

    def refused(self, *arguments: str) -> str:
        """What `gpiovirt serve` says that does not get to serve."""
        result = self.run(f"timeout 20 {GPIOVIRT} serve {shlex.join(arguments)}")
        assert result.status in (1, 2), result
        assert result.stdout == ""
        return result.stderr.removeprefix("gpiovirt: ").strip()

    def said(self) -> str:
        return self.run("cat /run/err").stdout

    def kill(self, signal: str) -> None:
        self.run(f"kill -{signal} $(cat /run/pid); while [ -e /proc/$(cat /run/pid) ]; do sleep 0.01; done")

    def chips(self) -> str:
        """Every chip, device and record of ours that there is."""
        return self.run(
            "cd /dev; ls -d gpiochip*; ls -d /sys/bus/platform/devices/gpio-agg* /run/gpiovirt/kernel/* "
            "/sys/kernel/config/gpio-aggregator/* 2>/dev/null"
        ).stdout

    @property
    def has_configfs(self) -> bool:
        return "config" in self.run("ls -d /sys/kernel/config/gpio-aggregator").stdout


@pytest.fixture(scope="module", params=KERNELS)
def booted(request: pytest.FixtureRequest) -> Iterator[Machine]:
    build(request.param)
    with Uml(kernel=request.param) as guest:
        yield Machine(guest)


@pytest.fixture
def machine(booted: Machine) -> Machine:
    booted.reset()
    return booted


def lines_of(gpioinfo: str) -> list[str]:
    return [line.split()[2] for line in gpioinfo.splitlines()[1:]]


def test_lines_become_a_chip_of_the_kernels_in_their_order(machine: Machine) -> None:
    printed = machine.serve("--chip", "plc=gpiochip0 3 DOOR gpiochip0 0-1", "--kernel", "plc")
    assert printed == "plc /dev/gpiochip1\n"
    assert machine.said().endswith("gpiovirt: serving plc as /dev/gpiochip1\n")
    listed = machine.run(f"{GPIOVIRT} list").check()
    assert listed.count('"gpio-aggregator.0" -> plc\n') == 4
    names = lines_of(machine.run("gpioinfo gpiochip1").check())
    named = machine.has_configfs
    assert names == ["unnamed", '"DOOR"' if named else "unnamed", "unnamed", "unnamed"]
    assert ("lose their names" in machine.said()) != named
    for offset, source in enumerate((3, 2, 0, 1)):
        values = machine.run(
            f"gpioset gpiochip1 {offset}=1; cat /sys/devices/platform/gpio-sim.0/gpiochip0/sim_gpio?/value"
        )
        assert [n for n, value in enumerate(values.check().split()) if value == "1"] == [source]
        machine.run(f"gpioset gpiochip1 {offset}=0").check()


def test_edges_reach_a_program_on_the_chip(machine: Machine) -> None:
    machine.serve("--chip", "plc=sim 1 DOOR", "--kernel", "plc")
    edges = machine.run("""
        gpiomon --num-events=2 --format='%o %e' gpiochip1 1 >/run/events &
        until grep -q gpiomon /proc/interrupts; do :; done
        for pull in pull-up pull-down; do
            echo $pull >/sys/devices/platform/gpio-sim.0/gpiochip0/sim_gpio2/pull
        done
        wait; cat /run/events""")
    assert edges.check() == "1 1\n1 0\n"


def test_the_chip_belongs_to_whom_it_is_given(machine: Machine) -> None:
    machine.serve("--chip", "plc=sim 1-2", "--kernel", "plc", "--owner", "plc=nobody:games:0640")
    assert machine.run("stat -c '%U %G %a' /dev/gpiochip1").check() == "nobody games 640\n"
    assert machine.guest.run("gpioget gpiochip1 0", user="nobody").check() == "0\n"
    assert machine.guest.run("gpioget gpiochip0 0", user="nobody").status != 0


UDEV = """
mkdir -p /run/udev/data && touch /run/udev/control
(
    until [ -e /dev/gpiochip1 ]; do sleep 0.1; done
    sleep 0.2
    chown root:tty /dev/gpiochip1 && chmod 666 /dev/gpiochip1
    touch "/run/udev/data/c$((0x$(stat -c %t /dev/gpiochip1))):$((0x$(stat -c %T /dev/gpiochip1)))"
) >/dev/null 2>&1 &
"""


def test_the_owner_given_outlives_the_rules_of_udev(machine: Machine) -> None:
    machine.run(UDEV).check()
    machine.serve("--chip", "plc=sim 1", "--kernel", "plc", "--owner", "plc=nobody:games:0640")
    ended = "until ls /run/udev/data/c*; do sleep 0.1; done >/dev/null 2>&1; rm -r /run/udev"
    assert machine.run(f"{ended}; stat -c '%U %G %a' /dev/gpiochip1").check() == "nobody games 640\n"


def test_chips_are_gone_with_their_process(machine: Machine) -> None:
    machine.serve("--chip", "plc=sim 0", "--chip", "two=sim 1", "--kernel", "plc", "--kernel", "two")
    assert machine.chips().count("gpiochip") >= 3
    machine.kill("INT")
    assert machine.chips() == NOTHING_LEFT


TEAR_DOWN, MAKE = (f"echo {live} >/sys/kernel/config/gpio-sim/sim/live" for live in (0, 1))


def test_a_chip_whose_source_vanishes_is_gone_and_made_again_with_it(machine: Machine) -> None:
    serve = f"{GPIOVIRT} serve --chip 'plc=sim 0-1' --kernel plc --owner plc=nobody:games:0640"
    machine.run(f"{serve} >/run/out 2>/run/err & echo $! >/run/pid; exec 3</run/out; read -r line <&3")
    machine.run(f"exec 3</run/out; {TEAR_DOWN}; while ls /dev/gpiochip*; do sleep 0.01; done").check()
    assert "the chip sim has vanished, and plc is deleted until it is back\n" in machine.said()
    back = machine.run(
        f"exec 3</run/out; {MAKE}; read -r line <&3; echo $line; stat -c '%U %G %a' ${{line#* }}"
    )
    printed, access = back.check().splitlines()
    assert access == "nobody games 640"
    assert machine.said().endswith(f"the chip sim is back, and plc as {printed.removeprefix('plc ')}\n")
    assert machine.run(f"gpioget {printed.removeprefix('plc ')} 0 1").check() == "0 0\n"
    machine.kill("TERM")
    assert machine.chips() == NOTHING_LEFT


def test_a_chip_that_cannot_be_made_again_yet_is_tried_until_it_can(machine: Machine) -> None:
    machine.serve("--chip", "plc=sim 0-1", "--kernel", "plc")
    machine.run(f"{TEAR_DOWN}; while ls /dev/gpiochip*; do sleep 0.01; done").check()
    machine.run(f"kill -STOP $(cat /run/pid); {MAKE}").check()
    name = "$(cat /sys/kernel/config/gpio-sim/sim/bank/chip_name)"
    machine.run(f"gpioset --mode=signal {name} 1=0 & echo $! >/run/holder")
    machine.run(
        "until gpioinfo | grep gpioset; do sleep 0.01; done; kill -CONT $(cat /run/pid); "
        "until grep 'will keep trying' /run/err; do sleep 0.05; done"
    ).check()
    assert 'cannot make plc again, will keep trying: line sim:1 is held by "gpioset"' in machine.said()
    machine.run("kill $(cat /run/holder); until grep 'is back, and' /run/err; do sleep 0.05; done").check()
    assert machine.said().count("will keep trying") == 1
    chip = machine.said().split()[-1]
    assert machine.run(f"gpioget {chip} 0").check() == "0\n"


def test_a_chip_that_was_only_looked_at_gives_its_number_back(machine: Machine) -> None:
    machine.run("guests/gpio-sim other 8 '' LINE").check()
    machine.serve("--sim", "s:1", "--chip", "plc=LAMP s 0", "--vm", "plc=/run/plc.sock")
    machine.run("until grep serving /run/err; do sleep 0.05; done").check()
    machine.run("echo 0 >/sys/kernel/config/gpio-sim/other/live").check()
    again = machine.run("guests/gpio-sim another 8")
    assert again.check().split()[0] == "gpiochip1"


def test_nothing_is_left_of_a_start_that_is_interrupted(machine: Machine) -> None:
    for delay in ("0.2", "0.25", "0.3", "0.4"):
        machine.run(f"timeout -s TERM {delay} {GPIOVIRT} serve --chip 'plc=sim 0' --kernel plc")
        assert machine.chips() == NOTHING_LEFT


def test_nothing_is_left_when_setting_up_fails_midway(machine: Machine) -> None:
    refusal = machine.refused(
        *("--chip", "plc=sim 0", "--kernel", "plc", "--sim", "s:1", "--vm", "s=/nowhere/socket")
    )
    assert "/nowhere/socket" in refusal
    assert machine.chips() == NOTHING_LEFT


def test_what_was_left_by_a_kill_is_told_and_deleted_by_the_chips_next_start(machine: Machine) -> None:
    machine.serve("--chip", "plc=sim 0-1", "--kernel", "plc")
    machine.kill("KILL")
    assert "gpiochip1" in machine.chips()

    machine.serve("--chip", "other=sim 2", "--kernel", "other")
    told = "gpio-aggregator.0 (/dev/gpiochip1) is left over from chip 'plc', which was killed; its lines are "
    assert told in machine.said()
    assert machine.run("ls /dev/gpiochip1").status == 0
    machine.kill("TERM")

    assert machine.serve("--chip", "plc=sim 1-2", "--kernel", "plc").startswith("plc /dev/gpiochip")
    left = "deleted gpio-aggregator.0 (/dev/gpiochip1), left over from chip 'plc', which was killed"
    assert left in machine.said()
    machine.kill("TERM")
    assert machine.chips() == NOTHING_LEFT


def test_what_to_do_about_a_line_of_a_forgotten_device_is_said_and_works(machine: Machine) -> None:
    machine.serve("--chip", "plc=sim 0-1", "--kernel", "plc")
    machine.kill("KILL")
    machine.run("rm /run/gpiovirt/kernel/*").check()
    refusal = machine.refused("--chip", "other=sim 1", "--kernel", "other")
    said, _, advice = refusal.partition("; if it is not needed: ")
    assert said == 'line sim:1 is held by "gpio-aggregator.0"'
    machine.run(advice).check()
    assert machine.chips() == NOTHING_LEFT


def test_a_device_that_took_the_name_of_a_forgotten_one_is_left_alone(machine: Machine) -> None:
    machine.serve("--chip", "plc=sim 0", "--kernel", "plc")
    machine.kill("KILL")
    driver = "/sys/bus/platform/drivers/gpio-aggregator"
    if machine.has_configfs:
        machine.run("cd /sys/kernel/config/gpio-aggregator/g* && echo 0 >live && rmdir line0 $PWD").check()
    else:
        machine.run(f"echo gpio-aggregator.0 >{driver}/delete_device").check()
    machine.run(f"echo sim 5 >{driver}/new_device").check()
    machine.serve("--chip", "plc=sim 0", "--kernel", "plc")
    assert "left over" not in machine.said()
    machine.kill("TERM")
    assert "gpio-aggregator.0" in machine.run("gpioinfo gpiochip0").check()


def test_a_chip_is_handed_over_once(machine: Machine) -> None:
    machine.serve("--chip", "plc=sim 0", "--kernel", "plc")
    refusal = machine.refused("--chip", "plc=sim 5", "--kernel", "plc")
    assert refusal == "another gpiovirt has made a kernel chip of 'plc'; choose another name"
    assert machine.refused("--chip", "b=sim 0", "--kernel", "b").startswith("line sim:0 is held by ")
    machine.kill("TERM")
    assert machine.chips() == NOTHING_LEFT


def test_lines_of_a_chip_whose_label_is_not_its_alone_are_refused(machine: Machine) -> None:
    machine.run(
        "cd /sys/kernel/config/gpio-sim && mkdir twin twin/bank && cd twin && "
        "echo sim >bank/label && echo 8 >bank/num_lines && echo 1 >live"
    ).check()
    refusal = machine.refused("--chip", "b=gpiochip1 0", "--kernel", "b")
    assert "it finds chips by their label alone (sim: is one not unique?)" in refusal
    assert machine.chips() == "gpiochip0\ngpiochip1\n"


def test_labels_that_the_driver_could_misread_are_quoted(machine: Machine) -> None:
    machine.run("guests/gpio-sim '21' 4 && guests/gpio-sim 'two words' 4").check()
    printed = machine.serve("--chip", 'plc=sim 3 1 "21" 2-3 "two words" 1', "--kernel", "plc")
    assert printed == "plc /dev/gpiochip3\n"
    held = machine.run("gpioinfo | grep -c gpio-aggregator.0").check()
    assert held == "5\n"


REFUSED = [
    (["--sim", "s:1", "--kernel", "s"], "--kernel s: a simulated chip is unknown"),
    (["--kernel", "plc"], "--kernel plc: no chip 'plc'; make it with --chip 'plc=gpiochip0 0-3'"),
    (["--sim", "s:1", "--chip", "plc=s 0", "--kernel", "plc"], "line s:0 is simulated"),
    (["--chip", "a=sim 0", "--chip", "b=a 0", "--kernel", "b"], "line a:0 is of a virtual chip"),
    (["--chip", "a=sim 0", "--chip", "b=a 0", "--kernel", "a"], "the lines of 'a' are the kernel's"),
    (["--chip", "a=sim 0", "--kernel", "a", "--vm", "a=/run/s"], "the kernel holds its lines"),
    (["--chip", "a=sim 0", "--kernel", "a", "--line", "a:0=pull-up"], "keeps no options"),
]
CALLS = """
import sys
from gpiovirt.cli.main import main
for arguments in {calls!r}:
    sys.argv[1:] = ["serve", *arguments]
    try:
        status = main()
    except SystemExit as ended:
        status = ended.code
    print(status)
"""


def test_what_the_kernel_cannot_do_is_refused(machine: Machine) -> None:
    calls = CALLS.format(calls=[arguments for arguments, _ in REFUSED])
    result = machine.run(shlex.join([sys.executable, "-c", calls]))
    assert result.stdout.split() == ["2"] * len(REFUSED)
    for said, (_, why) in zip(result.stderr.splitlines(), REFUSED, strict=True):
        assert why in said
    assert machine.chips() == NOTHING_LEFT


def test_an_ordinary_user_is_told_that_it_takes_root(machine: Machine, installation: Installation) -> None:
    machine.run("chmod 666 /dev/gpiochip0").check()
    result = machine.guest.run(
        f"PYTHONPATH={installation.folder} {installation.python} -m gpiovirt serve "
        "--chip 'plc=gpiochip0 0' --kernel plc",
        user="nobody",
    )
    assert result.status == 1
    assert result.stderr.startswith("gpiovirt: only root may hand a chip over to the kernel: /sys/")
