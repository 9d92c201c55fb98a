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
from pathlib import Path

import pytest

from gpiovirt.testing.daemon import Daemon
from guests.guest import Qemu
from tests.guest.test_vm_qemu import HOLD, TRAFFIC

pytestmark = pytest.mark.usefixtures("has_x86")

TIMES = int(os.environ.get("GPIOVIRT_FAULTS", "3"))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, ["--sim", "s:DOOR,LAMP,X,", "--wire", "s:0=s:1"]) as made:
        with made.client() as client:
            client.call("new", name="plc", definition="s 0-3", vm=True)
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


def test_a_guest_goes_on_whoever_is_killed_in_mid_traffic(daemon: Daemon, tmp_path: Path) -> None:
    vm = daemon.run / "vm/plc"
    with Qemu(vhost_gpio=[f"{vm},reconnect=1"], host_root=True, mem="512M") as guest:
        guest.run(HOLD)
        guest.run(f"{shlex.join([sys.executable, '-c', TRAFFIC, str(tmp_path)])} >/run/traffic 2>&1 &")
        daemon.wait_for((tmp_path / "ready").exists, 30)
        with Sampler(daemon, "s:2") as held:
            for count in range(1, TIMES + 1):
                time.sleep(0.2)
                if count % 2:
                    daemon.kill()
                    time.sleep(0.1)
                    daemon.start()
                os.kill(daemon.show("plc")["worker"], signal.SIGKILL)
                daemon.wait_for(lambda n=count: daemon.log().count("goes on with its lines") >= n)  # type: ignore[misc]
            time.sleep(0.3)
        (tmp_path / "enough").touch()
        done, wrong, stood_still = guest.run("sleep 0.5; cat /run/traffic").check().split()
        assert int(done) > 100
        assert (wrong, stood_still) == ("0", "True")
        assert len(held.samples) > 100
        assert set(held.samples) == {1}


def test_a_killed_vm_gives_its_lines_back_and_the_next_is_served(daemon: Daemon) -> None:
    vm = daemon.run / "vm/plc"
    for _ in range(TIMES):
        with Qemu(vhost_gpio=[str(vm)]) as guest:
            guest.run(HOLD)
            daemon.wait_for(lambda: daemon.show("plc")["lines"][2]["used"])
            assert daemon.show("plc")["vm_consumer"]["pid"] > 0
            assert guest.run("gpioinfo").check().count("X") == 1
        daemon.wait_for(lambda: not daemon.show("plc")["lines"][2]["used"])
