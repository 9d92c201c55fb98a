# SPDX-License-Identifier: MIT
"""The record of gpiovirtd's chips: who did what, whatever dies, and nobody waits for it."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gpiovirt.protocols.control.requests import Change, Delete, Force, New, Own
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


def all_of(daemon: Daemon, number: int) -> list[dict[str, Any]]:
    """The log of plc once a full ring has been written, and so many changes are accounted for."""
    for _ in range(15):
        time.sleep(2)
        told = log(daemon, "plc")
        if sets(told) + lost(told) >= number:
            break
    return told


def pid_of_recorder(daemon: Daemon) -> int:
    daemon.wait_for(daemon.recorder)
    return daemon.recorder()


def test_the_log_says_who_did_what_to_which_line(daemon: Daemon) -> None:
    toggler = Toggler(daemon, 2, 3)
    pid = toggler.process.pid
    toggler.await_word("done")
    time.sleep(0.3)  # of a program that has ended the command is not known
    toggler.process.communicate("", timeout=20)
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


@pytest.mark.parametrize(
    "victim", ["worker", "recorder", "gpiovirtd", "nobody, but gpiovirtd is executed again"]
)
def test_a_process_that_is_killed_loses_nothing(daemon: Daemon, victim: str) -> None:
    toggler = Toggler(daemon, 1, 400, 0.002)
    time.sleep(0.3)
    if victim == "worker":
        os.kill(daemon.show("plc").chip.worker, signal.SIGKILL)
    elif victim == "recorder":
        os.kill(pid_of_recorder(daemon), signal.SIGKILL)
    elif victim == "gpiovirtd":
        daemon.kill()
        time.sleep(0.2)
        daemon.start()
    else:
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for(lambda: daemon.log().count("ready") == 2)
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
    told = all_of(daemon, 8 * 11_000)
    assert lost(told) > 20_000
    assert abs(sets(told) + lost(told) - 8 * 11_000) < 100


def test_a_chip_that_gets_other_lines_is_recorded_before_and_after(daemon: Daemon) -> None:
    Toggler(daemon, 1, 5).finish()
    with daemon.client() as client:
        client.ask(Change("plc", "panel 0-1 sim 0-2"))
    Toggler(daemon, 1, 5).finish()
    told = settled(daemon, "plc", "--line", "DOOR")
    assert (sets(told), lost(told)) == (10, 0)
    assert [record["what"] for record in told].count("changed") == 1


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
        (["nix"], "no chip 'nix'; the chips are: plc", 2),
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


def test_the_log_of_a_line_tells_nothing_of_chips_without_such_a_line(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.ask(New("sim 7", name="other"))
    told = settled(daemon, "--line", "LAMP")
    assert {record["chip"] for record in told} == {"plc"}
    assert {record["line"] for record in told} == {"", "LAMP"}


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
        assert refused.returncode == 1
        assert "only root and members of the group gpiovirt verify the record" in refused.stderr


class TestStore:
    """The files, and what becomes of them."""

    def grow(self, daemon: Daemon, segments: int) -> None:
        """Have things happen until so many segments are sealed."""
        for _ in range(40):
            if len(sealed(daemon)) >= segments:
                return
            toggler = Toggler(daemon, 8, 1000)
            toggler.finish()
            time.sleep(0.2)
        raise AssertionError("nothing is sealed")

    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Daemon]:
        let_all_pass(tmp_path)
        with Daemon(tmp_path, [*SIMS, "--record-size", "1"]) as made:
            with made.client() as client:
                client.ask(New("panel 0-1 sim 0-5", name="plc"))
            yield made

    def test_sealed_parts_are_verified_and_what_was_altered_is_found(self, small: Daemon) -> None:
        self.grow(small, 2)
        whole = gpiovirt(small, "log", "--verify")
        assert whole.returncode == 0, whole.stdout
        assert "nothing that was sealed has been altered or removed" in whole.stdout
        first, second, *_ = sealed(small)
        path = small.state / "record" / first
        original = path.read_bytes()
        altered = bytearray(original)
        altered[len(altered) // 2] ^= 1
        path.chmod(0o600)
        path.write_bytes(altered)
        done = gpiovirt(small, "log", "--verify")
        assert done.returncode == 1
        assert f"{first}: ALTERED since it was sealed" in done.stdout
        path.write_bytes(original)
        assert gpiovirt(small, "log", "--verify").returncode == 0
        (small.state / "record" / second).unlink()
        done = gpiovirt(small, "log", "--verify")
        assert done.returncode == 1
        assert f"{second}: MISSING" in done.stdout

    @pytest.mark.parametrize("how", ["a line removed", "a line altered", "all of it removed"])
    def test_a_chain_that_was_altered_is_found(self, small: Daemon, how: str) -> None:
        self.grow(small, 2)
        chain = small.state / "record/chain"
        lines = chain.read_text().splitlines(keepends=True)
        if how == "a line removed":
            chain.write_text("".join(lines[1:]))
        elif how == "a line altered":
            chain.write_text(lines[0].replace("seal", "prune") + "".join(lines[1:]))
        else:
            chain.unlink()
        done = gpiovirt(small, "log", "--verify")
        assert done.returncode == 1
        assert "the chain is broken" in done.stdout or "NOT SEALED" in done.stdout

    def test_the_oldest_parts_make_room_and_the_log_goes_on(self, small: Daemon) -> None:
        for _ in range(60):
            if "prune " in (small.state / "record/chain").read_text() if sealed(small) else False:
                break
            Toggler(small, 8, 1000).finish()
        else:
            raise AssertionError("nothing makes room")
        directory = small.state / "record"
        assert sum(path.stat().st_size for path in directory.glob("*.sqlite")) < 3 << 20
        done = gpiovirt(small, "log", "--verify")
        assert done.returncode == 0, done.stdout
        assert "removed by gpiovirtd, to make room" in done.stdout
        numbers = [record["seq"] for record in settled(small, "plc", "--since", "10s")]
        assert numbers == sorted(numbers)

    def test_a_full_disk_is_said_chips_go_on_and_the_loss_is_counted(self, tmp_path: Path) -> None:
        if os.getuid():
            pytest.fail("only root can mount")
        let_all_pass(tmp_path)
        state = tmp_path / "state"
        state.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", state], check=True)
        try:
            with Daemon(tmp_path, SIMS) as daemon:
                with daemon.client() as client:
                    client.ask(New("panel 0-1 sim 0-5", name="plc"))
                Toggler(daemon, 1, 3).finish()
                assert sets(settled(daemon, "plc")) == 3
                (state / "ballast").write_bytes(bytes(3 << 20))
                toggler = Toggler(daemon, 8, 12_000)
                toggler.await_word("done")
                daemon.wait_for(lambda: "the record cannot be written: No space left" in daemon.log())
                with daemon.client() as client:  # its own files still have room
                    client.ask(New("sim 6", name="other"))
                (state / "ballast").unlink()
                daemon.wait_for(lambda: "the record goes on" in daemon.log())
                toggler.process.communicate("", timeout=20)
                told = all_of(daemon, 8 * 12_000)
                assert lost(told) > 12_000 * 8 - 70_000
                assert abs(sets(told) + lost(told) - 8 * 12_000 - 3) < 100
                assert daemon.log().count("the record cannot be written") == 1
        finally:
            subprocess.run(["umount", state], check=True)

    def test_a_link_in_the_place_of_the_store_or_of_a_part_is_not_followed(self, tmp_path: Path) -> None:
        let_all_pass(tmp_path)
        precious = tmp_path / "precious"
        precious.mkdir(mode=0o755)
        (tmp_path / "state").mkdir()
        (tmp_path / "state/record").symlink_to(precious)
        with Daemon(tmp_path, SIMS) as daemon:
            daemon.wait_for(lambda: "what happens to chips is not recorded" in daemon.log())
            with daemon.client() as client:
                client.ask(New("panel 0-1 sim 0-5", name="plc"))
            Toggler(daemon, 1, 3).finish()
            assert list(precious.iterdir()) == []
            assert precious.stat().st_uid == os.getuid()
            assert precious.stat().st_mode & 0o777 == 0o755
        target = tmp_path / "target"
        target.write_bytes(b"precious")
        (tmp_path / "state/record").unlink()
        (tmp_path / "state/record").mkdir()
        (tmp_path / "state/record/record-00000001.sqlite").symlink_to(target)
        (tmp_path / "state/record/chain").symlink_to(target)
        with Daemon(tmp_path, SIMS) as daemon:
            time.sleep(0.5)
            gpiovirt(daemon, "log", "--verify")
            assert target.read_bytes() == b"precious"


def sealed(daemon: Daemon) -> list[str]:
    """Parts that are sealed, the oldest first."""
    chain = daemon.state / "record/chain"
    if not chain.exists():
        return []
    return [line.split()[1] for line in chain.read_text().splitlines() if line.startswith("seal")]


class TestTakenOver:
    """A worker that somebody has taken over writes what it likes into the ring of its chip, and no other."""

    def ring(self, daemon: Daemon) -> memoryview:
        """The worker's own memory."""
        pid = daemon.show("plc").chip.worker
        for path in Path(f"/proc/{pid}/fd").iterdir():
            if ":plc:record" in os.readlink(path):
                with path.open("r+b", buffering=0) as file:
                    return memoryview(mmap.mmap(file.fileno(), 0))
        raise AssertionError("no ring")

    def honest(self, daemon: Daemon) -> None:
        """Another chip is recorded as ever."""
        before = sets(settled(daemon, "honest"))
        program = [sys.executable, "-c", textwrap.dedent(TOGGLE), "1", "50", "0.002"]
        run = [sys.executable, "-m", "gpiovirt", "run", "--chip", "honest", "--", *program]
        subprocess.run(
            run, env=daemon.environment, input="", text=True, check=True, stdout=subprocess.DEVNULL
        )
        told = settled(daemon, "honest")
        assert sets(told) - before == 50
        assert lost(told) == 0

    @pytest.fixture
    def attacked(self, daemon: Daemon) -> Daemon:
        with daemon.client() as client:
            client.ask(New("sim 6-7", name="honest"))
        pid_of_recorder(daemon)
        return daemon

    @pytest.mark.parametrize("what", ["noise", "a huge number", "a number that goes back"])
    def test_nonsense_in_a_ring_harms_no_other_chip(self, attacked: Daemon, what: str) -> None:
        ring, recorder = self.ring(attacked), pid_of_recorder(attacked)
        Toggler(attacked, 1, 10).finish()
        head = ring[16:24].cast("Q")
        if what == "noise":
            head[0] += 5000
            ring[128 : 128 + (1 << 20)] = os.urandom(1 << 20)
        elif what == "a huge number":
            head[0] = (1 << 64) - 1
        else:
            toggler = Toggler(attacked, 1, 50, 0.01)
            for _ in range(300):  # while the recorder looks
                head[0] = 1
                time.sleep(0.001)
            toggler.finish()
        wake(attacked)
        self.honest(attacked)
        assert pid_of_recorder(attacked) == recorder
        assert lost(log(attacked, "plc")) > 0
        assert "internal error" not in attacked.log()

    def test_a_ring_that_is_written_all_the_time_holds_up_nobody(self, attacked: Daemon) -> None:
        recorder = pid_of_recorder(attacked)
        ring = self.ring(attacked)
        spinner = os.fork()
        if not spinner:
            head = ring[16:24].cast("Q")
            while True:
                for step in (1, 70_000, -3, 1 << 40):
                    head[0] = (head[0] + step) % (1 << 61)
        try:
            wake(attacked)
            self.honest(attacked)
            began = time.monotonic()
            with attacked.client() as client:
                client.ask(New("panel 0", name="quick", wait=True))
            assert time.monotonic() - began < 1
            assert pid_of_recorder(attacked) == recorder
        finally:
            os.kill(spinner, signal.SIGKILL)
            os.waitpid(spinner, 0)

    def test_a_wake_up_that_would_wait_does_not(self, attacked: Daemon) -> None:
        """The worker shares the eventfd: it can take what is in it, and have reads wait."""
        pid = attacked.show("plc").chip.worker
        fds = [path for path in Path(f"/proc/{pid}/fd").iterdir() if "eventfd" in os.readlink(path)]
        thief = os.pidfd_open(pid)
        copies = [copy_of(thief, int(path.name)) for path in fds]
        try:
            for fd in copies:
                os.set_blocking(fd, False)
            for _ in range(200):
                for fd in copies:
                    with suppress(BlockingIOError):
                        os.eventfd_write(fd, 1)
                    with suppress(BlockingIOError):
                        os.eventfd_read(fd)
                    os.set_blocking(fd, True)
                    os.set_blocking(fd, False)
            for fd in copies:
                os.set_blocking(fd, True)
            self.honest(attacked)
        finally:
            for fd in copies:
                os.close(fd)
            os.close(thief)


