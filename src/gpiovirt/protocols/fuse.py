# SPDX-License-Identifier: MIT
"""The server's side of FUSE, sans-IO: a request of the kernel in, the answers to be written out.

It knows a tree of directories, and of files whose content is made when it is read from its beginning, as in
sysfs and configfs. Nothing is cached by the kernel. The kernel's requests are as long as they say; what is
shorter is EIO.
"""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from gpiovirt.core.task import Future
from gpiovirt.errors import GpiovirtError, OffsetError
from gpiovirt.uapi import fuse as u

__all__ = ["POLLED", "Attribute", "Directory", "FuseServer", "Group"]

# asm-generic/poll.h
_POLLIN, _POLLPRI, _POLLOUT, _POLLERR = 1, 2, 4, 8
_READY = _POLLIN | _POLLOUT
POLLED = _POLLPRI | _POLLERR
"""What a poll of a file says, besides, whose content has changed since it was read"""

# asm-generic/fcntl.h: O_RDONLY, O_WRONLY; who asks for both gets one at least
_O_ACCMODE = 3
_WANTED = {0: 0o444, 1: 0o222, 2: 0o666}
_ROOT = 1
_OPEN_MAX = 65_536
_NODES_MAX = 1 << 20
_WRITE_MAX = 4096
_NO_ANSWER = frozenset({u.FUSE_FORGET, u.FUSE_BATCH_FORGET, u.FUSE_INTERRUPT})
# what no directory here takes, and its errno: that of configfs
_NEVER = {
    u.FUSE_CREATE: errno.EACCES,
    u.FUSE_MKNOD: errno.EPERM,
    u.FUSE_SYMLINK: errno.EPERM,
    u.FUSE_LINK: errno.EPERM,
    u.FUSE_UNLINK: errno.EPERM,
    u.FUSE_RENAME: errno.EPERM,
    u.FUSE_RENAME2: errno.EPERM,
}


class Attribute(Protocol):
    """A file; GpiovirtError if that cannot be done."""

    mode: int
    """Permissions"""

    @property
    def events(self) -> int:
        """A number that changes when who polls is to be told."""

    def read(self) -> bytes:
        """Its content now."""

    def write(self, content: bytes) -> Future[None] | None:
        """Somebody has written this; a future, if that is done only later."""


class Directory(Protocol):
    """A directory."""

    def entries(self) -> Mapping[str, Directory | Attribute]:
        """What is in it now."""


@runtime_checkable
class Group(Protocol):
    """A directory in which others can be made, as in configfs; OSError if not, or not now."""

    def make(self, name: str) -> None:
        """mkdir(2)"""

    def remove(self, name: str) -> Future[None] | None:
        """rmdir(2); a future, if that is done only later."""


class _Open:
    __slots__ = ("attribute", "content", "kh", "seen")

    def __init__(self, attribute: Attribute) -> None:
        self.attribute = attribute
        self.content = b""
        self.seen = -1  # so that a poll before the first read returns at once
        self.kh: int | None = None


