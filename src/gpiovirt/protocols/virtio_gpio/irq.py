# SPDX-License-Identifier: MIT
"""The interrupt of one line: its states, and every step between them. virtio-v1.2 5.18.6.7, 5.18.7"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["IRQ_TRANSITIONS", "STEPS", "IrqAction", "IrqEvent", "IrqState"]


class IrqState(IntEnum):
    """Interrupt of one line, and whether the driver's buffer for it is here."""

    DISABLED = 0
    MASKED = 1  # enabled, no buffer
    LATCHED = 2  # enabled, no buffer, and edges have come
    ARMED = 3  # enabled, and a buffer to report in


class IrqEvent(IntEnum):
    ENABLE = 0
    DISABLE = 1
    BUFFER = 2  # the driver queued a buffer: it unmasks
    EDGE = 3  # of an edge type
    LEVEL = 4  # of a level type, and the level is the active one
    WITHDRAW = 5  # the queue stops


class IrqAction(IntEnum):
    NOTHING = 0
    VALID = 1  # return the buffer: an interrupt
    INVALID = 2  # return the buffer: none
    REFUSE = 3  # return the buffer that has just come


IRQ_TRANSITIONS: dict[tuple[IrqState, IrqEvent], tuple[IrqState, IrqAction]] = {
    # virtio-v1.2 5.18.6.7 and 5.18.7; what is not listed changes nothing
    (IrqState.DISABLED, IrqEvent.ENABLE): (IrqState.MASKED, IrqAction.NOTHING),
    (IrqState.DISABLED, IrqEvent.BUFFER): (IrqState.DISABLED, IrqAction.INVALID),
    (IrqState.MASKED, IrqEvent.DISABLE): (IrqState.DISABLED, IrqAction.NOTHING),
    (IrqState.MASKED, IrqEvent.BUFFER): (IrqState.ARMED, IrqAction.NOTHING),
    (IrqState.MASKED, IrqEvent.EDGE): (IrqState.LATCHED, IrqAction.NOTHING),
    (IrqState.LATCHED, IrqEvent.DISABLE): (IrqState.DISABLED, IrqAction.NOTHING),
    (IrqState.LATCHED, IrqEvent.BUFFER): (IrqState.MASKED, IrqAction.VALID),
    (IrqState.ARMED, IrqEvent.DISABLE): (IrqState.DISABLED, IrqAction.INVALID),
    (IrqState.ARMED, IrqEvent.BUFFER): (IrqState.ARMED, IrqAction.REFUSE),
    (IrqState.ARMED, IrqEvent.EDGE): (IrqState.MASKED, IrqAction.VALID),
    (IrqState.ARMED, IrqEvent.LEVEL): (IrqState.MASKED, IrqAction.VALID),
    (IrqState.ARMED, IrqEvent.WITHDRAW): (IrqState.MASKED, IrqAction.INVALID),
}
STEPS = [
    [IRQ_TRANSITIONS.get((state, event), (state, IrqAction.NOTHING)) for event in IrqEvent]
    for state in IrqState
]
