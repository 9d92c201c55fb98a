# SPDX-License-Identifier: MIT
"""`make test-boards`: all of it on controllers of emulated boards, with Debian's kernels as they come."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from guests.boards import MACHINES, Board
from tests.boards.emulator import Emulator
from tests.machine import outside

ROOT = Path(__file__).resolve().parents[2]
OBSERVE = Path(__file__).with_name("observe.py")
PROGRAM = "python3 /files/observe.py"
VM = "python3 /files/vm.py"
GPIO = "/dev/gpiochip0"
DAEMON = """\
start() {
    gpiovirtd --no-config --no-api --no-files >$1 2>&1 &
    until grep -q ready $1; do sleep 0.2; done
}
"""
INSTALLED = """\
env -u PYTHONPATH /usr/bin/gpiovirtd --run /run/installed.d --state /run/state >/run/installed.log 2>&1 &
echo $! >/run/installed.pid
driver=/run/installed.d/bus/platform/drivers/gpio-virt-agg
until [ -e $driver/new_device ]; do sleep 0.2; done
echo 'gpiochip0 6 7' >$driver/new_device
chown pi:gpio /run/installed.d/chips/gpio-virt-agg.0
"""
CHIPS = """\
[ -e /run/daemon ] || {
    start /run/daemon
    gpiovirt new plc 'gpiochip0 1' --owner pi
    gpiovirt new inputs 'gpiochip0 0' --owner pi
}
"""
WORKERS = "grep -ls gpiovirt-chip /proc/[0-9]*/comm | cut -d/ -f3"
GPIOVIRTD = "grep -ls 'gpiovirt.cli.d[a]emon' /proc/[0-9]*/cmdline | cut -d/ -f3"
EXPANDER = ["-device", "max7310,bus=aspeed.i2c.bus.3,address=0x20"]
I2C_3_INTERRUPTS = 0x1E78_A20C

TESTS = [
    "tests/unit/test_virtqueue.py",
    "tests/unit/test_virtio_gpio.py",
    "tests/unit/test_vhost_user.py",
]
"""Of the export to VMs; on ARM it orders loads and stores by membarrier(2)"""
LIBRARIES = [
    "_pytest",
    "iniconfig",
    "packaging",
    "pluggy",
    "py.py",
    "pygments",
    "pytest",
]

UNKNOWN = ["pc-i386", "s390x"]
KNOWN = [name for name in MACHINES if name not in UNKNOWN]
# no GPIO controller of virt-riscv64's has a driver
WITH_GPIO = [name for name in KNOWN if name != "virt-riscv64"]
WITH_INPUTS = ["virt-arm64", "virt-armhf", "ast2600-evb"]
PACKAGES = {"virt-arm64": ("arm64", "3.13"), "virt-armhf": ("armhf", "3.11")}
"""Debian's architecture, and its Python there"""
DRIVERS = {
    "virt-arm64": ("amba/drivers/pl061_gpio", "9030000.pl061"),
    "virt-armhf": ("amba/drivers/pl061_gpio", "9030000.pl061"),
}
"""Not sifive_u: its driver leaves its chip behind when it is taken away, on which the kernel fails"""


@dataclass(frozen=True)
class Case:
    """A board, and what is around it."""

    board: Board
    emulator: Emulator

    def run(self, command: str, user: str = "", timeout_s: float = 120) -> str:
        return self.board.run(command, user=user, timeout_s=timeout_s).check()

    def said(self, command: str, user: str = "") -> list[dict[str, object]]:
        return [json.loads(line) for line in self.run(command, user).splitlines()]

    def begin(self, arguments: str, path: str, run: str, user: str = "") -> None:
        """Start the program in the background, under `gpiovirt run`; it writes to a file."""
        self.run(f"rm -f {path}")
        self.run(f"gpiovirt run {run} -- {PROGRAM} {arguments} >{path} 2>&1 &", user)
        self.await_line(path, "ready\\|held")

    def begin_low(self, line: int, chip: str) -> None:
        """A former test may have left it an output, which takes no level, and a change of it is latched."""
        quiet = f"gpiovirt run --chip {chip} -- {PROGRAM} quiet {GPIO} 0"
        self.run(quiet)
        self.emulator.drive(line, 0)
        self.run(quiet)

    def await_line(self, path: str, text: str) -> None:
        look = f"! grep -q '{text}' {path} || exit 0; sleep 0.2"
        begin = "end=$(($(date +%s) + 90)); while [ $(date +%s) -lt $end ]"
        self.run(f"{begin}; do {look}; done; cat {path} >&2; exit 1")

    def daemon(self) -> None:
        self.run(f"{{ {DAEMON} {CHIPS} }} </dev/null")


