# SPDX-License-Identifier: MIT
"""vm_floor.py SOCKET   what `vm_floor.c` is, in Python: a loop that answers and checks nothing.

It shows what any back-end in Python takes. 16 lines; line 0 is wired to line 1.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import sys

LINES = 16
FEATURES = 1 << 32 | 1 << 30 | 1  # VERSION_1, PROTOCOL_FEATURES, F_IRQ
PROTOCOL = 1 << 3 | 1 << 5 | 1 << 9  # REPLY_ACK, BACKEND_REQ, CONFIG
ONE = (1).to_bytes(8, "little")
LOW, HIGH, ERROR = b"\0\0", b"\0\1", b"\1\0"

regions: list[tuple[int, int, int, memoryview]] = []
value = bytearray(LINES)
direction = bytearray(LINES)
irq = bytearray(LINES)
latched = bytearray(LINES)
buffer = [-1] * LINES


class Queue:
    """Its rings, once the front-end has said where they are."""

    desc: memoryview
    avail: memoryview
    used: memoryview
    used16: memoryview
    size = last = 0
    kick = call = -1


requests, events = queues = Queue(), Queue()


def at(address: int) -> tuple[memoryview, int]:
    for start, size, _, view in regions:
        if 0 <= address - start < size:
            return view, address - start
    raise SystemExit(f"no memory at {address:#x}")


def ring(user_address: int) -> memoryview:
    return next(
        view[user_address - start :] for _, size, start, view in regions if 0 <= user_address - start < size
    )


def complete(queue: Queue, head: int, length: int) -> None:
    index = queue.used16[1]
    struct.pack_into("<II", queue.used, 4 + ((index & queue.size - 1) << 3), head, length)
    queue.used16[1] = index + 1 & 0xFFFF


def tell(line: int, status: int) -> None:
    head, buffer[line] = buffer[line], -1
    (following,) = struct.unpack_from("<H", events.desc, 16 * head + 14)
    view, offset = at(*struct.unpack_from("<Q", events.desc, 16 * following))
    view[offset] = status
    complete(events, head, 1)
    os.write(events.call, ONE)


def level(line: int, high: int) -> None:
    if value[line] != high:
        value[line] = high
        if irq[line] & (1 if high else 2):
            latched[line] = buffer[line] < 0
            if not latched[line]:
                tell(line, 1)


def answer(kind: int, line: int, argument: int) -> bytes:
    if kind == 4:
        return HIGH if value[line] else LOW
    if kind == 5:
        value[line] = argument
        if line == 0:
            level(1, argument)
        return LOW
    if kind == 2:
        return bytes((0, direction[line] or 2))
    if kind == 3:
        direction[line] = argument
        return LOW
    if kind == 6:
        irq[line] = argument
        latched[line] = 0
        if not argument and buffer[line] >= 0:
            tell(line, 0)
        return LOW
    return ERROR


def serve(queue: Queue) -> None:
    first = queue.last
    while queue.size and queue.last != queue.avail[1]:
        head = queue.avail[2 + (queue.last & queue.size - 1)]
        queue.last = queue.last + 1 & 0xFFFF
        address, _, _, following = struct.unpack_from("<QIHH", queue.desc, 16 * head)
        if queue is events:
            (line,) = struct.unpack_from("<H", *at(address))
            buffer[line] = head
            if latched[line]:
                latched[line] = 0
                tell(line, 1)
        else:
            view, offset = at(*struct.unpack_from("<Q", queue.desc, 16 * following))
            view[offset : offset + 2] = answer(*struct.unpack_from("<HHI", *at(address)))
            complete(queue, head, 2)
    if queue is requests and queue.last != first:
        os.write(queue.call, ONE)


def message(front_end: socket.socket, epoll: select.epoll) -> None:
    header, fds, _, _ = socket.recv_fds(front_end, 12, 8)
    if len(header) != 12:
        raise SystemExit
    kind, flags, size = struct.unpack("<3I", header)
    data = front_end.recv(size, socket.MSG_WAITALL) if size else b""

    def reply(payload: bytes) -> None:
        front_end.sendall(struct.pack("<3I", kind, 5, len(payload)) + payload)

    first, second = struct.unpack("<II", data[:8].ljust(8, b"\0"))
    queue = queues[first & 1]
    if kind in (1, 15, 17):  # GET_FEATURES, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM
        reply(struct.pack("<Q", {1: FEATURES, 15: PROTOCOL, 17: 2}[kind]))
        return
    if kind == 24:  # GET_CONFIG: no names
        reply((data[:12] + struct.pack("<HHI", LINES, 0, 0) + data[20:])[:size])
        return
    if kind == 11:  # GET_VRING_BASE
        reply(struct.pack("<II", first, queue.last))
        return
    if kind == 5:  # SET_MEM_TABLE
        regions.clear()
        for i, fd in enumerate(fds):
            guest, length, user, offset = struct.unpack_from("<4Q", data, 8 + 32 * i)
            regions.append((guest, length, user, memoryview(mmap.mmap(fd, length + offset))[offset:]))
    elif kind == 8:  # SET_VRING_NUM
        queue.size = second
    elif kind == 9:  # SET_VRING_ADDR
        desc, used, avail = struct.unpack_from("<3Q", data, 8)
        queue.desc = ring(desc)
        queue.used = ring(used)
        queue.used16 = queue.used[: 4 + 8 * queue.size].cast("H")
        queue.avail = ring(avail)[: 4 + 2 * queue.size].cast("H")
    elif kind == 10:  # SET_VRING_BASE
        queue.last = second
    elif kind == 12:  # SET_VRING_KICK
        queue.kick = fds[0]
        epoll.register(queue.kick, select.EPOLLIN | select.EPOLLET)
    elif kind == 13:  # SET_VRING_CALL
        queue.call = fds[0]
    if flags & 8:
        reply(bytes(8))


def main() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(1)
        front_end, _ = listener.accept()
    epoll = select.epoll()
    epoll.register(front_end, select.EPOLLIN)
    while True:
        for fd, _ in epoll.poll():
            if fd == requests.kick:
                serve(requests)
            elif fd == events.kick:
                serve(events)
            else:
                message(front_end, epoll)


if __name__ == "__main__":
    main()
