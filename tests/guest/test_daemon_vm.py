# SPDX-License-Identifier: MIT
"""A VM on a chip of gpiovirtd: whichever process is killed, it goes on, and no output moves."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gpiovirt.protocols.control.requests import New
from gpiovirt.testing.daemon import Daemon
from guests.guest import Guest, GuestError, GuestTimeoutError, Qemu, Uml
from guests.recipes import RECIPES, build_path
from tests.guest.conftest import build
from tests.guest.test_vm_qemu import HOLD, TRAFFIC
from tests.guest.test_vm_uml import python

pytestmark = pytest.mark.usefixtures("has_x86")

EDGES = """
import gpiod, os, sys
from gpiod.line import Direction, Edge, Value
folder = sys.argv[1]
output, both = gpiod.LineSettings(direction=Direction.OUTPUT), gpiod.LineSettings(edge_detection=Edge.BOTH)
with (
    gpiod.request_lines("/dev/gpiochip0", config={1: both}) as watched,
    gpiod.request_lines("/dev/gpiochip0", config={0: output}) as driven,
):
    open(folder + "/ready", "w").close()
    count = 0
    while not os.path.exists(folder + "/enough"):
        count += 1
        driven.set_value(0, Value(count % 2))
        assert watched.wait_edge_events(20), count
        watched.read_edge_events()
        assert watched.get_value(1).value == count % 2, count