def boards(names: Iterable[str]) -> list[ParameterSet]:
    """Each is booted once, by whoever runs all of its tests."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    emulator = Emulator(request.param, tmp_path_factory.mktemp("board"))
    options = [*emulator.options, *(EXPANDER if request.param == "ast2600-evb" else [])]
    files = {name: OBSERVE.with_name(name) for name in (OBSERVE.name, "vm.py")}
    if request.param == "virt-arm64":
        libraries = Path(pytest.__file__).parents[1]
        files |= {name: libraries / name for name in LIBRARIES} | {"tests": ROOT / "tests"}
    if request.param in PACKAGES:
        files["gpiovirt.deb"] = package(*PACKAGES[request.param], tmp_path_factory.mktemp("deb"))
    with Board(request.param, files=files, extra_args=options) as board:
        made = Case(board, emulator)
        if request.param == "ast2600-evb":
            made.run("echo max7310 0x20 >/sys/bus/i2c/devices/i2c-3/new_device")
        if request.param in WITH_GPIO:
            # as udev's rule of Raspberry Pi OS has it
            made.run("chgrp gpio /dev/gpiochip*; chmod 0660 /dev/gpiochip*")
        yield made


def package(architecture: str, python: str, folder: Path) -> Path:
    """A package for another machine, built on this one."""
    environment = {
        **os.environ,
        "ARCHITECTURE": architecture,
        "PYTHON_VERSION": python,
        "PAGES_PYTHON": sys.executable,
    }
    build = subprocess.run(
        [*outside(), ROOT / "scripts/build-deb", folder],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return Path(build.stdout.strip())


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", boards(names), indirect=True)


@on(*KNOWN)
@pytest.mark.parametrize("user", ["", "pi"])
def test_simulated_chips_work(case: Case, user: str) -> None:
    run = f"gpiovirt run --sim a:4 --wire a:0=a:1 -- {PROGRAM} lines {GPIO} 0"
    seen = {row["configuration"]: row["seen"] for row in case.said(run, user) if "seen" in row}
    assert seen["high"] == [1, 9, 0, 1, 0]
    assert seen["pull-up"] == [1, 261]
    assert seen["edges"] == [0, 53]


@on(*WITH_GPIO)
@pytest.mark.parametrize("user", ["", "pi"])
def test_lines_behave_as_without_gpiovirt(case: Case, user: str) -> None:
    """Names, values, outputs read back, active low, open drain and source, bias, edges."""
    case.said(f"{PROGRAM} lines {GPIO} 1 2", user)  # a line begins as its last holder left it
    direct = case.said(f"{PROGRAM} lines {GPIO} 1 2", user)
    run = f"gpiovirt run --chip 'x=gpiochip0 1 2' -- {PROGRAM} lines {GPIO} 0 1"
    assert case.said(run, user) == direct
    seen = [row["seen"] for row in direct if row.get("configuration") == "high"]
    assert seen == [[1, 9, 0, 1, 0]] * 2


@on(*WITH_GPIO)
def test_a_line_that_another_program_holds_is_refused(case: Case) -> None:
    case.run(f"{PROGRAM} hold {GPIO} 2 >/tmp/other 2>&1 & echo $! >/tmp/other.pid")
    case.await_line("/tmp/other", "held")
    direct = case.said(f"{PROGRAM} lines {GPIO} 2")
    assert [row["seen"] for row in direct if "seen" in row] == ["EBUSY"] * (len(direct) - 1)
    refused = case.board.run("gpiovirt run --chip 'x=gpiochip0 2' -- true")
    assert refused.status == 2
    assert ':2 is held by "observe"' in refused.stderr
    case.run("kill $(cat /tmp/other.pid)")


@on("virt-armhf")
def test_a_line_of_a_driver_of_the_kernels_is_refused(case: Case) -> None:
    refused = case.board.run("gpiovirt run --chip 'x=gpiochip0 3' -- true")
    assert refused.status == 2
    assert ':3 is held by "GPIO Key Poweroff"; release it or choose another' in refused.stderr


@on("raspi3b", "raspi4b")
def test_errors_of_a_controller_are_handed_on(case: Case) -> None:
    """The lines of this expander are asked of a firmware that QEMU does not have."""
    direct = case.said(f"{PROGRAM} lines /dev/gpiochip1 0")
    assert [row["seen"] for row in direct if "seen" in row] == ["EIO"] * (len(direct) - 1)
    assert case.said(f"gpiovirt run --chip 'x=gpiochip1 0' -- {PROGRAM} lines {GPIO} 0") == direct


@on("ast2600-evb")
def test_a_line_that_the_pin_controller_has_given_away_is_refused(case: Case) -> None:
    """An I2C bus has this one."""
    direct = case.said(f"{PROGRAM} lines {GPIO} 5")
    assert [row["seen"] for row in direct if "seen" in row] == ["EINVAL"] * (len(direct) - 1)
    for user, who in ("", r"1e78a680\.i2c-bus \(I2C13\)"), ("pi", "another function"):
        refused = case.board.run("gpiovirt run --chip 'x=gpiochip0 5' -- true", user=user)
        assert refused.status == 1
        says = (
            rf"gpiovirt: cannot request line 1e780000\.gpio:5: the pin controller has given its pin to {who}"
        )
        assert re.fullmatch(f"{says}: Invalid argument\n", refused.stderr), refused.stderr


@on("raspi3b", "raspi4b")
def test_it_is_told_whose_a_pin_is(case: Case) -> None:
    """The kernel lets it be taken from there, and so does gpiovirt."""
    says = r"^ +14 TXD1 +\w+ +unused, its pin is for \w+\.serial \(alt5\)$"
    assert re.search(says, case.run("gpiovirt list"), re.MULTILINE)
    assert "its pin" not in case.run("gpiovirt list", "pi")
    case.said(f"{PROGRAM} lines {GPIO} 14")
    direct = case.said(f"{PROGRAM} lines {GPIO} 14")
    assert case.said(f"gpiovirt run --chip 'x=gpiochip0 14' -- {PROGRAM} lines {GPIO} 0") == direct
    assert [row["seen"] for row in direct if row.get("configuration") == "high"] == [[1, 9, 0, 1, 0]]


@on(*WITH_GPIO)
def test_no_output_moves_when_processes_are_killed(case: Case) -> None:
    """As the controller's register has it."""
    case.daemon()
    case.begin(f"hold {GPIO} 0", "/tmp/held", "--chip plc", "pi")
    before = case.run(WORKERS).split()
    with case.emulator.levels(1) as levels:
        case.run(f"kill -9 {' '.join(before)}")
        case.await_line("/run/daemon", "plc: its worker has ended; another is started")
        case.run(f"until [ $({WORKERS} | wc -l) = 2 ]; do sleep 0.2; done")
        case.run(f"kill -9 $({GPIOVIRTD})")
        case.run(f"{{ {DAEMON} start /run/daemon.2; }} </dev/null")
    assert set(levels) == {1}
    assert len(levels) > 100
    assert not set(case.run(WORKERS).split()) & set(before)
    with case.emulator.levels(1) as levels:
        case.run(f"kill -USR1 {case.said('head -n 1 /tmp/held')[0]['pid']}")
        case.await_line("/tmp/held", '"low": 0, "high": 1')
    assert set(levels) == {0, 1}


