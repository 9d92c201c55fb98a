# SPDX-License-Identifier: MIT
"""What goes wrong outside a program, made to order: `gpiovirt sim` on programs that are under way."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpiovirt.control.simulator import SimClient, socket_of
from gpiovirt.errors import HostError, UsageError
from gpiovirt.protocols.control.requests import New
from gpiovirt.testing.daemon import Daemon
from tests.integration.conftest import Runner, as_user
from tests.integration.test_clients import ok
from tests.integration.test_run import PRELUDE

PANEL = ["panel:DOOR,LAMP", "other:4"]


def simulator_of(process: subprocess.Popen[str]) -> str:
    """Its socket's name, once it is there: a program that does no GPIO does not wait for that."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket_of(process.pid)
        except HostError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextmanager
def under_way(
    run: Runner, source: str, **chips: list[str]
) -> Iterator[tuple[subprocess.Popen[str], SimClient]]:
    """A program that has printed `ready`, and its simulator."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with run.popen(run.python, "-c", PRELUDE + source, **{"sims": PANEL, **chips}, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            with SimClient(simulator_of(process)) as sim:
                yield process, sim
        finally:
            process.kill()


WATCH_DOOR = """
fd = line(opened(), 0, IN | RISING | FALLING)
print("ready", flush=True)
poll = select.poll(); poll.register(fd, select.POLLIN)
patience_ms = 20000
while poll.poll(patience_ms):
    patience_ms = 1000
    for event in struct.iter_unpack("=QIIII24x", os.read(fd, 4800)):
        print("rising" if event[1] == 1 else "falling", event[0], flush=True)
print("quiet", get(fd), flush=True)
"""


def edges(process: subprocess.Popen[str]) -> list[tuple[str, int]]:
    """What the program saw until it was quiet, with times in ns."""
    assert process.stdout is not None
    said = [line.split() for line in process.stdout.read().splitlines()]
    assert said[-1][0] == "quiet"
    return [(what, int(time_ns)) for what, time_ns in said[:-1]]


def test_pulses_are_as_long_as_asked_for(run: Runner) -> None:
    with under_way(run, WATCH_DOOR) as (process, sim):
        pid = str(process.pid)
        run.sim("--pid", pid, "pulse", "panel:DOOR", "--for", "20ms", "--times", "3", "--every", "50ms")
        assert sim.get("DOOR") == 0
        seen = edges(process)
    assert [what for what, _ in seen] == ["rising", "falling"] * 3
    times = [(time_ns - seen[0][1]) / 1e6 for _, time_ns in seen]
    for found, expected in zip(times, [0, 20, 50, 70, 100, 120], strict=True):
        assert expected - 5 < found < expected + 50


def test_a_contact_bounces_for_a_real_program(run: Runner) -> None:
    with under_way(run, WATCH_DOOR) as (process, _):
        run.sim("--pid", str(process.pid), "bounce", "panel:DOOR", "--for", "8ms")
        seen = edges(process)
    assert [what for what, _ in seen] == [*["rising", "falling"] * 4, "rising"]
    assert 8 <= (seen[-1][1] - seen[0][1]) / 1e6 < 200


def test_a_stuck_line_ignores_its_driver(run: Runner) -> None:
    source = """
fd = line(opened(), 1, OUT); put(fd, 1)
print("ready", flush=True)
sys.stdin.readline(); put(fd, 0); put(fd, 1); print(get(fd), flush=True); sys.stdin.readline()
"""
    with under_way(run, source) as (process, sim):
        pid = str(process.pid)
        assert sim.get("LAMP") == 1
        run.sim("--pid", pid, "stick", "panel:LAMP", "low")
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        assert process.stdout.readline() == "0\n"  # type: ignore[union-attr]
        assert "stuck at 0" in run.sim("--pid", pid, "list").splitlines()[1]
        run.sim("--pid", pid, "unstick", "panel:LAMP")
        assert sim.get("LAMP") == 1


def test_the_words_people_use(run: Runner) -> None:
    script = """
sim() { $0 -m gpiovirt sim "$@"; }
sim pull DOOR high; sim get DOOR; sim toggle DOOR; sim get DOOR; sim toggle panel:0; sim get DOOR
sim pull DOOR low; sim get DOOR
"""
    assert ok(run("sh", "-c", script, run.python, sims=PANEL)).split() == ["1", "0", "1", "0"]


UNPLUGGED = """
chip = opened(); fcntl.ioctl(chip, CHIPINFO, bytearray(68))
held = line(chip, 0, IN | RISING)
out = line(chip, 1, OUT); put(out, 1)
second = os.open("/dev/gpiochip1", os.O_RDWR)
fcntl.ioctl(second, CHIPINFO, bytearray(68))
print("ready", flush=True)
poll = select.poll()
for fd in (chip, held, out): poll.register(fd, select.POLLIN)
seen = set()
while len(seen) < 3:
    for fd, events in poll.poll(10000):
        seen.add((fd, bool(events & select.POLLHUP))); poll.unregister(fd)
print(sorted(seen) == [(chip, True), (held, True), (out, True)])
def tried(what, *args):
    try: return what(*args)
    except OSError as error: return errno.errorcode[error.errno]
