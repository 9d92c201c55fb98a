# SPDX-License-Identifier: MIT
"""gpiovirt.testing and its pytest plugin, as those who write tests of programs use them."""

from __future__ import annotations

import asyncio
import doctest
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpiovirt.control.simulator import SimClient
from gpiovirt.errors import HostError, NoSuchLineError, UsageError
from gpiovirt.testing import Gpio, Program, running
from gpiovirt.waveform.vcd import Signal, read_vcd
from tests.integration.conftest import ROOT, Installation, Runner, ordinary_uid
from tests.integration.test_run import PRELUDE

SAMPLE = """\
import sys


def test_the_lamp_follows_the_door(gpio):                    # a pytest fixture
    app = gpio.run([sys.executable, "door.py"], board="pi4")
    app.pull("GPIO17", "up")
    app.expect("GPIO27", 1, within_ms=50)
    app.expect_no_change("GPIO27", for_ms=200)
    app.unplug("pinctrl-bcm2711"); app.expect_exit(1)
    assert app.edges("GPIO27").count == 1                     # with times; app.vcd("out.vcd") for the report
"""
LENIENT = SAMPLE.replace("within_ms=50", "within_ms=5000")  # of machines that do much else
DOOR = (ROOT / "examples/door.py").read_text()
FOLLOW = (
    PRELUDE
    + """
chip = opened()
seen, lamp = line(chip, 0, IN | RISING | FALLING, b"door"), line(chip, 1, OUT, b"lamp")
print("following", flush=True)
while True:
    os.read(seen, 48)
    put(lamp, get(seen))
"""
)
PANEL = ["panel:DOOR,LAMP,BELL"]


def run_pytest(
    folder: Path, *arguments: str, python: str = sys.executable, **options: Any
) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={folder}/temporary", *arguments]
    options = {"capture_output": True, "timeout": 120, "cwd": folder, **options}
    return subprocess.run(command, text=True, check=False, **options)


@pytest.fixture
def follower(gpio: Gpio) -> Program:
    """LAMP follows DOOR."""
    return gpio.run([sys.executable, "-c", FOLLOW], sims=PANEL)


def test_the_sample_passes_in_a_folder_that_has_only_it(tmp_path: Path) -> None:
    (tmp_path / "test_door.py").write_text(LENIENT)
    (tmp_path / "door.py").write_text(DOOR)
    done = run_pytest(tmp_path, "-q")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_tests_run_side_by_side(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"test_door{number}.py").write_text(LENIENT)
    (tmp_path / "door.py").write_text(DOOR)
    done = run_pytest(tmp_path, "-q", "-n", "2")
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_an_ordinary_user_needs_nothing_else(installation: Installation) -> None:
    runner = Runner(installation, ordinary_uid())
    folder = runner.home / "tests"
    folder.mkdir(exist_ok=True)
    (folder / "test_door.py").write_text(LENIENT)
    (folder / "door.py").write_text(DOOR)
    os.chown(folder, runner.uid, runner.uid)
    options = {name: value for name, value in runner.options().items() if name != "cwd"}
    done = run_pytest(folder, "-q", "-p", "gpiovirt.testing.plugin", python=runner.python, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_failure_draws_the_lines_and_ends_with_what_the_program_said(tmp_path: Path) -> None:
    (tmp_path / "test_door.py").write_text(
        """
import sys

def test_the_lamp_goes_on(gpio):
    app = gpio.run([sys.executable, "door.py"], board="pi4")
    app.pull("GPIO17", "up")
    app.expect("GPIO27", 1, within_ms=5000)
    app.pulse("GPIO17", width_ms=20)
    app.stick("GPIO27", 0)
    app.pull("GPIO17", "down")
    app.pull("GPIO17", "up")
    app.expect("GPIO27", 1, within_ms=100)
"""
    )
    (tmp_path / "door.py").write_text(
        "import sys\nprint('minding the door', file=sys.stderr, flush=True)\n" + DOOR
    )
    done = run_pytest(tmp_path)
    assert done.returncode == 1
    assert "AssertionError: GPIO27 did not become 1 within 100 ms" in done.stdout
    assert re.search(r"^E +GPIO27 [_‾/\\#]{64}$", done.stdout, re.M)
    assert re.search(r"^E +GPIO17 [_‾/\\#]{64}$", done.stdout, re.M)
    assert re.search(r"^E +-[0-9.]+ ms +now$", done.stdout, re.M)
    assert "the program's standard error ends:" in done.stdout
    assert "minding the door" in done.stdout
    assert "program.py" not in done.stdout  # where we raise is nobody's business


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ('gpio.run(["true"], board="pi44")', "gpio.run: no board 'pi44' (did you mean pi4?)"),
        ('gpio.run(["nosuch"], board="pi4")', "gpio.run: cannot run 'nosuch': no such program"),
        ('gpio.run("true", board="pi4")', "gpio.run: 'true' is not a program and its arguments"),
        ('gpio.run(["true"])', "gpio.run: no chips; make one with --sim"),
    ],
)
def test_what_cannot_be_run_fails_a_test_in_one_line(tmp_path: Path, source: str, says: str) -> None:
    (tmp_path / "test_it.py").write_text(f"def test_it(gpio):\n    {source}\n")
    done = run_pytest(tmp_path, "-rA", "--tb=short")
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert says in done.stdout
    assert "Traceback" not in done.stdout


