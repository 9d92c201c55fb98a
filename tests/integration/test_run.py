# SPDX-License-Identifier: MIT
"""`gpiovirt run` as a process: what the program sees, how it ends, what is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.conftest import Runner, as_user

PRELUDE = """
import array, errno, fcntl, os, select, signal, socket, struct, subprocess, sys, threading, time
GET_LINE, GET, SET, CHIPINFO = 0xC250B407, 0xC010B40E, 0xC010B40F, 0x8044B401
IN, OUT, RISING, FALLING = 4, 8, 16, 32
def line(chip, offset, flags, consumer=b"t"):
    raw = bytearray(592)
    struct.pack_into("=I", raw, 0, offset)
    raw[256:256 + len(consumer)] = consumer
    struct.pack_into("=Q", raw, 288, flags)
    struct.pack_into("=I", raw, 560, 1)
    fcntl.ioctl(chip, GET_LINE, raw)
    return struct.unpack_from("=i", raw, 588)[0]
def get(fd):
    raw = bytearray(struct.pack("=QQ", 0, 1))
    fcntl.ioctl(fd, GET, raw)
    return struct.unpack("=QQ", raw)[0]
def put(fd, value):
    fcntl.ioctl(fd, SET, bytearray(struct.pack("=QQ", value, 1)))
def opened():
    return os.open("/dev/gpiochip0", os.O_RDWR | os.O_CLOEXEC)
"""
LOOP = {"sims": ["a:4"], "wires": ["a:0=a:1"]}


def assert_nothing_left(run: Runner) -> None:
    """No process that was started here by us, but the program's own, and no mount, outlives the program."""
    deadline = time.monotonic() + 5
    while left := run.processes():
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
    # what is mounted, wherever
    assert not re.findall("^gpiovirt .*", Path("/proc/self/mounts").read_text(), re.M)


def test_exit_status_is_the_programs(run: Runner) -> None:
    assert run("sh", "-c", "exit 42").returncode == 42


