# SPDX-License-Identifier: MIT
"""gpio-sim and gpio-aggregator under `gpiovirt run --gpio-sim`: chips that come and go, and attacks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Runner
from tests.integration.test_run import assert_nothing_left

CONFIG = "/sys/kernel/config/gpio-sim"
PRELUDE = f"""
import os, select, subprocess, sys, time
CONFIG = "{CONFIG}"
def write(path, text):
    with open(path, "w") as file: file.write(text)
def read(path):
    with open(path) as file: return file.read().strip()
def error(call, *arguments):
    try: call(*arguments)
    except OSError as error: return errno.errorcode[error.errno]
import errno
def make(name="a", lines=4):
    os.makedirs(f"{{CONFIG}}/{{name}}/b")
    write(f"{{CONFIG}}/{{name}}/b/num_lines", str(lines))
    write(f"{{CONFIG}}/{{name}}/live", "1")
    return read(f"{{CONFIG}}/{{name}}/b/chip_name")
"""


def command(run: Runner, *program: str, options: Sequence[str] = ()) -> list[str]:
    return [run.python, "-m", "gpiovirt", "run", "--gpio-sim", *options, "--", *program]


def run_sim(
    run: Runner, *program: str, options: Sequence[str] = (), **more: Any
) -> subprocess.CompletedProcess[str]:
    whole = {"capture_output": True, "timeout": 60, **run.options(), **more}
    return subprocess.run(command(run, *program, options=options), text=True, check=False, **whole)


def script(run: Runner, source: str, options: Sequence[str] = ()) -> list[str]:
    done = run_sim(run, run.python, "-c", PRELUDE + source, options=options)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout.splitlines()


def shell(run: Runner, source: str, options: Sequence[str] = ()) -> list[str]:
    done = run_sim(run, "sh", "-ec", source, run.python, options=options)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout.splitlines()


def test_a_chip_is_there_when_live_returns_and_gone_when_it_is_ended(run: Runner) -> None:
    source = f"""
mkdir -p {CONFIG}/a/bank0 {CONFIG}/a/bank1
echo 4 >{CONFIG}/a/bank1/num_lines; echo panel >{CONFIG}/a/bank1/label
gpiodetect; ls /dev/gpiochip* 2>/dev/null || echo none
echo 1 >{CONFIG}/a/live; gpiodetect; ls /dev/gpiochip*; cat {CONFIG}/a/bank1/chip_name
ls /sys/bus/gpio/devices /sys/devices/platform/gpio-sim.0
test -e /sys/bus/platform/devices/gpio-sim.0/gpiochip1/sim_gpio3/pull
echo pull-up >/sys/devices/platform/gpio-sim.0/gpiochip1/sim_gpio3/pull; gpioget gpiochip1 3
echo 0 >{CONFIG}/a/live; gpiodetect; ls /dev/gpiochip* 2>/dev/null || echo none
test ! -e /sys/devices/platform/gpio-sim.0
rmdir {CONFIG}/a/bank0 {CONFIG}/a/bank1 {CONFIG}/a
"""
    assert shell(run, source) == [
        "none",
        *("gpiochip0 [gpio-sim.0:node0] (1 lines)", "gpiochip1 [panel] (4 lines)"),
        *("/dev/gpiochip0", "/dev/gpiochip1", "gpiochip1"),
        *("/sys/bus/gpio/devices:", "gpiochip0", "gpiochip1", ""),
        *("/sys/devices/platform/gpio-sim.0:", "gpiochip0", "gpiochip1"),
        *("1", "none"),
    ]
    assert_nothing_left(run)


def test_new_device_makes_a_chip_of_lines_of_others(run: Runner) -> None:
    source = f"""
