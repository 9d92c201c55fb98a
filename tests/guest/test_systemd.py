# SPDX-License-Identifier: MIT
"""The Debian package on a machine with systemd as PID 1, udev and the kernel's GPIO lines."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guests.guest import Uml
from tests.machine import the_only_one

DRIVER = "/run/gpiovirt/bus/platform/drivers/gpio-virt-agg"
VALUE = "/sys/devices/platform/gpio-sim.*/gpiochip0/sim_gpio{}/value"


class Machine:
    """The guest, as root has it."""

    def __init__(self, guest: Uml, package: Path) -> None:
        self._guest = guest
        self.package = package
        self.install()
        self.sh("gpio-sim a 8 && udevadm settle && systemctl enable --now gpiovirtd gpiovirt-files")

    def install(self) -> None:
        self.sh(f"dpkg -i --force-unsafe-io --no-triggers {self.package}")

    def sh(self, command: str, status: int = 0) -> str:
        """What a command prints to both its outputs."""
        result = self._guest.run(f"{{ {command}; }} 2>&1", timeout_s=90)
        assert result.status == status, f"{command}: {result.stdout}\n{self.journal()}"
        return result.stdout

    def journal(self) -> str:
        return self._guest.run("journalctl --no-pager -o cat -u 'gpiovirt*'").stdout

    def has(self, command: str, text: str) -> None:
        """Wait until `text` is in what the command prints."""
        deadline = time.monotonic() + 30
        while text not in (printed := self.sh(command)):
            assert time.monotonic() < deadline, f"{command}: {printed}\n{self.journal()}"
            time.sleep(0.05)

    @contextmanager
    def stays(self, offset: int, level: int) -> Iterator[None]:
        """The line has this level all the time, as the simulated hardware sees it."""
        self.sh(
            "touch /run/sampling; while [ -e /run/sampling ]; "
            f"do cat {VALUE.format(offset)}; done >/run/samples 2>&1 & echo $! >/run/sampler"
        )
        yield
        self.sh("rm /run/sampling; while kill -0 $(cat /run/sampler); do sleep 0.01; done 2>/dev/null")
        samples = self.sh("cat /run/samples").split()
        assert len(samples) > 20
        assert set(samples) == {str(level)}


@pytest.fixture(scope="module")
def machine(has_uml: None, package: Path) -> Iterator[Machine]:
    # packages of this machine are seen in the guest
    with the_only_one(), Uml(systemd=True, mem="512M") as guest:
        made = Machine(guest, package)
        yield made
        # the last: nothing is left of it, whatever was made meanwhile
        made.sh("dpkg --purge --force-unsafe-io --no-triggers gpiovirt")
        assert made.sh("ls -d /run/gpiovirt /var/lib/gpiovirt /etc/gpiovirt", 2).count("cannot access") == 3
        # its programs, wherever the files of these tests lie
        assert not re.search("/usr/(bin|lib)/gpiovirt", made.sh("ps ax -o args"))
        assert "gpiovirt" not in made.sh("gpioinfo")
        assert "0 loaded units" in made.sh("systemctl --failed")


BUNDLE = """
import json, sys
from pathlib import Path
from gpiovirt.testing.bundle import make_bundle, make_root