def test_death_by_signal_is_the_programs(run: Runner) -> None:
    assert run("sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM


def test_streams_and_environment_are_the_programs(run: Runner) -> None:
    done = run("sh", "-c", "cat; echo $HOME $GPIOVIRT_SIM >&2", input="hello")
    assert done.stdout == "hello"
    assert done.stderr.startswith(f"{run.home} gpiovirt/sim/{run.uid}/")


def test_a_program_that_becomes_another_is_answered_in_its_new_memory(run: Runner) -> None:
    source = """
import fcntl, os
fcntl.ioctl(os.open("/dev/gpiochip0", os.O_RDWR), 0xC100B405, bytearray(256))  # its argument is read
os.execvp("gpiodetect", ["gpiodetect"])  # whose first is only written
"""
    done = run(run.python, "-c", source)
    assert (done.stdout, done.stderr) == ("gpiochip0 [sim-a] (8 lines)\n", "")


def test_signals_reach_the_program(run: Runner) -> None:
    script = (
        "import signal, sys\n"
        "signal.signal(15, lambda *_: sys.exit(7))\n"
        "print('up', flush=True)\n"
        "signal.pause()\n"
    )
    with run.popen(run.python, "-c", script, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.wait(5) == 7
    assert_nothing_left(run)


def test_the_program_ignores_no_signal_because_of_us(run: Runner) -> None:
    """Python ignores SIGPIPE and SIGXFSZ."""
    command = ["grep", "SigIgn", "/proc/self/status"]
    outside = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert run(*command).stdout == outside


def test_the_program_has_no_open_files_of_ours(run: Runner) -> None:
    assert run("sh", "-c", "ls /proc/self/fd").stdout.split() == ["0", "1", "2", "3"]


def test_the_supervisor_keeps_none_of_the_callers_files_open(run: Runner) -> None:
    reader, writer = os.pipe()
    close = f"exec {writer}>&-; exec sleep 5"
    with run.popen("bash", "-c", close, pass_fds=[writer]) as process, open(reader, "rb") as end:
        os.close(writer)
        started = time.monotonic()
        assert end.read() == b""
        assert process.poll() is None
        assert time.monotonic() - started < 4
        process.kill()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_however_it_ends(run: Runner, sent: signal.Signals) -> None:
    with run.popen("sleep", "60", sims=["a:2", "b:2", "c:2"]) as process:
        deadline = time.monotonic() + 10
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(run.processes()) >= 2
        process.send_signal(sent)
        assert process.wait(5) == -sent
    assert_nothing_left(run)


def test_a_failed_start_leaves_nothing(run: Runner) -> None:
    assert run("/no/such/program").returncode == 1
    assert_nothing_left(run)


def test_a_supervisor_killed_releases_the_program_from_nothing_but_gpio(run: Runner) -> None:
    """ioctls fail, line files hang up; the program itself goes on."""
    out = run.script(
        PRELUDE
        + """
fd = line(opened(), 0, IN)
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.connect("\\0" + os.environ["GPIOVIRT_SIM"])
supervisor, _, _ = struct.unpack("iIi", control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
os.kill(supervisor, 9)
p = select.poll(); p.register(fd, 0)
print(p.poll(5000)[0][1] & select.POLLHUP == select.POLLHUP)
try: get(fd)
except OSError as error: print(errno.errorcode[error.errno])
"""
    )
    assert out == "True\nENOSYS\n"
    assert_nothing_left(run)


def test_fork_exec_threads_and_dup_share_lines(run: Runner) -> None:
    out = run.script(
        PRELUDE
        + """
out, seen = line(chip := opened(), 0, OUT), line(chip, 1, IN)
copy = os.dup(out)
os.close(out)
put(copy, 1)
print("dup", get(seen))
if not (pid := os.fork()):
    put(copy, 0)
    os._exit(0)
os.waitpid(pid, 0)
print("fork", get(seen))
threads = [threading.Thread(target=put, args=(copy, 1)) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print("threads", get(seen))
os.set_inheritable(copy, True)
code = "import fcntl, sys; fcntl.ioctl(int(sys.argv[1]), 0xC010B40F, bytearray([0] * 8 + [1] + [0] * 7))"
subprocess.run([sys.executable, "-c", code, str(copy)], close_fds=False, check=True)
print("exec", get(seen))
""",
        **LOOP,
    )
    assert out.split("\n")[:4] == ["dup 1", "fork 0", "threads 1", "exec 0"]


def test_a_line_passed_over_a_socket_works_in_the_receiver(run: Runner) -> None:
    out = run.script(
        PRELUDE
        + """
ours, theirs = socket.socketpair()
if not os.fork():
    _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
    put(fds[0], 1)
    theirs.send(b"!")
    os._exit(0)
chip = opened()
out = line(chip, 0, OUT)
socket.send_fds(ours, [b"x"], [out])
ours.recv(1)
print(get(line(chip, 1, IN)))
""",
        **LOOP,
    )
    assert out == "1\n"


def test_closing_the_last_copy_releases_the_line(run: Runner) -> None:
    out = run.script(
        PRELUDE
        + """
chip = opened()
fd = line(chip, 0, OUT)
copy = os.dup(fd)
os.close(fd)
try: line(chip, 0, OUT)
except OSError as error: print(errno.errorcode[error.errno])
os.close(copy)
for _ in range(1000):
    os.close(line(chip, 0, OUT))
print("free")
"""
    )
    assert out == "EBUSY\nfree\n"


def test_poll_epoll_and_select_wait_for_edges(run: Runner) -> None:
    out = run.script(
        PRELUDE
        + """
chip = opened()
out, seen = line(chip, 0, OUT), line(chip, 1, IN | RISING | FALLING)
p = select.poll(); p.register(seen, select.POLLIN)
e = select.epoll(); e.register(seen, select.EPOLLIN)
print(p.poll(0), e.poll(0), select.select([seen], [], [], 0)[0])
put(out, 1)
print(bool(p.poll(5000)), bool(e.poll(5)), bool(select.select([seen], [], [], 5)[0]))
print(len(os.read(seen, 4096)))
os.set_blocking(seen, False)
try: os.read(seen, 48)
except BlockingIOError: print("EAGAIN")
""",
        **LOOP,
    )
    assert out == "[] [] []\nTrue True True\n48\nEAGAIN\n"


def test_programs_share_the_chip_and_exclude_each_other(run: Runner) -> None:
    script = "gpioset -m time -s 1 gpiochip0 0=1 & sleep 0.4; gpioget gpiochip0 0; gpioget gpiochip0 1; wait"
    done = run("sh", "-c", script)
    assert "busy" in done.stderr
    assert done.stdout == "0\n"


def test_a_program_killed_in_the_middle_of_an_ioctl_frees_its_lines(run: Runner) -> None:
    out = run.script(
        PRELUDE
        + """
for _ in range(60):
    if not (pid := os.fork()):
        chip = opened()
        while True:
            os.close(line(chip, 0, OUT))
    time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
print(get(line(opened(), 0, OUT)))
"""
    )
    assert out == "0\n"


def test_requests_under_a_storm_of_signals_succeed(run: Runner) -> None:
    out = run.script(
        PRELUDE
        + """
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, False)
chip = opened()
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
before = len(os.listdir("/proc/self/fd"))
for _ in range(1000):
    fd = line(chip, 0, OUT)
    put(fd, 1)
    os.close(fd)
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(os.listdir("/proc/self/fd")) - before)
"""
    )
    assert out == "0\n"


def test_out_of_file_descriptors_is_told_and_rolled_back(run: Runner) -> None:
    out = run.script(
        PRELUDE
        + """
import resource
chip = opened()
fcntl.ioctl(chip, CHIPINFO, bytearray(68))
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
held = []
try:
    while True: held.append(os.dup(0))
except OSError: pass
try: line(chip, 0, OUT)
except OSError as error: print(errno.errorcode[error.errno])
os.close(held.pop())
print(get(line(chip, 0, OUT)))
"""
    )
    assert out == "EMFILE\n0\n"


def test_a_session_leader_does_not_get_a_chip_as_its_terminal(run: Runner) -> None:
    out = run.script(
        PRELUDE
        + """
os.setsid() if os.getpid() != os.getsid(0) else None
for chip in ("gpiochip0", "gpiochip1", "gpiochip2"):
    os.open("/dev/" + chip, os.O_RDWR)
try: os.open("/dev/tty", os.O_RDWR)
except OSError as error: print(errno.errorcode[error.errno])
""",
        sims=["a:1", "b:1", "c:1"],
        start_new_session=True,
    )
    assert out == "ENXIO\n"


def test_the_rest_of_dev_and_sys_is_as_it_was(run: Runner) -> None:
    listing = ["sh", "-c", r"find /dev /sys/bus /sys/dev/char -maxdepth 1 -printf '%p %y %m %l\n'"]
    inside = run(*listing).stdout.splitlines()
    outside = subprocess.run(
        listing, capture_output=True, text=True, check=True, **as_user(run.uid)
    ).stdout.splitlines()
    own = re.compile(
        r"(/dev|/dev/gpiochip0|/dev/ptmx|/dev/.gpiovirt|/sys/bus|/sys/bus/gpio|/sys/dev/char(/136:\d+)?) "
    )
    assert [row for row in outside if row not in inside and not own.match(row)] == []
    assert [row for row in inside if row not in outside and not own.match(row)] == []


def test_the_node_is_a_character_device_that_sysfs_knows(run: Runner) -> None:
    script = (
        "test -c /dev/gpiochip0 && find /dev -maxdepth 1 -type c -name 'gpiochip*' && "
        "readlink -f /sys/dev/char/$(cat /sys/bus/gpio/devices/gpiochip0/dev)/subsystem"
    )
    assert run("sh", "-c", script).stdout == "/dev/gpiochip0\n/sys/bus/gpio\n"


def test_the_program_can_open_pseudo_terminals(run: Runner) -> None:
    out = run.script(
        "import os, pty; m, s = pty.openpty(); os.write(m, b'x'); print(os.path.exists(os.ttyname(s)))"
    )
    assert out == "True\n"
    assert run("script", "-qc", "tty", "/dev/null").stdout.startswith("/dev/")


def test_other_ioctls_of_that_number_go_to_the_kernel(run: Runner) -> None:
    out = run.script(
        PRELUDE
        + """
for fd in (os.open("/dev/null", os.O_RDWR), os.pipe()[0], 999):
    try: fcntl.ioctl(fd, CHIPINFO, bytearray(68))
    except OSError as error: print(errno.errorcode[error.errno])
"""
    )
    assert out == "ENOTTY\nENOTTY\nEBADF\n"


def test_a_request_from_an_unmapped_address_takes_no_line(run: Runner) -> None:
    out = run.script(
        PRELUDE
        + """
import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
chip = opened()
for address in (0, 8, 1 << 47, (1 << 64) - 4096):
    failed = libc.ioctl(chip, ctypes.c_ulong(GET_LINE), ctypes.c_ulong(address))
    print(failed, errno.errorcode[ctypes.get_errno()])
os.close(line(chip, 0, OUT))
"""
    )
    assert out == "-1 EFAULT\n" * 4


def test_user_and_groups_are_the_callers(run: Runner) -> None:
    assert run("id", "-u").stdout == f"{run.uid}\n"
    assert os.getuid() == 0 or run.uid == os.getuid()


def test_a_thousand_lines_of_fifty_chips_make_one_chip(run: Runner) -> None:
    sims = [f"c{i}:20" for i in range(50)]
    definition = ", ".join(f"c{i} {' '.join(map(str, range(19, -1, -1)))}" for i in range(50))
    out = run.script(
        PRELUDE
        + """
chip = opened()
raw = bytearray(68)
fcntl.ioctl(chip, CHIPINFO, raw)
print(struct.unpack_from("=I", raw, 64))
held = line(chip, 999, OUT)
put(held, 1)
print(subprocess.check_output([sys.executable, "-m", "gpiovirt", "sim", "get", "c49:0"], text=True))
""",
        sims=sims,
        chips=["big=" + definition],
    )
    assert out == "(1000,)\n1\n\n"


def test_many_files_of_many_processes_are_served(run: Runner) -> None:
    """More than the usual 1024 open files of one process."""
    out = run.script(
        PRELUDE
        + """
chip = opened()
children, ready = 6, os.pipe()
for child in range(children):
    if not os.fork():
        held = [line(chip, child * 250 + i, IN) for i in range(250)]
        os.write(ready[1], b"!")
        signal.pause()
os.close(ready[1])
print(sum(len(os.read(ready[0], 1)) for _ in range(children)))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.killpg(0, signal.SIGTERM)
""",
        sims=["a:1500"],
        start_new_session=True,
    )
    assert out == "6\n"


def test_verbose_says_why_a_call_is_refused(run: Runner) -> None:
    gpioget = ["-v", "--hog", "sim-a:1=spi0", "--", "gpioget", "gpiochip0", "1"]
    command = [run.python, "-m", "gpiovirt", "run", "--sim", "sim-a:2", *gpioget]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, **run.options())
    assert re.search(r"gpiovirt: gpioget \(\d+\): GPIO_\w+_IOCTL: Device or resource busy: ", done.stderr)
    assert 'line sim-a:1 is held by "spi0"; release it or choose another' in done.stderr


def test_a_line_is_held_by_the_process_that_opened_the_chip_whatever_it_says_of_itself(run: Runner) -> None:
    program = """
import gpiod, os, threading
def take(line, who):
    held = gpiod.request_lines("/dev/gpiochip0", {line: None}, consumer=who)
    try:
        gpiod.request_lines("/dev/gpiochip0", {line: None})
    except OSError:
        print(os.getpid(), flush=True)
if not os.fork():
    take(0, 'a" (pid 1, uid 0)')
    os._exit(0)
os.wait()
thread = threading.Thread(target=take, args=(1, "b"))
thread.start()
thread.join()
"""
    command = [run.python, "-m", "gpiovirt", "run", "-v", "--sim", "s:2", "--", run.python, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, **run.options())
    child, parent = done.stdout.split()
    assert f's:0 is held by "a" (pid 1, uid 0)" (pid {child}, uid {run.uid}); release' in done.stderr
    assert f's:1 is held by "b" (pid {parent}, uid {run.uid}); release' in done.stderr


def test_a_supervisor_that_cannot_be_made_starts_no_program(run: Runner) -> None:
    """Two chips need a process more to own a terminal than the limit allows."""
    if run.uid == 0:  # whom no limit of processes holds
        return
    limited = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NPROC, (3, 3)); "
    command = run.command(["echo", "started"], sims=("a:1", "b:1", "c:1", "d:1"))
    done = subprocess.run(
        [run.python, "-c", limited + "os.execv(sys.argv[1], sys.argv[1:])", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        **run.options(),
    )
    assert done.stdout == ""
    assert done.returncode == 1
    assert done.stderr
    assert all(line.startswith("gpiovirt: ") for line in done.stderr.splitlines())


def test_what_a_program_leaves_behind_is_told(run: Runner) -> None:
    done = run("sh", "-c", "sleep 1.6 & exit 3", sims=["a:2"])
    assert done.returncode == 3
    assert re.search(
        r"live on with its chips: sleep \(pid \d+\); --kill-children would end them\n", done.stderr
    )
    assert "live on" not in run("sh", "-c", "sleep 0.2 & exit 3", sims=["a:2"]).stderr
    assert_nothing_left(run)


def test_children_are_killed_if_that_is_wanted(run: Runner) -> None:
    """Sessions of their own, and those that fork meanwhile, too; others' processes live."""
    forks = "while :; do sleep 100 & done"
    script = f"setsid sleep 100 & (sleep 100; echo late) & {{ timeout 2 sh -c '{forks}'; }} & exit 3"
    with subprocess.Popen(["sleep", "100"], **run.options()) as bystander:
        began = time.monotonic()
        done = run_killing(run, script)
        assert (done.returncode, done.stdout) == (3, "")
        assert time.monotonic() - began < 20
        assert bystander.poll() is None
        bystander.kill()
    assert_nothing_left(run)


def run_killing(run: Runner, script: str) -> subprocess.CompletedProcess[str]:
    command = [
        run.python,
        "-m",
        "gpiovirt",
        "run",
        "--sim",
        "a:2",
        "--kill-children",
        "--",
        "sh",
        "-c",
        script,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **run.options())
