# SPDX-License-Identifier: MIT
"""Programs on chips that workers serve: workers that die, daemons that are away, and peers that attack."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpiovirt.protocols.control.requests import New
from gpiovirt.protocols.gpiochip import wire
from gpiovirt.testing.daemon import Daemon
from tests.integration.conftest import Installation, as_user, ordinary_uid

SIMS = ["--sim", "sim-a:8"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, SIMS) as made, made.client() as client:
        client.ask(New(name="plc", definition="sim-a 0-3"))
        yield made


class Talker:
    """A program that does what it is told, a line of Python each, and says what comes of it."""

    SOURCE = """
        import gpiod, sys, threading, time
        from gpiod.line import Direction, Edge, Value
        def request(path, **lines):
            lines = {int(name[1:]): how for name, how in lines.items()}
            return gpiod.request_lines(path, lines, consumer="talker")
        OUT = gpiod.LineSettings(direction=Direction.OUTPUT)
        EDGES = gpiod.LineSettings(edge_detection=Edge.BOTH)
        for line in sys.stdin:
            try: print(eval(line) if not line.startswith("!") else exec(line[1:].strip()), flush=True)
            except OSError as error: print(error.strerror, flush=True)
    """

    def __init__(self, daemon: Daemon, *options: str) -> None:
        command = [sys.executable, "-m", "gpiovirt", "run", *options, "--", sys.executable, "-c"]
        self.process = subprocess.Popen(
            [*command, textwrap.dedent(self.SOURCE)],
            env=daemon.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, line: str, timeout_s: float = 20) -> str:
        self.tell(line)
        return self.said(timeout_s)

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def said(self, timeout_s: float = 20) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], timeout_s)[0], "nothing was said"
        return self.process.stdout.readline().strip()

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def used(daemon: Daemon) -> list[int]:
    """Lines that a program holds; the chip itself may hold one for its holder to come back to."""
    return [line.offset for line in daemon.show("plc").lines if line.consumer == "talker"]


def kill_worker(daemon: Daemon) -> None:
    former = daemon.show("plc").chip.worker
    os.kill(former, signal.SIGKILL)
    daemon.wait_for(lambda: daemon.show("plc").chip.worker not in (former, None))


def test_a_programs_close_frees_its_lines_before_and_after_a_worker_was_replaced(daemon: Daemon) -> None:
    with Talker(daemon, "--chip", "plc") as talker:
        for kills in range(3):
            talker("! seen = request('/dev/gpiochip0', _1=EDGES)")
            if kills:
                kill_worker(daemon)
                daemon.wait_for(lambda: used(daemon) == [1])
            with daemon.simulator() as world:
                world.pull("sim-a:1", "up")
                assert talker("seen.read_edge_events()[0].event_type.name") == "RISING_EDGE"
                world.pull("sim-a:1", "down")
                assert talker("seen.read_edge_events()[0].event_type.name") == "FALLING_EDGE"
            talker("seen.release()")
            daemon.wait_for(lambda: used(daemon) == [])
            talker("! request('/dev/gpiochip0', _1=EDGES).release()")  # never busy


def test_a_chip_whose_server_is_away_keeps_no_other_chip_waiting(daemon: Daemon) -> None:
    options = ("--sim", "here:2", "--chip", "plc", "--chip", "own=here 0-1")
    with Talker(daemon, *options) as talker:
        for i in range(4):
            talker(f"! far{i} = request('/dev/gpiochip0', _{i}=OUT)")
        talker("! near = request('/dev/gpiochip1', _0=OUT)")
        talker("! far0.get_value(0); near.get_value(0)")
        worker = daemon.show("plc").chip.worker
        daemon.kill()
        os.kill(worker, signal.SIGKILL)
        talker(
            "! threads = [threading.Thread(target=far.get_value, args=(i,), daemon=True) "
            "for i, far in enumerate((far0, far1, far2, far3))]; [t.start() for t in threads]; time.sleep(.1)"
        )
        began = time.monotonic()
        for _ in range(20):
            assert talker("near.get_value(0).name") == "INACTIVE"
        assert time.monotonic() - began < 1
        daemon.start()
        assert talker("[t.join() for t in threads] and far3.get_value(3).name") == "INACTIVE"


def test_a_worker_that_is_stopped_keeps_no_other_chip_waiting(daemon: Daemon) -> None:
    options = ("--sim", "here:2", "--chip", "plc", "--chip", "own=here 0-1")
    with Talker(daemon, *options) as talker:
        talker("! far = request('/dev/gpiochip0', _0=OUT); near = request('/dev/gpiochip1', _0=OUT)")
        talker("! far.get_value(0); near.get_value(0)")
        worker = daemon.show("plc").chip.worker
        os.kill(worker, signal.SIGSTOP)
        talker("! thread = threading.Thread(target=far.set_value, args=(0, Value.ACTIVE), daemon=True)")
        talker("! thread.start(); time.sleep(0.1)")
        began = time.monotonic()
        for _ in range(20):
            assert talker("near.get_value(0).name") == "INACTIVE"
        assert time.monotonic() - began < 1
        assert talker("thread.join() or far.get_value(0).name") == "ACTIVE"


HANGS = """
import errno, stat, sys, time
import mfusepy

