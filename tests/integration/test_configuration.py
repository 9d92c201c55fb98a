# SPDX-License-Identifier: MIT
"""Chips that files describe: checked, applied, saved, and there when gpiovirtd starts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpiovirt.host.installation import how_to_install
from gpiovirt.protocols.control.requests import Delete, New, Own
from gpiovirt.testing.daemon import Daemon

SIMS = ["--sim", "sim-a:8", "--sim", "sim-b:DOOR,LAMP"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, SIMS) as made:
        made.config.mkdir()
        yield made


def configured(folder: Path) -> Daemon:
    """A daemon that applies the files in `folder`/chips.d when it starts."""
    return Daemon(folder, [*SIMS, "--config", str(folder / "chips.d")])


def command(daemon: Daemon, *arguments: str, status: int = 0) -> str:
    """What `gpiovirt ARGUMENTS` writes, to both its outputs."""
    done = subprocess.run(
        [sys.executable, "-m", "gpiovirt", *arguments],
        env=daemon.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def describe(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)


def new(daemon: Daemon, definition: str, **what: Any) -> None:
    with daemon.client() as client:
        client.ask(New(definition, **what))


def chips(daemon: Daemon) -> list[str]:
    with daemon.client() as client:
        return [chip.name for chip in client.chips()]


def full(directory: Path, size: str) -> None:
    """Make it a file system of that size."""
    directory.mkdir(exist_ok=True)
    options = f"size={size},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "gpiovirt-test", directory], check=True)


class TestCheck:
    def test_everything_wrong_in_any_file_is_told_without_a_daemon(self, tmp_path: Path) -> None:
        describe(
            tmp_path,
            good='lines = "a 0-3"',
            key='lines = ["a 4", {name = "DOOR", options = "pullup"}]\nvm = "yes"\n',
            syntax='lines = "a 5"\nmode =\n',
            twice='lines = ["b 0", "a 1-3"]',
            named='name = "good"\nlines = "b 1"',
            owner='lines = "b 2"\nowner = "nobody-of-this-name"',
        )
        (tmp_path / "latin.toml").write_bytes(b'lines = "\xe9 0"')
        (tmp_path / "folder.toml").mkdir()
        (tmp_path / "notes.txt").write_text("none of ours")
        done = subprocess.run(
            [sys.executable, "-m", "gpiovirt", "check", "--config", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        expected = [
            "folder.toml: cannot be read: Is a directory",
            "key.toml: lines.1.options: 'pullup' is not one of",
            "key.toml: vm: expected true or false",
            "latin.toml: not UTF-8 at byte 9",
            "owner.toml: owner: there is no user 'nobody-of-this-name'",
            "syntax.toml: line 2, column 7: ",
            "named.toml: name: good.toml describes the chip 'good', too",
            "twice.toml: lines.1: the line a 1 is in good.toml, too",
            "twice.toml: lines.1: the line a 2 is in good.toml, too",
            "twice.toml: lines.1: the line a 3 is in good.toml, too",
        ]
        wrong = done.stderr.splitlines()
        for line, beginning in zip(wrong, expected, strict=True):
            assert line.startswith(f"gpiovirt: {beginning}")

    def test_files_can_be_named(self, daemon: Daemon, tmp_path: Path) -> None:
        describe(tmp_path, plc='lines = "a 0"', bad="lines = 1")
        assert command(daemon, "check", str(tmp_path / "plc.toml")) == ""
        assert command(daemon, "check", str(tmp_path / "bad.toml"), status=1).startswith(
            "gpiovirt: bad.toml: lines: "
        )

    def test_a_library_that_is_too_old_is_named(self, daemon: Daemon, tmp_path: Path) -> None:
        (tmp_path / "pydantic.py").write_text("VERSION = '1.10'")
        path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
        done = subprocess.run(
            [sys.executable, "-m", "gpiovirt", "check"],
            env={**daemon.environment, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("gpiovirt: pydantic is missing or too old (cannot import name")
        assert done.stderr.count("\n") == 1

    def test_only_writing_files_takes_what_writes_them(self, daemon: Daemon, tmp_path: Path) -> None:
        (tmp_path / "tomli_w.py").write_text("raise ImportError('no tomli_w here', name='tomli_w')")
        describe(daemon.config, plc='lines = "sim-a 0"')
        results = [
            subprocess.run(
                [sys.executable, "-m", "gpiovirt", *words],
                env={**daemon.environment, "PYTHONPATH": str(tmp_path)},
                capture_output=True,
                text=True,
                check=False,
            )
            for words in (["check"], ["apply"], ["save", "plc"])
        ]
        assert [done.returncode for done in results] == [0, 0, 1]
        assert results[2].stderr == (
            "gpiovirt: tomli_w is missing or too old (no tomli_w here); "
            f"install it with: {how_to_install('daemon')}\n"
        )

    def test_a_directory_that_is_not_there_is_no_empty_one(self, daemon: Daemon) -> None:
        daemon.config.rmdir()
        new(daemon, "sim-a 0", name="plc", permanent=True, origin=f"{daemon.config}/plc.toml")
        for do in ("check", "diff", "apply"):
            assert "cannot read the configuration" in command(daemon, do, status=1)
        assert chips(daemon) == ["plc"]


class TestApply:
    def test_chips_are_made_changed_and_deleted_as_files_say(self, daemon: Daemon) -> None:
        describe(
            daemon.config,
            plc='lines = ["DOOR", {chip = "sim-a", offset = 3, options = "safe=low,name=MOTOR"}]\n'
            "vm = true\n",
            motor='lines = "sim-a 5"\nowner = "4242"\nmode = "0600"\n',
        )
        assert command(daemon, "diff", status=1).count("\n+line ") == 3
        assert command(daemon, "apply", "--dry-run") == "motor: would be made\nplc: would be made\n"
        assert chips(daemon) == []
        assert command(daemon, "apply") == "motor: made\nplc: made\n"
        plc, motor = daemon.show("plc"), daemon.show("motor")
        assert [(line.name, line.options) for line in plc.lines] == [
            ("DOOR", ""),
            ("MOTOR", "safe=low,name=MOTOR"),
        ]
        assert (plc.chip.permanent, bool(plc.chip.vm)) == (True, True)
        assert (motor.chip.uid, motor.chip.mode) == (4242, 0o600)
        assert command(daemon, "diff") == command(daemon, "apply") == ""

        describe(daemon.config, plc='lines = ["DOOR", "sim-a 3"]\n')
        (daemon.config / "motor.toml").unlink()
        shown = command(daemon, "diff", status=1).splitlines()
        assert shown[:3] == ["--- gpiovirtd/motor", "+++ /dev/null", "@@ -1,7 +0,0 @@"]
        assert [line for line in shown[10:] if line.startswith(("-", "+"))] == [
            "--- gpiovirtd/plc",
            "+++ plc.toml",
            "-vm = true",
            "+vm = false",
            "-line sim-a 3 safe=low,name=MOTOR",
            "+line sim-a 3",
        ]
        assert command(daemon, "apply") == "motor: deleted\nplc: changed\n"
        assert [line.name for line in daemon.show("plc").lines] == ["DOOR", ""]
        assert chips(daemon) == ["plc"]

    def test_owner_and_mode_are_changed_while_the_chip_is_served(self, daemon: Daemon) -> None:
        describe(daemon.config, plc='lines = "sim-a 0"')
        command(daemon, "apply")
        worker = daemon.show("plc").chip.worker
        describe(daemon.config, plc='lines = "sim-a 0"\nowner = "4242"\nmode = "0666"')
        assert command(daemon, "apply") == "plc: changed\n"
        plc = daemon.show("plc").chip
        assert (plc.uid, plc.mode, plc.worker) == (4242, 0o666, worker)

    def test_what_a_file_does_not_say_is_as_it_is_by_default(self, daemon: Daemon) -> None:
        describe(daemon.config, plc='lines = "sim-a 0"')
        command(daemon, "apply")
        with daemon.client() as client:
            client.ask(Own(name="plc", uid=4242, gid=-1, mode=0o600))
        assert {"-owner = 4242", "-mode = 0600"} < set(command(daemon, "diff", status=1).splitlines())
        command(daemon, "apply")
        assert (daemon.show("plc").chip.uid, daemon.show("plc").chip.mode) == (os.getuid(), 0o660)

    def test_nothing_changes_while_one_file_is_wrong(self, daemon: Daemon) -> None:
        describe(daemon.config, good='lines = "sim-a 0"', bad='lines = "sim-a 1-"')
        for do in ("diff", "apply"):
            told = command(daemon, do, status=2).splitlines()
            assert told[0].startswith("gpiovirt: bad.toml: lines: not an offset")
            assert told[1].startswith("gpiovirt: nothing is changed until")
        assert chips(daemon) == []

    def test_one_chips_failure_tells_its_key_and_prevents_no_other(self, daemon: Daemon) -> None:
        new(daemon, "sim-a 7", name="taken")
        describe(
            daemon.config,
            a='lines = ["DOOR", "sim-a 0 99"]',
            b='lines = ["sim-a 1", {name = "NOLINE"}]',
            c='lines = ["sim-a 2", "sim-a 3", "sim-a 7"]',
            d='lines = "sim-a 4"',
            e='lines = "nochip 4"',
        )
        told = command(daemon, "apply", status=1).splitlines()
        assert sorted(line.split(";")[0] for line in told) == [
            "d: made",
            "gpiovirt: a.toml: lines.1: sim-a has no line 99: its 8 lines are 0 to 7",
            "gpiovirt: b.toml: lines.1: no line is named 'NOLINE' on the chips here: sim-a, sim-b",
            'gpiovirt: c.toml: lines.2: line sim-a:7 is held by "gpiovirt:taken"',
            "gpiovirt: e.toml: lines: no chip 'nochip'",
        ]
        assert chips(daemon) == ["d", "taken"]

    def test_a_change_that_cannot_be_leaves_the_chip_as_it_was(self, daemon: Daemon) -> None:
        describe(daemon.config, plc='lines = "sim-a 0-1"')
        command(daemon, "apply")
        before = daemon.show("plc")
        describe(daemon.config, plc='lines = "sim-a 0-1 99"\nmode = "0600"')
        assert "plc.toml: lines: sim-a has no line 99" in command(daemon, "apply", status=1)
        assert daemon.show("plc") == before

    def test_chips_made_at_run_time_are_left_alone(self, daemon: Daemon) -> None:
        new(daemon, "sim-a 0", name="own")
        new(daemon, "sim-a 1", name="kept", permanent=True)
        new(daemon, "sim-a 2", name="elsewhere", permanent=True, origin="/other/place/elsewhere.toml")
        assert command(daemon, "diff") == command(daemon, "apply") == ""
        assert chips(daemon) == ["elsewhere", "kept", "own"]

    def test_a_chip_of_a_files_name_becomes_the_files(self, daemon: Daemon) -> None:
        new(daemon, "sim-a 0-1", name="plc", options={"1": "safe=low"})
        worker = daemon.show("plc").chip.worker
        describe(daemon.config, plc='lines = ["sim-a 0", {chip = "sim-a", offset = 1, options = "safe=low"}]')
        assert command(daemon, "apply") == "plc: saved\n"
        plc = daemon.show("plc").chip
        assert (plc.permanent, plc.origin) == (True, f"{daemon.config}/plc.toml")
        assert plc.worker == worker
        (daemon.config / "plc.toml").unlink()
        assert command(daemon, "apply") == "plc: deleted\n"

    @pytest.mark.parametrize("lines", ["sim-a 0", "sim-a 1"])
    def test_a_chip_of_a_process_cannot_become_a_files(self, daemon: Daemon, lines: str) -> None:
        with daemon.client() as client:
            client.ask(New(definition="sim-a 0", name="plc", lifetime="connection"))
            describe(daemon.config, plc=f'lines = "{lines}"')
            assert "plc.toml: plc ends with process" in command(daemon, "apply", status=1)
            assert "plc ends with process" in command(daemon, "save", "plc", "--force", status=1)
            assert not daemon.show("plc").chip.permanent

    def test_lines_go_from_one_chip_to_another(self, daemon: Daemon) -> None:
        describe(daemon.config, a='lines = "sim-a 0"', b='lines = "sim-a 1-3"')
        command(daemon, "apply")
        describe(daemon.config, a='lines = "sim-a 0 3"', b='lines = "sim-a 1"', c='lines = "sim-a 2"')
        assert sorted(command(daemon, "apply").splitlines()) == ["a: changed", "b: changed", "c: made"]
        assert [line.source for line in daemon.show("a").lines] == ["sim-a:0", "sim-a:3"]

    def test_chips_are_made_of_chips_in_any_order(self, daemon: Daemon) -> None:
        describe(daemon.config, a='lines = "b 0"', b='lines = "c 1"', c='lines = "sim-a 0-1"')
        assert command(daemon, "apply") == "c: made\nb: made\na: made\n"

    def test_a_chip_in_use_is_not_deleted(self, daemon: Daemon) -> None:
        describe(daemon.config, plc='lines = "sim-a 0"')
        command(daemon, "apply")
        user = subprocess.Popen(
            [sys.executable, "-m", "gpiovirt", "run", "--chip", "plc", "--", "gpiomon", "gpiochip0", "0"],
            env=daemon.environment,
        )
        daemon.wait_for(lambda: daemon.show("plc").lines[0].used)
        (daemon.config / "plc.toml").unlink()
        told = command(daemon, "apply", status=1)
        assert told.startswith("gpiovirt: plc.toml: it is gone, but its chip plc cannot be deleted: line 0")
        user.kill()
        user.wait()
        daemon.wait_for(lambda: not daemon.show("plc").lines[0].used)
        assert command(daemon, "apply") == "plc: deleted\n"


class TestSave:
    def test_what_is_saved_makes_the_same_chip_again(self, daemon: Daemon) -> None:
        new(
            daemon,
            "DOOR sim-a 0-2",
            name="plc",
            options={
                "1": 'name=MO"TOR',
                "DOOR": "pull-up",
                "2": "active-low,debounce=5ms",
                "3": "safe=high",
            },
            vm=True,
            poll_us=50,
            uid=4242,
            mode=0o640,
        )
        path = daemon.config / "plc.toml"
        assert command(daemon, "save", "plc") == f"plc: {path}\n"
        assert command(daemon, "diff") == command(daemon, "check") == ""
        before = daemon.show("plc")
        assert before.chip.permanent
        with daemon.client() as client:
            client.ask(Delete(name="plc"))
        command(daemon, "apply")
        after = daemon.show("plc")
        assert after.lines == before.lines
        for key in ("uid", "gid", "mode", "poll_us", "origin", "num_lines"):
            assert getattr(after.chip, key) == getattr(before.chip, key)

    def test_a_file_that_says_otherwise_is_overwritten_by_force_only(self, daemon: Daemon) -> None:
        describe(daemon.config, plc='lines = "sim-a 1"')
        new(daemon, "sim-a 0", name="plc")
        assert "exists and differs" in command(daemon, "save", "plc", status=1)
        assert (daemon.config / "plc.toml").read_text() == 'lines = "sim-a 1"'
        assert not daemon.show("plc").chip.permanent
        command(daemon, "save", "plc", "--force")
        assert command(daemon, "diff") == ""

    def test_a_file_that_says_the_same_is_not_touched(self, daemon: Daemon) -> None:
        describe(daemon.config, other='# the door\nname = "plc"\nlines = ["sim-a 0", "sim-a 1"]')
        new(daemon, "sim-a 0-1", name="plc")
        command(daemon, "save", "plc")
        assert os.listdir(daemon.config) == ["other.toml"]
        assert (daemon.config / "other.toml").read_text().startswith("# the door")
        assert daemon.show("plc").chip.origin == f"{daemon.config}/other.toml"

    def test_all_are_those_that_no_file_describes(self, daemon: Daemon) -> None:
        new(daemon, "sim-a 0")
        new(daemon, "sim-a 1", name="plc")
        describe(daemon.config, described='lines = "sim-a 2"')
        command(daemon, "apply")
        with daemon.client() as client:
            client.ask(New(definition="sim-a 3", name="passing", lifetime="connection"))
            command(daemon, "save", "--all")
        assert sorted(os.listdir(daemon.config)) == ["described.toml", "gpio-virt-agg.0.toml", "plc.toml"]

    def test_a_full_disk_leaves_the_former_file(self, daemon: Daemon) -> None:
        full(daemon.config, "4k")
        try:
            describe(daemon.config, plc='lines = "sim-a 1"')
            new(daemon, "sim-a 0", name="plc")
            assert "No space left" in command(daemon, "save", "plc", "--force", status=1)
            assert os.listdir(daemon.config) == ["plc.toml"]
            assert (daemon.config / "plc.toml").read_text() == 'lines = "sim-a 1"'
            assert not daemon.show("plc").chip.permanent
        finally:
            subprocess.run(["umount", daemon.config], check=True)


class TestStart:
    def test_chips_that_files_describe_are_there_when_it_is_ready(self, tmp_path: Path) -> None:
        (tmp_path / "chips.d").mkdir()
        describe(tmp_path / "chips.d", plc='lines = "DOOR"', bad='lines = "sim-a 100"')
        with configured(tmp_path) as daemon:
            assert daemon.show("plc").chip.state == "live"
            assert "bad.toml: lines: sim-a has no line 100" in daemon.log()
            assert "not all of" in daemon.log()

    def test_chips_that_files_describe_wait_for_lines_that_are_not_there_yet(self, tmp_path: Path) -> None:
        (tmp_path / "chips.d").mkdir()
        describe(tmp_path / "chips.d", plc='lines = ["DOOR", "nested 0"]\nmode = "0600"')
        with configured(tmp_path) as daemon:
            shown = daemon.show("plc").chip
            assert (shown.state, shown.mode) == ("waiting", 0o600)
            assert shown.trouble.startswith("no chip 'nested'")
            assert "plc: made, waits: no chip 'nested'" in daemon.log()
            assert command(daemon, "diff") == command(daemon, "apply") == ""
            new(daemon, "sim-a 1", name="nested")
            daemon.wait_for(lambda: daemon.show("plc").chip.state == "live")
            assert [line.source for line in daemon.show("plc").lines] == ["sim-b:0", "nested:0"]

    def test_only_chips_that_may_wait_do(self, daemon: Daemon) -> None:
        describe(daemon.config, plc='lines = "nochip 0"', far='lines = "sim-a 100"')
        assert "no chip 'nochip'" in command(daemon, "apply", status=1)
        assert chips(daemon) == []
        said = command(daemon, "apply", "--wait", status=1)
        assert "sim-a has no line 100" in said
        assert "plc: made, waits: no chip 'nochip'" in said
        assert chips(daemon) == ["plc"]

    def test_it_starts_with_a_configuration_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "chips.d").mkdir()
        describe(tmp_path / "chips.d", plc='lines = "DOOR"')
        with configured(tmp_path) as daemon:
            daemon.kill()
            describe(tmp_path / "chips.d", bad="lines =\n")
            (tmp_path / "chips.d/gone.toml").symlink_to("/nowhere")
            daemon.start()
            assert daemon.show("plc").chip.state == "live"
            assert "bad.toml: line 1, column 8" in daemon.log()
            assert "gone.toml: cannot be read: No such file or directory" in daemon.log()
            daemon.kill()
            shutil.rmtree(tmp_path / "chips.d")
            daemon.start()
            assert daemon.show("plc").chip.state == "live"
            daemon.kill()
            (tmp_path / "chips.d").write_text("no directory")
            daemon.start()
            assert "cannot read the configuration" in daemon.log()
            assert daemon.show("plc").chip.state == "live"

    def test_what_changed_while_it_was_away_is_applied(self, tmp_path: Path) -> None:
        (tmp_path / "chips.d").mkdir()
        describe(tmp_path / "chips.d", plc='lines = "DOOR"', motor='lines = "sim-a 0"')
        with configured(tmp_path) as daemon:
            daemon.stop()
            describe(tmp_path / "chips.d", motor='lines = "sim-a 1"')
            (tmp_path / "chips.d/plc.toml").unlink()
            daemon.start()
            assert chips(daemon) == ["motor"]
            assert daemon.show("motor").lines[0].source == "sim-a:1"
            (tmp_path / "chips.d/motor.toml").unlink()
            ready = daemon.log().count("ready")
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_for(lambda: daemon.log().count("ready") > ready)
            assert chips(daemon) == []

    def test_its_own_process_does_not_import_what_reads_the_files(self, tmp_path: Path) -> None:
        (tmp_path / "chips.d").mkdir()
        describe(tmp_path / "chips.d", plc='lines = "DOOR"')
        with configured(tmp_path) as daemon:
            assert daemon.show("plc").chip.origin
            for pid in (daemon.process.pid, daemon.show("plc").chip.worker):
                assert "pydantic" not in Path(f"/proc/{pid}/maps").read_text()
