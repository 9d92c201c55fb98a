# SPDX-License-Identifier: MIT
"""Lines of one of gpiovirtd's chips, held by this process as any program's would be."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator

from gpiovirt.control.access import cannot_open
from gpiovirt.errors import GpiovirtError, HostError, NotPermittedError
from gpiovirt.host.device_socket import DeviceSocket, OpenedFile
from gpiovirt.uapi import gpio as u

__all__ = ["HeldLines", "check_access"]

_EVENTS_READ = 64


class HeldLines:
    """What `request`, a gpio_v2_line_request, asks for of the chip served at `device`, until close().

    GpiovirtError says why not, and who holds a line if somebody does. Masks and bits are in its order.
    """

    def __init__(self, device: str, request: bytes) -> None:
        chip = _open(device)
        try:
            answer = chip.ioctl(u.GPIO_V2_GET_LINE_IOCTL, request)
            if answer.errno or not isinstance(answer.file, OpenedFile):
                raise _refused(answer.errno, answer.why)
        except OSError as error:
            chip.close()
            raise HostError.of("the chip does not answer", error) from error
        except GpiovirtError:
            chip.close()
            raise
        self._file = answer.file
        self._edges = self._file.fifo.reader
        os.set_blocking(self._edges, False)
        self._ready = select.epoll()
        for fd in (self._edges, chip.fileno()):
            self._ready.register(fd, select.EPOLLIN)

    def set(self, bits: int, mask: int = 1) -> None:
        """Drive lines; GpiovirtError if that is refused, or they are gone."""
        self._ioctl(u.GPIO_V2_LINE_SET_VALUES_IOCTL, u.gpio_v2_line_values.pack(bits, mask))

    def get(self, mask: int = 1) -> int:
        """Their levels; GpiovirtError if they are gone."""
        told = self._ioctl(u.GPIO_V2_LINE_GET_VALUES_IOCTL, u.gpio_v2_line_values.pack(0, mask))
        bits: int = u.gpio_v2_line_values.unpack(told)[0]
        return bits & mask

    def _ioctl(self, cmd: int, argument: bytes) -> bytes:
        try:
            answer = self._file.ioctl(cmd, argument)
        except OSError as error:
            raise HostError.of("the line is lost", error) from error
        if answer.errno:
            raise _refused(answer.errno, answer.why)
        return answer.reply or argument

    def fileno(self) -> int:
        """Readable when there are edges, or the line is lost."""
        return self._ready.fileno()

    def edges(self) -> Iterator[tuple[bool, int, int]]:
        """Those so far: (rising, ns on CLOCK_MONOTONIC, number from 1 on); HostError if the line is lost."""
        try:
            raw = os.read(self._edges, u.gpio_v2_line_event.size * _EVENTS_READ)
        except BlockingIOError:
            raw = b""
        if not raw and self._is_lost():
            raise HostError("its chip has ended, or was changed")
        for timestamp_ns, kind, _offset, seqno, _ in u.gpio_v2_line_event.iter_unpack(raw):
            yield kind == u.GPIO_V2_LINE_EVENT_RISING_EDGE, timestamp_ns, seqno

    def _is_lost(self) -> bool:
        try:
            return self._file.device.has_hung_up(self._file.number)
        except OSError:
            return True

    def close(self) -> None:
        """Let it go."""
        self._ready.close()
        self._file.fifo.close()
        self._file.device.close()


def _refused(number: int, why: str) -> GpiovirtError:
    kind = NotPermittedError if number == errno.EPERM else HostError
    return kind(why or os.strerror(number or errno.EIO))


def check_access(device: str) -> None:
    """HostError, saying why and who may, unless this user may open the chip served at `device`."""
    _open(device).close()


def _open(device: str) -> DeviceSocket:
    try:
        chip = DeviceSocket.open(device, "gpiochip")
    except OSError as error:
        raise cannot_open(device, error) from error
    chip.fifo.close()
    return chip