def test_where_nothing_can_work_a_test_fails_and_says_why(installation: Installation) -> None:
    """In a user namespace whose own limit of user namespaces is none."""
    runner = Runner(installation, ordinary_uid())
    (runner.home / "test_it.py").write_text("def test_it(gpio):\n    gpio.run(['true'], board='pi4')\n")
    limit = (
        "echo 0 >/proc/sys/user/max_user_namespaces && "
        'exec setpriv --bounding-set=-all --inh-caps=-all "$0" -m pytest -p no:cacheprovider '
        "-q -p gpiovirt.testing.plugin --basetemp=forbidden test_it.py"
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", limit, runner.python],
        capture_output=True,
        text=True,
        check=False,
        **runner.options(),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert "skipped" not in done.stdout
    assert re.search(
        r"^gpio.run: root can create neither a mount nor a user namespace here .* seccomp=unconfined",
        done.stdout,
        re.M,
    )


def test_expectations_hold(follower: Program) -> None:
    follower.expect("LAMP", 0, within_ms=0)
    follower.pull("DOOR", 1)
    follower.expect("panel:LAMP", "high")
    follower.expect_no_change("panel:1", for_ms=50)
    follower.toggle("DOOR")
    follower.expect("LAMP", "down")
    assert follower.level("LAMP") == 0
    follower.expect_held("LAMP", "lamp")
    follower.expect_held("DOOR")
    follower.expect_held("BELL", "")
    assert follower.output() == "following\n"
    follower.process.terminate()
    follower.expect_exit(-15)


def test_expectations_that_fail_say_what_was_so_instead(follower: Program) -> None:
    with pytest.raises(
        AssertionError, match=r"^LAMP did not become 1 within 20 ms\n\nLAMP _{64}\nDOOR _{64}\n"
    ):
        follower.expect("LAMP", 1, within_ms=20)
    with pytest.raises(AssertionError, match=r"^BELL is held by nobody after 10 ms"):
        follower.expect_held("BELL", within_ms=10)
    with pytest.raises(AssertionError, match=r"^LAMP is held by 'lamp' after 10 ms"):
        follower.expect_held("LAMP", "door", within_ms=10)
    with pytest.raises(AssertionError, match=r"^the program runs on after 10 ms"):
        follower.expect_exit(within_ms=10)
    pulling = threading.Timer(0.1, lambda: follower.pull("BELL", 1))
    pulling.start()
    with pytest.raises(AssertionError, match=r"^BELL became 1 after [0-9.]+ ms, and was to stay for 5000 ms"):
        follower.expect_no_change("BELL", for_ms=5000)
    pulling.join()
    ending = threading.Timer(0.1, follower.process.kill)
    ending.start()
    with pytest.raises(AssertionError, match=r"^the program ended with status -9 meanwhile"):
        follower.expect_no_change("BELL", for_ms=5000)
    ending.join()
    with pytest.raises(AssertionError, match=r"^the program ended with status -9, not 0"):
        follower.expect_exit()
    with pytest.raises(AssertionError, match=r"^the program has ended with status -9"):
        follower.pull("DOOR", 1)
    with pytest.raises(AssertionError, match=r"^LAMP did not become 1 within 10 ms; the program has ended"):
        follower.expect("LAMP", 1, within_ms=10)


def test_what_comes_late_is_told_by_how_much(gpio: Gpio) -> None:
    app = gpio.run(["sleep", "60"], sims=PANEL, ready=False)
    late = threading.Timer(0.1, lambda: app.pull("BELL", 1))
    waits = app._levels.wait_for

    def overslept(condition: Callable[[], object], deadline_ns: int) -> None:
        """As on a machine that does much else."""
        waits(condition, deadline_ns + 5 * 10**9)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app._levels, "wait_for", overslept)
        late.start()
        with pytest.raises(AssertionError, match=r"within 1 ms: it was [0-9.]+ ms late"):
            app.expect("BELL", 1, within_ms=1)
    late.join()


