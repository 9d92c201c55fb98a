# SPDX-License-Identifier: MIT
"""The server's side of FUSE: what it answers, to nonsense too."""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpiovirt.protocols import fuse
from gpiovirt.protocols.fuse import POLLED, Attribute, Directory, FuseServer
from gpiovirt.uapi import fuse as u

ROOT = 1


class File:
    """A file of one word."""

    mode = 0o644

    def __init__(self) -> None:
        self.content = b"0\n"
        self.events = 0

    def read(self) -> bytes:
        return self.content

    def write(self, content: bytes) -> None:
        if content == b"bad":
            raise OSError(errno.EINVAL, "bad")
        self.content = content


class Tree:
    """value, and a directory with one more."""

    def __init__(self) -> None:
        self.value = File()
        self.inner = Inner()

    def entries(self) -> Mapping[str, Directory | Attribute]:
        return {"value": self.value, "inner": self.inner}


class Inner:
    """A directory."""

    def __init__(self) -> None:
        self.file = File()

    def entries(self) -> Mapping[str, Directory | Attribute]:
        return {"file": self.file}


class Kernel:
    """Asks, and takes answers apart."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.server = FuseServer(self.tree, 1000, 1001)
        self.unique = 0

    def message(self, opcode: int, node: int, body: bytes = b"") -> bytes:
        self.unique += 1
        size = u.fuse_in_header.size + len(body)
        return u.fuse_in_header.pack(size, opcode, self.unique, node, 0, 0, 0, 0, 0) + body

    def ask(self, opcode: int, node: int, body: bytes = b"") -> bytes:
        """The answer's body; OSError."""
        answer = self.server.receive(self.message(opcode, node, body))
        assert answer is not None
        size, error, unique = u.fuse_out_header.unpack_from(answer)
        assert (size, unique) == (len(answer), self.unique)
        if error:
            assert size == u.fuse_out_header.size
            raise OSError(-error, "refused")
        return answer[u.fuse_out_header.size :]

    def look_up(self, *names: str) -> int:
        node = ROOT
        for name in names:
            node = u.fuse_entry_out.unpack(self.ask(u.FUSE_LOOKUP, node, name.encode() + b"\0"))[0]
        return node

    def open(self, *names: str) -> int:
        fh: int = u.fuse_open_out.unpack(
            self.ask(u.FUSE_OPEN, self.look_up(*names), u.fuse_open_in.pack(0, 0))
        )[0]
        return fh

    def read(self, fh: int, offset: int = 0, size: int = 4096) -> bytes:
        return self.ask(u.FUSE_READ, 2, u.fuse_read_in.pack(fh, offset, size, 0, 0, 0, 0))

    def write(self, fh: int, content: bytes) -> int:
        body = u.fuse_write_in.pack(fh, 0, len(content), 0, 0, 0, 0) + content
        size: int = u.fuse_write_out.unpack(self.ask(u.FUSE_WRITE, 2, body))[0]
        return size

    def poll(self, fh: int, kh: int = 7) -> int:
        body = u.fuse_poll_in.pack(fh, kh, u.FUSE_POLL_SCHEDULE_NOTIFY, 0)
        revents: int = u.fuse_poll_out.unpack(self.ask(u.FUSE_POLL, 2, body))[0]
        return revents


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_it_speaks_the_kernels_version_or_a_smaller_one(kernel: Kernel) -> None:
    for minor, spoken in ((45, 31), (26, 26)):
        answer = u.fuse_init_out.unpack(kernel.ask(u.FUSE_INIT, 0, u.fuse_init_in.pack(7, minor, 65536, 0)))
        assert answer[:3] == (7, spoken, 65536)
    with pytest.raises(OSError, match="refused"):
        kernel.ask(u.FUSE_INIT, 0, u.fuse_init_in.pack(8, 0, 0, 0))


def test_a_file_is_read_anew_from_its_beginning(kernel: Kernel) -> None:
    fh = kernel.open("value")
    assert kernel.read(fh) == b"0\n"
    kernel.tree.value.content = b"1234\n"
    assert kernel.read(fh, 1) == b"\n"
    assert kernel.read(fh, 0, 2) == b"12"
    assert kernel.read(fh, 2) == b"34\n"
    assert kernel.read(fh, 100) == b""


def test_what_is_written_is_whole_or_refused(kernel: Kernel) -> None:
    fh = kernel.open("inner", "file")
    assert kernel.write(fh, b"1\n") == 2
    assert kernel.tree.inner.file.content == b"1\n"
    for content, number in ((b"bad", errno.EINVAL), (b"x" * 5000, errno.E2BIG)):
        with pytest.raises(OSError, match="refused") as raised:
            kernel.write(fh, content)
        assert raised.value.errno == number