class FuseServer:
    """Serves the tree below `root`, which belongs to that user and group.

    `on_late` is given an answer that comes after receive() had none; until then `is_waiting`, and who wants
    things done one after the other does not receive more.
    """

    def __init__(
        self, root: Directory, uid: int, gid: int, on_late: Callable[[bytes], object] = lambda _: None
    ) -> None:
        self._root = root
        self._on_late = on_late
        self.is_waiting = False
        self._uid = uid
        self._gid = gid
        self._paths: dict[int, tuple[str, ...]] = {_ROOT: ()}
        self._nodes: dict[tuple[str, ...], int] = {(): _ROOT}
        self._open: dict[int, _Open] = {}
        self._listed: dict[int, list[tuple[str, bool]]] = {}
        self._next = _ROOT

    def receive(self, message: bytes) -> bytes | None:
        """The answer to a request, if it has one."""
        try:
            _, opcode, unique, node, *_ = u.fuse_in_header.unpack_from(message)
        except struct.error:
            return None
        if opcode in _NO_ANSWER:
            return None
        body = message[u.fuse_in_header.size :]
        try:
            served = self._serve(opcode, node, body)
        except (GpiovirtError, OSError, struct.error) as error:
            return _answer(unique, -_number_of(error))
        if isinstance(served, bytes):
            return _answer(unique, 0, served)
        self._await(unique, *served)
        return None

    def _await(self, unique: int, future: Future[None], then: bytes) -> None:
        """Answer when it is done."""
        self.is_waiting = True

        def done() -> None:
            self.is_waiting = False
            try:
                future.result()
            except (GpiovirtError, OSError) as error:
                self._on_late(_answer(unique, -_number_of(error)))
            else:
                self._on_late(_answer(unique, 0, then))

        future.then(done)

    def wakeups(self) -> list[bytes]:
        """What tells the kernel of polled files that have changed."""
        told = []
        for each in self._open.values():
            if each.kh is not None and each.seen != each.attribute.events:
                body = u.fuse_notify_poll_wakeup_out.pack(each.kh)
                told.append(_answer(0, u.FUSE_NOTIFY_POLL, body))
                each.kh = None
        return told

    def _serve(self, opcode: int, node: int, body: bytes) -> bytes | tuple[Future[None], bytes]:
        """The answer's body, or what it waits for and the body then."""
        if opcode in _NEVER:
            raise OSError(_NEVER[opcode], "not here")
        match opcode:
            case u.FUSE_INIT:
                return _init(body)
            case u.FUSE_LOOKUP:
                return self._lookup(node, body)
            case u.FUSE_GETATTR | u.FUSE_SETATTR:  # a shell truncates what it writes to
                return u.fuse_attr_out.pack(0, 0, 0, self._attributes(node))
            case u.FUSE_OPEN:
                return self._open_file(node, body)
            case u.FUSE_READ:
                return self._read(body)
            case u.FUSE_WRITE:
                return self._write(body)
            case u.FUSE_POLL:
                return self._poll(body)
            case u.FUSE_MKDIR:
                name = body[u.fuse_mkdir_in.size :]
                self._group(node).make(_name(name))
                return self._lookup(node, name)
            case u.FUSE_RMDIR:
                return self._remove(node, _name(body))
            case u.FUSE_RELEASE:
                self._open.pop(u.fuse_release_in.unpack_from(body)[0], None)
                return b""
            case u.FUSE_OPENDIR:
                return self._open_directory(node)
            case u.FUSE_READDIR:
                return self._read_directory(body)
            case u.FUSE_RELEASEDIR:
                self._listed.pop(u.fuse_release_in.unpack_from(body)[0], None)
                return b""
            case u.FUSE_STATFS:
                return u.fuse_statfs_out.pack(0, 0, 0, 0, 0, 4096, 255, 4096, 0)
            case u.FUSE_FLUSH | u.FUSE_ACCESS | u.FUSE_DESTROY:
                return b""
        raise OSError(errno.ENOSYS, "not served")

    # nodes: a path has one number, for good

    def _find(self, node: int) -> Directory | Attribute:
        found: Directory | Attribute = self._root
        for name in self._paths.get(node, ("",)):
            entries = found.entries() if hasattr(found, "entries") else {}
            if name not in entries:
                raise OSError(errno.ENOENT, "no such file")
            found = entries[name]
        return found

    def _lookup(self, parent: int, body: bytes) -> bytes:
        path = (*self._paths.get(parent, ("",)), _name(body))
        node = self._nodes.get(path, 0)
        if not node:
            self._paths[0] = path
            try:
                self._find(0)
            finally:
                del self._paths[0]
            if len(self._nodes) >= _NODES_MAX:
                raise OSError(errno.ENOMEM, "too many files")
            self._next += 1
            node = self._nodes[path] = self._next
            self._paths[node] = path
        return u.fuse_entry_out.pack(node, 0, 0, 0, 0, 0, self._attributes(node))

    def _group(self, node: int) -> Group:
        found = self._find(node)
        if not isinstance(found, Group):
            raise OSError(errno.EPERM, "no directory is made here")
        return found

    def _remove(self, parent: int, name: str) -> bytes | tuple[Future[None], bytes]:
        future = self._group(parent).remove(name)
        path = (*self._paths[parent], name)
        for gone in [each for each in self._nodes if each[: len(path)] == path]:
            del self._paths[self._nodes.pop(gone)]
        return b"" if future is None else (future, b"")

    def _attributes(self, node: int) -> bytes:
        found = self._find(node)
        mode = stat.S_IFDIR | 0o755 if hasattr(found, "entries") else stat.S_IFREG | found.mode
        size = 0 if hasattr(found, "entries") else 4096
        return u.fuse_attr.pack(node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, self._uid, self._gid, 0, 4096, 0)

    # files

    def _open_file(self, node: int, body: bytes) -> bytes:
        found = self._find(node)
        if hasattr(found, "entries"):
            raise OSError(errno.EISDIR, "a directory")
        if not found.mode & _WANTED.get(u.fuse_open_in.unpack_from(body)[0] & _O_ACCMODE, 0):
            raise OSError(errno.EACCES, "root does not read or write it either")
        if len(self._open) >= _OPEN_MAX:
            raise OSError(errno.ENFILE, "too many open files")
        self._next += 1
        self._open[self._next] = _Open(found)
        return u.fuse_open_out.pack(self._next, u.FOPEN_DIRECT_IO, 0)

    def _opened(self, fh: int) -> _Open:
        if fh not in self._open:
            raise OSError(errno.EBADF, "not open")
        return self._open[fh]

    def _read(self, body: bytes) -> bytes:
        fh, offset, size, *_ = u.fuse_read_in.unpack_from(body)
        opened = self._opened(fh)
        if offset == 0:
            opened.seen = opened.attribute.events
            opened.content = opened.attribute.read()
        return opened.content[offset : offset + size]

    def _write(self, body: bytes) -> bytes | tuple[Future[None], bytes]:
        fh, _, size, *_ = u.fuse_write_in.unpack_from(body)
        content = body[u.fuse_write_in.size :][:size]
        if len(content) > _WRITE_MAX:
            raise OSError(errno.E2BIG, "too long")
        future = self._opened(fh).attribute.write(content)
        written = u.fuse_write_out.pack(len(content), 0)
        return written if future is None else (future, written)

    def _poll(self, body: bytes) -> bytes:
        fh, kh, flags, _ = u.fuse_poll_in.unpack_from(body)
        opened = self._opened(fh)
        if flags & u.FUSE_POLL_SCHEDULE_NOTIFY:
            opened.kh = kh
        changed = opened.seen != opened.attribute.events
        return u.fuse_poll_out.pack(_READY | (POLLED if changed else 0), 0)

    # directories

    def _open_directory(self, node: int) -> bytes:
        found = self._find(node)
        if not hasattr(found, "entries"):
            raise OSError(errno.ENOTDIR, "not a directory")
        if len(self._listed) >= _OPEN_MAX:
            raise OSError(errno.ENFILE, "too many open directories")
        self._next += 1
        self._listed[self._next] = [
            (".", True),
            ("..", True),
            *((name, hasattr(each, "entries")) for name, each in found.entries().items()),
        ]
        return u.fuse_open_out.pack(self._next, 0, 0)

    def _read_directory(self, body: bytes) -> bytes:
        fh, offset, size, *_ = u.fuse_read_in.unpack_from(body)
        made = b""
        for place, (name, is_directory) in enumerate(self._listed.get(fh, ())[offset:], offset + 1):
            encoded = name.encode(errors="surrogateescape")
            kind = stat.S_IFDIR >> 12 if is_directory else stat.S_IFREG >> 12
            entry = u.fuse_dirent.pack(place, place, len(encoded), kind) + encoded
            entry += b"\0" * (-len(entry) % 8)
            if len(made) + len(entry) > size:
                break
            made += entry
        return made


def _name(body: bytes) -> str:
    return body.rstrip(b"\0").decode(errors="surrogateescape")


def _number_of(error: BaseException) -> int:
    if isinstance(error, GpiovirtError):
        return errno.EINVAL if isinstance(error, OffsetError) else error.errno
    return (isinstance(error, OSError) and error.errno) or errno.EIO


def _init(body: bytes) -> bytes:
    major, minor, max_readahead, _ = u.fuse_init_in.unpack_from(body)
    if major != u.FUSE_KERNEL_VERSION:
        raise OSError(errno.EPROTO, "another version of FUSE")
    minor = min(minor, u.FUSE_KERNEL_MINOR_VERSION)
    return u.fuse_init_out.pack(major, minor, max_readahead, 0, 12, 9, _WRITE_MAX, 1, 0, 0, 0, 0)


def _answer(unique: int, number: int, body: bytes = b"") -> bytes:
    return u.fuse_out_header.pack(u.fuse_out_header.size + len(body), number, unique) + body
