# SPDX-License-Identifier: MIT
"""The GPIO character device as a state machine, uAPI v1 and v2.

A ChipFile is one open file of the device: (ioctl number, bytes) in, an Answer out. What a request
opens is a file too. Events leave through a Fifo that the export provides.
"""

from __future__ import annotations

from gpiovirt.protocols.gpiochip.chip import CHIP_FIFO, ChipFile, fifo_of
from gpiovirt.protocols.gpiochip.file import Answer, Fifo, FifoFactory, FifoShape, File, refusal

__all__ = [
    "CHIP_FIFO",
    "Answer",
    "ChipFile",
    "Fifo",
    "FifoFactory",
    "FifoShape",
    "File",
    "fifo_of",
    "refusal",
]