@on(*WITH_INPUTS)
@pytest.mark.parametrize("how", ["run", "daemon"])
def test_edges_of_the_controller_arrive(case: Case, how: str) -> None:
    if how == "daemon":
        case.daemon()
    line, chip = (2, "'x=gpiochip0 2'") if how == "run" else (0, "inputs")
    case.begin_low(line, chip)
    case.begin(f"edges {GPIO} 0", "/tmp/edges", f"--chip {chip}", "pi")
    case.emulator.drive(line, 1)
    case.await_line("/tmp/edges", '"edge": 1')
    case.emulator.drive(line, 0)
    case.await_line("/tmp/edges", '"more"')
    assert case.said("cat /tmp/edges") == [{"ready": True}, {"edge": 1}, {"edge": 2}, {"more": False}]


# gpio-aspeed leaves it to its controller, which in QEMU does nothing
@on("virt-arm64", "virt-armhf")
@pytest.mark.parametrize(("line", "chip"), [(2, "'x=gpiochip0 2'"), (0, "inputs")])
@pytest.mark.parametrize("debounce_us", [0, 500_000])
def test_inputs_are_debounced(case: Case, line: int, chip: str, debounce_us: int) -> None:
    if chip == "inputs":
        case.daemon()
    case.begin_low(line, chip)
    case.begin(f"edges {GPIO} 0 {debounce_us}", "/tmp/edges", f"--chip {chip}")
    case.emulator.drive(line, 1, 0, 1, 0, 1, pause_s=0.05)
    case.await_line("/tmp/edges", '"edge": 1')
    if debounce_us:
        case.emulator.drive(line, 0)
    case.await_line("/tmp/edges", '"more"')
    more = {"more": not debounce_us}
    assert case.said("cat /tmp/edges") == [{"ready": True}, {"edge": 1}, {"edge": 2}, more]


