# SPDX-License-Identifier: MIT
"""Where a daemon's log goes: to the journal, with fields, if standard error does; otherwise to that, as text.

Specification: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/, systemd.exec(5) on JOURNAL_STREAM.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from struct import Struct

from gpiovirt.core.text import printable

__all__ = ["JournalHandler", "start_logging"]

SOCKET = "/run/systemd/journal/socket"
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
_length = Struct("<Q")
_MESSAGE_MAX = 1 << 17


def start_logging(name: str, level: int = logging.INFO) -> None:
    """Log as `name`; call it before this process gives up its rights."""
    handler: logging.Handler | None = None
    if _is_journal(sys.stderr.fileno(), os.environ):
        with suppress(OSError):
            handler = JournalHandler(name)
    if handler is None:
        handler = logging.StreamHandler()
        handler.setFormatter(_Printable(f"{name}: %(message)s"))
    else:
        handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class _Printable(logging.Formatter):
    """Names chosen by others can neither move the cursor nor begin a line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))


def _is_journal(fd: int, environment: Mapping[str, str]) -> bool:
    """Whether `fd` is the stream to the journal that the service manager made standard error."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(logging.Handler):
    """Sends records with the fields of the journal, and GPIOVIRT_CHIP of `extra={"chip": ...}`.

    `fields` of `extra` are sent as they are.
    """

    def __init__(self, name: str, path: str = SOCKET) -> None:
        super().__init__()
        self._name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            "MESSAGE": self.format(record)[:_MESSAGE_MAX],
            "PRIORITY": str(_PRIORITIES.get(record.levelno, 6)),
            "SYSLOG_IDENTIFIER": self._name,
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
        }
        if chip := getattr(record, "chip", None):
            fields["GPIOVIRT_CHIP"] = str(chip)
        fields |= getattr(record, "fields", {})
        with suppress(OSError):
            self._socket.send(b"".join(_field(key, value) for key, value in fields.items()))

    def close(self) -> None:
        self._socket.close()
        super().close()


def _field(name: str, value: str) -> bytes:
    """One field; a multi-line value is sent with its length."""
    raw = value.encode(errors="replace")
    if b"\n" not in raw:
        return name.encode() + b"=" + raw + b"\n"
    return name.encode() + b"\n" + _length.pack(len(raw)) + raw + b"\n"
