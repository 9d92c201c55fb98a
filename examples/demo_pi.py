# SPDX-License-Identifier: MIT
"""Lines of a Raspberry Pi's own controller as a virtual chip, for a program and by new_device.

Boots an emulated Raspberry Pi 3 with Debian's unchanged kernel; each step shows what was printed there and is
checked. The exit status is 1 if anything is not as expected.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples.demo_vm import Show  # noqa: E402
from guests.boards import Board  # noqa: E402

PICTURE = """\
  Raspberry Pi 3 (emulated)     virtual chip        programs of the user pi

  gpiochip0:17 GPIO17   ----->  robot:0  \\
  gpiochip0:27 GPIO27   ----->  robot:1   |
  gpiochip0:22 GPIO22   ----->  robot:2   |---  /dev/gpiochip0  --->  gpioinfo, gpioset, ...
  gpiochip0:23 GPIO23   ----->  robot:3   |
  gpiochip0:24 GPIO24   ----->  robot:4  /
  the other 49 lines            out of reach
"""

ROBOT = "gpiovirt run --chip 'robot=gpiochip0 17 27, gpiochip0 22-24' --"
DRIVER = "/run/gpiovirt/bus/platform/drivers/gpio-virt-agg"

# a group may use the chips, as by Raspberry Pi OS's rule for udev, which is not there
START = """\
chgrp gpio /dev/gpiochip* && chmod 0660 /dev/gpiochip*
gpiovirtd --no-config --no-api >/run/daemon 2>&1 &
"""
HOLD = f"{ROBOT} gpioset -c gpiochip0 3=1 >/run/user/said 2>&1 & echo $! >/run/user/holder"
HELD = "timeout 30 sh -c 'until grep GPIO23.*robot.*out /sys/kernel/debug/gpio; do sleep 0.2; done'"
NEW = f"""\
timeout 60 sh -c 'until [ -e {DRIVER}/new_device ]; do sleep 0.2; done'; cd {DRIVER}
echo 'gpiochip0 5 6, gpiochip0 16' >new_device && cat gpio-virt-agg.0/lines
chown pi:gpio /run/gpiovirt/chips/gpio-virt-agg.0
"""
NOT_SHOWN = """
Not shown, as nothing is connected to an emulated Raspberry Pi: inputs that change, edges, the effect of bias.
"""


def tour(show: Show, board: Board) -> None:
    """What a user of the Raspberry Pi does."""
    board.run(f"mkdir -m 1777 /run/user; {START}").check()
    show.step(
        "its kernel's own chips: gpiodetect",
        board.run("gpiodetect").check(),
        lambda text: "[pinctrl-bcm2835] (54 lines)" in text,
    )
    listed = board.run(f"{ROBOT} gpioinfo", user="pi").check()
    show.step(
        "five of its lines, as a chip of their own, for the user pi: gpiovirt run ... -- gpioinfo",
        listed,
        lambda text: (
            "5 lines" in text and text.index("GPIO27") < text.index("GPIO22") and "GPIO5" not in text
        ),
    )
    board.run(HOLD, user="pi").check()
    show.step(
        "pi drives a line: gpioset -c gpiochip0 3=1; the kernel's view of it, in /sys/kernel/debug/gpio",
        board.run(HELD).stdout,
        lambda text: "out hi" in text,
    )
    show.step(
        "meanwhile nobody else gets it: gpioget -c gpiochip0 GPIO23",
        board.run("gpioget -c gpiochip0 GPIO23 2>&1").stdout,
        lambda text: "Device or resource busy" in text,
    )
    board.run("kill $(cat /run/user/holder)", user="pi")
    # the command is a program's first and only one, so it begins with the chip as it finds it
    command = "gpioset -t0 -c gpiochip0 4=1; gpioget --as-is --numeric -c gpiochip0 4; gpioget -c gpiochip0 5"
    show.step(
        "pi writes and reads back, and gets no sixth line",
        board.run(f"{ROBOT} sh -c '{command}' 2>&1", user="pi").stdout,
        lambda text: text.startswith("1\n") and "offset 5 is out of range" in text,
    )
    show.heading("gpiovirtd: the files of the 2019 proposal")
    show.step(
        "echo 'gpiochip0 5 6, gpiochip0 16' >new_device",
        board.run(f"{{ {NEW} }} 2>&1").stdout,
        "0 pinctrl-bcm2835:5\n1 pinctrl-bcm2835:6\n2 pinctrl-bcm2835:16",
    )
    show.step(
        "pi, who owns it, uses it: gpiovirt run --chip gpio-virt-agg.0 -- gpioinfo",
        board.run("gpiovirt run --chip gpio-virt-agg.0 -- gpioinfo 2>&1", user="pi").stdout,
        lambda text: "3 lines" in text and "GPIO16" in text,
    )
    busy = f"cd {DRIVER}; env echo gpiochip0 6 2>&1 >new_device"
    show.step(
        "a line is in one chip only: echo gpiochip0 6 >new_device",
        board.run(busy).stdout,
        lambda text: "Device or resource busy" in text,
    )


def main() -> int:
    show = Show()
    print(PICTURE, flush=True)
    # what the control files are served with is one file of Python
    mfusepy = importlib.util.find_spec("mfusepy")
    assert mfusepy and mfusepy.origin, "mfusepy is missing: pip install 'gpiovirt[daemon]'"
    subprocess.run([ROOT / "guests/build", "arm64"], check=True, stdout=subprocess.DEVNULL)
    started = time.monotonic()
    with Board("raspi3b", files={"mfusepy.py": Path(mfusepy.origin)}) as board:
        show.heading(f"Raspberry Pi 3, booted in {time.monotonic() - started:.0f} s")
        tour(show, board)
    print(NOT_SHOWN)
    print("all as expected" if not show.wrong else f"{show.wrong} steps went wrong")
    return int(show.wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
