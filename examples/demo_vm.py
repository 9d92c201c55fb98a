# SPDX-License-Identifier: MIT
"""A real guest kernel uses a virtual chip as its own: lists, drives, reads and watches its lines.

Boots User Mode Linux and, where it is installed, QEMU; each step shows what the guest printed and is
checked. The exit status is 1 if anything is not as expected.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gpiovirt.testing.service import Service  # noqa: E402
from guests.guest import Guest, Qemu, Uml  # noqa: E402

SERVE = ["--sim", "sim-a:4", "--sim", "sim-b:DOOR,LAMP", "--chip", "plc=sim-a 0 3, sim-b 0-1"]

PICTURE = """\
  simulated chips       virtual chip        virtual machine

  sim-a:0       ----->  plc:0        \\
  sim-a:3       ----->  plc:1         |     vhost-user    virtio-gpio
  sim-b:0 DOOR  ----->  plc:2 DOOR    |---  a socket  --->  /dev/gpiochip0
  sim-b:1 LAMP  ----->  plc:3 LAMP   /
"""

HOLD_LAMP = "gpioset --mode=time --sec=100 gpiochip0 3=1 >/dev/null 2>&1 &"
WATCH_DOOR = """\
gpiomon --num-events=2 --format='edge %e of line %o' gpiochip0 2 >/run/edges &
until grep -q gpiomon /proc/interrupts; do :; done"""


class Show:
    """Prints steps as they are done, in colour on a terminal, and counts what was wrong."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty()
        self.wrong = 0

    def _paint(self, code: int, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text

    def heading(self, text: str) -> None:
        print(f"\n{self._paint(1, text)}", flush=True)

    def step(self, what: str, output: str, expected: str | Callable[[str], bool]) -> None:
        right = expected(output) if callable(expected) else output.strip() == expected
        self.wrong += not right
        mark = self._paint(32, "ok") if right else self._paint(31, "WRONG")
        print(f"  {mark:5} {what}")
        for line in output.strip().splitlines():
            print(f"        {self._paint(2, line)}")
        sys.stdout.flush()


def tour(show: Show, guest: Guest, service: Service, edges: bool) -> None:
    """What a user of the guest does."""
    listed = guest.run("gpioinfo").check()
    show.step(
        "the guest lists its chip: gpioinfo", listed, lambda text: '"DOOR"' in text and "4 lines" in text
    )

    guest.run(HOLD_LAMP)
    deadline = time.monotonic() + 10
    while not service.sim.get("sim-b:1") and time.monotonic() < deadline:
        time.sleep(0.02)
    lamp = f"the world sees LAMP at {service.sim.get('sim-b:1')}"
    show.step("it drives a line: gpioset gpiochip0 3=1", lamp, "the world sees LAMP at 1")

    service.sim.pull("DOOR", "up")
    show.step(
        "it reads a line that the world pulls up: gpioget gpiochip0 2",
        guest.run("gpioget gpiochip0 2").stdout,
        "1",
    )
    service.sim.pull("DOOR", "down")

    if edges:
        guest.run(WATCH_DOOR).check()
        service.sim.pull("DOOR", "up")
        time.sleep(0.1)
        service.sim.pull("DOOR", "down")
        seen = guest.run("sleep 0.2; cat /run/edges").stdout
        show.step("it watches a line: gpiomon gpiochip0 2", seen, "edge 1 of line 2\nedge 0 of line 2")

    guest.kill()
    service.wait_for_consumer("sim-b:1", "gpiovirt:")
    deadline = time.monotonic() + 10
    while service.sim.get("sim-b:1") and time.monotonic() < deadline:
        time.sleep(0.02)
    lamp = f"the world sees LAMP at {service.sim.get('sim-b:1')}"
    show.step("it is killed, and its lines are released", lamp, "the world sees LAMP at 0")


def build(*targets: str) -> None:
    """Kernels take minutes the first time; then they are there."""
    for target in targets:
        subprocess.run([ROOT / "guests/build", target], check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    show = Show()
    print(PICTURE)
    has_qemu = shutil.which("qemu-system-x86_64") is not None
    build("uml", *(["x86"] if has_qemu else []))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/plc.sock"
        with Service([*SERVE, "--vm", f"plc={path}"]) as service:
            show.heading("User Mode Linux")
            with Uml(vhost_gpio=[path]) as uml:
                tour(show, uml, service, edges=True)
            if has_qemu:
                show.heading("QEMU (up to version 8 it hides edges from its guests)")
                with Qemu(vhost_gpio=[path]) as qemu:
                    tour(show, qemu, service, edges=False)
            else:
                show.heading("QEMU is not installed: sudo apt-get install qemu-system-x86")
            show.heading("the service ends")
            show.step(
                "SIGTERM",
                f"status {service.stop()}, left: {list(Path(folder).iterdir())}",
                "status 0, left: []",
            )
    print("\nall as expected" if not show.wrong else f"\n{show.wrong} steps went wrong")
    return int(show.wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
