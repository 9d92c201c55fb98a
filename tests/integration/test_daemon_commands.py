# SPDX-License-Identifier: MIT
"""The commands that ask gpiovirtd, and what each user may do: by real users, made for the test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpiovirt.protocols.control.answers import ChipEvent
from gpiovirt.protocols.control.requests import State
from gpiovirt.testing.daemon import Daemon
from tests.integration.conftest import USERS, Installation, let_all_pass

SIMS = ["--sim", "sim-a:8", "--sim", "sim-b:DOOR,LAMP"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    let_all_pass(tmp_path)
    with Daemon(tmp_path, SIMS) as made:
        yield made


class Shell:
    """Commands as some user."""

    def __init__(self, daemon: Daemon, installation: Installation) -> None:
        self._daemon = daemon
        self._installation = installation

    def __call__(self, command: str, user: str = "root", status: int = 0) -> str:
        """What `gpiovirt COMMAND` writes, to both its outputs."""
        python = sys.executable if user == "root" else self._installation.python
        path = f"{self._installation.folder}:{self._daemon.run}"
        script = f"PYTHONPATH={path} GPIOVIRT_RUNTIME_DIR={self._daemon.run} {python} -m gpiovirt {command}"
        argv = ["sh", "-c", script] if user == "root" else ["su", user, "-c", script]
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, check=False
        )
        assert done.returncode == status, done.stdout
        return done.stdout


@pytest.fixture
def shell(daemon: Daemon, installation: Installation) -> Shell:
    return Shell(daemon, installation)


def test_new_show_list_and_delete(shell: Shell, daemon: Daemon) -> None:
    made = shell(
        "new plc 'DOOR LAMP sim-a 0-1' --vm --line LAMP=safe=low --line DOOR=pull-up --line 2=name=MOTOR"
    )
    assert made.splitlines()[0] == f"plc {daemon.run}/chips/plc 4 lines"
    assert "plc 4 lines, root:" in shell("list")
    shown = shell("show plc")
    assert re.search(r"^ +1 LAMP +output +sim-b:1 +unused, safe=low$", shown, re.M)
    assert re.search(r"^ +2 MOTOR +input +sim-a:0 +unused, name=MOTOR$", shown, re.M)
    assert f"path={daemon.run}/vm/plc" in shell("vm-args qemu plc")
    assert "reconnect" not in shell("vm-args qemu plc --reconnect")  # its connection stays
    assert shell("serve --chip plc --vm plc=/run/x", status=2) == (
        "gpiovirt: --chip 'plc': to make a chip here write NAME=LINES, as in 'plc=sim-a 0 3'; "
        "gpiovirtd serves its own chips to VMs itself: gpiovirt new plc LINES --vm\n"
    )
    shell("delete plc")
    assert "no chip 'plc'" in shell("show plc", status=2)


def test_watch_goes_on_when_gpiovirtd_is_back(shell: Shell, daemon: Daemon) -> None:
    shell("new plc 'DOOR LAMP'")
    watch = subprocess.Popen(
        [sys.executable, "-m", "gpiovirt", "watch", "plc", "-n", "2"],
        env=daemon.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with daemon.client() as client:
        daemon.wait_for(lambda: client.ask(State()).watchers)
    daemon.kill()
    daemon.start()
    with daemon.client() as client:
        daemon.wait_for(lambda: client.ask(State()).watchers)
    shell("run --chip plc -- gpioset gpiochip0 1=1")
    printed, said = watch.communicate(timeout=20)
    assert [line.split()[2] for line in printed.splitlines()] == ["line-requested", "line-released"]
    assert said == (
        "gpiovirt: gpiovirtd has ended; waiting for it to come back\ngpiovirt: gpiovirtd is back\n"
    )


def test_set_changes_options_and_leaves_the_others(shell: Shell) -> None:
    shell("new plc 'DOOR LAMP' --line LAMP=safe=low,pull-up")
    shell("set plc LAMP=active-low 0=name=GATE")
    shown = shell("show plc")
    assert re.search(r"^ +0 GATE .* unused, name=GATE$", shown, re.M)
    assert re.search(r"^ +1 LAMP .* unused, pull-up,active-low,safe=low$", shown, re.M)
    shell("set plc LAMP=debounce=5ms --replace")
    assert re.search(r"^ +1 LAMP .* unused, debounce=5ms$", shell("show plc"), re.M)
    assert "'pullup' is not one of pull-up" in shell("set plc LAMP=pullup", status=2)
    assert "no line 'DOR'" in shell("set plc DOR=pull-up", status=2)


def test_a_simulator_is_watched_and_driven_by_one_client(daemon: Daemon) -> None:
    with daemon.simulator() as world:
        changes = world.watch()
        world.pull("sim-b:DOOR", "up")
        change = next(changes)
        assert (change.chip, change.offset, change.level) == ("sim-b", 0, 1)
        assert world.get("sim-b:DOOR") == 1


def test_watch_tells_what_happens(shell: Shell, daemon: Daemon) -> None:
    shell("new plc 'DOOR LAMP'")
    watch = subprocess.Popen(
        [sys.executable, "-m", "gpiovirt", "watch", "plc", "-n", "3"],
        env=daemon.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    with daemon.client() as client:
        daemon.wait_for(lambda: client.ask(State()).watchers)
    shell("run --chip plc -- gpioset gpiochip0 1=1")
    shell("delete plc")
    printed, _ = watch.communicate(timeout=20)
    assert [line.split()[1:3] for line in printed.splitlines()] == [
        ["plc", "line-requested"],
        ["plc", "line-released"],
        ["plc", "deleted"],
    ]
    said = r'[0-9:]{8}\.[0-9]{3} plc line-requested LAMP output "gpioset" \(pid [0-9]+, root\)'
    assert re.fullmatch(said, printed.splitlines()[0])


@pytest.mark.usefixtures("users")
class TestUsers:
    def test_owner_and_group_use_a_chip_and_others_do_not(self, shell: Shell) -> None:
        shell("new plc 'sim-a 0-3' --owner gpvbob --group gpvplc")
        for user in ("gpvalice", "gpvbob"):
            assert "4 lines" in shell("run --chip plc -- gpioinfo", user)
            assert "plc 4 lines" in shell("show plc", user)
        refused = shell("run --chip plc -- gpioinfo", "gpvboss", status=1)
        assert "Permission denied" in refused

    def test_the_mode_decides(self, shell: Shell, daemon: Daemon) -> None:
        shell("new plc 'sim-a 0-3' --owner gpvbob --group gpvplc --mode 0600")
        whose = "Permission denied; it is gpvbob's, of group gpvplc, mode 0600"
        assert whose in shell("run --chip plc -- gpioinfo", "gpvalice", status=1)
        assert whose in shell("set plc:0=1", "gpvboss", status=1)
        assert "the chips are: none" in shell("show plc", "gpvalice", status=2)
        os.chmod(daemon.run / "chips/plc", 0o666)
        daemon.wait_for(lambda: daemon.show("plc").chip.mode == 0o666)
        assert "4 lines" in shell("run --chip plc -- gpioinfo", "gpvalice")

    def test_chown_of_the_socket_holds_for_the_chip(self, shell: Shell, daemon: Daemon) -> None:
        shell("new plc 'sim-a 0-3' --vm")
        assert "Permission denied" in shell("run --chip plc -- gpioinfo", "gpvalice", status=1)
        os.chown(daemon.run / "chips/plc", USERS["gpvalice"], -1)
        assert "4 lines" in shell("run --chip plc -- gpioinfo", "gpvalice")
        daemon.wait_for(lambda: os.stat(daemon.run / "vm/plc").st_uid == USERS["gpvalice"])
        daemon.kill()
        os.chmod(daemon.run / "chips/plc", 0o600)
        daemon.start()
        assert (daemon.show("plc").chip.uid, daemon.show("plc").chip.mode) == (USERS["gpvalice"], 0o600)

    def test_a_managers_definition_makes_root_open_gpio_devices_only(
        self, shell: Shell, tmp_path: Path
    ) -> None:
        import socket

        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as trap:
            trap.bind(str(tmp_path / "trap"))
            trap.listen()
            trap.setblocking(False)
            for path in ("/dev/null", "/dev/tty", "/etc/passwd", f"{tmp_path}/trap"):
                assert f"no chip '{path}'" in shell(f"new x '{path} 0'", "gpvboss", status=2)
            with pytest.raises(BlockingIOError):
                trap.accept()

    def test_only_managers_make_change_and_delete(self, shell: Shell) -> None:
        shell("new plc 'sim-a 0-3' --owner gpvalice")
        for user in ("gpvalice", "gpvbob"):
            assert "only root and members of the group gpiovirt" in shell("new x 'sim-a 7'", user, status=1)
            assert "only root and members" in shell("delete plc", user, status=1)
        shell("new x 'sim-a 7' --owner gpvbob", "gpvboss")
        assert "x 1 lines, gpvbob" in shell("list", "gpvboss")
        shell("delete plc x", "gpvboss")

    def test_a_user_sees_his_chips_only(self, shell: Shell) -> None:
        shell("new hers 'sim-a 0' --owner gpvalice --group gpvplc")
        shell("new his 'sim-a 1' --owner gpvbob --group gpvbob")
        assert "hers" in shell("list", "gpvalice")
        assert "his" not in shell("list", "gpvalice").replace("this", "")
        assert "his" in shell("list", "gpvbob")
        assert "hers" not in shell("list", "gpvbob")

    def test_a_user_is_told_of_his_chips_only(self, shell: Shell, daemon: Daemon) -> None:
        shell("new hers 'sim-a 0' --owner gpvalice")
        shell("new his 'sim-a 1' --owner gpvbob --group gpvbob")
        with daemon.client(acting_for=(USERS["gpvalice"], [])) as alice:
            events = alice.watch()
            shell("delete his hers")
            assert next(events) == ChipEvent("deleted", "hers")

    def test_nobody_reaches_the_lines_behind_a_chip(self, shell: Shell, daemon: Daemon) -> None:
        shell("new plc 'sim-a 0-3' --owner gpvalice")
        worker = daemon.show("plc").chip.worker
        for path in (daemon.run / "sources/sim-a", daemon.run / "workers/plc", f"/proc/{worker}/fd"):
            done = subprocess.run(["su", "gpvalice", "-c", f"ls {path}"], capture_output=True, check=False)
            assert done.returncode != 0

    def test_workers_are_nobody_and_can_nothing(self, shell: Shell, daemon: Daemon) -> None:
        shell("new plc 'sim-a 0-3'")
        worker = daemon.show("plc").chip.worker
        status = Path(f"/proc/{worker}/status").read_text()
        fields = dict(re.findall(r"^(\w+):\t(.*)$", status, re.M))
        assert 0 not in map(int, fields["Uid"].split())
        assert fields["Groups"].strip() == ""
        assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
        assert os.readlink(f"/proc/{worker}/root") == f"/proc/{worker}"


def test_vm_args_are_of_sockets_that_are_there(shell: Shell, daemon: Daemon, tmp_path: Path) -> None:
    shell("new plc 'sim-a 0-1'")
    (tmp_path / "file").touch()
    for what, said in (
        ("plc", "plc is not for VMs; delete it and make it anew with: gpiovirt new plc LINES --vm"),
        ("other", "gpiovirtd has no chip 'other' (`gpiovirt list` shows them), and "),
        (f"{tmp_path}/none", f"{tmp_path}/none is not a socket; first start: gpiovirt serve ... --vm NAME="),
        (f"{tmp_path}/file", f"{tmp_path}/file is not a socket; first start: gpiovirt serve ... --vm NAME="),
        (f"{tmp_path}/file/x", f"cannot look at {tmp_path}/file/x: Not a directory"),
    ):
        printed = shell(f"vm-args qemu {what}", status=1)
        assert printed.startswith(f"gpiovirt: {said}")
        assert printed.count("\n") == 1
