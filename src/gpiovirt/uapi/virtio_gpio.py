# SPDX-License-Identifier: MIT
"""<linux/virtio_gpio.h>: the virtio GPIO device's constants and structures, its names kept.

virtio-v1.2 5.18.
"""

from __future__ import annotations

from struct import Struct

VIRTIO_ID_GPIO = 41  # linux/virtio_ids.h

# virtio-v1.2 5.18.2: virtqueues
VIRTIO_GPIO_REQUESTQ = 0
VIRTIO_GPIO_EVENTQ = 1

VIRTIO_GPIO_F_IRQ = 0  # virtio-v1.2 5.18.3

# virtio-v1.2 5.18.6: message types
VIRTIO_GPIO_MSG_GET_NAMES = 0x0001
VIRTIO_GPIO_MSG_GET_DIRECTION = 0x0002
VIRTIO_GPIO_MSG_SET_DIRECTION = 0x0003
VIRTIO_GPIO_MSG_GET_VALUE = 0x0004
VIRTIO_GPIO_MSG_SET_VALUE = 0x0005
VIRTIO_GPIO_MSG_IRQ_TYPE = 0x0006

VIRTIO_GPIO_STATUS_OK = 0x0
VIRTIO_GPIO_STATUS_ERR = 0x1

VIRTIO_GPIO_DIRECTION_NONE = 0x00
VIRTIO_GPIO_DIRECTION_OUT = 0x01
VIRTIO_GPIO_DIRECTION_IN = 0x02

VIRTIO_GPIO_IRQ_TYPE_NONE = 0x00
VIRTIO_GPIO_IRQ_TYPE_EDGE_RISING = 0x01
VIRTIO_GPIO_IRQ_TYPE_EDGE_FALLING = 0x02
VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH = 0x03
VIRTIO_GPIO_IRQ_TYPE_LEVEL_HIGH = 0x04
VIRTIO_GPIO_IRQ_TYPE_LEVEL_LOW = 0x08

# virtio-v1.2 5.18.7: status of an event
VIRTIO_GPIO_IRQ_STATUS_INVALID = 0x0
VIRTIO_GPIO_IRQ_STATUS_VALID = 0x1

virtio_gpio_config = Struct("<H2xI")  # ngpio, gpio_names_size
virtio_gpio_request = Struct("<HHI")  # type, gpio, value
virtio_gpio_response = Struct("<BB")  # status, value
virtio_gpio_irq_request = Struct("<H")  # gpio
virtio_gpio_irq_response = Struct("<B")  # status
