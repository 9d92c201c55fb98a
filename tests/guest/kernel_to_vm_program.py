# SPDX-License-Identifier: MIT
"""Runs in a guest: serves lines of its gpio-sim to a VM, a guest in the guest, and says what came through."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from guests.guest import Uml

SOCKET = "/run/plc.sock"
WORLD = Path("/sys/devices/platform/gpio-sim.0")
# each program that the inner guest starts takes a good part of a second
LOOK_AND_USE = """
gpioinfo
gpioget gpiochip0 1
gpioset --mode=signal gpiochip0 0=1 2=0 >/dev/null 2>&1 &
gpiomon --line-buffered --format='%o %e' gpiochip0 1 >/run/events &
until [ -n "$armed" ]; do
    while read -r line; do
        case $line in *gpiomon*) armed=1 ;; esac
    done </proc/interrupts
done
"""


def attribute(offset: int, name: str) -> Path:
    (path,) = WORLD.glob(f"gpiochip*/sim_gpio{offset}/{name}")
    return path


def level(offset: int) -> str:
    return attribute(offset, "value").read_text().strip()


def pull(offset: int, way: str) -> None:
    attribute(offset, "pull").write_text(f"pull-{way}")


def consumers() -> list[str]:
    """Who holds the lines of gpio-sim."""
    from gpiovirt.sources.finder import Finder

    with Finder().look() as look:
        chip = look.find("sim")
        assert chip is not None
        return [chip.line_info(offset).consumer for offset in range(4)]


def wait_until(what: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + 20
    while not what():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def main() -> None:
    tempfile.tempdir = "/run"  # sockets of a guest in a guest cannot be on the 9p file system
    command = [sys.executable, "-m", "gpiovirt", "serve", "--chip", "plc=sim 3 DOOR sim 0", "--vm"]
    with subprocess.Popen([*command, f"plc={SOCKET}"], stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        print(service.stderr.readline().strip())
        print("held:", consumers())
        pull(2, "up")
        with Uml(vhost_gpio=[SOCKET]) as guest:
            print(guest.run(LOOK_AND_USE).check(), end="")
            print("driven:", wait_until(lambda: level(3) == "1"), level(0))
            pull(2, "down")
            print("edge:", guest.run("until read edge </run/events; do :; done; echo $edge").check().strip())
            print("still driven:", level(3))
        print("released with its VM:", wait_until(lambda: level(3) == "0"))
        print("still held:", consumers())
        service.terminate()
        print("ended:", service.wait())
    print("given back:", consumers())


if __name__ == "__main__":
    main()