mkdir -p {CONFIG}/a/bank0; echo 8 >{CONFIG}/a/bank0/num_lines; echo 1 >{CONFIG}/a/live
cd /sys/bus/platform/drivers/gpio-aggregator
echo "gpio-sim.0:node0 0-3 sim-a 1" >new_device; gpiodetect
echo pull-up >/sys/devices/platform/gpio-sim.0/gpiochip1/sim_gpio2/pull; gpioget gpiochip2 2
gpioinfo gpiochip0 | tail -1 | tr -s ' \\t' ' '
echo gpio-aggregator.0 >delete_device; gpiodetect
"""
    assert shell(run, source, ["--sim", "sim-a:2"]) == [
        "gpiochip0 [sim-a] (2 lines)",
        "gpiochip1 [gpio-sim.0:node0] (8 lines)",
        "gpiochip2 [gpio-aggregator.0] (5 lines)",
        "1",
        ' line 1: unnamed "gpio-aggregator.0" input active-high [used]',
        "gpiochip0 [sim-a] (2 lines)",
        "gpiochip1 [gpio-sim.0:node0] (8 lines)",
    ]


def test_who_holds_lines_of_a_chip_that_goes_learns_that(run: Runner) -> None:
    source = """
import gpiod
from gpiod.line import Edge
chip = gpiod.Chip("/dev/" + make())
request = chip.request_lines({0: gpiod.LineSettings(edge_detection=Edge.BOTH)})
unused = os.open("/dev/gpiochip0", os.O_RDWR)
write(f"{CONFIG}/a/live", "0")
poll = select.poll(); poll.register(request.fd, select.POLLIN)
print(poll.poll(5000)[0][1] & (select.POLLHUP | select.POLLERR) != 0)
print(error(request.get_value, 0), error(chip.get_line_info, 0), error(chip.request_lines, {1: None}))
import fcntl
print(error(fcntl.ioctl, unused, 0x8044b401, bytes(68)))
write(f"{CONFIG}/a/live", "1")
with gpiod.Chip("/dev/gpiochip0") as again: print(again.get_info().num_lines)
"""
    assert script(run, source) == ["True", "ENODEV ENODEV ENODEV", "ENODEV", "4"]


def test_numbers_are_the_lowest_that_are_free(run: Runner) -> None:
    source = """
print(make("a"), make("b"), make("c"))
write(f"{CONFIG}/b/live", "0")
print(read(f"{CONFIG}/b/b/chip_name"), make("d"), sorted(n for n in os.listdir("/dev") if "gpiochip" in n))
"""
    assert script(run, source, ["--sim", "x:1"]) == [
        "gpiochip1 gpiochip2 gpiochip3",
        "none gpiochip2 ['gpiochip0', 'gpiochip1', 'gpiochip2', 'gpiochip3']",
    ]


def test_a_session_leader_gets_no_terminal_by_opening_a_chip(run: Runner) -> None:
    source = """
make("a"); make("b")
if not os.fork():
    os.setsid()
    for name in ("gpiochip0", "gpiochip1"): os.open("/dev/" + name, os.O_RDWR)
    print(error(os.open, "/dev/tty", os.O_RDWR), flush=True)
    os._exit(0)
os.wait()
"""
    assert script(run, source) == ["ENXIO"]


MOUNT = """
import ctypes, tempfile
libc = ctypes.CDLL(None, use_errno=True)
def mount(at, kind=b"configfs", flags=0):
    return ctypes.get_errno() if libc.mount(None, os.fsencode(at), kind, flags, None) else 0
def umount(at):
    return ctypes.get_errno() if libc.umount2(os.fsencode(at), 0) else 0
"""


def test_configfs_can_be_mounted_where_a_library_wants_it(run: Runner) -> None:
    source = (
        MOUNT
        + """
folder = tempfile.mkdtemp()
print(mount(folder, flags=1 << 21), sorted(os.listdir(folder)))
os.chdir(os.path.dirname(folder))
os.mkdir(f"{folder}/gpio-sim/a"); print(os.listdir(CONFIG))
print(umount(os.path.basename(folder)), os.listdir(folder)); os.rmdir(folder)
print(mount(folder) == errno.ENOENT, mount("/proc/self/nothing") == errno.ENOENT)
print(mount("/mnt", b"nosuchfs") in (errno.ENODEV, errno.EPERM))
print(umount("/mnt") in (errno.EINVAL, errno.EPERM))
"""
    )
    assert script(run, source) == [
        "0 ['gpio-aggregator', 'gpio-sim']",
        "['a']",
        "0 []",
        "True True",
        "True",
        "True",
    ]


def test_who_asks_for_the_modules_or_the_release_is_told(run: Runner) -> None:
    source = """
