# SPDX-License-Identifier: MIT
"""<linux/virtio_ring.h> and the bits of <linux/virtio_config.h> it needs: the split virtqueue, names kept.

All fields are little-endian (virtio-v1.2 1.4). Where a field's place depends on the queue size, a
function gives it.
"""

from __future__ import annotations

from struct import Struct

# virtio-v1.2 2.7.5: virtq_desc.flags
VRING_DESC_F_NEXT = 1
VRING_DESC_F_WRITE = 2
VRING_DESC_F_INDIRECT = 4

# virtio-v1.2 2.7.6 and 2.7.8: virtq_avail.flags, virtq_used.flags
VRING_AVAIL_F_NO_INTERRUPT = 1
VRING_USED_F_NO_NOTIFY = 1

# virtio-v1.2 6: reserved feature bits
VIRTIO_RING_F_INDIRECT_DESC = 28
VIRTIO_RING_F_EVENT_IDX = 29
VIRTIO_F_VERSION_1 = 32

# virtio-v1.2 2.1: device status
VIRTIO_CONFIG_S_ACKNOWLEDGE = 1
VIRTIO_CONFIG_S_DRIVER = 2
VIRTIO_CONFIG_S_DRIVER_OK = 4
VIRTIO_CONFIG_S_FEATURES_OK = 8
VIRTIO_CONFIG_S_NEEDS_RESET = 0x40
VIRTIO_CONFIG_S_FAILED = 0x80

# virtio-v1.2 2.7: alignment of the three parts, and the largest queue
VRING_DESC_ALIGN_SIZE = 16
VRING_AVAIL_ALIGN_SIZE = 2
VRING_USED_ALIGN_SIZE = 4
VRING_SIZE_MAX = 32768

vring_desc = Struct("<QIHH")  # addr, len, flags, next
vring_used_elem = Struct("<II")  # id, len


def vring_avail_size(num: int) -> int:
    """Bytes of the available ring of a queue of `num`, used_event included. virtio-v1.2 2.7"""
    return 6 + 2 * num


def vring_used_size(num: int) -> int:
    """Bytes of the used ring of a queue of `num`, avail_event included. virtio-v1.2 2.7"""
    return 6 + 8 * num
