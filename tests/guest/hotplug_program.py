# SPDX-License-Identifier: MIT
"""Runs on a virtual chip in a guest: line 0 is of the gpio-sim `sim`, line 1 of a simulated chip.

It tears the gpio-sim down, makes it anew, and says what it saw of that.
"""

from __future__ import annotations

import errno
import select
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import gpiod
from gpiod.line import Direction, Edge, Value

CONFIG = Path("/sys/kernel/config/gpio-sim/sim")
INPUT = gpiod.LineSettings(direction=Direction.INPUT, edge_detection=Edge.BOTH)
OUTPUT = gpiod.LineSettings(direction=Direction.OUTPUT, output_value=Value.ACTIVE)


def failure(what: object) -> str:
    try:
        what()  # type: ignore[operator]
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "works"


def main() -> None:
    chip = gpiod.Chip("/dev/gpiochip0")
    real = chip.request_lines({0: INPUT}, consumer="real")
    simulated = chip.request_lines({1: OUTPUT}, consumer="simulated")
    print("before:", failure(lambda: real.get_value(0)), failure(lambda: simulated.get_value(1)))

    (CONFIG / "live").write_text("0")
    poll = select.poll()
    poll.register(real.fd, select.POLLIN)
    print("hung up:", bool(poll.poll(5000)[0][1] & select.POLLHUP))
    print("gone:", failure(lambda: real.get_value(0)), failure(lambda: simulated.get_value(1)))
    print("asked anew:", failure(lambda: chip.request_lines({0: INPUT})))
    real.release()

    (CONFIG / "live").write_text("1")
    deadline = time.monotonic() + 5
    while failure(lambda: chip.request_lines({0: OUTPUT}).release()) != "works":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again = chip.request_lines({0: OUTPUT}, consumer="again")
    device = (CONFIG / "dev_name").read_text().strip()
    (value,) = Path(f"/sys/devices/platform/{device}").glob("gpiochip*/sim_gpio3/value")
    print("back:", value.read_text().strip())
    again.reconfigure_lines({0: INPUT})
    subprocess.run(
        ["sh", "-c", f"echo pull-down > {value.parent}/pull; echo pull-up > {value.parent}/pull"], check=True
    )
    print("edges:", again.wait_edge_events(timedelta(seconds=5)), failure(lambda: simulated.get_value(1)))


if __name__ == "__main__":
    main()
