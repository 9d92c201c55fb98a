# SPDX-License-Identifier: MIT
"""The record of gpiovirtd's chips: who did what, whatever dies, and nobody waits for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpiovirt.protocols.control.requests import Delete, New, Own
from gpiovirt.testing.daemon import Daemon
from tests.integration.conftest import Installation, as_user, let_all_pass

SIMS = ["--sim", "sim:8", "--sim", "panel:DOOR,LAMP"]
OTHER = 4242
TOGGLE = """
    import gpiod, sys, time
    from gpiod.line import Direction, Value
    lines, count, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    wanted = {tuple(range(lines)): gpiod.LineSettings(direction=Direction.OUTPUT)}
    with gpiod.request_lines("/dev/gpiochip0", wanted, consumer="toggler") as request:
        print("started", flush=True)
        for number in range(count):
            request.set_values(dict.fromkeys(range(lines), Value(~number & 1)))
            if pause: time.sleep(pause)
        print("done", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    let_all_pass(tmp_path)
    with Daemon(tmp_path, SIMS) as made:
        with made.client() as client:
            client.ask(New("panel 0-1 sim 0-5", name="plc", options={"1": "safe=low"}))
        yield made


def gpiovirt(daemon: Daemon, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpiovirt", *arguments]
    return subprocess.run(
        command, env=daemon.environment, capture_output=True, text=True, check=False, timeout=60, **options
    )


def log(daemon: Daemon, *arguments: str) -> list[dict[str, Any]]:
    done = gpiovirt(daemon, "log", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def settled(daemon: Daemon, *arguments: str) -> list[dict[str, Any]]:
    """The log when nothing comes any more."""
    time.sleep(0.2)
    return log(daemon, *arguments)


class Toggler:
    """A program that sets lines as often as is wanted, and waits then."""

    def __init__(self, daemon: Daemon, lines: int, count: int, pause_s: float = 0) -> None:
        program = [sys.executable, "-c", textwrap.dedent(TOGGLE), str(lines), str(count), str(pause_s)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gpiovirt", "run", "--chip", "plc", "--", *program],
            env=daemon.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.await_word("started")

    def await_word(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def finish(self) -> None:
        self.await_word("done")
        self.process.communicate("", timeout=20)


def sets(records: list[dict[str, Any]]) -> int:
    return sum(record["what"] == "set" for record in records)


def lost(records: list[dict[str, Any]]) -> int:
    return sum(record["value"] for record in records if record["what"] == "lost")


def pid_of_recorder(daemon: Daemon) -> int:
    daemon.wait_for(lambda: find_recorder(daemon))
    return find_recorder(daemon)


def find_recorder(daemon: Daemon) -> int:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = path.read_text().partition(" (")
        except OSError:
            continue
        name, _, fields = rest.rpartition(") ")
        if name == "gpiovirt-record" and int(fields.split()[1]) == daemon.process.pid:
            return int(pid)
    return 0


def test_the_log_says_who_did_what_to_which_line(daemon: Daemon) -> None:
    toggler = Toggler(daemon, 2, 3)
    pid = toggler.process.pid
    toggler.finish()
    told = settled(daemon, "plc", "--line", "LAMP", "--since", "1h")
    assert [(record["what"], record["value"], record["direction"]) for record in told] == [
        ("configured", 0, "output"),
        ("made", 0, ""),
        ("requested", 0, ""),
        ("configured", 0, "output"),
        ("set", 1, ""),
        ("set", 0, ""),
        ("set", 1, ""),
        ("released", 0, ""),
        ("configured", 0, "output"),
    ]
    assert [record["time_ns"] for record in told] == sorted(record["time_ns"] for record in told)
    who = told[4]["who"]
    assert (who["consumer"], who["kind"], who["user"]) == ("toggler", "program", "root")
    assert who["pid"] > 1
    assert who["pid"] != pid  # it is the supervisor's
    assert " -- " in who["command"]
    assert told[-1]["who"] is None


def test_a_refused_request_is_in_the_log_and_in_the_daemons(daemon: Daemon) -> None:
    toggler = Toggler(daemon, 2, 1)
    toggler.await_word("done")
    refused = gpiovirt(daemon, "run", "--chip", "plc", "--", "gpioset", "gpiochip0", "1=1")
    assert refused.returncode
    (told,) = (record for record in settled(daemon, "plc") if record["what"] == "refused")
    assert told["who"]["consumer"] == "gpioset"
    assert told["text"].startswith('line plc:1 (LAMP) is held by "toggler"')
    daemon.wait_for(lambda: 'plc: line 1: refused by "gpioset"' in daemon.log())
    toggler.process.communicate("", timeout=20)


def test_who_made_and_deleted_a_chip_is_in_the_log(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.ask(New("sim 6", name="brief"))
        client.ask(Own("brief", mode=0o666))
        client.ask(Delete("brief"))
    told = [record for record in settled(daemon, "brief") if record["offset"] < 0]
    assert [record["what"] for record in told] == ["made", "changed", "deleted"]
    assert {record["who"]["pid"] for record in told} == {os.getpid()}


@pytest.mark.parametrize("victim", ["worker", "recorder", "gpiovirtd"])
def test_a_process_that_is_killed_loses_nothing(daemon: Daemon, victim: str) -> None:
    toggler = Toggler(daemon, 1, 400, 0.002)
    time.sleep(0.3)
    if victim == "worker":
        os.kill(daemon.show("plc").chip.worker, signal.SIGKILL)
    elif victim == "recorder":
        os.kill(pid_of_recorder(daemon), signal.SIGKILL)
    else:
        daemon.kill()
        time.sleep(0.2)
        daemon.start()
    toggler.finish()
    told = settled(daemon, "plc", "--line", "0")
    assert lost(told) == 0
    levels = [record["value"] for record in told if record["what"] in ("set", "configured")]
    # a new worker does not know what was driven: it may say again what is so
    changes = [level for before, level in zip([None, *levels], levels, strict=False) if level != before]
    assert len(changes) in (400, 401)
    assert sets(told) <= 402


def test_a_stopped_recorder_slows_nobody_and_what_it_lacks_is_counted(daemon: Daemon) -> None:
    pid = pid_of_recorder(daemon)
    os.kill(pid, signal.SIGSTOP)
    try:
        toggler = Toggler(daemon, 8, 11_000)
        toggler.await_word("done")
        began = time.monotonic()
        with daemon.client() as client:
            client.ask(New("sim 6", name="other"))
        assert time.monotonic() - began < 1
    finally:
        os.kill(pid, signal.SIGCONT)
    toggler.process.communicate("", timeout=20)
    told = settled(daemon, "plc")
    assert lost(told) > 20_000
    assert abs(sets(told) + lost(told) - 8 * 11_000) < 100


def test_an_idle_recorder_sleeps(daemon: Daemon) -> None:
    pid = pid_of_recorder(daemon)

    def wakes() -> int:
        rows = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(row.split()[1]) for row in rows if row.startswith("voluntary"))

    time.sleep(1)
    before = wakes()
    time.sleep(2)
    assert wakes() == before
    Toggler(daemon, 1, 3).finish()
    assert sets(settled(daemon, "plc")) == 3


def test_following_shows_what_happens_from_now_on(daemon: Daemon) -> None:
    command = [sys.executable, "-m", "gpiovirt", "log", "plc", "--follow", "--json", "--since", "0s"]
    with subprocess.Popen(command, env=daemon.environment, stdout=subprocess.PIPE, text=True) as following:
        try:
            time.sleep(0.5)
            Toggler(daemon, 1, 2).finish()
            assert following.stdout is not None
            told = [json.loads(following.stdout.readline()) for _ in range(5)]
            assert [record["what"] for record in told] == [
                "requested",
                "configured",
                "set",
                "set",
                "released",
            ]
        finally:
            following.kill()


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["plc", "--until", "2001-01-01"], "there are no records from then: the first one is of", 0),
        (["plc", "--since", "0s"], "there are no records from then (there are others, from", 0),
        (["nix"], "there are no records", 0),
        (["plc", "--line", "nix"], "the record knows no line 'nix' of plc", 2),
        (["--since", "soon"], "'soon' is not a time; use e.g. 1h (ago)", 2),
        (["--since", "1h", "--until", "2h"], "--until is before --since", 2),
    ],
)
def test_a_log_that_has_nothing_to_show_says_why(
    daemon: Daemon, arguments: list[str], said: str, status: int
) -> None:
    time.sleep(0.2)
    done = gpiovirt(daemon, "log", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr


def test_without_a_record_there_is_none_and_commands_say_so(tmp_path: Path) -> None:
    with Daemon(tmp_path, [*SIMS, "--no-record"]) as daemon:
        with daemon.client() as client:
            client.ask(New("panel 0-1", name="plc"))
        done = gpiovirt(daemon, "log")
        assert done.returncode == 1
        assert "no gpiovirtd keeps a record here" in done.stderr
        assert not (daemon.state / "record").exists()


class TestOthers:
    """What a user sees who may not manage chips."""

    @pytest.fixture(autouse=True)
    def as_root(self) -> None:
        if os.getuid():
            pytest.fail("other users can be had by root only")

    def log(
        self, daemon: Daemon, installation: Installation, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(installation.folder),
            "GPIOVIRT_RUNTIME_DIR": str(daemon.run),
        }
        return subprocess.run(
            [installation.python, "-m", "gpiovirt", "log", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            **as_user(OTHER),
        )

    def test_somebody_who_may_not_use_a_chip_sees_nothing_of_it(
        self, daemon: Daemon, installation: Installation
    ) -> None:
        with daemon.client() as client:
            client.ask(New("sim 6", name="theirs", uid=OTHER))
        Toggler(daemon, 1, 3).finish()
        time.sleep(0.2)
        refused = self.log(daemon, installation, "plc")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "no chip 'plc'; the chips are: theirs" in refused.stderr
        all_of_it = self.log(daemon, installation, "--json")
        assert {json.loads(line)["chip"] for line in all_of_it.stdout.splitlines()} == {"theirs"}

    def test_what_was_before_a_chip_was_made_is_not_its_owners(
        self, daemon: Daemon, installation: Installation
    ) -> None:
        Toggler(daemon, 1, 3).finish()
        time.sleep(0.1)
        with daemon.client() as client:
            client.ask(Delete("plc"))
            client.ask(New("panel 0-1", name="plc", uid=OTHER))
        time.sleep(0.2)
        theirs = self.log(daemon, installation, "plc", "--json")
        assert [json.loads(line)["what"] for line in theirs.stdout.splitlines()] == ["made"]
        assert sets(log(daemon, "plc")) == 3

    def test_the_store_is_closed_to_others(self, daemon: Daemon) -> None:
        assert (daemon.state / "record").stat().st_mode & 0o077 == 0
        assert daemon.state.stat().st_mode & 0o077 == 0

    def test_only_managers_verify(self, daemon: Daemon, installation: Installation) -> None:
        refused = self.log(daemon, installation, "--verify")
        assert refused.returncode == 2
        assert "only root and members of the group gpiovirt verify the record" in refused.stderr
