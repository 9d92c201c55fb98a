# SPDX-License-Identifier: MIT
"""`make test-boards`: all of it on controllers of emulated ARM boards, with Debian's kernels as they come."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from guests.boards import Board

OBSERVE = Path(__file__).with_name("observe.py")
PROGRAM = "python3 /files/observe.py"
GPIO = "/dev/gpiochip0"
DAEMON = """\
gpiovirtd --no-config --no-api --no-files >/run/daemon 2>&1 &
until grep -q ready /run/daemon; do sleep 0.2; done
gpiovirt new plc 'gpiochip0 1' --owner pi
"""
WORKER = "for p in /proc/[0-9]*; do grep -qs gpiovirt-chip $p/comm && basename $p; done | tail -n 1"
LOOK = "grep -o '|gpiovirt:plc *) [a-z]* *[a-z]*' /sys/kernel/debug/gpio"


@dataclass(frozen=True)
class Case:
    """A board, and the socket of its emulator's monitor."""

    board: Board
    qmp: Path

    def run(self, command: str, user: str = "", timeout_s: float = 60) -> str:
        return self.board.run(command, user=user, timeout_s=timeout_s).check()

    def said(self, command: str, user: str = "") -> list[dict[str, object]]:
        return [json.loads(line) for line in self.run(command, user).splitlines()]

    def await_line(self, path: str, text: str) -> None:
        self.run(f"until grep -q '{text}' {path}; do sleep 0.2; done")


