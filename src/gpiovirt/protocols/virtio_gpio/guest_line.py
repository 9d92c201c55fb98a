# SPDX-License-Identifier: MIT
"""A guest's state of one line: request, direction, interrupt, and the edges not yet reported."""

from __future__ import annotations

from collections import deque

from gpiovirt.core.chip import LineRequest
from gpiovirt.core.line import Direction, Drive, Edge, LineSettings
from gpiovirt.protocols.virtio_gpio.irq import IrqState
from gpiovirt.protocols.virtqueue import Chain
from gpiovirt.uapi import virtio_gpio as u

__all__ = ["GuestLine"]


class GuestLine:
    """A line; forget() when the guest lets it go."""

    __slots__ = (
        "at",
        "buffer",
        "defaults",
        "direction",
        "edges",
        "irq_state",
        "irq_type",
        "offset",
        "request",
        "told",
        "value",
    )

    def __init__(self, offset: int, defaults: LineSettings) -> None:
        self.offset = offset
        self.defaults = defaults
        self.buffer: Chain | None = None
        self.edges: deque[bool] = deque()
        """The levels after the edges that are latched, oldest first."""
        self.told: bool | None = None
        """The level after the last reported edge, until the guest reads it."""
        self.forget()

    def forget(self) -> None:
        self.request: LineRequest | None = None
        self.direction = u.VIRTIO_GPIO_DIRECTION_NONE
        self.value = 0
        self.irq_type = u.VIRTIO_GPIO_IRQ_TYPE_NONE
        self.irq_state = IrqState.DISABLED
        self.edges.clear()
        self.told = None

    def settings(self, direction: Direction, edge: Edge = Edge.NONE) -> LineSettings:
        if direction is Direction.OUTPUT:
            return self.defaults._replace(
                direction=direction, edge=edge, debounce_period_us=0, output_value=self.value
            )
        return self.defaults._replace(direction=direction, edge=edge, drive=Drive.PUSH_PULL)
