# SPDX-License-Identifier: MIT
"""Blink a line: blink.py CHIP LINE [TIMES], as in: blink.py /dev/gpiochip0 LAMP 3"""

import sys
import time

import gpiod
from gpiod.line import Direction, Value


def blink(chip: str, line: str, times: int, period_s: float = 0.1) -> None:
    """Drive a line, given by name or offset, high and low."""
    offset = int(line) if line.isdecimal() else line
    output = gpiod.LineSettings(direction=Direction.OUTPUT)
    with gpiod.request_lines(chip, consumer="blink", config={offset: output}) as request:
        for _ in range(times):
            for value in (Value.ACTIVE, Value.INACTIVE):
                request.set_value(offset, value)
                time.sleep(period_s / 2)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    blink(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) == 4 else 5)
