# SPDX-License-Identifier: MIT
"""Files and directories as sysfs and configfs have them, and how their values are read from text.

Specification: fs/kernfs, fs/configfs and lib/kstrtox.c of Linux.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping

from gpiovirt.core.task import Future
from gpiovirt.protocols.fuse import Attribute, Directory

__all__ = ["FixedDirectory", "ValueFile", "boolean", "integer", "trimmed", "unsigned"]

_DIGITS_MAX = 32
_SPACE = " \t\n\v\f\r"
_TRUE, _FALSE = frozenset("yYtT1"), frozenset("nNfF0")
U32_MAX = 0xFFFFFFFF


class ValueFile:
    """A file of one value; what is written ends at a zero byte, or with a newline."""

    def __init__(
        self,
        mode: int,
        read: Callable[[], object] | None = None,
        write: Callable[[str], Future[None] | None] | None = None,
        events: Callable[[], int] = lambda: 0,
    ) -> None:
        self.mode = mode
        self._read = read
        self._write = write
        self._events = events

    @property
    def events(self) -> int:
        return self._events()

    def read(self) -> bytes:
        if self._read is None:
            raise OSError(errno.EIO, "it cannot be read")
        return f"{self._read()}\n".encode(errors="surrogateescape")

    def write(self, content: bytes) -> Future[None] | None:
        if self._write is None:
            raise OSError(errno.EIO, "it cannot be written")
        text = content.partition(b"\0")[0].decode(errors="surrogateescape")
        return self._write(text.removesuffix("\n"))


class FixedDirectory:
    """A directory with the same files all the time."""

    def __init__(self, files: Mapping[str, Directory | Attribute]) -> None:
        self._files = files

    def entries(self) -> Mapping[str, Directory | Attribute]:
        return self._files


def trimmed(text: str) -> str:
    """Without the white space around it."""
    return text.strip(_SPACE)


def boolean(text: str) -> bool:
    """As kstrtobool()."""
    first = text[:1]
    if first in _TRUE and first:
        return True
    if first in _FALSE and first:
        return False
    second = text[1:2]
    if first and first in "oO" and second:
        if second in "nN":
            return True
        if second in "fF":
            return False
    raise OSError(errno.EINVAL, "neither yes nor no")


def integer(text: str) -> int:
    """As kstrtol() with base 0."""
    try:
        if len(text) > _DIGITS_MAX or not text.isascii() or "_" in text or text != text.strip():
            raise ValueError
        digits = text.lstrip("+-")
        if len(text) - len(digits) > 1:
            raise ValueError
        return int(text, 8 if len(digits) > 1 and digits.isdecimal() and digits[0] == "0" else _base(digits))
    except ValueError:
        raise OSError(errno.EINVAL, "no number") from None


def _base(digits: str) -> int:
    return 16 if digits[:2] in ("0x", "0X") else 10


def unsigned(text: str, most: int = U32_MAX) -> int:
    """As kstrtouint() with base 0; ERANGE past `most`."""
    if text.startswith("-"):
        raise OSError(errno.EINVAL, "no number")
    found = integer(text)
    if found > most:
        raise OSError(errno.ERANGE, "too large a number")
    return found
