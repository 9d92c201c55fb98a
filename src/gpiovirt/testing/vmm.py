# SPDX-License-Identifier: MIT
"""A vhost-user front-end with a fake guest: what a VMM is to a virtio GPIO back-end.

It does I/O: a Unix socket, a memfd for the guest's memory, eventfds. The guest is a GpioDriver.
QEMU: docs/interop/vhost-user.rst
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gpiovirt.errors import PeerError
from gpiovirt.protocols.vhost_user import messages as m
from gpiovirt.protocols.vhost_user.messages import ProtocolFeature, Request
from gpiovirt.testing.virtio_driver import DriverQueue, GpioDriver, GuestRam
from gpiovirt.uapi import virtio_gpio as u
from gpiovirt.uapi import virtio_ring as r

__all__ = ["Inflight", "Vmm"]

_EIGHT_BYTES = b"\1\0\0\0\0\0\0\0"
_WANTED = 1 << u.VIRTIO_GPIO_F_IRQ | 1 << r.VIRTIO_F_VERSION_1 | 1 << m.F_PROTOCOL_FEATURES
_PROTOCOL_WANTED = sum(
    1 << feature
    for feature in (
        ProtocolFeature.MQ,
        ProtocolFeature.REPLY_ACK,
        ProtocolFeature.BACKEND_REQ,
        ProtocolFeature.CONFIG,
        ProtocolFeature.INFLIGHT_SHMFD,
        ProtocolFeature.RESET_DEVICE,
        ProtocolFeature.STATUS,
    )
)


class Inflight(NamedTuple):
    """The memory in which a back-end tracks, as it gave it to us."""

    description: bytes
    fd: int


class Vmm:
    """One VM. Its guest and memory outlive a connection: connect() again after the back-end was restarted.

    If `sealed`, its memory cannot be truncated, like that of QEMU's memory-backend-memfd.
    `pump` is called instead of waiting for a back-end that is another process.
    """

    num_queues = 2

    def __init__(
        self,
        *,
        ram_bytes: int = 1 << 20,
        queue_size: int = 64,
        indirect: bool = False,
        sealed: bool = True,
        pump: Callable[[], None] | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        self._pump = pump
        self._timeout_s = timeout_s
        self._memfd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._memfd, ram_bytes)
        if sealed:
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self._memfd, fcntl.F_ADD_SEALS, seals)
        self._mmap = mmap.mmap(self._memfd, ram_bytes)
        self.ram = GuestRam(memoryview(self._mmap))
        self.queue_size = queue_size
        self._indirect = indirect
        self.calls = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(self.num_queues)]
        self.kicks = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(self.num_queues)]
        self.sock: socket.socket | None = None
        self.features = self.protocol_features = 0
        self.config = b""
        self.inflight: Inflight | None = None
        self.boot()

    def boot(self) -> None:
        """A new guest: fresh rings and a driver that knows nothing."""
        self.queues = [
            DriverQueue(self.ram, self.queue_size, indirect=self._indirect) for _ in range(self.num_queues)
        ]
        self.driver = GpioDriver(self.queues[0], self.queues[1], self.kick, self.wait, patience=3)

    def kick(self, index: int) -> None:
        """The guest notifies the device."""
        os.write(self.kicks[index], _EIGHT_BYTES)
        if self._pump is not None:
            self._pump()

    def wait(self, index: int = u.VIRTIO_GPIO_REQUESTQ, timeout_s: float | None = None) -> bool:
        """Wait for a call of the guest; False if none came in time."""
        if self._pump is not None:
            self._pump()
            timeout_s = 0
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        if not select.select([self.calls[index]], [], [], timeout_s)[0]:
            return False
        os.read(self.calls[index], 8)
        return True

    def send(
        self, request: int, payload: bytes = b"", fds: Sequence[int] = (), *, flags: int = m.VERSION
    ) -> None:
        """Send one message, whatever it says."""
        assert self.sock is not None
        socket.send_fds(self.sock, [m.header.pack(request, flags, len(payload)) + payload], list(fds))

    def receive(self) -> tuple[int, bytes, list[int]]:
        """The next answer: request, payload, fds; PeerError if there is none in time, or the end."""
        assert self.sock is not None
        if self._pump is not None:
            self._pump()
        data, fds, _, _ = socket.recv_fds(self.sock, m.header.size, 8)
        if len(data) < m.header.size:
            raise PeerError("the back-end closed the connection")
        request, _, size = m.header.unpack(data)
        payload = b""
        while len(payload) < size:
            part = self.sock.recv(size - len(payload))
            if not part:
                raise PeerError("the back-end closed the connection in an answer")
            payload += part
        return request, payload, fds

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Send a message that has an answer; returns the answer's payload."""
        self.send(request, payload, fds)
        answered, reply, _ = self.receive()
        if answered != request:
            raise PeerError(f"an answer to {m.name_of(answered)}, not to {m.name_of(request)}")
        return reply

    def tell(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a message that has no answer; PeerError if it is refused, as far as that can be known."""
        if not self.protocol_features >> ProtocolFeature.REPLY_ACK & 1:
            self.send(request, payload, fds)
            if self._pump is not None:
                self._pump()
            return
        self.send(request, payload, fds, flags=m.VERSION | m.NEED_REPLY_MASK)
        answered, reply, _ = self.receive()
        if answered != request or len(reply) != m.u64.size or m.u64.unpack(reply)[0]:
            raise PeerError(f"{m.name_of(request)} was refused")

    def connect(self, sock: socket.socket | str, protocol_features: int = _PROTOCOL_WANTED) -> None:
        """Take a connection to a back-end, or the path to one, and negotiate."""
        if isinstance(sock, str):
            path, sock = sock, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.connect(path)
        sock.settimeout(self._timeout_s)
        self.sock = sock
        self.protocol_features = 0
        offered: int = m.u64.unpack(self.ask(Request.GET_FEATURES))[0]
        wanted = _WANTED
        wanted |= self._indirect << r.VIRTIO_RING_F_INDIRECT_DESC
        self.features = offered & wanted
        offered = m.u64.unpack(self.ask(Request.GET_PROTOCOL_FEATURES))[0]
        self.send(Request.SET_PROTOCOL_FEATURES, m.u64.pack(offered & protocol_features))
        self.protocol_features = offered & protocol_features
        self.tell(Request.SET_OWNER)
        self.tell(Request.SET_FEATURES, m.u64.pack(self.features))
        self.config = self.get_config(0, u.virtio_gpio_config.size)
        region = self.ram.region
        self.tell(
            Request.SET_MEM_TABLE,
            m.memory_table.pack(1, 0)
            + m.memory_region.pack(region.guest_address, region.size, region.user_address, 0),
            [self._memfd],
        )

    def get_config(self, offset: int, size: int) -> bytes:
        """Bytes of the config space; none if the back-end refuses that range."""
        space = m.config_space.pack(offset, size, 0)
        return self.ask(Request.GET_CONFIG, space + bytes(size))[len(space) :]

    def start(self, bases: Sequence[int] = (0, 0)) -> None:
        """Start the rings, each at its base."""
        for index, queue in enumerate(self.queues):
            ring = queue.ring
            self.tell(Request.SET_VRING_NUM, m.vring_state.pack(index, ring.size))
            self.tell(Request.SET_VRING_BASE, m.vring_state.pack(index, bases[index]))
            self.tell(
                Request.SET_VRING_ADDR,
                m.vring_addr.pack(index, 0, ring.descriptors, ring.used, ring.available, (1 << 64) - 1),
            )
            self.tell(Request.SET_VRING_CALL, m.u64.pack(index), [self.calls[index]])
            self.tell(Request.SET_VRING_KICK, m.u64.pack(index), [self.kicks[index]])
        for index in range(self.num_queues):
            self.tell(Request.SET_VRING_ENABLE, m.vring_state.pack(index, 1))

    def resume(self) -> None:
        """Start the rings where a previous back-end left them, as QEMU does."""
        self.start([queue.used16[1] for queue in self.queues])

    def stop(self) -> list[int]:
        """Stop the rings; returns where."""
        bases = []
        for index in range(self.num_queues):
            reply = self.ask(Request.GET_VRING_BASE, m.vring_state.pack(index, 0))
            bases.append(m.vring_state.unpack(reply)[1])
        return bases

    def get_inflight(self) -> None:
        """Have the back-end make its tracking memory, and give it back at once, as QEMU does."""
        wanted = m.inflight.pack(0, 0, self.num_queues, self.queue_size)
        self.send(Request.GET_INFLIGHT_FD, wanted.ljust(24, b"\0"))
        _, description, fds = self.receive()
        if not description or len(fds) != 1:
            raise PeerError("GET_INFLIGHT_FD was refused")
        self.inflight = Inflight(description, fds[0])
        self.set_inflight()

    def set_inflight(self) -> None:
        """Give the memory back."""
        assert self.inflight is not None
        self.tell(Request.SET_INFLIGHT_FD, self.inflight.description, [self.inflight.fd])

    def disconnect(self) -> None:
        """Close the connection, as when the VMM dies; the guest stays, for tests to look at."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def close(self) -> None:
        """End the VM."""
        self.disconnect()
        for fd in (*self.calls, *self.kicks, self._memfd, *((self.inflight.fd,) if self.inflight else ())):
            os.close(fd)
        with contextlib.suppress(BufferError):  # a test may still look at the memory
            self._mmap.close()

    def __enter__(self) -> Vmm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