print(read("/sys/module/gpio_sim/initstate"), read("/sys/module/gpio_aggregator/initstate"))
print(os.uname().release, read("/proc/sys/kernel/osrelease"), len(os.uname().machine) > 0)
"""
    assert script(run, source, ["--uname", "6.99.1-x"]) == ["live live", "6.99.1-x 6.99.1-x True"]
    own = os.uname().release
    assert script(run, source)[1] == f"{own} {own} True"
    modprobe = shutil.which("modprobe", path=run.environment["PATH"])
    assert modprobe, "apt-get install kmod"
    assert run_sim(run, modprobe, "gpio-sim").returncode == 0
    assert run_sim(run, modprobe, "no-such-module").returncode != 0


def test_a_program_that_becomes_another_is_told_the_release_still(run: Runner) -> None:
    source = """
libc = __import__("ctypes").CDLL(None, use_errno=True)
print(os.uname().release, libc.uname(None), __import__("ctypes").get_errno() == errno.EFAULT, flush=True)
import fcntl  # by which the supervisor has this memory open
fcntl.ioctl(os.open("/dev/gpiochip0", os.O_RDWR), 0xC100B405, bytearray(256))
os.execvp("uname", ["uname", "-r"])
"""
    assert script(run, source, ["--uname", "6.99.1", "--sim", "x:1"]) == ["6.99.1 -1 True", "6.99.1"]


def test_a_release_that_is_none_is_refused(run: Runner) -> None:
    done = run_sim(run, "true", options=["--uname", "6 x"])
    assert (done.returncode, "--uname '6 x': write a release" in done.stderr) == (2, True)


def test_chips_are_made_and_removed_by_others_while_the_program_runs(run: Runner) -> None:
    program = "echo up; read x; gpiodetect; read x; gpiodetect; echo end"
    process = subprocess.Popen(
        command(run, "sh", "-c", program),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **run.options(),
    )
    assert process.stdin
    assert process.stdout
    its = ("--pid", str(process.pid))
    try:
        assert process.stdout.readline() == "up\n"
        assert run.sim(*its, "make", 'panel:DOOR,"6",') == "gpiochip0"
        assert run.sim(*its, "make", "panel:2") == "gpiochip1"
        run.sim(*its, "pull", "panel:DOOR", "up")
        assert run.sim(*its, "get", "DOOR") == "1"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "gpiochip0 [panel] (3 lines)\n"
        assert process.stdout.readline() == "gpiochip1 [panel] (2 lines)\n"
        run.sim(*its, "remove", "panel")
        failed = subprocess.run(
            [run.python, "-m", "gpiovirt", "sim", *its, "remove", "panel"],
            capture_output=True,
            text=True,
            check=False,
            **run.options(),
        )
        assert (failed.returncode, "there is no chip panel" in failed.stderr) == (2, True)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.read() == "gpiochip1 [panel] (2 lines)\nend\n"
    finally:
        process.kill()
        process.communicate()
    assert_nothing_left(run)


def test_chips_of_the_command_line_stay(run: Runner) -> None:
    done = run_sim(run, run.python, "-m", "gpiovirt", "sim", "remove", "a", options=["--sim", "a:1"])
    assert (done.returncode, "was not made by `gpiovirt sim make`" in done.stderr) == (2, True)
    plain = run(run.python, "-m", "gpiovirt", "sim", "make", "b:1")
    assert (plain.returncode, "was started with --gpio-sim" in plain.stderr) == (2, True)


def test_programs_side_by_side_have_trees_of_their_own(run: Runner) -> None:
    source = f"mkdir -p {CONFIG}/$1/b; echo 1 >{CONFIG}/$1/live; sleep 0.5; ls {CONFIG}; gpiodetect"
    both = [
        subprocess.Popen(
            command(run, "sh", "-c", source, "sh", name), text=True, stdout=subprocess.PIPE, **run.options()
        )
        for name in "ab"
    ]
    for name, process in zip("ab", both, strict=True):
        assert process.communicate(timeout=30)[0] == f"{name}\ngpiochip0 [gpio-sim.0:node0] (1 lines)\n"


def test_no_chips_is_a_machine_too(run: Runner) -> None:
    done = run("gpiodetect", sims=())
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_the_simulator_can_be_reached_from_the_programs_first_instant(run: Runner) -> None:
    source = """