@on(*DRIVERS)
def test_a_line_fails_while_its_controller_is_away_and_works_when_it_is_back(case: Case) -> None:
    driver, device = DRIVERS[case.emulator.name]
    case.begin(f"unplug {GPIO} 0", "/tmp/unplug", "--chip 'x=gpiochip0 2'")
    case.run(f"echo {device} >/sys/bus/{driver}/unbind")
    case.await_line("/tmp/unplug", "asked_while_gone")
    case.run(f"echo {device} >/sys/bus/{driver}/bind")
    case.await_line("/tmp/unplug", "back")
    assert case.said("cat /tmp/unplug") == [
        {"held": 1},
        {"hung_up": True},
        {"gone": "ENODEV"},
        {"asked_while_gone": "ENODEV"},
        {"back": 1},
    ]


@on("ast2600-evb")
@pytest.mark.parametrize("user", ["", "pi"])
def test_lines_that_sleep_behave_as_without_gpiovirt(case: Case, user: str) -> None:
    expander = f"{PROGRAM} lines /dev/gpiochip2 1 4"
    case.said(expander, user)
    direct = case.said(expander, user)
    run = f"gpiovirt run --chip 'x=gpiochip2 1 4' -- {PROGRAM} lines {GPIO} 0 1"
    assert case.said(run, user) == direct
    seen = [row["seen"] for row in direct if row.get("configuration") == "high"]
    assert seen == [[1, 9, 0, 1, 0]] * 2


@on("ast2600-evb")
@pytest.mark.parametrize("how", ["run", "daemon"])
def test_no_other_chip_waits_for_a_bus_that_hangs(case: Case, how: str) -> None:
    chips = {"slow": "gpiochip2 2", "fast": "gpiochip0 2"}
    if how == "daemon":
        case.daemon()
        for name, definition in chips.items():
            case.run(f"gpiovirt new {name} '{definition}'")
    for number, (name, definition) in enumerate(chips.items()):
        chip = name if how == "daemon" else f"'{name}={definition}'"
        case.begin(f"longest {GPIO} 0 {40 - 20 * number}", f"/tmp/{name}", f"--chip {chip}")
    with case.emulator.holding(I2C_3_INTERRUPTS, 0):
        case.await_line("/tmp/fast", "longest")
    case.await_line("/tmp/slow", "longest")
    case.board.run("gpioget gpiochip2 0")  # by which the driver finds that its bus works again
    slow, fast = (float(str(case.said(f"cat /tmp/{name}")[1]["longest_s"])) for name in chips)
    assert slow > 0.9  # after a second the driver gives up
    assert fast < slow / 2