print(count)
"""
TIMES = int(os.environ.get("GPIOVIRT_FAULTS", "3"))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, ["--sim", "s:DOOR,LAMP,X,", "--wire", "s:0=s:1"]) as made:
        with made.client() as client:
            client.ask(New(name="plc", definition="s 0-3", vm=True))
        yield made
        assert "fault of ours" not in made.log()


class Sampler:
    """Looks all the time whether a simulated line is high."""

    def __init__(self, daemon: Daemon, line: str) -> None:
        self._world = daemon.simulator()
        self._line = line
        self._enough = threading.Event()
        self.samples: list[int] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._enough.is_set():
            self.samples.append(self._world.get(self._line))
            time.sleep(0.0005)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()
        self._world.close()


@pytest.fixture(params=["7.2", "10"])
def emulator(request: pytest.FixtureRequest) -> str:
    """QEMU as users have it, and as it comes."""
    if request.param == "7.2":
        return "qemu-system-x86_64"
    build("qemu10")
    return str(build_path(RECIPES["qemu10"]) / "qemu-system-x86_64")


def kill_workers(daemon: Daemon, times: int, how: signal.Signals = signal.SIGKILL) -> None:
    """One after the other, and gpiovirtd before each second one; it kills those that it sees stopped."""
    before = daemon.log().count("goes on with its lines")
    for count in range(1, times + 1):
        time.sleep(0.2)
        if count % 2 and how is signal.SIGKILL:
            daemon.kill()
            time.sleep(0.1)
            daemon.start()
        os.kill(daemon.show("plc").chip.worker, how)
        daemon.wait_for(lambda n=before + count: daemon.log().count("goes on with its lines") >= n)  # type: ignore[misc]


def test_a_guest_goes_on_whoever_is_killed_in_mid_traffic(
    daemon: Daemon, tmp_path: Path, emulator: str
) -> None:
    """Though QEMU was not told to connect again: its connection is the same all the time."""
    vm = daemon.run / "vm/plc"
    with Qemu(vhost_gpio=[str(vm)], host_root=True, mem="512M", emulator=emulator) as guest:
        guest.run(HOLD)
        guest.run(f"{shlex.join([sys.executable, '-c', TRAFFIC, str(tmp_path)])} >/run/traffic 2>&1 &")
        daemon.wait_for((tmp_path / "ready").exists, 60)
        with Sampler(daemon, "s:2") as held:
            kill_workers(daemon, TIMES)
            kill_workers(daemon, 1, signal.SIGSTOP)
            time.sleep(0.3)
        (tmp_path / "enough").touch()
        done, wrong, _ = guest.run("sleep 0.5; cat /run/traffic").check().split()
        assert int(done) > 100
        assert wrong == "0"
        assert len(held.samples) > 100
        assert set(held.samples) == {1}
        assert daemon.log().count("has connected") == 1
        guest.reboot()
        assert guest.run("gpioget gpiochip0 3").check() == "0\n"
    daemon.wait_for(lambda: "is gone; its lines are released" in daemon.log())
    assert "broke the protocol" not in daemon.log()


@pytest.mark.parametrize("kind", ["uml", "qemu10"])
def test_every_edge_arrives_while_workers_are_killed(daemon: Daemon, tmp_path: Path, kind: str) -> None:
    build(kind)
    vm = [str(daemon.run / "vm/plc")]
    emulator = str(build_path(RECIPES["qemu10"]) / "qemu-system-x86_64")
    guest: Guest
    if kind == "uml":
        guest = Uml(vhost_gpio=vm)
    else:
        guest = Qemu(vhost_gpio=vm, host_root=True, mem="512M", emulator=emulator)
    with guest:
        guest.run(f"({python(EDGES, tmp_path)}) >/run/edges 2>&1 &")
        daemon.wait_for((tmp_path / "ready").exists, 60)
        kill_workers(daemon, TIMES)
        (tmp_path / "enough").touch()
        said = guest.run("sleep 0.5; cat /run/edges").check()
        assert int(said) > 50, said
    assert daemon.log().count("has connected") == 1


def test_a_killed_vm_gives_its_lines_back_and_the_next_is_served(daemon: Daemon) -> None:
    vm = daemon.run / "vm/plc"
    for _ in range(TIMES):
        with Qemu(vhost_gpio=[str(vm)]) as guest:
            guest.run(HOLD)
            daemon.wait_for(lambda: daemon.show("plc").lines[2].used)
            assert daemon.show("plc").vm_consumer is not None
            assert guest.run("gpioinfo").check().count("X") == 1
        daemon.wait_for(lambda: not daemon.show("plc").lines[2].used)


PANIC = """
echo 2 >/proc/sys/vm/panic_on_oom
mkdir /run/full
mount -t tmpfs -o size=100% full /run/full
dd if=/dev/zero of=/run/full/file bs=1M >/dev/null 2>&1 &
"""


@pytest.mark.parametrize("then", ["halts", "restarts"])
def test_outputs_are_safe_after_a_panic_in_the_guest(tmp_path: Path, then: str) -> None:
    """A machine that halts keeps its lines, so the watchdog sees to them; one that restarts lets them go."""
    with (
        Daemon(tmp_path, ["--sim", "m:LAMP,HEARTBEAT"]) as daemon,
        daemon.client() as client,
        closing(daemon.simulator()) as world,
    ):
        timeout_ms = 3000 if then == "halts" else 60_000
        watchdog = {"line": "HEARTBEAT", "timeout_ms": timeout_ms, "rearm": "operator"}
        client.ask(New("m 0-1", "machine", {"LAMP": "safe=low"}, {"watchdog": watchdog}, vm=True))

        def trips() -> int:
            return daemon.show("machine").rule_states[-1].trips

        with Qemu(mem="128M", vhost_gpio=[str(daemon.run / "vm/machine")]) as guest:
            toggle = "while :; do gpioset gpiochip0 1=1; gpioset gpiochip0 1=0; done &"
            guest.run(f"{toggle}\n{HOLD.replace('2=1', '0=1')}").check()
            daemon.wait_for(lambda: world.get("m:LAMP") == 1)
            time.sleep(4)
            assert (world.get("m:LAMP"), trips()) == (1, 0), "the watchdog is fed"
            guest.run(f"echo {0 if then == 'halts' else -1} >/proc/sys/kernel/panic\n{PANIC}").check()
            daemon.wait_for(lambda: world.get("m:LAMP") == 0, 30)
            with pytest.raises(GuestTimeoutError if then == "halts" else GuestError):
                guest.run("sleep 3", timeout_s=6)
            assert world.get("m:LAMP") == 0
            assert trips() == (then == "halts")
