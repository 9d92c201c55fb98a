# SPDX-License-Identifier: MIT
"""Runs in a guest: gpiovirtd on a gpio-sim, its processes killed, and what the hardware saw of that.

    python -m tests.guest.daemon_program WHAT TIMES

`sim` is a gpio-sim of 8 lines. A sampler reads, all the time, what gpio-sim itself says of an output that
is to stay high; one low sample is a failure.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpiovirt.protocols.control.requests import Delete, New
from gpiovirt.testing.daemon import Daemon
from gpiovirt.testing.service_manager import ServiceManager
from gpiovirt.testing.vmm import Vmm

CONFIG = Path("/sys/kernel/config/gpio-sim/sim")

SAMPLER = """
    import os, sys
    fd = os.open(sys.argv[1], os.O_RDONLY)
    print("sampling", flush=True)
    count = 0
    os.set_blocking(0, False)
    while True:
        count += 1
        if os.pread(fd, 1, 0) != b"1":
            sys.exit(f"low at sample {count}")
        if not count % 100:
            try:
                if not os.read(0, 1):
                    print(count)
                    break
            except BlockingIOError:
                pass
"""
BLINKER = """
    import gpiod, sys
    from gpiod.line import Direction, Value
    settings = {(0, 1): gpiod.LineSettings(direction=Direction.OUTPUT, output_value=Value.ACTIVE)}
    counter = open(sys.argv[1], "w+b", buffering=0)
    with gpiod.request_lines("/dev/gpiochip0", settings, consumer="blinker") as request:
        count = 0
        while True:
            value = Value(count & 1)
            request.set_value(0, value)
            if request.get_value(0) != value or request.get_value(1) != Value.ACTIVE:
                sys.exit("a request was lost")
            count += 1
            counter.seek(0)
            counter.write(str(count).encode())
"""


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """It ends with the block, which must not wait for it when something is wrong."""
    with process:
        try:
            yield
        finally:
            process.kill()


def world(offset: int) -> Path:
    """gpio-sim's own directory of a line."""
    device = (CONFIG / "dev_name").read_text().strip()
    (found,) = Path(f"/sys/devices/platform/{device}").glob(f"gpiochip*/sim_gpio{offset}")
    return found


class Machine:
    """A daemon, a program that blinks with line 0 of its chip, and a sampler of line 1, which is high."""

    def __init__(self, folder: Path, **popen: Any) -> None:
        self.folder = folder
        self.daemon = Daemon(folder, **popen)
        with self.daemon.client() as client:
            client.ask(New(name="plc", definition="sim 2 5"))
        self.counter = folder / "counter"
        run = [sys.executable, "-m", "gpiovirt", "run", "--chip", "plc", "--", sys.executable, "-c"]
        self.blinker = subprocess.Popen(
            [*run, textwrap.dedent(BLINKER), str(self.counter)], env=self.daemon.environment
        )
        self.until(lambda: self.count() > 0)
        value = world(5) / "value"
        self.sampler = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SAMPLER), str(value)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.sampler.stdout is not None
        assert self.sampler.stdout.readline() == "sampling\n"

    def count(self) -> int:
        try:
            return int(self.counter.read_text() or 0)
        except FileNotFoundError:
            return 0

    def until(self, condition: Callable[[], object], timeout_s: float = 30) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.blinker.poll() is None, f"the program has ended: {self.daemon.log()}"
            assert time.monotonic() < deadline, self.daemon.log()
            time.sleep(0.01)

    def goes_on(self) -> None:
        goal = self.count() + 10
        self.until(lambda: self.count() >= goal)

    def worker(self) -> int:
        return int(self.daemon.show("plc").chip.worker)

    def end(self) -> None:
        assert self.sampler.poll() is None, "an output moved"
        printed, _ = self.sampler.communicate("", 10)
        assert self.sampler.returncode == 0, "an output moved"
        assert int(printed) > 100
        self.blinker.kill()
        self.blinker.wait()


