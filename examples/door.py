# SPDX-License-Identifier: MIT
"""The lamp on GPIO27 is on while the door's contact on GPIO17 is closed."""

from typing import Any

import gpiod
from gpiod.line import Direction, Edge

LINES: Any = {
    "GPIO17": gpiod.LineSettings(edge_detection=Edge.BOTH),
    "GPIO27": gpiod.LineSettings(direction=Direction.OUTPUT),
}
with gpiod.request_lines("/dev/gpiochip0", LINES, consumer="door") as lines:
    while True:
        lines.read_edge_events()
        lines.set_value("GPIO27", lines.get_value("GPIO17"))