@pytest.fixture(scope="module", params=["raspi3b", "virt-arm64", "virt-armhf"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    qmp = tmp_path_factory.mktemp("board") / "qmp"
    options = ["-qmp", f"unix:{qmp},server=on,wait=off"]
    with Board(request.param, files={OBSERVE.name: OBSERVE}, extra_args=options) as board:
        # as udev's rule of Raspberry Pi OS has it
        board.run("chgrp gpio /dev/gpiochip*; chmod 0660 /dev/gpiochip*").check()
        yield Case(board, qmp)


@pytest.mark.parametrize("user", ["", "pi"])
def test_simulated_chips_work(case: Case, user: str) -> None:
    run = f"gpiovirt run --sim a:4 --wire a:0=a:1 -- {PROGRAM} lines {GPIO} 0"
    seen = {row["configuration"]: row["seen"] for row in case.said(run, user) if "seen" in row}
    assert seen["high"] == [1, 9, 0, 1, 0]
    assert seen["pull-up"] == [1, 261]
    assert seen["edges"] == [0, 53]


@pytest.mark.parametrize("user", ["", "pi"])
def test_lines_behave_as_without_gpiovirt(case: Case, user: str) -> None:
    """Names, values, outputs read back, active low, open drain and source, bias, edges."""
    case.said(f"{PROGRAM} lines {GPIO} 1 4", user)  # a line begins as its last holder left it
    direct = case.said(f"{PROGRAM} lines {GPIO} 1 4", user)
    run = f"gpiovirt run --chip 'x=gpiochip0 1 4' -- {PROGRAM} lines {GPIO} 0 1"
    assert case.said(run, user) == direct
    seen = [row["seen"] for row in direct if row.get("configuration") == "high"]
    assert seen == [[1, 9, 0, 1, 0]] * 2


def test_a_line_that_another_program_holds_is_refused(case: Case) -> None:
    case.run(f"{PROGRAM} hold {GPIO} 5 >/tmp/other 2>&1 & echo $! >/tmp/other.pid")
    case.await_line("/tmp/other", "held")
    direct = case.said(f"{PROGRAM} lines {GPIO} 5")
    assert [row["seen"] for row in direct if "seen" in row] == ["EBUSY"] * (len(direct) - 1)
    refused = case.board.run("gpiovirt run --chip 'x=gpiochip0 5' -- true")
    assert refused.status == 2
    assert ':5 is held by "observe"' in refused.stderr
    case.run("kill $(cat /tmp/other.pid)")


@pytest.mark.parametrize("case", ["virt-armhf"], indirect=True)
def test_a_line_of_a_driver_of_the_kernels_is_refused(case: Case) -> None:
    refused = case.board.run("gpiovirt run --chip 'x=gpiochip0 3' -- true")
    assert refused.status == 2
    assert ':3 is held by "GPIO Key Poweroff"; release it or choose another' in refused.stderr


@pytest.mark.parametrize("case", ["raspi3b"], indirect=True)
def test_errors_of_a_controller_are_handed_on(case: Case) -> None:
    """The lines of this expander are asked of a firmware that QEMU does not have."""
    direct = case.said(f"{PROGRAM} lines /dev/gpiochip1 0")
    assert [row["seen"] for row in direct if "seen" in row] == ["EIO"] * (len(direct) - 1)
    assert case.said(f"gpiovirt run --chip 'x=gpiochip1 0' -- {PROGRAM} lines {GPIO} 0") == direct


def test_no_output_moves_when_a_worker_is_killed(case: Case) -> None:
    case.run(f"{{ {DAEMON} }} </dev/null")
    case.run(
        f"gpiovirt run --chip plc -- {PROGRAM} hold {GPIO} 0 >/tmp/held 2>&1 & echo $! >/tmp/holder", "pi"
    )
    case.await_line("/tmp/held", "held")
    sampling = f"touch /run/sampling; (while [ -e /run/sampling ]; do {LOOK}; done >/run/samples) 2>&1 &"
    case.run(sampling)
    before = case.run(WORKER).strip()
    case.run(f"kill -9 {before}")
    case.await_line("/run/daemon", "its worker has ended; another is started")
    case.run("sleep 1; rm /run/sampling")
    samples = case.run("sort /run/samples | uniq -c").splitlines()
    assert len(samples) == 1, samples
    assert samples[0].split()[-2:] == ["out", "hi"]
    assert int(samples[0].split()[0]) > 3
    assert case.run(WORKER).strip() != before
    case.run(f"kill -USR1 {case.said('head -n 1 /tmp/held')[0]['pid']}")
    case.await_line("/tmp/held", '"low": 0, "high": 1')


def qmp(path: Path, *commands: str) -> None:
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(20)
        control.connect(str(path))
        stream = control.makefile("rw")
        stream.readline()
        for command in ("qmp_capabilities", *commands):
            stream.write(json.dumps({"execute": command}) + "\n")
            stream.flush()
            while "return" not in (answer := json.loads(stream.readline())):
                assert "error" not in answer


@pytest.mark.parametrize("case", ["virt-arm64", "virt-armhf"], indirect=True)
def test_edges_of_the_controller_arrive(case: Case) -> None:
    """The key for power is the only thing in QEMU that moves a line."""
    keys = "/sys/bus/platform/drivers/gpio-keys"
    case.run(f"[ ! -e {keys}/gpio-keys ] || echo gpio-keys >{keys}/unbind")
    run = f"gpiovirt run --chip 'x=gpiochip0 3' -- {PROGRAM} edges {GPIO} 0 >/tmp/edges 2>&1"
    case.run(f"{run} &", "pi")
    case.await_line("/tmp/edges", "ready")
    qmp(case.qmp, "system_powerdown")
    case.await_line("/tmp/edges", '"edge": 2')
    assert case.said("cat /tmp/edges") == [{"ready": True}, {"edge": 1}, {"edge": 2}]


@pytest.mark.parametrize("case", ["virt-arm64", "virt-armhf"], indirect=True)
def test_a_line_fails_while_its_controller_is_away_and_works_when_it_is_back(case: Case) -> None:
    driver = "/sys/bus/amba/drivers/pl061_gpio"
    run = f"gpiovirt run --chip 'x=gpiochip0 5' -- {PROGRAM} unplug {GPIO} 0 >/tmp/unplug 2>&1"
    case.run(f"{run} &")
    case.await_line("/tmp/unplug", "held")
    case.run(f"echo 9030000.pl061 >{driver}/unbind")
    case.await_line("/tmp/unplug", "asked_while_gone")
    case.run(f"echo 9030000.pl061 >{driver}/bind")
    case.await_line("/tmp/unplug", "back")
    assert case.said("cat /tmp/unplug") == [
        {"held": 1},
        {"hung_up": True},
        {"gone": "ENODEV"},
        {"asked_while_gone": "ENODEV"},
        {"back": 1},
    ]