def has_files(pid: int) -> bool:
    try:
        return bool(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


def kill_workers(machine: Machine) -> None:
    former = machine.worker()
    os.kill(former, signal.SIGKILL)
    machine.goes_on()
    machine.until(lambda: machine.worker() not in (0, former))


def kill_daemons(machine: Machine) -> None:
    machine.daemon.kill()
    machine.goes_on()
    machine.daemon.start()
    machine.goes_on()


def kill_daemon_then_worker(machine: Machine) -> None:
    worker = machine.worker()
    machine.daemon.kill()
    machine.daemon.start()
    os.kill(worker, signal.SIGKILL)
    machine.goes_on()


def execute_again(machine: Machine) -> None:
    ready = machine.daemon.log().count("ready")
    machine.daemon.process.send_signal(signal.SIGHUP)
    machine.daemon.wait_for(lambda: machine.daemon.log().count("ready") > ready)
    machine.goes_on()


def all_die(folder: Path, times: int) -> None:
    """Both the daemon and the workers at once: the service manager has the lines, and a VM's session.

    Programs and the VM go on.
    """
    Path("/proc/sys/net/unix/max_dgram_qlen").write_text("512")  # as systemd has it
    manager = ServiceManager(folder)
    daemon = Daemon(folder, env=manager.environment())
    with daemon.client() as client:
        client.ask(New(name="plc", definition="sim 2 5"))
        client.ask(New(name="vm", definition="sim 6", vm=True))
    run = [sys.executable, "-m", "gpiovirt", "run", "--chip", "plc", "--"]
    value, of_vm = world(5) / "value", world(6) / "value"
    long = subprocess.Popen([*run, "gpioset", "--mode=signal", "gpiochip0", "0=1"], env=daemon.environment)
    with Vmm() as vmm, ended(long):
        vmm.connect(str(daemon.run / "vm/vm"))
        vmm.start()
        vmm.driver.direction_output(0, 1)
        for _ in range(times):
            subprocess.run([*run, "gpioset", "gpiochip0", "1=1"], env=daemon.environment, check=True)
            manager.receive()
            assert sorted(manager.kept) == [
                *("plc/0", "plc/1", "plc/record", "plc/state", "plc/tty"),
                *("vm/0", "vm/keeper", "vm/record", "vm/state", "vm/tty"),
            ]
            workers = daemon.workers()
            daemon.kill()
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
            while any(map(has_files, workers)):
                time.sleep(0.01)
            assert value.read_text() == of_vm.read_text() == "1\n"
            daemon.start_by(manager.hand_over)
            assert not {*workers} & {*daemon.workers()}
            assert value.read_text() == of_vm.read_text() == "1\n"
            held = subprocess.run(["gpioinfo"], stdout=subprocess.PIPE, text=True, check=True).stdout
            assert held.count('"gpiovirt:plc"') == 2
            for level in (0, 1):
                vmm.driver.set_value(0, level)
                assert vmm.driver.get_value(0) == level
                assert of_vm.read_text() == f"{level}\n"
            daemon.wait_for(lambda: daemon.show("plc").lines[0].consumer == "gpioset")
            time.sleep(0.5)  # past when a program that does not come back has lost its lines
            assert world(2).joinpath("value").read_text() == "1\n"
            assert long.poll() is None
    assert daemon.log().count("has connected") == 1
    manager.receive()  # its socket has room for a few messages
    with daemon.client() as client:
        for name in ("plc", "vm"):
            client.ask(Delete(name=name, force=True))
            manager.receive()
    assert not manager.kept
    daemon.stop(signal.SIGINT)
    manager.close()


def unplug(folder: Path, times: int) -> None:
    """The source chip vanishes and comes back, and the chip with it."""
    daemon = Daemon(folder)
    with daemon.client() as client:
        client.ask(New(name="plc", definition="sim 2 5"))
    run = [sys.executable, "-m", "gpiovirt", "run", "--chip", "plc", "--"]
    for _ in range(times):
        (CONFIG / "live").write_text("0")
        daemon.wait_for(lambda: not any(line.there for line in daemon.show("plc").lines))
        gone = subprocess.run(
            [*run, "gpioget", "gpiochip0", "0"],
            env=daemon.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "No such device" in gone.stderr, gone
        (CONFIG / "live").write_text("1")
        daemon.wait_for(lambda: all(line.there for line in daemon.show("plc").lines))
        subprocess.run([*run, "gpioset", "gpiochip0", "1=1"], env=daemon.environment, check=True)
        assert (world(5) / "value").read_text() == "1\n"
    daemon.stop(signal.SIGINT)


FAULTS = {
    "kill-workers": kill_workers,
    "kill-daemons": kill_daemons,
    "kill-daemon-then-worker": kill_daemon_then_worker,
    "execute-again": execute_again,
}


def main() -> None:
    what, times = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if what == "all-die":
            all_die(folder, times)
        elif what == "unplug":
            unplug(folder, times)
        else:
            machine = Machine(folder)
            for _ in range(times):
                FAULTS[what](machine)
            machine.end()
            machine.daemon.stop(signal.SIGINT)
    print("nothing moved, nothing was lost")


if __name__ == "__main__":
    main()