print(tried(get, held), tried(put, out, 1), tried(fcntl.ioctl, chip, CHIPINFO, bytearray(68)))
again = os.open("/dev/gpiochip0", os.O_RDWR)
print(tried(line, again, 0, IN), tried(line, second, 0, IN) != "ENODEV", flush=True)
sys.stdin.readline()
again = os.open("/dev/gpiochip0", os.O_RDWR)
print(get(line(again, 0, IN)), get(line(again, 1, 0)), flush=True)
"""


def test_an_unplugged_chip_hangs_up_and_comes_back(run: Runner) -> None:
    with under_way(run, UNPLUGGED) as (process, sim):
        pid = str(process.pid)
        assert sim.get("LAMP") == 1
        run.sim("--pid", pid, "unplug", "panel")
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == [
            "True\n",
            "ENODEV ENODEV ENODEV\n",
            "ENODEV True\n",
        ]
        assert sim.get("LAMP") == 0
        assert "unplugged" in run.sim("--pid", pid, "list").splitlines()[0]
        run.sim("--pid", pid, "pull", "DOOR", "high")
        run.sim("--pid", pid, "plug", "panel")
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        assert process.stdout.readline() == "1 0\n"


def test_a_virtual_chip_of_an_unplugged_chips_lines_stays(run: Runner) -> None:
    script = """
$0 -m gpiovirt sim unplug panel
gpioget gpiochip0 0; gpioget gpiochip0 1
$0 -m gpiovirt sim plug panel; $0 -m gpiovirt sim pull DOOR high
gpioget gpiochip0 0
"""
    done = run("sh", "-c", script, run.python, sims=PANEL, chips=["plc=panel 0, other 1"])
    assert done.stdout.split() == ["0", "1"]
    assert "No such device" in done.stderr


def test_libgpiods_tools_see_a_chip_go_and_come(run: Runner) -> None:
    script = """
$0 -m gpiovirt sim unplug panel; gpiodetect; echo $?; $0 -m gpiovirt sim plug panel; gpiodetect
"""
    done = run("sh", "-c", script, run.python, sims=["panel:DOOR,LAMP"])
    assert done.stdout.splitlines() == ["1", "gpiochip0 [panel] (2 lines)"]
    assert "No such device" in done.stderr


TRACE = """\
$timescale 1 ms $end
$scope module panel $end
$var wire 1 ! DOOR $end
$var wire 1 " NOSUCH $end
$upscope $end
$enddefinitions $end
#0
0!
0"
#20
1!
#50
0!
#60
"""


def test_a_recorded_trace_is_played(run: Runner) -> None:
    (run.home / "trace.vcd").write_text(TRACE)
    with under_way(run, WATCH_DOOR) as (process, _):
        said = run.sim("--pid", str(process.pid), "play", "trace.vcd", "--speed", "2")
        seen = edges(process)
    assert re.fullmatch(r"3 changes in 0\.030 s; the latest was [0-9.]+ ms late", said)
    assert [what for what, _ in seen] == ["rising", "falling"]
    assert 10 < (seen[1][1] - seen[0][1]) / 1e6 < 100


def test_a_unique_name_picks_its_simulator(run: Runner) -> None:
    programs = [
        run.popen("cat", sims=[sim], stdin=subprocess.PIPE) for sim in ("hall:GATE,BELL", "roof:FAN,BELL")
    ]
    try:
        for program in programs:
            simulator_of(program)
        run.sim("pull", "FAN", "high")
        assert run.sim("get", "roof:0") == "1"
        for words, says in (
            (["get", "BELL"], r"2 simulators have BELL; choose one with --pid \(\d+, \d+\)"),
            (["get", "GATES"], r"none of \d+ running simulators \(.*\) has GATES \(did you mean GATE\?\)"),
            (["unplug", "rof"], r"has rof:0 \(did you mean roof:0"),
        ):
            command = [run.python, "-m", "gpiovirt", "sim", *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False, **run.options())
            assert done.returncode == 2
            assert re.search(says, done.stderr), done.stderr
    finally:
        for program in programs:
            program.kill()
            program.communicate()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pulse", "DOOR", "--for", "1us"], "a pulse takes 0.001 ms: use 0.01 ms"),
        (["pulse", "DOOR", "--times", "0"], "0 pulses: use 1 to 500000"),
        (["pulse", "DOOR", "--for", "10"], "'10' is not a duration"),
        (["bounce", "DOOR", "--for", "2h", "--every", "1ms"], "use 1 ms to 1e"),
        (["stick", "DOOR", "sideways"], "invalid choice: 'sideways'"),
        (["pull", "DOR", "high"], "(did you mean DOOR?)"),
        (["unplug", "panle"], "no simulated chip 'panle' (did you mean panel?)"),
        (["plug", "panel"], "the chip panel is plugged in already"),
        (["play", "nosuch.vcd"], "cannot read nosuch.vcd"),
    ],
)
def test_what_cannot_be_done_is_said(run: Runner, words: list[str], says: str) -> None:
    script = '"$@" 2>&1; exit 0'
    said = run("sh", "-c", script, "sh", run.python, "-m", "gpiovirt", "sim", *words, sims=PANEL).stdout
    (line,) = said.splitlines()
    assert line.startswith("gpiovirt: ")
    assert says in line


IDLE = 'print("ready", flush=True); sys.stdin.readline()'


def test_a_client_that_leaves_in_the_middle_of_a_train_harms_nobody(run: Runner) -> None:
    with under_way(run, IDLE) as (process, sim):
        name = socket_of(process.pid)
        for _ in range(20):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                client.connect("\0" + name)
                client.send(b'{"do":"pulse","line":"DOOR","width_ns":1000000,"times":50,"period_ns":2000000}')
        sim.pulse("LAMP", width_ms=1)
        assert sim.get("LAMP") == 0


def test_fast_trains_on_every_line_leave_time_for_the_program_and_for_others(run: Runner) -> None:
    source = """
