# SPDX-License-Identifier: MIT
"""Records as the journal reads them, by its native protocol."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpiovirt.host import journal
from gpiovirt.host.journal import JournalHandler


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.settimeout(5)
        yield sock


def fields(raw: bytes) -> dict[str, str]:
    """Read as the specification says."""
    found = {}
    while raw:
        line, _, rest = raw.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        found[name.decode()] = value.decode()
        raw = rest
    return found


def test_a_record_has_its_chip_and_its_priority(reader: socket.socket, tmp_path: Path) -> None:
    handler = JournalHandler("gpiovirtd", str(tmp_path / "socket"))
    log = logging.Logger("gpiovirt.test")
    log.addHandler(handler)
    log.warning("%s: its worker has ended", "plc", extra={"chip": "plc"})
    said = fields(reader.recv(65536))
    assert said["MESSAGE"] == "plc: its worker has ended"
    assert (said["PRIORITY"], said["GPIOVIRT_CHIP"], said["SYSLOG_IDENTIFIER"]) == ("4", "plc", "gpiovirtd")
    log.error("two\nlines")
    said = fields(reader.recv(65536))
    assert (said["MESSAGE"], said["PRIORITY"]) == ("two\nlines", "3")
    assert "GPIOVIRT_CHIP" not in said
    handler.close()


def test_a_journal_that_is_gone_is_no_fault(reader: socket.socket, tmp_path: Path) -> None:
    handler = JournalHandler("gpiovirtd", str(tmp_path / "socket"))
    reader.close()
    logging.Logger("x").handle(logging.LogRecord("x", logging.INFO, "", 1, "said to nobody", None, None))
    handler.handle(logging.LogRecord("x", logging.INFO, "", 1, "said to nobody", None, None))
    handler.close()


def test_standard_error_is_the_journal_if_the_service_manager_says_so() -> None:
    reader, writer = os.pipe()
    status = os.fstat(writer)
    stream = f"{status.st_dev}:{status.st_ino}"
    assert journal._is_journal(writer, {"JOURNAL_STREAM": stream})
    assert not journal._is_journal(writer, {"JOURNAL_STREAM": stream + "0"})
    assert not journal._is_journal(writer, {})
    os.close(reader)
    os.close(writer)
    assert not journal._is_journal(writer, {"JOURNAL_STREAM": stream})