def test_a_poll_is_told_once_of_what_has_changed_since_it_was_read(kernel: Kernel) -> None:
    fh = kernel.open("value")
    assert kernel.poll(fh) & POLLED == POLLED
    kernel.read(fh)
    assert not kernel.poll(fh) & POLLED
    assert kernel.server.wakeups() == []
    kernel.tree.value.events += 1
    (told,) = kernel.server.wakeups()
    assert u.fuse_out_header.unpack_from(told) == (len(told), u.FUSE_NOTIFY_POLL, 0)
    assert u.fuse_notify_poll_wakeup_out.unpack(told[u.fuse_out_header.size :]) == (7,)
    assert kernel.server.wakeups() == []
    assert kernel.poll(fh) & POLLED == POLLED


def test_a_directory_is_listed_in_pieces(kernel: Kernel) -> None:
    fh = u.fuse_open_out.unpack(kernel.ask(u.FUSE_OPENDIR, ROOT, u.fuse_open_in.pack(0, 0)))[0]
    names, offset = [], 0
    while listed := kernel.ask(u.FUSE_READDIR, ROOT, u.fuse_read_in.pack(fh, offset, 40, 0, 0, 0, 0)):
        _, offset, length, _ = u.fuse_dirent.unpack_from(listed)
        names.append(listed[u.fuse_dirent.size :][:length])
    assert names == [b".", b"..", b"value", b"inner"]
    kernel.ask(u.FUSE_RELEASEDIR, ROOT, u.fuse_release_in.pack(fh, 0, 0, 0))


def test_what_is_not_there_has_no_number_and_no_file(kernel: Kernel) -> None:
    node = kernel.look_up("value")
    assert kernel.look_up("value") == node
    for opcode, where, body in (
        (u.FUSE_LOOKUP, ROOT, b"nosuch\0"),
        (u.FUSE_LOOKUP, node, b"below a file\0"),
        (u.FUSE_LOOKUP, 4711, b"value\0"),
        (u.FUSE_GETATTR, 4711, b""),
        (u.FUSE_READ, node, u.fuse_read_in.pack(4711, 0, 10, 0, 0, 0, 0)),
        (u.FUSE_OPEN, ROOT, u.fuse_open_in.pack(0, 0)),
        (u.FUSE_OPENDIR, node, u.fuse_open_in.pack(0, 0)),
        (4000, ROOT, b""),
    ):
        with pytest.raises(OSError, match="refused"):
            kernel.ask(opcode, where, body)


def test_every_request_that_is_cut_short_is_refused(kernel: Kernel) -> None:
    fh = kernel.open("value")
    bodies = {
        u.FUSE_INIT: u.fuse_init_in.pack(7, 31, 0, 0),
        u.FUSE_READ: u.fuse_read_in.pack(fh, 0, 10, 0, 0, 0, 0),
        u.FUSE_WRITE: u.fuse_write_in.pack(fh, 0, 0, 0, 0, 0, 0),
        u.FUSE_POLL: u.fuse_poll_in.pack(fh, 1, 1, 0),
        u.FUSE_READDIR: u.fuse_read_in.pack(fh, 0, 10, 0, 0, 0, 0),
        u.FUSE_RELEASE: u.fuse_release_in.pack(fh, 0, 0, 0),
    }
    for opcode, body in bodies.items():
        for length in range(len(body)):
            with pytest.raises(OSError, match="refused"):
                kernel.ask(opcode, ROOT, body[:length])
    for length in range(u.fuse_in_header.size):
        assert kernel.server.receive(kernel.message(u.FUSE_GETATTR, ROOT)[:length]) is None


def test_files_that_are_closed_are_forgotten_and_there_is_a_limit(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuse, "_OPEN_MAX", 3)
    opened = [kernel.open("value") for _ in range(3)]
    with pytest.raises(OSError, match="refused") as raised:
        kernel.open("value")
    assert raised.value.errno == errno.ENFILE
    kernel.ask(u.FUSE_RELEASE, 2, u.fuse_release_in.pack(opened[0], 0, 0, 0))
    kernel.open("value")


@given(st.integers(0, 60), st.integers(0, 5), st.binary(max_size=120))
def test_whatever_is_asked_gets_one_whole_answer_or_none(opcode: int, node: int, body: bytes) -> None:
    kernel = Kernel()
    kernel.open("value")
    answer = kernel.server.receive(kernel.message(opcode, node, body))
    if answer is not None:
        size, error, unique = struct.unpack_from("=IiQ", answer)
        assert (size, unique) == (len(answer), kernel.unique)
        assert error <= 0
