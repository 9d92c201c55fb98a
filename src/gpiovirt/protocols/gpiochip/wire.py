# SPDX-License-Identifier: MIT
"""The character device over a socket: who has no /dev/gpiochipN opens a chip of another process so.

A SOCK_SEQPACKET connection is an open file, and its end is the file's close. Packets:

    open      magic, version and flags, the name the device is to have; for a container a NUL, and its name
    ioctl     tag, number, flags, the argument
    answer    tag, errno, fd_at, the argument as it came back, or why not
    hang-up   tag 0, and nobody asked: the file's lines have vanished, and its end follows

Files go one way only. Beside the answer to open come both ends of the pipe that has the file's events,
beside the answer to a request the socket of the file that it opened and both ends of its pipe. A file of
lines ends with its socket, or when nobody has the read end of its pipe any more. Who serves a chip never
has a file of a stranger's: to close one may make it wait for ever.

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
    "HANG_UP",
    "HANG_UP_TAG",
    "OPEN_TAG",
    "PACKET_MAX",
    "VersionError",
    "decode_answer",
    "decode_ioctl",
    "decode_open",
    "encode_answer",
    "encode_ioctl",
    "encode_open",
]

PACKET_MAX = 1024  # the largest argument is gpio_v2_line_request's 592 bytes
_MAGIC = b"gpiochip"
_VERSION = 3
_NAME_MAX = u.GPIO_MAX_NAME_SIZE
_ABOUT_MAX = 160
_IN_CONTAINER = 1 << 16  # flag: whoever opens it does so for a container, whose name follows
_COMPAT = 1  # flag: the caller is an i386 program
_IOC_WRITE = 0x40000000  # asm-generic/ioctl.h: the argument is read

_open = Struct("=8sI")
_ioctl = Struct("=III")
_answer = Struct("=IiI")
OPEN_TAG = 1
HANG_UP_TAG = 0
HANG_UP = _answer.pack(HANG_UP_TAG, 0, 0)


class VersionError(PeerError):
    """A peer of another version."""

    errno = EPROTONOSUPPORT


def encode_open(name: str, container: str = "") -> bytes:
    """The first packet of a connection; of a container's name the beginning."""
    if not container:
        return _open.pack(_MAGIC, _VERSION) + name.encode()
    about = container.encode(errors="replace")[:_ABOUT_MAX]
    return _open.pack(_MAGIC, _VERSION | _IN_CONTAINER) + name.encode() + b"\0" + about


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


def encode_ioctl(tag: int, cmd: int, argument: bytes, compat: bool = False) -> bytes:
    """An ioctl; `argument` is left out where the number says that it is not read."""
    return _ioctl.pack(tag, cmd, _COMPAT if compat else 0) + (argument if cmd & _IOC_WRITE else b"")


def decode_ioctl(packet: bytes) -> tuple[int, int, bytes, bool]:
    """(tag, number, argument, compat); PeerError unless the argument has the size that the number says."""
    if len(packet) < _ioctl.size:
        raise PeerError("a packet shorter than its header")
    tag, cmd, flags = _ioctl.unpack_from(packet)
    if len(packet) - _ioctl.size != (u.ioc_size(cmd) if cmd & _IOC_WRITE else 0):
        raise PeerError(f"ioctl {cmd:#x} with an argument of {len(packet) - _ioctl.size} bytes")
    return tag, cmd, packet[_ioctl.size :], bool(flags & _COMPAT)


def encode_answer(tag: int, answer: Answer) -> bytes:
    """The answer; the files that it brings go beside it."""
    errno, content, _, fd_at, why = answer
    if errno:
        content = why.encode(errors="replace")[: PACKET_MAX - _answer.size]
    header = _answer.pack(tag, errno, fd_at)
    return header + content if content else header


def decode_answer(packet: bytes) -> tuple[int, Answer]:
    """(tag, answer), but for the file; PeerError if it is none."""
    if len(packet) < _answer.size:
        raise PeerError("a packet shorter than its header")
    tag, errno, fd_at = _answer.unpack_from(packet)
    content = packet[_answer.size :]
    if errno < 0 or (fd_at and fd_at + 4 > len(content)):
        raise PeerError("a malformed answer")
    if errno:
        return tag, Answer(errno, why=printable(content.decode(errors="replace")))
    return tag, Answer(0, content or None, None, fd_at)
