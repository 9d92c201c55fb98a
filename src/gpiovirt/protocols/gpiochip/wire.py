# SPDX-License-Identifier: MIT
"""The character device over a socket: who has no /dev/gpiochipN opens a chip of another process so.

A SOCK_SEQPACKET connection is an open chip, file 0, and the files that were opened through it; or, of a
line that is lent, that line as file 0. Its end is the close of all. Packets:

    open      magic, version and flags, the name the device is to have; for a container a NUL, and its name
    ioctl     tag, number, which file and flags, the argument
    close     the same with number 0, for which there is no answer
    answer    tag, errno, which file was opened and fd_at, the argument as it came back, or why not
    hang-up   tag 0, and nobody asked: lines have vanished, and their file is closed
    changed   a tag that no ioctl has, and nobody asked: a value that was kept is another

Descriptors go one way only. Beside the answer to open, and to a request, come both ends of the pipe that has
the file's events. A file of lines also ends when nobody has the read end of that any more. Who serves a chip
never has a descriptor of a stranger's: to close one may make it wait for ever.

Who has borrowed a line can ask for its value as of a file KEPT. If the answer says KEPT, too, the value stays
what it is until `changed` comes, once: that was sent before anybody could see the line change elsewhere.

The tag of an answer is that of the ioctl, or 1 for open: who takes a file over from somebody else may
find an answer on it to another question.
"""

from __future__ import annotations

from errno import EPROTONOSUPPORT
from struct import Struct

from gpiovirt.core.text import printable
from gpiovirt.errors import PeerError
from gpiovirt.protocols.gpiochip.file import Answer
from gpiovirt.uapi import gpio as u

__all__ = [
    "CHANGED",
    "CHANGED_TAG",
    "FILES_MAX",
    "HANG_UP_TAG",
    "KEPT",
    "OPEN_TAG",
    "PACKET_MAX",
    "VersionError",
    "decode_answer",
    "decode_ioctl",
    "decode_open",
    "encode_answer",
    "encode_close",
    "encode_hang_up",
    "encode_ioctl",
    "encode_open",
]

PACKET_MAX = 1024  # the largest argument is gpio_v2_line_request's 592 bytes
_MAGIC = b"gpiochip"
_VERSION = 4
_NAME_MAX = u.GPIO_MAX_NAME_SIZE
_ABOUT_MAX = 160
_IN_CONTAINER = 1 << 16  # flag: whoever opens it does so for a container, whose name follows
_COMPAT = 1  # flag: the caller is an i386 program
_FILE = 16  # the bit from which on a file's number stands, above flags or fd_at
FILES_MAX = 0xFFFF
"""The largest number of a file; for lent lines, which know file 0 only, version 3 is the same"""
_IOC_WRITE = 0x40000000  # asm-generic/ioctl.h: the argument is read

_open = Struct("=8sI")
_ioctl = Struct("=III")
_answer = Struct("=IiI")
OPEN_TAG = 1
HANG_UP_TAG = 0
CHANGED_TAG = 1 << 31
CHANGED = _answer.pack(CHANGED_TAG, 0, 0)
KEPT = 1
"""Stands for a file's number where lines are lent, which have none but 0"""


class VersionError(PeerError):
    """A peer of another version."""

    errno = EPROTONOSUPPORT


def encode_open(name: str, container: str = "") -> bytes:
    """The first packet of a connection; of a container's name the beginning."""
    if not container:
        return _open.pack(_MAGIC, _VERSION) + name.encode(errors="replace")
    about = container.encode(errors="replace")[:_ABOUT_MAX]
    return _open.pack(_MAGIC, _VERSION | _IN_CONTAINER) + name.encode(errors="replace") + b"\0" + about


def decode_open(packet: bytes) -> tuple[str, str]:
    """The device name wanted, and the container that it is for; PeerError if this is no such packet."""
    name, nul, about = packet[_open.size :].partition(b"\0")
    if len(packet) < _open.size or len(name) >= _NAME_MAX or len(about) > _ABOUT_MAX:
        raise PeerError("not the first packet of a chip's file")
    magic, version = _open.unpack_from(packet)
    if magic != _MAGIC:
        raise PeerError("another protocol")
    if version & ~_IN_CONTAINER != _VERSION:
        raise VersionError(f"version {version} of the device socket's protocol, and not {_VERSION}")
    if bool(nul) is not bool(version & _IN_CONTAINER):
        raise PeerError("not the first packet of a chip's file")
    return name.decode(errors="replace"), printable(about.decode(errors="replace"))


def encode_ioctl(tag: int, cmd: int, argument: bytes, compat: bool = False, file: int = 0) -> bytes:
    """An ioctl; `argument` is left out where the number says that it is not read."""
    return _ioctl.pack(tag, cmd, file << _FILE | compat) + (argument if cmd & _IOC_WRITE else b"")


def encode_close(file: int) -> bytes:
    """A file is closed; others of the connection are not."""
    return _ioctl.pack(HANG_UP_TAG, 0, file << _FILE)


def decode_ioctl(packet: bytes) -> tuple[int, int, bytes, bool, int]:
    """(tag, number, argument, compat, file); number 0: the file is closed.

    PeerError unless the argument has the size that the number says.
    """
    if len(packet) < _ioctl.size:
        raise PeerError("a packet shorter than its header")
    tag, cmd, flags = _ioctl.unpack_from(packet)
    if len(packet) - _ioctl.size != (u.ioc_size(cmd) if cmd & _IOC_WRITE else 0):
        raise PeerError(f"ioctl {cmd:#x} with an argument of {len(packet) - _ioctl.size} bytes")
    return tag, cmd, packet[_ioctl.size :], bool(flags & _COMPAT), flags >> _FILE


def encode_answer(tag: int, answer: Answer, file: int = 0) -> bytes:
    """The answer; the pipe of the `file` that was opened goes beside it."""
    errno, content, _, fd_at, why = answer
    if errno:
        content = why.encode(errors="replace")[: PACKET_MAX - _answer.size]
    header = _answer.pack(tag, errno, file << _FILE | fd_at)
    return header + content if content else header


def encode_hang_up(file: int) -> bytes:
    """Its lines have vanished."""
    return _answer.pack(HANG_UP_TAG, 0, file << _FILE)


def decode_answer(packet: bytes) -> tuple[int, Answer, int]:
    """(tag, answer, the file that was opened or has hung up); PeerError if it is none."""
    if len(packet) < _answer.size:
        raise PeerError("a packet shorter than its header")
    tag, errno, where = _answer.unpack_from(packet)
    content = packet[_answer.size :]
    fd_at = where & FILES_MAX
    if errno < 0 or (fd_at and fd_at + 4 > len(content)):
        raise PeerError("a malformed answer")
    if errno:
        return tag, Answer(errno, why=printable(content.decode(errors="replace"))), 0
    return tag, Answer(0, content or None, None, fd_at), where >> _FILE
