# SPDX-License-Identifier: MIT
"""The virtio GPIO device: its requests, events and line names, over a Chip. virtio-v1.2 5.18"""

from __future__ import annotations

from gpiovirt.protocols.virtio_gpio.device import GpioDevice
from gpiovirt.protocols.virtio_gpio.irq import IRQ_TRANSITIONS, IrqAction, IrqEvent, IrqState
from gpiovirt.protocols.virtio_gpio.record import names_block

__all__ = ["IRQ_TRANSITIONS", "GpioDevice", "IrqAction", "IrqEvent", "IrqState", "names_block"]
