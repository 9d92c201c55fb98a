# SPDX-License-Identifier: MIT
"""What users, a chip's user or a fault try against gpiovirtd: others are served, and nothing is believed."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from gpiovirt.control.client import Client
from gpiovirt.core.line import AS_IS
from gpiovirt.errors import GpiovirtError, HostError
from gpiovirt.host.device_socket import DeviceSocket, OpenedFile
from gpiovirt.host.packets import encode
from gpiovirt.protocols.control.answers import RefusedError
from gpiovirt.protocols.control.requests import Delete, List, New, Save, Show, State
from gpiovirt.protocols.gpiochip.caller import encode_request
from gpiovirt.testing.api import ApiClient
from gpiovirt.testing.daemon import Daemon
from gpiovirt.uapi import gpio as u
from tests.integration.conftest import let_all_pass
from tests.silent_file import silent_file

OTHER = 4242
BOMB = "a " + "0-65534 " * 400
HOSTILE = "\x1b]0;OWNED\x07\nplc 9 lines"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    if os.getuid():
        pytest.fail("other users can be had by root only")
    folder = tmp_path_factory.mktemp("attacks")
    let_all_pass(folder)
    with Daemon(folder, ["--sim", "sim:8"]) as made:
        yield made


@pytest.fixture
def daemon(running: Daemon) -> Daemon:
    """With one chip, `plc`, of another user's."""
    with running.client() as client:
        for chip in client.chips():
            client.ask(Delete(name=chip.name, force=True))
        client.ask(New(name="plc", definition="sim 0-3", uid=OTHER))
    return running


@pytest.fixture
def log(daemon: Daemon) -> Callable[[], str]:
    """What it has said since."""
    before = len(daemon.log())
    return lambda: daemon.log()[before:]


@contextmanager
def being(uid: int) -> Iterator[None]:
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@contextmanager
def attackers(count: int, attack: Callable[[], object]) -> Iterator[None]:
    """So many processes of another user, each at it until they are killed."""
    pids = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            _attack(attack)
        pids.append(pid)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _attack(attack: Callable[[], object]) -> NoReturn:
    try:
        os.setgroups([])
        os.setresgid(OTHER, OTHER, OTHER)
        os.setresuid(OTHER, OTHER, OTHER)
        while True:
            with suppress(OSError, GpiovirtError):
                attack()
    finally:
        os._exit(1)


def answers_within(daemon: Daemon, seconds: float) -> None:
    """Somebody else is served: the median of some requests, each on a connection of its own."""
    took = []
    for _ in range(9):
        began = time.monotonic()
        with daemon.client() as client:
            client.ask(List())
        took.append(time.monotonic() - began)
    assert statistics.median(took) < seconds


def connect(path: str, kind: int = socket.SOCK_SEQPACKET) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.settimeout(10)
    sock.connect(path)
    return sock


