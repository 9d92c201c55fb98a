# SPDX-License-Identifier: MIT
"""An emulated Raspberry Pi 3 with Debian's kernel: lines of its controller; `make test-boards` does more."""

from __future__ import annotations

from guests.boards import Board
from tests.guest.conftest import build

DRIVE = "gpioset -t0 -c gpiochip0 1=1; gpioget --as-is --numeric -c gpiochip0 1; gpioinfo"


def test_lines_of_a_raspberry_pi_are_a_chip_of_an_ordinary_user() -> None:
    build("arm64")
    with Board("raspi3b") as board:
        board.run("chgrp gpio /dev/gpiochip*; chmod 0660 /dev/gpiochip*").check()
        run = f"gpiovirt run --chip 'robot=pinctrl-bcm2835 27 17' -- sh -c '{DRIVE}'"
        level, heading, *lines = board.run(run, user="pi").check().splitlines()
    assert (level, heading) == ("1", "gpiochip0 - 2 lines:")
    assert [line.split('"')[1] for line in lines] == ["GPIO27", "GPIO17"]