def test_lines_that_are_not_there_are_told_by_their_nearest_names(follower: Program) -> None:
    with pytest.raises(NoSuchLineError, match=r"'LAMB' \(did you mean LAMP\?\).*the chips are: panel"):
        follower.expect("LAMB", 1)
    with pytest.raises(UsageError, match=r"'panle' \(did you mean panel\?\)"):
        follower.unplug("panle")
    with pytest.raises(UsageError, match="a level is 1 or 0"):
        follower.expect("LAMP", "sideways")


def test_edges_have_their_times(follower: Program, tmp_path: Path) -> None:
    follower.pulse("DOOR", width_ms=30, times=2, period_ms=80)
    follower.expect("LAMP", 0)
    edges = follower.edges("DOOR")
    assert (edges.count, len(edges), edges.rising, edges.falling) == (4, 4, 2, 2)
    assert [edge.level for edge in edges] == [1, 0, 1, 0]
    times = edges.times_ms
    assert times == sorted(times)
    assert 25 < times[1] - times[0] < 80
    assert re.fullmatch(r"<4 edges: rising at [0-9.]+ ms, falling at .*>", repr(edges))
    follower.vcd(tmp_path / "out.vcd")
    recording = read_vcd(str(tmp_path / "out.vcd"))
    levels = [level for _, level in recording.levels[Signal("panel", "DOOR")]]
    assert levels == [0, 1, 0, 1, 0]


def test_nothing_that_a_program_does_at_its_start_is_missed(gpio: Gpio) -> None:
    source = PRELUDE + "fd = line(opened(), 1, OUT)\nfor turn in range(100): put(fd, turn & 1 ^ 1)"
    app = gpio.run([sys.executable, "-c", source], sims=PANEL, ready=False)
    app.expect_exit()
    assert app.edges("LAMP").count == 100


def test_a_recording_is_played(follower: Program, tmp_path: Path) -> None:
    follower.pulse("DOOR", width_ms=10)
    follower.expect("LAMP", 0)
    follower.vcd(tmp_path / "door.vcd")
    seen = follower.edges("DOOR").count
    follower.play(tmp_path / "door.vcd", speed=10)
    assert follower.edges("DOOR").count == 2 * seen


def test_an_unplugged_chip_is_no_edge_until_it_is_back(follower: Program) -> None:
    follower.pull("DOOR", 1)
    follower.expect("LAMP", 1)
    follower.unplug("panel")
    follower.expect_exit(1)
    assert follower.edges("LAMP").count == 1
    assert "OSError: [Errno 19] No such device" in follower.errors() or "struct.error" in follower.errors()


def test_a_program_that_fails_early_is_shown_with_its_errors(gpio: Gpio) -> None:
    with pytest.raises(AssertionError, match=r"^the program ended with status 3\n\n(.|\n)*it broke"):
        gpio.run(
            [sys.executable, "-c", "import sys; print('it broke', file=sys.stderr); sys.exit(3)"], sims=PANEL
        )
    with pytest.raises(AssertionError, match=r"^the program has not requested BELL within 0.5 s"):
        gpio.run([sys.executable, "-c", FOLLOW], sims=PANEL, ready=["DOOR", "BELL"], timeout_s=0.5)


def test_what_it_prints_cannot_move_the_cursor(gpio: Gpio) -> None:
    source = "import sys; print('\\x1b[2J it broke', file=sys.stderr); sys.exit(3)"
    with pytest.raises(AssertionError) as raised:
        gpio.run([sys.executable, "-c", source], sims=PANEL)
    assert "\x1b" not in str(raised.value)


