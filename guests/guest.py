# SPDX-License-Identifier: MIT
"""Boot a test guest and run commands in it: `uml(...)` and `qemu(...)` for one, `Uml` and `Qemu` for several.

A guest's / is the host's (in QEMU with host_root=True), so this interpreter and this checkout work in it as
they are; /proc, /sys, /dev and /run are its own. What a command wrote to a file is on the host when run()
returns. A guest dies with the thread that started it, whichever way that ends.
"""

from __future__ import annotations

import base64
import math
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from guests.recipes import HERE, RECIPES, TARGETS, build_path

BOOT_TIMEOUT_S = 60
_ANSWER_GRACE_S = 10  # beyond a command's own time, for the guest to end it and answer
_TIMED_OUT = (124, 137, 143)  # timeout(1) of coreutils, either with SIGKILL, of busybox
_READY = re.compile(r".?ready \S+")  # a serial port may send a stray byte when its driver finds it
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h
_UNREAD_BYTES, _SKB_BYTES = 1 << 14, 768
_VIRTIO_ID_GPIO = 41  # linux/virtio_ids.h

# linux/reboot.h: LINUX_REBOOT_CMD_RESTART
_RESTART = [sys.executable, "-c", "import ctypes; ctypes.CDLL(None).reboot(0x01234567)"]

Env = Mapping[str, str]
NO_ENV: Env = {}


class GuestError(Exception):
    """A guest could not be started, or died; the first line says it all, the console's last lines follow."""


class GuestTimeoutError(GuestError):
    """A command did not end in its time; the guest has been killed."""


@dataclass(frozen=True)
class Result:
    stdout: str
    stderr: str
    status: int
    console: str
    """The kernel's messages since the guest started."""

    def check(self) -> str:
        """The command's stdout; GuestError if it failed."""
        if self.status:
            raise GuestError(f"a guest's command failed with status {self.status}: {self.stderr.strip()}")
        return self.stdout


def uml(
    command: str,
    *,
    cpu: int | None = None,
    mem: str = "256M",
    timeout_s: float = 60,
    vhost_gpio: Sequence[str] = (),
    env: Env = NO_ENV,
    user: str = "",
    kernel: str = "uml",
) -> Result:
    """Run a shell command in a User Mode Linux of its own, as `user` or as root."""
    with Uml(cpu=cpu, mem=mem, vhost_gpio=vhost_gpio, kernel=kernel) as guest:
        return guest.run(command, timeout_s=timeout_s, env=env, user=user)


def qemu(
    command: str,
    *,
    mem: str = "256M",
    timeout_s: float = 60,
    vhost_gpio: Sequence[str] = (),
    env: Env = NO_ENV,
    host_root: bool = False,
    emulator: str = "qemu-system-x86_64",
) -> Result:
    """Run a shell command in a QEMU virtual machine of its own."""
    with Qemu(mem=mem, vhost_gpio=vhost_gpio, host_root=host_root, emulator=emulator) as guest:
        return guest.run(command, timeout_s=timeout_s, env=env)