class Hangs(mfusepy.Operations):
    use_ns = True
    def getattr(self, path, fh=None):
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        return {"st_mode": stat.S_IFREG | 0o666, "st_nlink": 1, "st_size": 4096}
    def open(self, path, flags):
        return 1
    def read(self, path, size, offset, fh):
        return b"x" * size
    def flush(self, path, fh):
        time.sleep(1e6)
        return 0

mfusepy.FUSE(Hangs(), sys.argv[1], foreground=True, allow_other=True)
"""

SENDS = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
packet = bytes.fromhex(sys.argv[2])
file = os.open(sys.argv[3], os.O_RDONLY)
for _ in range(3):
    try:
        socket.send_fds(sock, [packet], [file])
        print("sent", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def attack(tmp_path: Path) -> Iterator[Callable[[Path, bytes], list[str]]]:
    """Sends a packet three times, with a file that who closes it waits for for ever; what it was told."""
    folder = tmp_path / "fuse"
    folder.mkdir()
    mount = subprocess.Popen([sys.executable, "-c", HANGS, folder], stderr=subprocess.DEVNULL)
    attackers: list[subprocess.Popen[str]] = []

    def send(path: Path, packet: bytes) -> list[str]:
        attacker = subprocess.Popen(
            [sys.executable, "-c", SENDS, path, packet.hex(), folder / "hang"],
            stdout=subprocess.PIPE,
            text=True,
        )
        attackers.append(attacker)
        assert attacker.stdout is not None
        return [attacker.stdout.readline().strip() for _ in range(3)]

    try:
        deadline = time.monotonic() + 20
        while not os.path.ismount(folder):
            assert mount.poll() is None, "no FUSE here"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield send
    finally:
        mount.kill()
        mount.wait()
        for attacker in attackers:
            attacker.wait(10)
            assert attacker.stdout is not None
            attacker.stdout.close()
        subprocess.run(["umount", "-l", folder], check=False)


@pytest.mark.parametrize(
    "packet",
    [wire.encode_open("x"), wire.encode_ioctl(3, 0xC250B407, bytes(592)), b"garbage"],
    ids=["open", "ioctl", "garbage"],
)
def test_a_file_that_nobody_can_close_does_not_reach_a_worker(
    daemon: Daemon, attack: Callable[[Path, bytes], list[str]], packet: bytes
) -> None:
    worker = daemon.show("plc").chip.worker
    before = len(os.listdir(f"/proc/{worker}/fd"))
    assert all(attack(daemon.run / "chips/plc", packet))
    began = time.monotonic()
    with Talker(daemon, "--chip", "plc") as talker:
        assert talker("request('/dev/gpiochip0', _0=OUT).release()") == "None"
    assert time.monotonic() - began < 5
    # the attacker hangs in its own trap, and its connection with it
    daemon.wait_for(lambda: len(os.listdir(f"/proc/{worker}/fd")) <= before + 1)
    assert daemon.show("plc").chip.worker == worker


def flood(python: str, path: str) -> Callable[[], None]:
    """Start a process that opens and floods a chip's socket; what ends it."""
    source = """
import socket, sys
socks = []
while True:
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        sock.connect(sys.argv[1])
        socks.append(sock)
    except OSError:
        pass
    for sock in socks[-64:]:
        try:
            sock.send(b"gpiochip\\x02\\0\\0\\0")
            for _ in range(50):
                sock.send(bytes.fromhex("0200000001b4448000000000"))
        except OSError:
            pass
"""
    process = subprocess.Popen(
        [python, "-c", source, path], cwd="/", **as_user(ordinary_uid()), stderr=subprocess.DEVNULL
    )

    def end() -> None:
        process.kill()
        process.wait()

    return end


def test_who_floods_a_chip_keeps_others_waiting_but_not_for_long(
    daemon: Daemon, installation: Installation
) -> None:
    for folder in (daemon.run / "chips", daemon.run, *list(daemon.run.parents)[:4]):
        folder.chmod(folder.stat().st_mode | 0o011)
    os.chmod(daemon.run / "chips/plc", 0o666)
    with Talker(daemon, "--chip", "plc") as talker:
        talker("! out = request('/dev/gpiochip0', _0=OUT)")
        end = flood(installation.python, str(daemon.run / "chips/plc"))
        try:
            time.sleep(0.5)
            began = time.monotonic()
            for value in ("ACTIVE", "INACTIVE") * 5:
                talker(f"out.set_value(0, Value.{value})")
                assert talker("out.get_value(0).name") == value
            assert time.monotonic() - began < 10
        finally:
            end()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(10)
        sock.connect(str(daemon.run / "chips/plc"))
        sock.send(wire.encode_open(""))
        assert wire.decode_answer(sock.recv(wire.PACKET_MAX))[1].errno == 0
    assert daemon.log().count("\n") < 100
