# SPDX-License-Identifier: MIT
"""A chip of gpiovirtd and its VM, whose connection outlives every process of gpiovirtd's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gpiovirt.host.received import send
from gpiovirt.protocols.control.requests import Delete, New
from gpiovirt.protocols.vhost_user import messages as m
from gpiovirt.protocols.vhost_user.messages import Request
from gpiovirt.testing.daemon import Daemon
from gpiovirt.testing.vmm import Vmm
from gpiovirt.uapi import virtio_gpio as u
from tests.silent_file import silent_file


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, ["--sim", "s:4", "--wire", "s:0=s:1"]) as made:
        with made.client() as client:
            client.ask(New(name="plc", definition="s 0-3", vm=True))
        yield made
        assert "fault of ours" not in made.log()
        assert "Traceback" not in made.log()


@pytest.fixture
def vmm(daemon: Daemon) -> Iterator[Vmm]:
    with Vmm() as vmm:
        vmm.connect(str(daemon.run / "vm/plc"))
        vmm.start()
        vmm.driver.direction_output(0, 1)
        vmm.driver.direction_input(1)
        vmm.driver.set_irq_type(1, u.VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH)
        yield vmm


def goes_on(vmm: Vmm) -> None:
    """Each value is what was set, and each edge comes, on the connection there is."""
    for value in (0, 1, 0, 1):
        vmm.driver.unmask(1)
        vmm.driver.set_value(0, value)
        deadline = time.monotonic() + 5
        while not (events := vmm.driver.events()):
            vmm.wait(u.VIRTIO_GPIO_EVENTQ, 0.2)
            assert time.monotonic() < deadline, "no edge"
        assert events == [(1, u.VIRTIO_GPIO_IRQ_STATUS_VALID)]
        assert vmm.driver.get_value(1) == value
    assert vmm.get_config(0, 2) == b"\4\0"


def keeper(daemon: Daemon) -> int:
    """The keeper there is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "comm").read_text() == "gpiovirt-keep\n":
                ours = os.fsencode(daemon.run) in (process / "environ").read_bytes()
                found += [int(process.name)] * ours
    (only,) = found
    return only


def worker(daemon: Daemon) -> int:
    return int(daemon.show("plc").chip.worker)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_vm_goes_on_when_its_worker_is_killed_or_stopped(
    daemon: Daemon, vmm: Vmm, how: signal.Signals
) -> None:
    for _ in range(3):
        former = worker(daemon)
        os.kill(former, how)
        goes_on(vmm)
        daemon.wait_for(lambda former=former: worker(daemon) not in (0, former))  # type: ignore[misc]
    assert daemon.log().count("has connected") == 1


@pytest.mark.usefixtures("vmm")
def test_a_program_is_told_which_vm_holds_a_line_whichever_worker_serves_it(daemon: Daemon) -> None:
    gpioget = ["run", "-v", "--chip", "plc", "--", "gpioget", "gpiochip0", "0"]
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "gpiovirt", *gpioget],
            env=daemon.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert f'" (pid {os.getpid()}, uid {os.getuid()}); release it' in done.stderr
        former = worker(daemon)
        os.kill(former, signal.SIGKILL)
        daemon.wait_for(lambda former=former: worker(daemon) not in (0, former))  # type: ignore[misc]


def test_output_of_a_vm_stays_while_its_worker_is_replaced(daemon: Daemon, vmm: Vmm) -> None:
    with daemon.simulator() as world:
        os.kill(worker(daemon), signal.SIGKILL)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            assert world.get("s:0") == 1
    goes_on(vmm)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_vm_goes_on_when_its_keeper_is_killed_or_stopped_and_then_its_worker(
    daemon: Daemon, vmm: Vmm, how: signal.Signals
) -> None:
    for count in (1, 2):
        os.kill(keeper(daemon), how)
        goes_on(vmm)
        daemon.wait_for(lambda count=count: daemon.log().count("keeper of its VM is gone") == count)  # type: ignore[misc]
        daemon.wait_for(lambda: _is_kept(daemon))
        os.kill(worker(daemon), signal.SIGKILL)
        goes_on(vmm)


def _is_kept(daemon: Daemon) -> bool:
    """Whether there is a keeper that has the guest's memory."""
    with suppress(ValueError, OSError):
        directory = Path(f"/proc/{keeper(daemon)}/fd")
        return any("memfd:guest" in os.readlink(fd) for fd in directory.iterdir())
    return False


def test_vm_goes_on_when_gpiovirtd_is_killed_and_then_its_worker(daemon: Daemon, vmm: Vmm) -> None:
    for _ in range(2):
        daemon.kill()
        goes_on(vmm)
        daemon.start()
        os.kill(worker(daemon), signal.SIGKILL)
        goes_on(vmm)


def test_vm_that_ends_while_its_worker_is_replaced_gives_its_lines_back(daemon: Daemon, vmm: Vmm) -> None:
    os.kill(worker(daemon), signal.SIGKILL)
    vmm.disconnect()
    daemon.wait_for(lambda: "is gone; its lines are released" in daemon.log())
    assert not daemon.show("plc").lines[0].used
    with Vmm() as following:
        following.connect(str(daemon.run / "vm/plc"))
        following.start()
        following.driver.direction_output(0, 1)


def test_keeper_ends_with_its_chip(daemon: Daemon, vmm: Vmm) -> None:
    pid = keeper(daemon)
    with daemon.client() as client:
        client.ask(Delete(name="plc", force=True))
    assert vmm.sock is not None
    assert vmm.sock.recv(1) == b""
    daemon.wait_for(lambda: not os.path.exists(f"/proc/{pid}"))


def test_file_that_cannot_be_closed_stops_no_chip(daemon: Daemon, tmp_path: Path) -> None:
    """Its worker goes on, and after some of these another takes over, without waiting for the first one."""
    path = str(daemon.run / "vm/plc")
    with silent_file(tmp_path / "fuse") as fd:
        first = worker(daemon)
        for count in range(20):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(15)
                sock.connect(path)
                send(sock, m.header.pack(Request.SET_VRING_ERR, m.VERSION, 8) + bytes(8), [fd])
                with suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
            if count == 3:
                with Vmm() as vmm:
                    vmm.connect(path)
                    assert worker(daemon) == first
        daemon.wait_for(lambda: worker(daemon) not in (0, first))
        with Vmm() as vmm:
            vmm.connect(path)
            vmm.start()
            vmm.driver.direction_output(0, 1)