def gpiovirt(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpiovirt", *arguments]
    return subprocess.run(
        command, env=daemon.environment, capture_output=True, text=True, check=False, timeout=30
    )


def request(device: DeviceSocket, offset: int, consumer: bytes = b"x") -> OpenedFile:
    argument = bytearray(encode_request(offset, AS_IS, "", 16))
    argument[256:288] = consumer[:31].ljust(32, b"\0")
    answer = device.ioctl(u.GPIO_V2_GET_LINE_IOCTL, bytes(argument))
    assert not answer.errno
    assert isinstance(answer.file, OpenedFile)
    return answer.file


class TestFiles:
    @pytest.mark.parametrize("where", ["control", "api.sock", "chips/plc", "simulator"])
    def test_a_file_that_nobody_can_close_stops_nobody(
        self, daemon: Daemon, tmp_path: Path, where: str
    ) -> None:
        path = f"\0{daemon.simulator_socket()}" if where == "simulator" else str(daemon.run / where)
        kind = socket.SOCK_STREAM if where == "api.sock" else socket.SOCK_SEQPACKET
        with daemon.client() as client, silent_file(tmp_path / "fuse") as fd:
            sock = connect(path, kind)
            for _ in range(3):
                with suppress(OSError):
                    socket.send_fds(sock, [b'{"do": "state"}'], [fd])
            assert client.ask(List()).chips
            assert client.ask(Show(name="plc")).chip.state == "live"
            assert daemon.stop() == 0
            threading.Thread(target=sock.close, daemon=True).start()
        daemon.start()
        assert daemon.show("plc").chip.state == "live"


class TestFloods:
    @pytest.mark.parametrize("count", [1, 8])
    def test_who_writes_without_an_end_holds_up_nobody(self, daemon: Daemon, count: int) -> None:
        path = str(daemon.run / "control")

        def flood() -> None:
            socks = [connect(path) for _ in range(8)]
            for sock in socks:
                sock.setblocking(False)
            while True:
                for sock in socks:
                    with suppress(BlockingIOError):
                        sock.send(b'{"do": "list"}')
                    with suppress(BlockingIOError):
                        sock.recv(1 << 18)

        with attackers(count, flood):
            time.sleep(0.3)
            answers_within(daemon, 2.5)

    def test_who_connects_without_an_end_holds_up_nobody(
        self, daemon: Daemon, log: Callable[[], str]
    ) -> None:
        path = str(daemon.run / "control")
        with attackers(2, lambda: connect(path).close()):
            time.sleep(0.3)
            answers_within(daemon, 2.5)
        assert log().count("\n") < 50

    def test_a_users_connections_are_so_many_and_others_have_theirs(self, daemon: Daemon) -> None:
        with ExitStack() as stack:
            refused = 0
            for _ in range(80):
                with being(OTHER):
                    client = stack.enter_context(daemon.client())
                try:
                    client.ask(List())
                except RefusedError as error:
                    refused += error.errno == errno.EMFILE
            assert refused == 80 - 64
            answers_within(daemon, 2.5)

    def test_watchers_and_a_chip_in_a_hurry_hold_up_nobody(self, daemon: Daemon) -> None:
        worker = daemon.show("plc").chip.worker
        device = str(daemon.run / "chips/plc")
        with ExitStack() as stack:
            told = 0
            for _ in range(20):
                with being(OTHER):
                    watcher = stack.enter_context(daemon.client())
                with suppress(RefusedError):
                    watcher.watch()
                    told += 1
            assert told == 16

            def hurry() -> None:
                file = DeviceSocket.open(device, "")
                while True:
                    request(file, os.getpid() % 4).close()

            stack.enter_context(attackers(3, hurry))
            time.sleep(0.3)
            answers_within(daemon, 1)
        assert daemon.show("plc").chip.worker == worker

    def test_a_socket_whose_mode_changes_without_an_end_holds_up_nobody(self, daemon: Daemon) -> None:
        path = str(daemon.run / "chips/plc")

        def change() -> None:
            os.chmod(path, 0o600)
            os.chmod(path, 0o660)

        with attackers(2, change):
            time.sleep(0.3)
            answers_within(daemon, 2.5)
        os.chmod(path, 0o640)
        daemon.wait_for(lambda: daemon.show("plc").chip.mode == 0o640)

    def test_garbage_does_not_fill_the_log(self, daemon: Daemon, log: Callable[[], str]) -> None:
        for path in ("control", "chips/plc"):
            for garbage in (b"garbage", b"[]", b"[" * 10_000, b'{"do": 1}', b'{"do": "\\ud800"}') * 20:
                with connect(str(daemon.run / path)) as sock, suppress(OSError):
                    sock.send(garbage)
                    sock.recv(1 << 18)
        answers_within(daemon, 2.5)
        assert log().count("\n") < 50


class TestBombs:
    def test_ranges_past_what_a_chip_has_are_refused_at_once(self, daemon: Daemon) -> None:
        api = ApiClient(str(daemon.run / "api.sock"))
        api("GET", "/chips")
        began = time.process_time(), time.monotonic()
        with daemon.client() as client, pytest.raises(RefusedError, match="1024"):
            client.ask(New(definition=BOMB))
        assert api("POST", "/chips", {"name": "x", "lines": BOMB}).status in (400, 422)
        with pytest.raises(OSError):
            (daemon.run / "bus/platform/drivers/gpio-virt-agg/new_device").write_text(BOMB)
        assert time.monotonic() - began[1] < 5

    @pytest.mark.parametrize(
        "text",
        [
            f'[chip.plc]\nlines = ["{BOMB}"]\n',
            "[chip.plc]\npoll_us = " + "9" * 5000 + "\n",
            '[chip.plc]\n"\\u001b]0;OWNED\\u0007" = 1\n',
        ],
        ids=["ranges", "digits", "escapes"],
    )
    def test_a_configuration_that_is_a_bomb_is_a_problem_in_words(
        self, daemon: Daemon, tmp_path: Path, text: str
    ) -> None:
        (tmp_path / "bomb.toml").write_text(text)
        done = gpiovirt(daemon, "check", str(tmp_path / "bomb.toml"))
        assert done.returncode
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("do", "what"),
        [
            ("set", {"name": "plc", "options": {"9" * 5000: "pull-up"}}),
            ("set", {"name": "plc", "options": {"0": "debounce=" + "9" * 5000 + "ms"}}),
            ("new", {"definition": "sim 9" + "9" * 5000}),
            ("new", {"definition": "sim 5", "lifetime": "process", "pid": 1 << 31, "started": 1}),
            ("new", {"definition": "sim 5", "origin": "\ud800"}),
            ("own", {"name": "plc", "uid": 1 << 40}),
        ],
    )
    def test_numbers_and_texts_of_any_size_are_refused_in_words(
        self, daemon: Daemon, log: Callable[[], str], do: str, what: dict[str, Any]
    ) -> None:
        with pytest.raises(RefusedError) as refused:
            daemon.call(do, **what)
        assert "internal error" not in str(refused.value)
        assert "Traceback" not in log()

    def test_chips_with_long_descriptions_are_all_listed(self, daemon: Daemon) -> None:
        with daemon.client() as client:
            for number in range(12):
                client.ask(New(name=f"w{number:02}", definition='"' + "x" * 60_000 + '"', wait=True))
            assert len(client.chips()) == 13


