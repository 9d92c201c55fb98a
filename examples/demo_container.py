# SPDX-License-Identifier: MIT
"""Two containers drive a chip each; one is killed, its outputs are safe, and it is started again.

A gpiovirtd of its own serves simulated lines. The containers are runc's, made of this machine's programs.
The exit status is 1 if anything is not as expected.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gpiovirt.errors import GpiovirtError
from gpiovirt.testing.bundle import make_bundle, make_root
from gpiovirt.testing.daemon import Daemon

GPIOVIRT = str(Path(sys.executable).with_name("gpiovirt"))
CHIPS = {"pump": "sim-a 0-3", "gate": "sim-b 0-1"}


class Demo:
    """Runs commands, shows them as typed, and checks what they print."""

    def __init__(self, folder: Path, daemon: Daemon) -> None:
        self.folder = folder
        self.daemon = daemon
        self.root = make_root(folder / "root")
        self.id = os.getpid()
        self.running: dict[str, subprocess.Popen[str]] = {}

    def run(self, *argv: str, expected: str = "") -> str:
        print(f"$ {shlex.join(argv)}", flush=True)
        command = [GPIOVIRT, *argv[1:]] if argv[0] == "gpiovirt" else list(argv)
        done = subprocess.run(
            command, env=self.daemon.environment, cwd=self.folder, text=True, capture_output=True, check=False
        )
        print("".join(f"    {line}\n" for line in (done.stdout + done.stderr).splitlines()))
        if done.returncode or expected not in done.stdout:
            raise SystemExit(f"expected: {expected or 'success'}")
        return done.stdout

    def start(self, chip: str, *program: str) -> None:
        """A container that has the chip."""
        if chip not in self.running:
            make_bundle(self.folder / chip, self.root, program)
            self.run("gpiovirt", "oci", "edit", "--chip", chip, chip)
        name = f"{chip}-{self.id}"
        print(f"$ runc run --bundle {chip} {name} &\n")
        command = ["runc", "run", "--bundle", str(self.folder / chip), name]
        self.running[chip] = subprocess.Popen(command, env=self.daemon.environment, text=True)

    def kill(self, chip: str) -> None:
        self.run("runc", "kill", f"{chip}-{self.id}", "KILL")
        self.running[chip].wait(10)

    def level(self, line: str) -> int:
        """What the world sees."""
        with self.daemon.simulator() as simulator:
            return simulator.get(line)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"it never came true: {what}")
        time.sleep(0.005)


def demonstrate(demo: Demo) -> None:
    for chip, lines in CHIPS.items():
        demo.run("gpiovirt", "new", chip, lines, "--line", f"{1 if chip == 'pump' else 0}=safe=low")
    demo.start("pump", "gpioset", "--mode=signal", "gpiochip0", "1=1")
    demo.start("gate", "gpioset", "--mode=signal", "gpiochip0", "0=1")
    wait_for(lambda: demo.level("sim-a:1") == demo.level("sim-b:0") == 1, "both outputs are high")
    print("Each container has its chip as /dev/gpiochip0, and of GPIO nothing else.\n")
    demo.run("runc", "exec", f"pump-{demo.id}", "gpioinfo", expected='"gpioset"')
    demo.run("runc", "exec", f"gate-{demo.id}", "gpiodetect", expected="gpiochip0 [gate] (2 lines)")
    demo.kill("pump")
    wait_for(lambda: demo.level("sim-a:1") == 0, "the pump is off")
    print(f"The pump is off: its line is in its safe state. The gate is still {demo.level('sim-b:0')}.\n")
    demo.start("pump", "gpioset", "--mode=signal", "gpiochip0", "1=1")
    wait_for(lambda: demo.level("sim-a:1") == 1, "the pump is on again")
    print("The pump is on again, with a new container.\n")
    demo.run("gpiovirt", "log", "pump", expected='by "gpioset"')


def main() -> int:
    if os.getuid():
        sys.stderr.write("containers of runc are made by root here: sudo make demo-container\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="gpiovirt-demo-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            arguments = ["--sim", "sim-a:8", "--sim", "sim-b:4", "--no-files", "--no-api"]
            with Daemon(folder, arguments) as daemon:
                demo = Demo(folder, daemon)
                try:
                    demonstrate(demo)
                finally:
                    for chip, process in demo.running.items():
                        if process.poll() is None:
                            subprocess.run(["runc", "kill", f"{chip}-{demo.id}", "KILL"], check=False)
                            process.wait(10)
        except GpiovirtError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    print("Everything was as expected.")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