folder = Path("/run/box")
folder.mkdir()
program = "gpiodetect; gpioset gpiochip0 1=1 && tty; ls /sys/bus/gpio/devices /dev"
make_bundle(folder / "bundle", make_root(folder / "root"), ["sh", "-c", program])
"""


def test_a_container_has_a_chip_of_kernel_lines_and_sees_no_other(machine: Machine) -> None:
    machine.sh("gpiovirt new boxed 'a 4-5'")
    machine.has("systemctl is-active gpiovirt-containers", "active")
    assert "gpiovirt-boxed.json" in machine.sh("ls /run/cdi")
    machine.sh(f"/usr/lib/gpiovirt/bin/python3 -c '{BUNDLE}'")
    machine.sh("gpiovirt oci edit --chip boxed /run/box/bundle")
    said = machine.sh("runc run --bundle /run/box/bundle box").splitlines()
    assert said[:2] == ["gpiochip0 [boxed] (2 lines)", "not a tty"]
    assert [line for line in said if line.startswith("gpiochip")] == [said[0], *["gpiochip0"] * 2]
    machine.has("gpiovirt log boxed", "boxed:1 configured output 1")
    assert re.search("boxed:1 configured output 1 .*container box", machine.sh("gpiovirt log boxed"))
    machine.sh("systemctl restart gpiovirt-containers && gpiovirt delete boxed")
    assert "boxed" not in machine.sh("ls /run/cdi")


def test_gpio_devices_are_the_groups(machine: Machine) -> None:
    assert machine.sh("stat -c '%U %G %a' /dev/gpiochip0") == "root gpio 660\n"
    assert machine.sh("systemctl is-active dev-gpiochip0.device") == "active\n"


def test_the_service_says_how_it_is_and_the_journal_whose_it_is(machine: Machine) -> None:
    machine.has("systemctl show gpiovirtd -p StatusText", "0 of 0 chips live")
    machine.sh("gpiovirt new plc 'a 0-3' --line 2=safe=low --vm")
    machine.has("systemctl show gpiovirtd -p StatusText", "1 of 1 chips live")
    assert "ready: 0 of 0 chips live" in machine.journal().splitlines()
    machine.sh("pkill -9 -u gpiovirt")
    machine.has("journalctl -o cat GPIOVIRT_CHIP=plc", "plc: its worker has ended; another is started")
    machine.has("systemctl show gpiovirtd -p StatusText", "1 of 1 chips live")
    machine.sh("gpiovirt delete plc")


def test_control_files_make_chips_that_programs_use(machine: Machine) -> None:
    machine.sh(f"echo 'a 4-5' >{DRIVER}/new_device && chown daemon /run/gpiovirt/chips/gpio-virt-agg.0")
    use = "su -s /bin/sh {} -c 'gpiovirt run --chip gpio-virt-agg.0 gpioset gpiochip0 1=1'"
    machine.sh(use.format("daemon"))
    assert machine.sh(f"cat {VALUE.format(5)}") == "1\n"
    assert "Permission denied" in machine.sh(use.format("nobody"), 1)
    machine.sh(f"echo gpio-virt-agg.0 >{DRIVER}/delete_device")


def test_configuration_and_http_work_with_what_the_unit_allows(machine: Machine) -> None:
    machine.sh("""printf 'lines = "a 6"\\nowner = "daemon"\\n' >/etc/gpiovirt/chips.d/line.toml""")
    machine.sh("systemctl restart gpiovirtd")  # it is ready when they are there
    assert "line 1 lines, daemon:gpio 0660, live, saved" in machine.sh("gpiovirt list")
    assert '"owner":"daemon"' in machine.sh(
        "curl -sS --unix-socket /run/gpiovirt/api.sock http://localhost/chips/line"
    )
    machine.sh("rm /etc/gpiovirt/chips.d/line.toml && gpiovirt apply")


@pytest.mark.parametrize(
    "what",
    [
        "systemctl reload gpiovirtd",
        "systemctl restart gpiovirtd",
        "systemctl stop gpiovirtd; systemctl start gpiovirtd",
        "systemctl kill -s KILL --kill-whom=main gpiovirtd",
        "systemctl kill -s KILL --kill-whom=all gpiovirtd",
        "install the package again",
    ],
)
def test_outputs_stay_where_they_are(machine: Machine, what: str) -> None:
    machine.sh("gpiovirt new plc 'a 0-3' && gpiovirt run --chip plc gpioset gpiochip0 1=1")
    former = machine.sh("systemctl show gpiovirtd --value -p MainPID").strip()
    # its lines, state, record and terminal
    machine.has("systemctl show gpiovirtd -p NFileDescriptorStore", "=7")
    node = machine.sh("readlink /run/gpiovirt/containers/nodes/plc")
    with machine.stays(1, 1):
        if what.startswith("install"):
            machine.install()
        else:
            machine.sh(what)
        machine.has("systemctl show gpiovirtd -p ActiveState", "=active")
        if "KILL" in what:
            machine.has(f"systemctl show gpiovirtd --value -p MainPID | grep -vx {former} || true", "\n")
        machine.has("gpiovirt list || true", "plc 4 lines, root:gpio 0660, live")
    assert machine.sh("readlink /run/gpiovirt/containers/nodes/plc") == node  # which containers have open
    assert machine.sh("gpiovirt run --chip plc gpioget gpiochip0 0") == "0\n"
    machine.sh("gpiovirt delete plc")


def test_a_chip_that_is_unplugged_is_told_in_the_journal_and_comes_back(machine: Machine) -> None:
    machine.sh("gpiovirt new plc 'a 0-1'")
    machine.sh("echo 0 >/sys/kernel/config/gpio-sim/a/live")
    machine.has("journalctl -o cat GPIOVIRT_CHIP=plc", "plc: line 1 (a:1) is gone")
    machine.sh("echo 1 >/sys/kernel/config/gpio-sim/a/live")
    machine.has("journalctl -o cat GPIOVIRT_CHIP=plc", "plc: line 1 (a:1) is back")
    machine.sh("gpiovirt run --chip plc gpioset gpiochip0 1=1")
    assert machine.sh(f"cat {VALUE.format(1)}") == "1\n"
    machine.sh("gpiovirt delete plc")


def test_a_service_of_its_own_is_respawned(machine: Machine) -> None:
    arguments = "--chip 'two=a 6-7' --vm two=/run/gpiovirt-two/two.sock --owner two=daemon"
    machine.sh(f'echo "ARGS=\\"{arguments}\\"" >/etc/gpiovirt/two.args && systemctl start gpiovirt@two')
    assert machine.sh("stat -c '%F %U %a' /run/gpiovirt-two/two.sock") == "socket daemon 660\n"
    machine.sh("systemctl kill -s KILL gpiovirt@two")
    machine.has("systemctl show gpiovirt@two -p NRestarts -p ActiveState", "NRestarts=1\nActiveState=active")
    assert "serving two at" in machine.sh("systemctl show gpiovirt@two -p StatusText")
    machine.sh("systemctl stop gpiovirt@two && rm /etc/gpiovirt/two.args")


def test_workers_that_cannot_be_confined_serve_nothing(machine: Machine) -> None:
    dropin = "/run/systemd/system/gpiovirtd.service.d/no-seccomp.conf"
    machine.sh(f"mkdir -p $(dirname {dropin}) && printf '[Service]\\nSystemCallFilter=~seccomp\\n' >{dropin}")
    machine.sh("systemctl daemon-reload && systemctl restart gpiovirtd")
    said = machine.sh("gpiovirt new plc 'a 0'", 2)
    assert "plc cannot be served: cannot install a seccomp filter: Operation not permitted" in said
    assert machine.sh("gpiovirt list | grep plc", 1) == ""
    machine.sh(f"rm {dropin} && systemctl daemon-reload && systemctl restart gpiovirtd")
    machine.sh("gpiovirt new plc 'a 0' && gpiovirt delete plc")
