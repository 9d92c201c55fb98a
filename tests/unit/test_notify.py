# SPDX-License-Identifier: MIT
"""What the service manager is told: never by waiting for it without an end."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpiovirt.host import notify
from gpiovirt.host.notify import keep_fds, sd_notify


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(1)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setattr(notify, "_PATIENCE_S", 0.05)
        yield sock


def test_files_are_kept_and_dropped_by_name(manager: socket.socket) -> None:
    keep_fds({"plc/0": 0})
    message, fds, _, _ = socket.recv_fds(manager, 1000, 2)
    assert message == b"FDSTORE=1\nFDNAME=plc/0"
    (copy,) = fds
    assert os.fstat(copy) == os.fstat(0)
    os.close(copy)
    keep_fds({"plc/0": None})
    assert manager.recv(1000) == b"FDSTOREREMOVE=1\nFDNAME=plc/0"


def test_a_manager_that_does_not_read_stops_nobody(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        keep_fds({f"plc/{offset}": 0 for offset in range(1 << 14)})
        sd_notify("READY=1")
    assert caplog.text.count("does not read what it is told of plc/") == 1
    assert manager.recv(1000).startswith(b"FDSTORE=1")