class Guest(ABC):
    """A booted guest that takes one command after another."""

    boot_timeout_s: float = BOOT_TIMEOUT_S

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gpiovirt-guest-")
        self._console = Path(self._folder.name) / "console"
        self._received = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._end = ""  # why it is dead, and what it printed last
        self._port, guest_end = socket.socketpair()
        # a serial port sends each byte by itself, and some of QEMU's lose what is not taken at once
        with suppress(PermissionError):
            guest_end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _UNREAD_BYTES * _SKB_BYTES)
        try:
            with guest_end, self._console.open("wb") as console:
                self._process = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", *self._argv(guest_end.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    pass_fds=[guest_end.fileno()],
                    start_new_session=True,
                )
            self._await_ready()
        except BaseException:
            self.kill()
            raise

    @abstractmethod
    def _argv(self, port: int) -> list[str]:
        """The guest's command line, given the inherited descriptor that is its control port."""

    @abstractmethod
    def _reboot_script(self) -> str:
        """A shell script that makes the guest's kernel restart at once."""

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def run(
        self, command: str, *, timeout_s: float = 60, env: Env = NO_ENV, user: str = "", cwd: str = "/"
    ) -> Result:
        """Run a shell command; past its time the guest is killed and GuestTimeoutError raised.

        Started in the background with its output redirected, a program goes on beside later commands.
        """
        script = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
        script += f"cd {shlex.quote(cwd)}\n{command}"
        if user:
            script = (
                f'exec setpriv --reuid={user} --regid="$(id -g {user})" --init-groups --reset-env '
                f"sh -c {shlex.quote(script)}"
            )
        started = time.monotonic()
        self._send(script, timeout_s)
        deadline = started + timeout_s + _ANSWER_GRACE_S
        try:
            first = self._line(deadline)
            if first.startswith("ready "):
                raise self._failure("the guest restarted while it ran a command")
            status = int(first)
            stdout, stderr = (
                base64.b64decode(self._line(deadline)).decode(errors="replace") for _ in range(2)
            )
        except TimeoutError:
            raise self._failure(f"{command!r} hangs, and so does the guest", GuestTimeoutError) from None
        if status in _TIMED_OUT and time.monotonic() - started >= timeout_s:
            said = f"stdout ends {stdout[-200:]!r}, stderr {stderr[-200:]!r}"
            raise self._failure(f"{command!r} did not end in {timeout_s:g} s; its {said}", GuestTimeoutError)
        return Result(stdout, stderr, status, self._console.read_text(errors="replace"))

    def reboot(self) -> None:
        """Restart the guest's kernel; the process, QEMU or User Mode Linux, stays the same."""
        self._send(self._reboot_script(), self.boot_timeout_s)
        self._await_ready()

    def kill(self) -> None:
        """End the guest without warning. A dead guest may be killed again."""
        self._end = self._end or f"it was killed\n{self._last_lines()}".rstrip()
        self._port.close()
        if self._process and self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _send(self, script: str, timeout_s: float) -> None:
        if self._end:
            raise GuestError(f"the guest is dead: {self._end}")
        line = b"%d %s\n" % (math.ceil(timeout_s), base64.b64encode(script.encode()))
        try:
            self._port.settimeout(_ANSWER_GRACE_S)
            self._port.sendall(line)
        except OSError as error:
            raise self._failure(f"the guest takes no command: {error}") from error

    def _await_ready(self) -> None:
        deadline = time.monotonic() + self.boot_timeout_s
        try:
            while not _READY.fullmatch(line := self._line(deadline)):
                self._said_before_ready(line)
        except TimeoutError:
            raise self._failure(f"the guest did not boot in {self.boot_timeout_s:g} s") from None

    def _said_before_ready(self, line: str) -> None:
        raise self._failure(f"the guest said {line!r} instead of being ready")

    def _line(self, deadline: float) -> str:
        """The next line from the guest; TimeoutError at the deadline."""
        while b"\n" not in self._received:
            self._port.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                chunk = self._port.recv(1 << 16)
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise self._failure(f"the guest died{self._how()}")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace")

    def _how(self) -> str:
        """How its process ended, if that has."""
        assert self._process
        try:
            status = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return ", but its process goes on"
        return f", of signal {-status}" if status < 0 else f", with status {status}"

    def _failure(self, message: str, kind: type[GuestError] = GuestError) -> GuestError:
        self._end = f"{message}\n{self._last_lines()}".rstrip()
        self.kill()
        return kind(self._end)

    def _last_lines(self) -> str:
        try:
            return "\n".join(self._console.read_text(errors="replace").splitlines()[-15:])
        except FileNotFoundError:  # it never began to print
            return ""


