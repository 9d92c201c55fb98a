# SPDX-License-Identifier: MIT
"""Which lines' pins a pin controller has given to a UART, a bus and so on, as debugfs tells root.

Its format is nobody's promise: what is not understood is not known.
"""

from __future__ import annotations

import glob
import re
from contextlib import suppress

from gpiovirt.core.chip import ChipInfo

__all__ = ["pin_functions"]

_DEBUGFS = "/sys/kernel/debug"
_SIZE_MAX = 1 << 20
_RANGE = re.compile(r"^\d+: (.+) GPIOS \[(\d+) - (\d+)\] PINS \[(\d+) - \d+\]$", re.MULTILINE)
# drivers/pinctrl/pinmux.c: pinmux_pins_show(); "device" if a pin has one owner only, a GPIO or a function
_PIN = re.compile(r"^pin (\d+) \([^)]*\): (?:device )?([^\s(]\S*) .*?\bfunction (\S+)", re.MULTILINE)


def pin_functions(chip: ChipInfo, debugfs: str = _DEBUGFS) -> dict[int, str]:
    """By offset, who has a line's pin, and for which function; empty if that cannot be known."""
    first = re.search(rf"^{re.escape(chip.name)}: GPIOs (\d+)-", _text(f"{debugfs}/gpio"), re.MULTILINE)
    if first is None:
        return {}
    found: dict[int, str] = {}
    for directory in glob.glob(f"{debugfs}/pinctrl/*/"):
        owners: dict[int, str] | None = None
        for label, *numbers in _RANGE.findall(_text(f"{directory}gpio-ranges")):
            if label != chip.label:
                continue
            if owners is None:
                pins = _PIN.findall(_text(f"{directory}pinmux-pins"))
                owners = {int(pin): f"{owner} ({function})" for pin, owner, function in pins}
            low, high, pin = map(int, numbers)
            offset = low - int(first[1])
            # who claims more than there is says nothing that can be relied upon
            for number in range(min(high - low + 1, chip.num_lines - offset)):
                if pin + number in owners and offset >= 0:
                    found[offset + number] = owners[pin + number]
    return found


def _text(path: str) -> str:
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read(_SIZE_MAX)
    return ""
