# SPDX-License-Identifier: MIT
"""vhost-user's numbers and structures. QEMU: docs/interop/vhost-user.rst

Numbers are in the machine's byte order; back-end is what older texts call slave.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

# "Header"
header = Struct("=III")  # request, flags, size of the payload
VERSION = 0x1
VERSION_MASK = 0x3
REPLY_MASK = 0x4
NEED_REPLY_MASK = 0x8

# "Payload"
u64 = Struct("=Q")
vring_state = Struct("=II")  # index, num
vring_addr = Struct("=IIQQQQ")  # index, flags, descriptor, used, available, log
memory_table = Struct("=II")  # num regions, padding; regions follow
memory_region = Struct("=QQQQ")  # guest address, size, user address, mmap offset
single_memory_region = Struct("=Q32s")  # padding, region
config_space = Struct("=III")  # offset, size, flags; the bytes follow
inflight = Struct("=QQHH")  # mmap size, mmap offset, num queues, queue size; some pad it to 24 bytes

VRING_INDEX_MASK = 0xFF
VRING_NOFD_MASK = 0x100

MEMORY_REGIONS_MAX = 8  # of one SET_MEM_TABLE
FDS_MAX = 8  # likewise; no message has more
CONFIG_SIZE_MAX = 256

F_PROTOCOL_FEATURES = 30  # "Communication": VHOST_USER_F_PROTOCOL_FEATURES


class ProtocolFeature(IntEnum):
    """ "Protocol features": VHOST_USER_PROTOCOL_F_*"""

    MQ = 0
    LOG_SHMFD = 1
    RARP = 2
    REPLY_ACK = 3
    MTU = 4
    BACKEND_REQ = 5
    CROSS_ENDIAN = 6
    CRYPTO_SESSION = 7
    PAGEFAULT = 8
    CONFIG = 9
    BACKEND_SEND_FD = 10
    HOST_NOTIFIER = 11
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    INBAND_NOTIFICATIONS = 14
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16


class Request(IntEnum):
    """ "Front-end message types": VHOST_USER_*"""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    GET_CONFIG = 24
    SET_CONFIG = 25
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


def name_of(request: int) -> str:
    """The request's name in the specification, or its number."""
    return Request(request).name if request in Request._value2member_map_ else f"request {request}"
