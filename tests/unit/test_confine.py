# SPDX-License-Identifier: MIT
"""What a confined process can no longer do, tried in one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import ctypes, fcntl, json, mmap, os, select, signal, socket, struct, sys, termios
    import gpiovirt.host.fifo
    from gpiovirt.host.confine import confine
    from gpiovirt.uapi.gpio import GPIO_V2_LINE_GET_VALUES_IOCTL

    reader, writer = os.pipe()
    os.fchmod(writer, 0o666)
    one, other = socket.socketpair()
    datagrams = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    sealed = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    confine(65534, 65534)

    def attempt(name, what):
        try:
            what()
            tried[name] = "works"
        except OSError as error:
            tried[name] = error.strerror

    tried = {}
    attempt("read a file", lambda: open("/etc/passwd"))
    attempt("open a device", lambda: os.open("/dev/gpiochip0", os.O_RDWR))
    attempt("write a file", lambda: open("/tmp/x", "w"))
    attempt("go up", lambda: open("/../../../../etc/passwd"))
    attempt("list", lambda: os.listdir("/"))
    attempt("socket", lambda: socket.socket(socket.AF_INET))
    attempt("unix socket", lambda: socket.socket(socket.AF_UNIX))
    attempt("fork", os.fork)
    attempt("exec", lambda: os.execv("/proc/self/exe", ["x"]))
    attempt("kill", lambda: os.kill(os.getppid(), 0))
    tgkill = {"x86_64": 234, "aarch64": 131}[os.uname().machine]
    attempt("kill a thread", lambda: checked(libc.syscall(tgkill, os.getppid(), os.getppid(), 0)))
    attempt("ptrace", lambda: checked(libc.ptrace(16, os.getppid(), 0, 0)))
    attempt("become root", lambda: os.setuid(0))
    attempt("mount", lambda: checked(libc.mount(b"x", b"/", b"tmpfs", 0, None)))
    attempt("new code", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC))
    attempt("type at a terminal", lambda: fcntl.ioctl(0, termios.TIOCSTI, b"x"))

    # a signal by way of a file, to any process of the same user
    attempt("own a file's signals", lambda: fcntl.fcntl(one, fcntl.F_SETOWN, os.getppid()))
    attempt("own them otherwise", lambda: fcntl.fcntl(one, 15, struct.pack("ii", 1, os.getppid())))
    attempt("choose the signal", lambda: fcntl.fcntl(one, fcntl.F_SETSIG, signal.SIGKILL))
    attempt("have signals sent", lambda: fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK))
    attempt("be told by signals", lambda: fcntl.fcntl(reader, fcntl.F_NOTIFY, 1))
    attempt("lease", lambda: fcntl.fcntl(reader, fcntl.F_SETLEASE, fcntl.F_RDLCK))
    for number in (0x5452, 0x8901, 0x8902):  # FIOASYNC, FIOSETOWN, SIOCSPGRP
        attempt(f"ioctl {number:#x}", lambda: fcntl.ioctl(one, number, struct.pack("i", os.getppid())))
    # a message to a socket that has a name
    attempt("datagram sockets", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
    attempt("other datagram sockets", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW))
    attempt("other families", lambda: socket.socketpair(30, socket.SOCK_STREAM))  # AF_TIPC
    attempt("send to a name", lambda: datagrams[0].sendto(b"x", bytes(1) + b"gpiovirt-test"))

    attempt("flags of a file", lambda: fcntl.fcntl(one, fcntl.F_SETFL, fcntl.fcntl(one, fcntl.F_GETFL)))
    attempt("do not wait", lambda: one.setblocking(False))
    attempt("another fd", lambda: os.close(os.dup(reader)))
    attempt("seals", lambda: fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.fcntl(sealed, fcntl.F_GET_SEALS)))
    attempt("a pair of sockets", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    attempt("send", lambda: one.send(b"x"))
    attempt("gpio ioctl", lambda: fcntl.ioctl(reader, GPIO_V2_LINE_GET_VALUES_IOCTL, bytes(16)))
    attempt("memory", lambda: mmap.mmap(-1, 4096))
    attempt("shared memory", lambda: os.close(os.memfd_create("x")))
    attempt("poll", lambda: select.epoll().poll(0))
    attempt("send a file", lambda: socket.send_fds(one, [b"x"], [reader]))
    attempt("get a file", lambda: socket.recv_fds(other, 1, 1))
    attempt("own end of a pipe", lambda: gpiovirt.host.fifo.reopen(writer, os.O_WRONLY))
    print(json.dumps({"uid": os.getuid(), "tried": tried}))
"""
REFUSED = "Operation not permitted"
NOT_THERE = "No such file or directory"


@pytest.fixture(scope="module")
def tried() -> dict[str, str]:
    import json

    preamble = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    def checked(result):
        if result < 0:
            import os
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    """
    program = textwrap.dedent(preamble) + textwrap.dedent(PROGRAM)
    printed = subprocess.check_output([sys.executable, "-c", program], text=True)
    found = json.loads(printed)
    assert found["uid"] == (65534 if os.getuid() == 0 else os.getuid())
    result: dict[str, str] = found["tried"]
    return result


def test_nothing_is_reached_that_was_not_handed_over(tried: dict[str, str]) -> None:
    for what in ("socket", "unix socket", "fork", "exec", "kill", "kill a thread", "ptrace", "become root"):
        assert tried.pop(what) == REFUSED, what
    for what in ("mount", "list"):
        assert tried.pop(what) == REFUSED, what
    for what in ("own a file's signals", "own them otherwise", "choose the signal", "have signals sent"):
        assert tried.pop(what) == REFUSED, what
    for what in ("be told by signals", "lease", "ioctl 0x5452", "ioctl 0x8901", "ioctl 0x8902"):
        assert tried.pop(what) == REFUSED, what
    for what in ("datagram sockets", "other datagram sockets", "other families", "send to a name"):
        assert tried.pop(what) == REFUSED, what
    for what in ("read a file", "open a device", "write a file", "go up"):
        assert tried.pop(what) in (NOT_THERE, REFUSED, "Permission denied"), what
    assert tried.pop("new code") == REFUSED
    assert tried.pop("type at a terminal") == REFUSED
    assert tried.pop("gpio ioctl") == "Inappropriate ioctl for device"
    assert set(tried.values()) == {"works"}, tried


def test_file_system_that_cannot_be_left_is_told() -> None:
    if os.getuid():
        pytest.skip("only root can forbid user namespaces")
    program = """
import ctypes, os, logging
logging.basicConfig()
from gpiovirt.host import confine
assert ctypes.CDLL(None).unshare(0x10000000) == 0  # whose limit is its own
with open("/proc/sys/user/max_user_namespaces", "w") as limit:
    limit.write("0")
confine._leave_the_file_system()
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "no user namespace is available" in said.stderr
