# SPDX-License-Identifier: MIT
from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gpiovirt.host.received import Kind, kind_of, receive


def test_files_that_can_be_closed_are_known_by_what_they_are(tmp_path: Path) -> None:
    known = {
        os.memfd_create("x"): Kind.MEMORY,
        os.eventfd(0): Kind.EVENTFD,
        socket.socket(socket.AF_UNIX).detach(): Kind.SOCKET,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).detach(): Kind.SOCKET,
    }
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        known[os.dup(file.fileno())] = Kind.MEMORY
    for fd, kind in known.items():
        assert kind_of(fd) is kind
        os.close(fd)


def test_other_files_are_of_no_kind(tmp_path: Path) -> None:
    (tmp_path / "anon_inode:[eventfd]").touch()
    epoll = select.epoll()
    fds = [
        os.open(tmp_path / "anon_inode:[eventfd]", os.O_RDWR),
        os.open("/dev/null", os.O_RDWR),
        os.open("/dev/shm", os.O_PATH),
        os.dup(epoll.fileno()),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach(),
        socket.socket(socket.AF_INET).detach(),  # which can linger
        *os.pipe(),
    ]
    for fd in fds:
        assert kind_of(fd) is None
        os.close(fd)


def test_kinds_are_known_where_the_root_is_ones_own_directory_of_proc() -> None:
    if os.getuid():
        pytest.skip("only root changes its root")
    program = """
import os
from gpiovirt.host.received import kind_of
eventfd, null = os.eventfd(0), os.open("/dev/null", os.O_RDWR)
os.chroot(f"/proc/{os.getpid()}")
print(kind_of(eventfd), kind_of(null))
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "Kind.EVENTFD None\n"


def test_files_that_there_is_no_room_for_do_not_arrive() -> None:
    one, other = socket.socketpair()
    eventfd = os.eventfd(0)
    with one, other:
        for count, room in ((1, 1), (3, 3), (3, 2), (2, 1), (4, 0)):
            socket.send_fds(one, [b"x"], [eventfd] * count)
            before = len(os.listdir("/proc/self/fd"))
            data, fds, more = receive(other, 10, room)
            assert (data, len(fds), more) == (b"x", min(count, room), count > room)
            assert len(os.listdir("/proc/self/fd")) == before + len(fds)
            for fd in fds:
                assert not os.get_inheritable(fd)
                os.close(fd)
    os.close(eventfd)