chip = os.open("/dev/gpiochip1", os.O_RDWR); fd = line(chip, 0, OUT)
print("ready", flush=True)
sys.stdin.readline()
for turn in range(200): put(fd, turn & 1)
print("done", flush=True)
sys.stdin.readline()
"""
    with under_way(run, source) as (process, sim):
        name = socket_of(process.pid)
        clients = []
        for text in ("panel:0", "panel:1", "other:1", "other:2", "other:3"):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            client.connect("\0" + name)
            command = {"do": "pulse", "line": text, "width_ns": 10_000, "times": 400_000, "period_ns": 20_000}
            client.send(json.dumps(command).encode())
            clients.append(client)
        began = time.monotonic()
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        assert process.stdout.readline() == "done\n"  # type: ignore[union-attr]
        assert sim.get("LAMP") in (0, 1)
        assert time.monotonic() - began < 10
        for client in clients:
            client.close()


def test_what_is_no_command_is_refused_and_the_connection_stays(run: Runner) -> None:
    with under_way(run, IDLE) as (process, _):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(5)
            client.connect("\0" + socket_of(process.pid))
            for message in (
                {"do": "pulse", "line": "DOOR", "width_ns": "long", "times": 1, "period_ns": 0},
                {"do": "pulse", "line": "DOOR", "width_ns": 10**400, "times": 1, "period_ns": 0},
                {"do": "pulse", "line": "DOOR", "width_ns": 10**6, "times": 10**400, "period_ns": 0},
                {"do": "bounce", "line": "DOOR", "level": "x", "for_ns": 1, "every_ns": 1},
                {"do": "stick", "line": "DOOR", "level": 1},
                {"do": "unplug", "chip": ["panel"]},
                {"do": "explode", "line": "DOOR"},
                ["pull"],
            ):
                client.send(json.dumps(message).encode())
                assert set(json.loads(client.recv(1 << 16))) == {"error"}
        assert process.poll() is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_another_user_cannot_pull_the_plug(run: Runner) -> None:
    with under_way(run, IDLE) as (process, sim):
        name = socket_of(process.pid)
        script = f"""
import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(5); s.connect("\\0" + {name!r})
try:
    s.send(b'{{"do": "unplug", "chip": "panel"}}'); print(len(s.recv(100)))
except OSError: print(0)
"""
        done = subprocess.run(
            [run.python, "-c", script], capture_output=True, text=True, check=True, cwd="/", **as_user(4243)
        )
        assert done.stdout == "0\n"
        assert not sim.lines()[0]["unplugged"]


def test_from_python_as_from_the_command_line(run: Runner) -> None:
    with under_way(run, IDLE) as (_, sim):
        sim.pull("DOOR", 1)
        assert sim.get("DOOR") == 1
        sim.bounce("DOOR", for_ms=4)
        assert sim.get("DOOR") == 0
        sim.bounce("DOOR", for_ms=4, level="high")
        assert sim.get("DOOR") == 1
        sim.stick("DOOR", 0)
        sim.pulse("DOOR", width_ms=1)
        assert sim.get("DOOR") == 0
        sim.unstick("DOOR")
        sim.toggle("DOOR")
        assert sim.get("DOOR") == 0
        sim.unplug("panel")
        with pytest.raises(UsageError, match="unplugged already"):
            sim.unplug("panel")
        sim.plug("panel")


def test_a_chip_of_gpiovirtd_loses_its_lines_and_has_them_back(tmp_path: Path) -> None:
    with Daemon(tmp_path, ["--sim", "panel:DOOR,LAMP"]) as daemon, daemon.simulator() as sim:
        with daemon.client() as client:
            client.ask(New("panel 0-1", name="plc"))
        get = [sys.executable, "-m", "gpiovirt", "run", "--chip", "plc", "--", "gpioget", "gpiochip0", "0"]

        def reads(text: str) -> None:
            deadline = time.monotonic() + 20
            while True:
                done = subprocess.run(
                    get, capture_output=True, text=True, env=daemon.environment, check=False
                )
                if done.stdout == text:
                    return
                assert time.monotonic() < deadline, done.stderr

        sim.pull("DOOR", 1)
        reads("1\n")
        sim.unplug("panel")
        reads("")
        sim.plug("panel")
        reads("1\n")