class Uml(Guest):
    """User Mode Linux, on one host CPU: its system calls take six times as long when it roams."""

    def __init__(
        self,
        *,
        cpu: int | None = None,
        mem: str = "256M",
        vhost_gpio: Sequence[str] = (),
        kernel: str = "uml",
        systemd: bool = False,
        extra_args: Sequence[str] = (),
    ) -> None:
        """With `systemd`, that is started beside the commands, and what they write stays in the guest."""
        cpus = sorted(os.sched_getaffinity(0))
        self._cpu = cpus[os.getpid() % len(cpus)] if cpu is None else cpu
        self._mem = mem
        self._kernel = built(kernel) / "linux"
        self._extra_args = [f"virtio_uml.device={path}:{_VIRTIO_ID_GPIO}" for path in vhost_gpio]
        self._extra_args += ["guest_systemd=/lib/systemd/systemd"] * systemd
        self._extra_args += extra_args
        super().__init__()

    def _argv(self, port: int) -> list[str]:
        return [
            *("taskset", "--cpu-list", str(self._cpu), str(self._kernel), f"mem={self._mem}"),
            *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f'init="{HERE / "init"}"'),
            *("con=null", "con0=null,fd:1", f"ssl0=fd:{port},fd:{port}", "guest_port=/dev/ttyS0"),
            *(f"uml_dir={self._folder.name}/", "seccomp=auto", *self._extra_args),
        ]

    def _reboot_script(self) -> str:
        return shlex.join(_RESTART)


def _tsc_khz() -> int:
    """Rate of the time stamp counter, which an emulated CPU shares with this one's."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("cpu MHz"):
            return int(float(line.partition(":")[2]) * 1000)
    return 0


class Qemu(Guest):
    """A QEMU virtual machine without KVM; its / is a small one of busybox and Debian's gpiod tools."""

    def __init__(
        self,
        *,
        mem: str = "256M",
        vhost_gpio: Sequence[str] = (),
        host_root: bool = False,
        emulator: str = "qemu-system-x86_64",
        extra_args: Sequence[str] = (),
    ) -> None:
        """`vhost_gpio` are socket paths, each with more chardev options after a comma if need be."""
        if not shutil.which(emulator):
            raise GuestError(f"there is no {emulator}; guests/build x86 installs Debian's")
        self._emulator = emulator
        self._mem = mem
        self._kernel, self._initramfs = built("x86") / "bzImage", built("initramfs") / "initramfs.cpio"
        self._host_root = host_root
        self._extra_args = list(extra_args)
        for number, path in enumerate(vhost_gpio):
            self._extra_args += ["-chardev", f"socket,id=gpio{number},path={path}"]
            self._extra_args += ["-device", f"vhost-user-gpio-pci,chardev=gpio{number}"]
        super().__init__()

    def _argv(self, port: int) -> list[str]:
        # without ACPI's timers there is nothing to watch the TSC with, nor to calibrate it by: a guest that
        # finds no rate counts in ticks of its PIT
        append = f"console=ttyS0 panic=-1 reboot=t tsc=reliable tsc_early_khz={_tsc_khz()}"
        append += " guest_port=/dev/vport0p1"
        share: list[str] = []
        if self._host_root:
            append += f' guest_init="{HERE / "init"}"'
            share = ["-fsdev", "local,id=host,path=/,security_model=none,multidevs=remap"]
            share += ["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]
        return [
            *(self._emulator, "-nodefaults", "-no-user-config", "-display", "none"),
            *("-accel", "tcg", "-cpu", "max", "-M", "q35,memory-backend=ram,smbus=off,sata=off"),
            *("-m", self._mem, "-object", f"memory-backend-memfd,id=ram,size={self._mem},share=on"),
            *("-kernel", str(self._kernel), "-initrd", str(self._initramfs), "-append", append),
            *("-serial", "stdio", "-chardev", f"socket,id=port,fd={port}", "-device", "virtio-serial-pci"),
            *("-device", "virtserialport,chardev=port", *share, *self._extra_args),
        ]

    def _reboot_script(self) -> str:
        return shlex.join(_RESTART) if self._host_root else "reboot -f"


@cache
def built(name: str) -> Path:
    """The directory of a recipe's finished build."""
    path = build_path(RECIPES[name])
    if not path.exists():
        target = next(target for target, names in TARGETS.items() if name in names)
        raise GuestError(f"the guest {target} is not built; run guests/build {target}")
    return path
