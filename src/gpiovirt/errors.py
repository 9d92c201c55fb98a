# SPDX-License-Identifier: MIT
"""The exception tree: whose fault it is, and the errno that it becomes at a kernel-like interface.

GpiovirtError
  UsageError        our caller asked for something impossible
    GrammarError    EINVAL  a chip definition that cannot be parsed
    InvalidError    EINVAL  a combination the GPIO uAPI refuses
    NoSuchChipError ENODEV  no chip of that name
    NoSuchLineError ENOENT  no line of that name
    OffsetError     ERANGE  an offset past the end of a chip
    LineBusyError   EBUSY   a line that somebody else holds
    NotPermittedError EPERM  setting an input, and the like
    NoSuchDeviceError ENOENT no virtual chip of that name
    DeviceExistsError EEXIST a virtual chip of that name exists
    DeviceBusyError EBUSY   a virtual chip whose lines are in use
  PeerError         EPROTO  a guest, container or client broke the protocol
  HostError         EIO     the kernel said no, or lacks what is needed
    ChipGoneError   ENODEV  the chip was there and has vanished
"""

from __future__ import annotations

import errno

__all__ = [
    "ChipGoneError",
    "DeviceBusyError",
    "DeviceExistsError",
    "GpiovirtError",
    "GrammarError",
    "HostError",
    "InvalidError",
    "LineBusyError",
    "NoSuchChipError",
    "NoSuchDeviceError",
    "NoSuchLineError",
    "NotPermittedError",
    "OffsetError",
    "PeerError",
    "UsageError",
]

_SHOWN_MAX = 200  # characters of the user's text


class GpiovirtError(Exception):
    """Base of all errors of this package; `errno` is what a system call would return."""

    errno = errno.EIO
    line: int | None = None
    """Offset of the line at fault, in the chip to be made"""


class UsageError(GpiovirtError):
    """Our caller asked for something impossible."""

    errno = errno.EINVAL


class GrammarError(UsageError):
    """A definition that cannot be parsed; `token` and `column` (from 1) say where."""

    def __init__(self, message: str, text: str, token: str, column: int) -> None:
        shown = text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
        where = f": {token[:_SHOWN_MAX]!r} at column {column} of {shown!r}" if token else ""
        super().__init__(message + where)
        self.token = token
        self.column = column


class InvalidError(UsageError):
    """A combination that the GPIO uAPI refuses."""


class NoSuchChipError(UsageError):
    """No chip of that name."""

    errno = errno.ENODEV


class NoSuchLineError(UsageError):
    """No line of that name."""

    errno = errno.ENOENT


class OffsetError(UsageError):
    """An offset past the end of a chip."""

    errno = errno.ERANGE


class LineBusyError(UsageError):
    """A line that somebody else holds."""

    errno = errno.EBUSY


class NotPermittedError(UsageError):
    """The line's direction or rules forbid it."""

    errno = errno.EPERM


class NoSuchDeviceError(UsageError):
    """No virtual chip of that name."""

    errno = errno.ENOENT


class DeviceExistsError(UsageError):
    """A virtual chip of that name exists."""

    errno = errno.EEXIST


class DeviceBusyError(UsageError):
    """A virtual chip whose lines are in use."""

    errno = errno.EBUSY


class PeerError(GpiovirtError):
    """A guest, container or client broke the protocol."""

    errno = errno.EPROTO


class HostError(GpiovirtError):
    """The kernel said no, or lacks what is needed."""

    @classmethod
    def of(cls, what: str, error: OSError) -> HostError:
        """A HostError that keeps the errno of `error` and says what was attempted."""
        made = cls(f"{what}: {error.strerror or error}")
        made.errno = error.errno or errno.EIO
        made.__cause__ = error
        return made


class ChipGoneError(HostError):
    """The chip was there and has vanished."""

    errno = errno.ENODEV
