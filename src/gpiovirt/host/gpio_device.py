# SPDX-License-Identifier: MIT
"""/dev/gpiochipN by the raw uAPI v2: open it, look at its lines, request one. No state is kept here."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from gpiovirt.core.chip import ChipInfo
from gpiovirt.core.line import AS_IS, LineInfo, LineSettings
from gpiovirt.errors import ChipGoneError, HostError, LineBusyError, OffsetError
from gpiovirt.protocols.gpiochip import caller
from gpiovirt.uapi import gpio as u

__all__ = ["EVENTS_KEPT", "ChipDevice", "is_gpio_device"]

EVENTS_KEPT = 256
"""Edge events per line that the kernel keeps until they are read"""


def is_gpio_device(path: str) -> bool:
    """Known without opening it: opening some devices has effects. OSError if it cannot be examined."""
    status = os.stat(path)
    if not stat.S_ISCHR(status.st_mode):
        return False
    device = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return os.path.realpath(f"/sys/dev/char/{device}/subsystem") == "/sys/bus/gpio"


class ChipDevice:
    """An open kernel chip. While it is open the kernel does not give its number to another."""

    def __init__(self, path: str) -> None:
        """OSError if it cannot be opened; ENOTTY if it is not a chip."""
        self.path = path
        if not is_gpio_device(path):
            raise OSError(errno.ENOTTY, "not a GPIO chip", path)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            raw = fcntl.ioctl(self._fd, u.GPIO_GET_CHIPINFO_IOCTL, bytes(u.gpiochip_info.size))
        except OSError:
            os.close(self._fd)
            raise
        self.info: ChipInfo = caller.decode_chip_info(raw)

    def line_info(self, offset: int) -> LineInfo:
        """Name, consumer, use and direction of a line; OffsetError past the end, ChipGoneError."""
        if not 0 <= offset < self.info.num_lines:
            raise OffsetError(
                f"{self.info.label} has no line {offset}: its {self.info.num_lines} lines are "
                f"0 to {self.info.num_lines - 1}"
            )
        try:
            raw = fcntl.ioctl(self._fd, u.GPIO_V2_GET_LINEINFO_IOCTL, caller.encode_info_query(offset))
        except OSError as error:
            raise self._failure("look at", offset, error) from error
        return caller.decode_line_info(raw)

    def request(self, offset: int, consumer: str, settings: LineSettings = AS_IS) -> int:
        """The fd of a request for one line, which the kernel lets no child inherit.

        LineBusyError if the line is held, ChipGoneError, HostError.
        """
        argument = caller.encode_request(offset, settings, consumer, EVENTS_KEPT)
        try:
            answer = fcntl.ioctl(self._fd, u.GPIO_V2_GET_LINE_IOCTL, argument)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise self._failure("request", offset, error) from error
            who = self.line_info(offset).consumer or self._has_pin(offset) or "the kernel"
            raise LineBusyError(
                f'line {self.info.label}:{offset} is held by "{who}"; release it or choose another'
            ) from error
        fd: int = u.gpio_v2_line_request.unpack(answer)[-1]
        return fd

    def _failure(self, what: str, offset: int, error: OSError) -> HostError:
        if error.errno == errno.ENODEV:
            return ChipGoneError(f"the chip {self.info.label} has vanished")
        why = ""
        if what == "request" and (who := self._has_pin(offset)):
            why = f": the pin controller has given its pin to {who}"
        return HostError.of(f"cannot {what} line {self.info.label}:{offset}{why}", error)

    def _has_pin(self, offset: int) -> str:
        """Who has been given the pin of a line that cannot be requested; "" if that is not why."""
        from gpiovirt.host.pin_functions import pin_functions  # which hardly any program needs

        if who := pin_functions(self.info).get(offset):
            return who
        info = self.line_info(offset)
        return "another function" if info.used and not info.consumer else ""

    def fileno(self) -> int:
        """Hangs up when the chip vanishes."""
        return self._fd

    @property
    def is_there(self) -> bool:
        """Whether the kernel still has it."""
        try:
            fcntl.ioctl(self._fd, u.GPIO_GET_CHIPINFO_IOCTL, bytes(u.gpiochip_info.size))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the chip; requests stay."""
        os.close(self._fd)