@on(*PACKAGES)
def test_the_package_is_installed_and_works(case: Case) -> None:
    """What it depends on is there, unpacked without dpkg's knowing of it."""
    case.run(
        "mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers; touch /var/lib/dpkg/status"
    )
    installed = case.board.run("dpkg --force-depends -i /files/gpiovirt.deb", timeout_s=240)
    installed.check()
    assert set(re.findall(r"gpiovirt depends on (\w+)", installed.stderr)) == {"python3", "fuse3"}
    assert "gpiovirt:" in case.run("getent passwd gpiovirt")
    clean = "env -u PYTHONPATH /usr/bin/gpiovirt"
    assert case.run(f"{clean} --version").startswith("gpiovirt ")
    assert "4 lines" in case.run(f"{clean} run --sim a:4 -- gpioinfo", "pi")
    doctor = case.run(f"{clean} doctor", timeout_s=180)
    for part in r"control files \(new_device\)", "chips described by files", "HTTP and metrics":
        assert re.search(rf"^ok +{part} ", doctor, re.MULTILINE), doctor
    case.run(f"{{ {INSTALLED} }} >/run/installed 2>&1 </dev/null", timeout_s=240)
    in_it = "GPIOVIRT_RUNTIME_DIR=/run/installed.d /usr/bin/gpiovirt run --chip gpio-virt-agg.0 --"
    seen = case.said(f"env -u PYTHONPATH {in_it} {PROGRAM} lines {GPIO} 1", "pi")
    assert [row["seen"] for row in seen if row.get("configuration") == "high"] == [[1, 9, 0, 1, 0]]
    assert "gpiovirt" in case.run(f"stat -c %U $({WORKERS} | sed 's,^,/proc/,')").split()
    case.run("pid=$(cat /run/installed.pid); kill -INT $pid; while [ -e /proc/$pid ]; do sleep 0.2; done")
    case.run("dpkg --remove gpiovirt")
    assert case.board.run("ls -d /usr/lib/gpiovirt /usr/bin/gpiovirt").stdout == ""


@on("virt-arm64")
def test_the_tests_of_the_export_to_vms_pass(case: Case) -> None:
    """On a host that is x86_64 no load or store is seen out of order; that there is a barrier is."""
    fence = "from gpiovirt.host.fence import ordering_fence; print(ordering_fence() is None)"
    assert case.run(f"python3 -c '{fence}'") == "False\n"
    tests = "python3 -m pytest -p no:cacheprovider -c /dev/null --rootdir . -q"
    said = case.run(f"cd /files; {tests} {' '.join(TESTS)}", timeout_s=600)
    assert re.search(r"^\d+ passed in ", said, re.MULTILINE), said


@on("virt-arm64", "virt-armhf")
@pytest.mark.parametrize("how", ["serve", "daemon"])
def test_a_vm_has_lines_of_the_controller(case: Case, how: str) -> None:
    """Its requests are answered rightly, and edges arrive; the server is on another processor."""
    if how == "daemon":
        case.daemon()
        said = case.run("gpiovirt new vm 'gpiochip0 4 5' --vm --poll-us 1000")
        path = said.partition("for VMs: ")[2].split()[0]
    else:
        path = "/run/vm.sock"
        serve = f"gpiovirt serve --chip 'vm=gpiochip0 4 5' --vm vm={path} --poll-us 1000"
        case.run(f"{serve} >/run/serve 2>&1 & echo $! >/run/serve.pid")
        case.await_line("/run/serve", f"serving vm at {path}")
    assert case.said(f"{VM} {path} requests 300") == [{"right": 300}]
    case.emulator.drive(5, 0)
    case.run(f"{VM} {path} edges >/tmp/vm 2>&1 &")
    case.await_line("/tmp/vm", "ready")
    case.emulator.drive(5, 1)
    case.await_line("/tmp/vm", '"edge": 1')
    case.emulator.drive(5, 0)
    case.await_line("/tmp/vm", '"edge": 2')
    case.run("gpiovirt delete vm --force" if how == "daemon" else "kill $(cat /run/serve.pid)")


