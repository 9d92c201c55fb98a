# SPDX-License-Identifier: MIT
"""Emulated ARM boards with GPIO controllers of their own, driven by Debian's kernels as they come.

A board takes one command after another, as the other guests do; `import gpiovirt` works in it, and what else
it was given lies in /files. Emulation is 50 to 100 times slower than the real thing: give commands time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guests.guest import NO_ENV, Env, Guest, Result, built
from guests.initramfs import Archive
from guests.recipes import HERE

SOURCES = HERE.parent / "src"
COMMANDS = {"gpiovirt": "gpiovirt", "gpiovirtd": "gpiovirt.cli.daemon"}
NO_FILES: Mapping[str, Path] = {}


@dataclass(frozen=True)
class Machine:
    """One of QEMU's machines, and the tree that boots on it."""

    tree: str
    emulator: str
    arguments: tuple[str, ...]
    console: str = "ttyAMA0"
    port: str = "console"
    """The terminal that takes commands; if it is the console, the kernel has to be silent there."""
    append: str = "loglevel=1"
    device_tree: str = ""
    modules: tuple[str, ...] = ()
    """Drivers that are not built in."""
    emulator_tree: str = ""
    """If the system's QEMU does not have this machine"""


MACHINES = {
    "raspi3b": Machine(
        tree="arm64",
        emulator="qemu-system-aarch64",
        # processors wait for the first in a loop: each with a thread of the host, that takes twice as long
        arguments=("-M", "raspi3b", "-accel", "tcg,thread=single"),
        # the first one is Bluetooth's: a console, but no terminal
        port="ttyS1",
        append="8250.nr_uarts=2",
        device_tree="bcm2837-rpi-3-b.dtb",
    ),
    "raspi4b": Machine(
        tree="arm64",
        emulator="qemu-system-aarch64",
        # a processor that waits takes as much of the host as one that works
        arguments=("-M", "raspi4b", "-global", "bcm283x-base.enabled-cpus=1"),
        port="ttyS1",
        # of the devices that QEMU lacks these are looked for regardless
        append="8250.nr_uarts=2 maxcpus=1 clk_ignore_unused "
        "initcall_blacklist=brcmstb_l2_driver_init,brcmstb_i2c_driver_init",
        device_tree="bcm2711-rpi-4-b.dtb",
        emulator_tree="qemu10-arm",
    ),
    "virt-arm64": Machine(
        tree="arm64",
        emulator="qemu-system-aarch64",
        arguments=("-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", "1G"),
    ),
    "virt-armhf": Machine(
        tree="armhf",
        emulator="qemu-system-arm",
        arguments=("-M", "virt,highmem=off", "-cpu", "cortex-a15", "-smp", "2", "-m", "1G"),
        modules=("fuse",),
    ),
    "ast2600-evb": Machine(
        tree="armhf",
        emulator="qemu-system-arm",
        arguments=("-M", "ast2600-evb"),
        console="ttyS4",
        append="loglevel=1 clk_ignore_unused",
        device_tree="aspeed-ast2600-evb.dtb",
        modules=("fuse", "gpio-aspeed", "i2c-aspeed", "gpio-pca953x"),
    ),
    "virt-riscv64": Machine(
        tree="riscv64",
        emulator="qemu-system-riscv64",
        arguments=("-M", "virt", "-smp", "2", "-m", "1G"),
        console="ttyS0",
    ),
    "sifive_u": Machine(
        tree="riscv64",
        emulator="qemu-system-riscv64",
        arguments=("-M", "sifive_u", "-smp", "2", "-m", "1G"),
        console="ttySIF0",
    ),
    "pc-i386": Machine(
        tree="i386",
        emulator="qemu-system-i386",
        arguments=("-M", "pc", "-cpu", "max", "-m", "1G"),
        console="ttyS0",
        modules=("fuse",),
    ),
    "s390x": Machine(
        tree="s390x",
        emulator="qemu-system-s390x",
        arguments=("-M", "s390-ccw-virtio", "-m", "1G"),
        console="ttysclp0",
    ),
}


class Board(Guest):
    """An emulated board; its / is Debian's packages, in memory."""

    boot_timeout_s = 300

    def __init__(
        self, name: str, *, files: Mapping[str, Path] = NO_FILES, extra_args: Sequence[str] = ()
    ) -> None:
        """`files` are those, or folders, to find in /files, each by the name it has there."""
        self._machine = MACHINES[name]
        self._tree = built(self._machine.tree)
        self._extra_args = list(extra_args)
        with tempfile.NamedTemporaryFile(prefix="gpiovirt-initrd-") as self._initrd:
            with (self._tree / "initrd.gz").open("rb") as tree:
                shutil.copyfileobj(tree, self._initrd)
            # the kernel unpacks archives one after the other, each from a multiple of four bytes on
            self._initrd.write(b"\0" * (-self._initrd.tell() % 4) + _archive(files))
            self._initrd.flush()
            super().__init__()
        if self._machine.modules:
            self.run(f"depmod && modprobe -a {' '.join(self._machine.modules)}").check()

    def run(
        self, command: str, *, timeout_s: float = 120, env: Env = NO_ENV, user: str = "", cwd: str = "/"
    ) -> Result:
        """Run a shell command, in which `gpiovirt` and `gpiovirtd` are commands."""
        env = {"PYTHONPATH": "/src:/files", **env}
        return super().run(command, timeout_s=timeout_s, env=env, user=user, cwd=cwd)

    def _argv(self, port: int) -> list[str]:
        machine = self._machine
        emulator = machine.emulator
        if machine.emulator_tree:
            emulator = str(built(machine.emulator_tree) / emulator)
        append = f"console={machine.console} guest_port=/dev/{machine.port} "
        append += f"panic=-1 rdinit=/init {machine.append}"
        serial = ["-serial", "chardev:port"]
        if machine.port != "console":
            serial = ["-serial", "stdio", *serial]
        device_tree = ["-dtb", str(self._tree / machine.device_tree)] if machine.device_tree else []
        return [
            *(emulator, *machine.arguments, "-nodefaults", "-no-user-config", "-display", "none"),
            *("-kernel", str(self._tree / "vmlinuz"), "-initrd", self._initrd.name, "-append", append),
            *("-chardev", f"socket,id=port,fd={port}", "-no-reboot"),
            *(*serial, *device_tree, *self._extra_args),
        ]

    def _said_before_ready(self, line: str) -> None:
        with self._console.open("a") as console:
            console.write(line.rstrip() + "\n")
        if "Kernel panic" in line:
            raise self._failure("the guest did not boot")

    def _reboot_script(self) -> str:
        raise NotImplementedError("a Raspberry Pi of QEMU's halts and does not start again")


def _archive(files: Mapping[str, Path]) -> bytes:
    archive = Archive()
    for command, module in COMMANDS.items():
        archive.file(f"usr/local/bin/{command}", f'#!/bin/sh\nexec python3 -m {module} "$@"\n'.encode())
    for name, path in {"../src": SOURCES, **files}.items():
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                inside = os.path.normpath(f"files/{name}/{file.relative_to(path)}")
                archive.file(inside, file.read_bytes())
    return archive.finished()