class TestNames:
    def test_what_a_program_calls_itself_reaches_no_terminal(
        self, daemon: Daemon, log: Callable[[], str]
    ) -> None:
        with subprocess.Popen(
            [sys.executable, "-m", "gpiovirt", "watch", "plc", "-n", "1"],
            env=daemon.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as watching:
            with daemon.client() as client:
                daemon.wait_for(lambda: client.ask(State()).watchers)
            device = DeviceSocket.open(str(daemon.run / "chips/plc"), "")
            held = request(device, 0, HOSTILE.encode())
            said = watching.communicate(timeout=20)[0]
        said += "".join(
            gpiovirt(daemon, *command).stdout + gpiovirt(daemon, *command).stderr
            for command in (["show", "plc"], ["list"], ["delete", "plc"])
        )
        assert "OWNED" in said
        assert "\x1b" not in said
        assert "\x07" not in said
        assert "\nplc 9 lines" not in said
        assert "\x1b" not in log()
        held.close()
        device.close()


class TestSimulators:
    def test_simulators_of_others_that_do_not_answer_are_passed_over(self, daemon: Daemon) -> None:
        with ExitStack() as stack:
            for number in range(20):
                with being(OTHER):
                    mute = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                    mute.bind(f"\0gpiovirt/sim/{OTHER if number % 2 else 0}/{number + 1}")
                    mute.listen(0)
                    for _ in range(number % 3):
                        filler = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                        filler.setblocking(False)
                        with suppress(BlockingIOError):
                            filler.connect(mute.getsockname())
            answers_within(daemon, 2.5)
            done = gpiovirt(daemon, "sim", "get", "sim:0")
            assert "\x1b" not in done.stdout + done.stderr


class TestFaults:
    def test_a_daemon_that_is_stopped_ends_clients_with_a_line(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        api = ApiClient(str(daemon.run / "api.sock"))
        assert api("GET", "/chips").status == 200
        monkeypatch.setattr("gpiovirt.control.client.ANSWER_S", 1)
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            with daemon.client() as client, pytest.raises(HostError, match="is it stopped"):
                client.ask(List())
            assert api("GET", "/chips").status == 503
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        answers_within(daemon, 2.5)

    def test_a_chip_stays_if_its_record_does(self, daemon: Daemon, log: Callable[[], str]) -> None:
        with daemon.client() as client:
            client.ask(Save("plc"))
        subprocess.run(["mount", "--bind", daemon.state, daemon.state], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", daemon.state], check=True)
            with daemon.client() as client, pytest.raises(RefusedError, match="Read-only"):
                client.ask(Delete(name="plc"))
            assert daemon.show("plc").chip.state == "live"
            os.chmod(daemon.run / "chips/plc", 0o666)
            daemon.wait_for(lambda: "do not hold" in log())
            daemon.wait_for(lambda: os.stat(daemon.run / "chips/plc").st_mode & 0o777 == 0o660)
            assert daemon.show("plc").chip.mode == 0o660
            assert not list((daemon.run / "state").iterdir())  # what a next gpiovirtd would rather believe
        finally:
            subprocess.run(["umount", daemon.state], check=True)

    def test_too_few_files_are_told_as_that(self, tmp_path: Path) -> None:
        def few() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

        with Daemon(tmp_path, ["--sim", "sim:64", "--no-files"], preexec_fn=few) as daemon:
            with daemon.client() as client, pytest.raises(RefusedError) as refused:
                for line in range(64):
                    client.ask(New(definition=f"sim {line}"))
            assert "Too many open files" in str(refused.value)
            assert "Traceback" not in daemon.log()
            with daemon.client() as client:
                for chip in client.chips():
                    client.ask(Delete(name=chip.name, force=True))


class TestLeaks:
    def test_others_cannot_list_what_there_is(self, daemon: Daemon) -> None:
        drivers = daemon.run / "bus/platform/drivers/gpio-virt-agg"
        stranger = OTHER + 1
        with being(stranger):
            for folder in (daemon.run / "chips", daemon.run / "vm", daemon.run / "workers", daemon.state):
                with pytest.raises(PermissionError):
                    os.listdir(folder)
            with daemon.client() as client:
                assert client.chips() == []
                for do in ("look", "show", "describe"):
                    with pytest.raises(RefusedError, match="no chip"):
                        daemon.call(do, name="plc")
        with suppress(PermissionError), being(stranger):
            assert "plc" not in os.listdir(drivers)

    def test_nobody_acts_for_another(self, daemon: Daemon) -> None:
        root = {"uid": 0, "gids": [0]}
        with being(OTHER + 1):
            sock = connect(str(daemon.run / "control"))
        with sock:
            for do in ("list", "delete", "own", "set", "change"):
                sock.send(encode({"do": do, "name": "plc", "as": root}))
                assert json.loads(sock.recv(1 << 18))["errno"] == 1


def test_the_end_of_a_connection_deletes_what_it_made_and_not_its_namesake(daemon: Daemon) -> None:
    owner: Client = daemon.client()
    owner.ask(New(name="mine", definition="sim 5", lifetime="connection"))
    with daemon.client() as client:
        client.ask(Delete(name="mine"))
        client.ask(New(name="mine", definition="sim 6"))
        owner.close()
        client.ask(List())
        assert client.ask(Show(name="mine")).lines[0].source == "sim:6"


def test_a_user_who_is_many_leaves_room_for_root(tmp_path: Path) -> None:
    """By subordinate uids a user has thousands of the limits that are each user's."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    let_all_pass(tmp_path)
    with (
        Daemon(tmp_path, ["--sim", "sim:8", "--no-files"], preexec_fn=few) as daemon,
        ExitStack() as crowd,
    ):
        with daemon.client() as client:
            client.ask(New(name="plc", definition="sim 0-3"))
        for uid in range(231072, 231080):
            os.seteuid(uid)
            try:
                for _ in range(31):
                    sock = crowd.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                    with suppress(OSError):  # turned away
                        sock.connect(str(daemon.run / "control"))
            finally:
                os.seteuid(0)
        with daemon.client() as client:
            assert [chip.name for chip in client.chips()] == ["plc"]
            worker = daemon.show("plc").chip.worker
            os.kill(worker, signal.SIGKILL)
            daemon.wait_for(lambda: daemon.show("plc").chip.worker not in (0, worker))
        assert daemon.log().count("Too many open files") == 0
