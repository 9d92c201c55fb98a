# SPDX-License-Identifier: MIT
"""A listener that cannot take a connection turns it away, or waits until it can: it does not spin."""

from __future__ import annotations

import errno
import os
import resource
import socket
import time
from pathlib import Path

import pytest

from gpiovirt.errors import HostError
from gpiovirt.host.unix_socket import Access, PathListener, SocketListener, refuse_files


class FullSystem(socket.socket):
    """A listening socket on a system that has too many files open."""

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.accepts = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.accepts += 1
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))


def test_a_system_without_files_is_waited_for() -> None:
    sock = FullSystem()
    listener = SocketListener(sock)
    began = time.process_time(), time.monotonic()
    for _ in range(10):
        with pytest.raises(HostError) as raised:
            listener.accept()
        assert raised.value.errno == errno.ENFILE
    assert time.monotonic() - began[1] > 10 * 0.004
    assert time.process_time() - began[0] < 0.03
    assert sock.accepts == 20
    listener.close()


def test_a_process_without_files_turns_connections_away_and_goes_on(tmp_path: Path) -> None:
    listener = PathListener(str(tmp_path / "s"), Access(), socket.SOCK_SEQPACKET)
    peers = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    for peer in peers:
        peer.settimeout(5)
        peer.connect(str(tmp_path / "s"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                fillers.append(os.dup(0))
        for peer in peers[:2]:
            with pytest.raises(HostError, match="turned away"):
                listener.accept()
            assert peer.recv(1) == b""
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    accepted = listener.accept()
    assert accepted is not None
    accepted.close()
    listener.close()
    for peer in peers:
        peer.close()


def test_files_are_refused_or_dropped_by_the_kernel(tmp_path: Path) -> None:
    listener = PathListener(str(tmp_path / "s"), Access(), socket.SOCK_SEQPACKET)
    refuse_files(listener.socket)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(str(tmp_path / "s"))
        accepted = listener.accept()
        assert accepted is not None
        before = len(os.listdir("/proc/self/fd"))
        try:
            socket.send_fds(peer, [b"x"], [0])
        except PermissionError:
            peer.send(b"x")
        assert accepted.recv(8) == b"x"
        assert len(os.listdir("/proc/self/fd")) == before
        accepted.close()
    listener.close()


def test_a_listener_that_is_replaced_is_there_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes back to a chip would take it for deleted."""
    path = tmp_path / "chip"
    (tmp_path / ".chip").touch()  # of a process that was killed meanwhile
    there: list[bool] = []
    chmod = os.chmod

    def look(at: str, mode: int) -> None:
        there.append(path.exists())
        chmod(at, mode)

    monkeypatch.setattr(os, "chmod", look)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as former:
        former.bind(str(path))
        listener = PathListener(str(path), Access(mode=0o600), socket.SOCK_SEQPACKET, replace=True)
    assert there == [True]
    assert os.listdir(tmp_path) == ["chip"]
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(str(path))
    listener.close()
    assert os.listdir(tmp_path) == []