import os, socket
name = os.environ["GPIOVIRT_SIM"]
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock: sock.connect("\\0" + name)
"""
    for _ in range(5):
        assert run.script(source) == ""


def test_a_recording_has_the_chips_that_there_were_at_its_beginning(run: Runner) -> None:
    source = f"""
mkdir -p {CONFIG}/a/b; echo 1 >{CONFIG}/a/live
gpioset gpiochip1 0=1; gpioset gpiochip0 0=1; echo 0 >{CONFIG}/a/live
"""
    assert shell(run, source, ["--sim", "x:1", "--record", "later.vcd"]) == []
    told = (run.home / "later.vcd").read_text()
    assert ("$scope module x" in told, "gpio-sim" in told) == (True, False)
    assert shell(run, source.replace("gpiochip1", "gpiochip0"), ["--record", "none.vcd"]) == []


# attacks


def pid_named(run: Runner, name: str) -> int:
    """The one process of that name of this runner."""
    mark = f"HOME={run.home}\0".encode()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "comm").read_text().strip() == name and mark in (path / "environ").read_bytes():
                return int(path.name)
        except OSError:
            continue
    raise AssertionError(f"no {name}")


USHER = """
print(make(), flush=True)
sys.stdin.readline()
began = time.monotonic()
print(error(make, "c"), error(write, f"{CONFIG}/c/live", "1"), time.monotonic() - began < 8)
print(subprocess.run(["gpioget", "gpiochip0", "0"], capture_output=True, text=True).stdout.strip())
write(f"{CONFIG}/a/live", "0")
print(read(f"{CONFIG}/a/live"), error(os.open, "/dev/gpiochip0", os.O_RDWR))
print(subprocess.run(["gpioget", "gpiochip0", "0"], capture_output=True, text=True).returncode)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_usher_that_is_killed_or_stopped_costs_new_chips_and_no_more(
    run: Runner, number: signal.Signals
) -> None:
    """A program of the same user may do that."""
    with subprocess.Popen(
        command(run, run.python, "-c", PRELUDE + USHER),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **run.options(),
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "gpiochip0\n"
        usher = pid_named(run, "gpiovirt-usher")
        os.kill(usher, number)
        output, errors = process.communicate("\n", timeout=40)
        if number == signal.SIGSTOP:
            os.kill(usher, signal.SIGCONT)
    assert errors == ""
    # the node is left, without anything behind it
    assert output.splitlines() == ["EIO EIO True", "0", "0 EIO", "1"]
    assert_nothing_left(run)


def test_the_usher_has_no_files_of_the_program_and_nobody_may_look_into_it(run: Runner) -> None:
    program = f"""
{PRELUDE}
print(make(), flush=True)
usher = "/proc/" + sys.stdin.readline().strip()
print(error(os.open, usher + "/mem", os.O_RDWR), error(os.listdir, usher + "/fd"))
"""
    with subprocess.Popen(
        command(run, run.python, "-c", program),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **run.options(),
    ) as process:
        assert process.stdout
        process.stdout.readline()
        usher = pid_named(run, "gpiovirt-usher")
        names = [os.readlink(path) for path in Path(f"/proc/{usher}/fd").iterdir()]
        assert sorted(name.partition(":")[0] for name in names) == ["/dev/null"] * 3 + ["socket"]
        output, _ = process.communicate(f"{usher}\n", timeout=20)
    assert output == ("EACCES EACCES\n" if run.uid else "None None\n")


def test_a_supervisor_that_is_killed_takes_the_usher_along(run: Runner) -> None:
    program = "import sys; print('up', flush=True); sys.stdin.readline()"
    with subprocess.Popen(
        command(run, run.python, "-c", program),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **run.options(),
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        pid_named(run, "gpiovirt-usher")
        os.kill(pid_named(run, "gpiovirt"), signal.SIGKILL)
        process.communicate("\n", timeout=20)
    assert process.returncode == 0
    assert_nothing_left(run)


GO = """
def create(path, text):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try: os.write(fd, text.encode())
    finally: os.close(fd)
import stat, struct
for name in ("a", "b"):
    os.makedirs(f"{CONFIG}/{name}/bank0/line3/hog", exist_ok=True)
    create(f"{CONFIG}/{name}/bank0/num_lines", "8"); create(f"{CONFIG}/{name}/bank0/line3/hog/name", "who")
    create(f"{CONFIG}/{name}/live", "1")
    chip = read(f"{CONFIG}/{name}/bank0/chip_name")
    print(chip, stat.S_ISCHR(os.lstat("/dev/" + chip).st_mode))
print(error(create, f"{CONFIG}/a/new", "1"), stat.filemode(os.stat(f"{CONFIG}/a/live").st_mode))
info = os.stat(f"{CONFIG}/a/dev_name"); print(stat.filemode(info.st_mode), info.st_size)
for name in ("a", "b"):
    create(f"{CONFIG}/{name}/live", "0")
    for path in ("/bank0/line3/hog", "/bank0/line3", "/bank0", ""): os.rmdir(f"{CONFIG}/{name}{path}")
    print(os.path.exists("/dev/gpiochip0"), os.path.exists(f"{CONFIG}/{name}"))
"""


def test_what_go_and_rust_do_besides(run: Runner) -> None:
    """They create and truncate files that are there, and look for a device at once."""
    assert script(run, GO) == [
        *("gpiochip0 True", "gpiochip1 True", "EACCES -rw-r--r--", "-r--r--r-- 4096"),
        *("False False", "False False"),
    ]


def test_there_is_an_end_to_chips_and_the_others_go_on(run: Runner) -> None:
    source = """
for bank in range(257): os.makedirs(f"{CONFIG}/many/bank{bank}")
print(error(write, f"{CONFIG}/many/live", "1"), make())
os.rmdir(f"{CONFIG}/many/bank0"); os.rmdir(f"{CONFIG}/many/bank1")
write(f"{CONFIG}/many/live", "1")
print(len(os.listdir("/sys/bus/gpio/devices")), error(make, "z"))
write(f"{CONFIG}/many/live", "0")
print(os.listdir("/sys/bus/gpio/devices"))
"""
    assert script(run, source) == ["ENXIO gpiochip0", "256 ENXIO", "['gpiochip0']"]
    assert_nothing_left(run)


def test_another_user_in_the_program_mounts_nothing_by_our_hand(run: Runner) -> None:
    if run.uid:  # only root has programs of another user in a run
        return
    source = (
        MOUNT
        + """
os.setgroups([]); os.setresgid(4242, 4242, 4242); os.setresuid(4242, 4242, 4242)
print(mount("/tmp") == errno.EPERM, umount("/tmp") == errno.EPERM)
os.chdir("/sys/bus/platform/drivers/gpio-aggregator")
print(error(os.mkdir, f"{CONFIG}/a"), error(open, "new_device", "w"))
"""
    )
    assert script(run, source) == ["True True", "EACCES EACCES"]


def test_a_program_that_does_nothing_but_make_chips_starves_no_other_file(run: Runner) -> None:
    source = """
pids = []
for number in range(4):
    pid = os.fork()
    if not pid:
        while True:
            make(str(number)); write(f"{CONFIG}/{number}/live", "0")
            os.rmdir(f"{CONFIG}/{number}/b"); os.rmdir(f"{CONFIG}/{number}")
    pids.append(pid)
worst = 0
for _ in range(20):
    began = time.monotonic()
    subprocess.run(["gpioget", "gpiochip0", "0"], check=True, capture_output=True)
    worst = max(worst, time.monotonic() - began)
for pid in pids: os.kill(pid, 9)
print(worst < 2)
"""
    assert script(run, source, ["--sim", "x:1"]) == ["True"]
    assert_nothing_left(run)


def test_without_fuse_it_says_what_is_missing(run: Runner, tmp_path: Path) -> None:
    if run.uid == 0 or os.getuid():
        return
    hidden = tmp_path / "nothing"
    hidden.write_text("")
    hidden.chmod(0o600)
    inner = " ".join(f"'{word}'" for word in command(run, "true"))
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c"),
            f"mount --bind {hidden} /dev/fuse; exec setpriv --reuid={run.uid} --regid={run.uid} "
            f"--clear-groups {inner}",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=run.environment,
        cwd=run.home,
    )
    assert done.returncode == 1
    assert (
        "/dev/fuse cannot be opened; load the module fuse, or give the container that device" in done.stderr
    )
    assert len(done.stderr.splitlines()) == 1