def wake(daemon: Daemon) -> None:
    """Have something happen on the chip, so that its worker wakes the recorder."""
    gpiovirt(daemon, "run", "--chip", "plc", "--", "gpioget", "gpiochip0", "0")


def copy_of(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2)"""
    copy = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, fd, 0)
    assert copy >= 0, os.strerror(ctypes.get_errno())
    return int(copy)


def test_who_forces_a_line_and_when_that_ends_is_in_the_log(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.ask(Force("plc", "2", "high"))
        client.ask(Force("plc", "2"))
    told = [record for record in settled(daemon, "plc") if record["what"] == "forced"]
    assert [(record["offset"], record["value"]) for record in told if record["offset"] >= 0] == [
        (2, 1),
        (2, 2),
    ]
    by = [record for record in told if record["offset"] < 0]
    assert [(record["value"], record["text"]) for record in by] == [(1, "line 2"), (2, "line 2")]
    assert {record["who"]["pid"] for record in by} == {os.getpid()}


def test_what_a_rule_refuses_is_in_the_log_once(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.ask(New("sim 6-7", name="ruled", options={"0": "direction=input"}))
    refused = gpiovirt(daemon, "run", "--chip", "ruled", "--", "gpioset", "gpiochip0", "0=1")
    assert refused.returncode
    told = [record for record in settled(daemon, "ruled") if record["what"] == "refused"]
    assert len(told) == 1
    assert told[0]["who"]["consumer"] == "gpioset"
    assert told[0]["text"]
