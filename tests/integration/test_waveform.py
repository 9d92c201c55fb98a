# SPDX-License-Identifier: MIT
"""Recordings of programs: read by tools that are not ours, replayed, and compared."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from gpiovirt.control.simulator import SimClient, socket_of
from gpiovirt.errors import HostError
from gpiovirt.protocols.control.requests import New
from gpiovirt.testing.daemon import Daemon
from gpiovirt.waveform.vcd import Signal, read_vcd

COPY = """
import gpiod, sys, time
from gpiod.line import Direction, Edge, Value
settings = {
    "DOOR": gpiod.LineSettings(edge_detection=Edge.BOTH),
    "LAMP": gpiod.LineSettings(direction=Direction.OUTPUT),
}
with gpiod.request_lines("/dev/gpiochip0", settings, consumer="copy") as request:
    print("started", flush=True)
    while True:
        for event in request.read_edge_events():
            rising = event.event_type is event.Type.RISING_EDGE
            time.sleep(float(sys.argv[1]))
            request.set_value("LAMP", Value(rising ^ (len(sys.argv) > 2)))
"""
DOOR, LAMP = Signal("panel", "DOOR"), Signal("panel", "LAMP")
SIM = ["--sim", "panel:DOOR,LAMP"]


def gpiovirt(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gpiovirt", *arguments]


def copy(*arguments: str) -> list[str]:
    return ["--", sys.executable, "-c", COPY, *arguments]


def await_(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def simulator_of(pid: int) -> SimClient:
    for _ in range(500):
        try:
            return SimClient(socket_of(pid))
        except HostError:
            time.sleep(0.01)
    raise AssertionError("no simulator")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of a lamp that does what the door does, four changes of each."""
    path = tmp_path_factory.mktemp("good") / "good.vcd"
    command = gpiovirt("run", *SIM, "--record", str(path), *copy("0"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        with simulator_of(process.pid) as simulator:
            for number in range(4):
                time.sleep(0.2)
                simulator.pull("DOOR", "down" if number & 1 else "up")
                level = number & 1 ^ 1
                await_(lambda: simulator.get("LAMP") == level)  # noqa: B023 - within this turn
            time.sleep(0.2)
        process.kill()
    await_(lambda: path.stat().st_size and "\n#" in path.read_text() and closed(path))
    return path


def closed(path: Path) -> bool:
    """Whether its end has been written: nothing follows the last time."""
    return path.read_text().splitlines()[-1].startswith("#")


def test_a_recording_has_the_programs_lines_from_its_first_request_on(good: Path) -> None:
    recording = read_vcd(str(good))
    assert [level for _, level in recording.levels[DOOR]] == [0, 1, 0, 1, 0]
    assert [level for _, level in recording.levels[LAMP]] == [0, 1, 0, 1, 0]
    assert [output for _, output in recording.outputs[LAMP]][:2] in ([0, 1], [1])
    assert [output for _, output in recording.outputs[DOOR]] == [0]
    for (door_ns, _), (lamp_ns, _) in zip(
        recording.levels[DOOR][1:], recording.levels[LAMP][1:], strict=True
    ):
        assert door_ns <= lamp_ns
    first, *_, last = (time_ns for time_ns, _ in recording.levels[DOOR][1:])
    assert 0.1e9 < first < 1.2e9
    assert 0.6e9 < last - first < 3e9
    assert recording.end_ns > last


def test_sigrok_reads_it(good: Path) -> None:
    if not shutil.which("sigrok-cli"):
        pytest.fail("sigrok-cli is missing; run: scripts/install-tools")
    command = ["sigrok-cli", "-I", "vcd:downsample=1000", "-i", str(good), "-O", "bits:width=0"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = {}
    for line in out.splitlines():
        name, _, bits = line.partition(":")
        rows[name] = bits.replace(" ", "")
    lamp = rows["LAMP"]
    changes = sum(one != other for one, other in pairwise(lamp))
    assert (changes, lamp[0], lamp[-1]) == (4, "0", "0")
    assert set(rows) >= {"DOOR", "LAMP", "LAMP_output"}


def test_gtkwaves_converter_reads_it(good: Path, tmp_path: Path) -> None:
    if not shutil.which("vcd2fst"):
        pytest.fail("vcd2fst is missing; run: scripts/install-tools")
    subprocess.run(["vcd2fst", good, tmp_path / "x.fst"], check=True, capture_output=True)
    back = tmp_path / "back.vcd"
    subprocess.run(["fst2vcd", "-f", tmp_path / "x.fst", "-o", back], check=True, capture_output=True)
    assert read_vcd(str(back)).levels == read_vcd(str(good)).levels


def test_the_same_program_does_the_same_again(good: Path) -> None:
    command = gpiovirt("replay", str(good), "--expect", str(good), "--tolerance", "100ms", *SIM, *copy("0"))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "as expected: LAMP, for" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["0", "inverted"], "differs: panel.LAMP at"),
        (["0.15"], "differs: panel.LAMP at"),
    ],
    ids=["wrong", "late"],
)
def test_a_program_that_does_something_else_is_told_by_what_differed_first(
    good: Path, arguments: list[str], said: str
) -> None:
    command = gpiovirt(
        "replay", str(good), "--expect", str(good), "--tolerance", "100ms", *SIM, *copy(*arguments)
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done.stderr
    assert said in done.stdout


def test_a_program_that_fails_at_once_differs_and_its_status_is_said(good: Path) -> None:
    command = gpiovirt("replay", str(good), "--expect", str(good), *SIM, "--", "sh", "-c", "exit 7")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "the program ended with status 7" in done.stderr


def test_a_running_simulator_is_driven_at_the_recorded_times(good: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.vcd"
    command = gpiovirt("run", "--sim", "plc:DOOR,LAMP", "--record", str(other), *copy("0"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        replay = gpiovirt("replay", str(good), "--sim", "plc", "--speed", "2", "--pid", str(process.pid))
        done = subprocess.run(replay, capture_output=True, text=True, check=False, timeout=60)
        process.kill()
    assert done.returncode == 0, done.stderr
    await_(lambda: closed(other))
    seen = read_vcd(str(other)).levels[Signal("plc", "DOOR")]
    wanted = read_vcd(str(good)).levels[DOOR]
    assert [level for _, level in seen] == [level for _, level in wanted]
    gaps = [(b - a) for (a, _), (b, _) in pairwise(seen[1:])]
    expected = [(b - a) / 2 for (a, _), (b, _) in pairwise(wanted[1:])]
    for gap, want in zip(gaps, expected, strict=True):
        assert abs(gap - want) < 0.08e9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.vcd", "--sim", "plc"], "cannot read nothing.vcd"),
        (["GOOD", "--sim", "a:1", "--", "true"], "with a program, say what it should do: --expect FILE"),
        (["GOOD", "--expect", "GOOD", "--", "true"], "no chips; make one with --sim"),
        (
            ["GOOD", "--expect", "GOOD", "--sim", "a:1", "--", "true"],
            "no signal of the recording has",
        ),
        (["GOOD", "--expect", "GOOD", "--sim", "a:1"], "--expect needs a program"),
        (["GOOD", "--sim", "a:1"], "without a program, name one chip of a running simulator"),
        (["GOOD", "--sim", "plc", "--speed", "0"], "--speed: a number such as 2"),
        (["GOOD", "--expect", "GOOD", *SIM, "--tolerance", "x", "--", "true"], "'x' is not a duration"),
    ],
)
def test_wrong_usage_is_told(good: Path, arguments: list[str], said: str) -> None:
    arguments = [str(good) if argument == "GOOD" else argument for argument in arguments]
    done = subprocess.run(
        gpiovirt("replay", *arguments), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode in (1, 2)
    assert said in done.stderr


def test_a_chip_of_gpiovirtd_is_recorded_from_now_on_and_from_before(tmp_path: Path) -> None:
    with Daemon(tmp_path, SIM) as daemon:
        with daemon.client() as client:
            client.ask(New("panel 0-1", name="plc"))
        path = tmp_path / "out.vcd"
        with (
            subprocess.Popen(
                gpiovirt("run", "--chip", "plc", *copy("0")),
                stdout=subprocess.PIPE,
                text=True,
                env=daemon.environment,
            ) as process,
            daemon.simulator() as simulator,
        ):
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            simulator.pull("DOOR", "up")
            await_(lambda: simulator.get("LAMP"))
            time.sleep(0.3)
            record = gpiovirt("record", "plc", "-o", str(path), "--for", "1s")
            with subprocess.Popen(record, env=daemon.environment, stdout=subprocess.PIPE) as recording:
                time.sleep(0.5)
                simulator.pull("DOOR", "down")
                assert recording.wait(20) == 0
            process.kill()
        now = read_vcd(str(path))
        assert [level for _, level in now.levels[Signal("plc", "DOOR")]] == [1, 0]
        assert [level for _, level in now.levels[Signal("plc", "LAMP")]] == [1, 0]
        assert now.outputs[Signal("plc", "LAMP")] == [(0, 1)]
        assert 0.9e9 < now.end_ns < 1.5e9
        time.sleep(0.3)
        since = gpiovirt("record", "plc", "-o", str(path), "--since", "1m")
        subprocess.run(since, env=daemon.environment, check=True, stdout=subprocess.DEVNULL)
        before = read_vcd(str(path))
        assert [level for _, level in before.levels[Signal("plc", "LAMP")]] == [None, 0, 1, 0]
        assert [level for _, level in before.levels[Signal("plc", "DOOR")]] == [None, 1, 0, None]


def test_what_cannot_be_written_is_said_and_the_program_goes_on(tmp_path: Path) -> None:
    done = subprocess.run(
        gpiovirt("run", *SIM, "--record", "/dev/full", "--", "gpioset", "gpiochip0", "1=1"),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0
    refused = subprocess.run(
        gpiovirt("run", *SIM, "--record", str(tmp_path / "no/where"), "--", "true"),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert refused.returncode == 1
    assert "cannot write" in refused.stderr