LIBGPIOD_1 = """\
import gpiod
chip = gpiod.Chip("gpiochip0")
reader, writer = chip.get_line(0), chip.find_line("OUT")
reader.request(consumer="old", type=gpiod.LINE_REQ_EV_BOTH_EDGES)
writer.request(consumer="old", type=gpiod.LINE_REQ_DIR_OUT)
writer.set_value(1)
assert reader.event_wait(sec=30)
assert reader.event_read().type == gpiod.LineEvent.RISING_EDGE
assert (reader.get_value(), reader.consumer()) == (1, "old")
print(gpiod.version_string())
"""


@on("virt-armhf")
@pytest.mark.parametrize("user", ["", "pi"])
def test_programs_of_libgpiod_1_work(case: Case, user: str) -> None:
    """Debian 12's, the library for Python and the tools, which speak the first version of the interface."""
    simulated = "gpiovirt run --sim a:IN,OUT --wire a:IN=a:OUT --"
    case.run(f"cat >/tmp/libgpiod_1.py <<'END'\n{LIBGPIOD_1}END\n")
    assert case.run(f"{simulated} python3 /tmp/libgpiod_1.py", user).startswith("1.6")
    assert case.run(f"{simulated} gpiofind OUT", user) == "gpiochip0 1\n"
    on_it = "gpiovirt run --chip 'x=gpiochip0 2' --"
    assert case.run(f"{on_it} gpiodetect", user) == "gpiochip0 [x] (1 lines)\n"
    hold = "gpioset --mode=time --sec=30 gpiochip0 0=1 & until gpioinfo | grep gpioset; do sleep 0.2; done"
    said = case.run(f"{on_it} sh -c '{hold}; kill $!'", user)
    assert re.search(r"line +0: +unnamed +.gpioset. +output", said)


@on(*UNKNOWN)
def test_an_unknown_machine_is_told_so_and_does_what_it_can(case: Case) -> None:
    machine = {"pc-i386": "i686"}.get(case.emulator.name, case.emulator.name)
    known = "x86_64, aarch64, riscv64, loongarch64, arm"
    line = f"this machine is {machine}; programs can be run, and workers confined, on {known}\n"
    for user in "", "pi":
        refused = case.board.run("gpiovirt run --sim a:4 -- true", user=user)
        assert (refused.status, refused.stderr) == (1, f"gpiovirt: {line}")
    refused = case.board.run("timeout 60 gpiovirtd --no-config --no-api --sim a:4")
    assert (refused.status, refused.stderr) == (1, f"gpiovirt: {line}")
    doctor = case.board.run("gpiovirt doctor")
    assert doctor.status == 1
    assert f"MISSING architecture                      {machine}; not {known}\n" in doctor.stdout
    assert case.run("gpiovirt list").startswith("no chips: ")


@on("pc-i386")
def test_a_machine_that_cannot_run_programs_serves_vms(case: Case) -> None:
    case.run("gpiovirt serve --sim a:8 --vm a=/run/a.sock >/run/serve 2>&1 & echo $! >/run/serve.pid")
    case.await_line("/run/serve", "serving a at /run/a.sock")
    assert case.said(f"{VM} /run/a.sock requests 200") == [{"right": 200}]
    case.run("kill $(cat /run/serve.pid)")


@on("s390x")
def test_a_big_endian_machine_serves_no_vm(case: Case) -> None:
    refused = case.board.run("timeout 60 gpiovirt serve --sim a:8 --vm a=/run/a.sock")
    says = "gpiovirt: this machine is s390x; VMs can be served on little-endian machines only\n"
    assert (refused.status, refused.stderr) == (1, says)