def test_a_program_and_its_children_end_with_the_test(tmp_path: Path) -> None:
    gpio = Gpio()
    app = gpio.run(["sh", "-c", "sleep 1000 & echo $!; wait"], sims=PANEL, ready=False)
    deadline = time.monotonic() + 10
    while not (child := app.output().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    gpio.close()
    assert app.process.returncode == -9
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_a_program_prints_is_shown_when_it_is_over(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "def test_it(gpio):\n"
        "    gpio.run(['sh', '-c', 'echo to out; echo to err >&2'], board='pi4').expect_exit()\n"
    )
    done = run_pytest(tmp_path, "-s")
    assert done.returncode == 0
    assert "to out" in done.stdout
    assert "to err" in done.stderr


def test_methods_can_be_awaited() -> None:
    async def scenario(gpio: Gpio) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        app = await gpio.aio.run([sys.executable, "-c", FOLLOW], sims=PANEL)
        await asyncio.gather(
            app.aio.expect("LAMP", 1, within_ms=10_000),
            app.aio.bounce("DOOR", for_ms=50),
            app.aio.expect_no_change("BELL", for_ms=200),
        )
        with pytest.raises(AssertionError, match="did not become 0"):
            await app.aio.expect("LAMP", 0, within_ms=20)
        ticking.cancel()
        assert ticks > 10

    gpio = Gpio()
    try:
        asyncio.run(scenario(gpio))
    finally:
        gpio.close()


def test_running_takes_hogs_and_names() -> None:
    with running(
        [sys.executable, "-c", FOLLOW], sims=PANEL, hogs=["panel:BELL=power:output-high"]
    ) as program:
        program.wait_for_consumer("panel:LAMP", "lamp")
        program.wait_for_consumer("BELL", "power")
        program.sim.pull("DOOR", 1)
        program.wait_for_level("LAMP", 1)
        with pytest.raises(TimeoutError, match="LAMP did not become 0 within 10 ms"):
            program.wait_for_level("LAMP", 0, timeout_s=0.01)


def test_a_watch_ends_when_nothing_changes(follower: Program) -> None:
    changes = follower.sim.watch(timeout_s=0.2)
    follower.pull("BELL", 1)
    change = next(changes)
    assert (change.chip, change.offset, change.level) == ("panel", 2, 1)
    with pytest.raises(TimeoutError, match=r"no line has changed for 0\.2 s"):
        next(changes)


def test_what_can_be_run_by_nobody_is_an_error() -> None:
    with (
        pytest.raises(UsageError, match="no simulated chip 'nosuch'"),
        running(["true"], sims=PANEL, wires=["panel:0=nosuch:1"]),
    ):
        pass
    with pytest.raises(UsageError, match="cannot run 'nosuch'"), running(["nosuch"], sims=PANEL):
        pass


def test_no_other_user_can_open_the_gate(gpio: Gpio) -> None:
    app = gpio.run(["sleep", "60"], sims=PANEL, ready=False)
    assert Path(app._launched._folder).stat().st_mode & 0o077 == 0


def test_a_simulator_that_is_stopped_does_not_hang_a_test(gpio: Gpio) -> None:
    app = gpio.run(["sleep", "60"], sims=PANEL, ready=False)
    supervisor = supervisor_of(app)
    os.kill(supervisor, 19)
    try:
        with pytest.raises(HostError, match="does not answer within"):
            app.pull("DOOR", 1)
    finally:
        os.kill(supervisor, 9)


def supervisor_of(app: Program) -> int:
    """The process that listens at its simulator's socket."""
    with SimClient(app.sim._name) as now:  # an earlier one may still show who made the socket
        raw = now._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[0])


def examples() -> Iterator[doctest.DocTest]:
    page = ROOT / "docs/testing.md"
    parser = doctest.DocTestParser()
    text = page.read_text()
    for fence in re.finditer(r"^```pycon\n(.*?)^```$", text, re.M | re.S):
        line = text.count("\n", 0, fence.start(1))
        yield parser.get_doctest(fence[1], {}, f"testing.md:{line}", str(page), line)


def test_the_examples_of_the_reference_are_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "door.py").write_text(DOOR)
    gpio = Gpio()
    shared: dict[str, object] = {"gpio": gpio}
    failed, number = 0, 0
    try:
        for example in examples():
            example.globs = shared
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            result = runner.run(example, clear_globs=False)
            failed, number = failed + result.failed, number + result.attempted
    finally:
        gpio.close()
    assert failed == 0
    assert number > 20


def test_the_reference_names_every_method() -> None:
    page = (ROOT / "docs/testing.md").read_text()
    for kind in (Program, Gpio):
        for name in vars(kind):
            if not name.startswith("_") and name != "await_ready":
                assert f"`{name}" in page or f".{name}" in page, name
