# SPDX-License-Identifier: MIT
"""What each guest is made of, and where its finished build lies.

A build is named by the hash of all that goes into it. How one is made is not known here.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from guests.debian import package_version

HERE = Path(__file__).resolve().parent

TOOLCHAIN = ("gcc", "libc6-dev", "make", "flex", "bison", "bc", "libelf-dev", "xz-utils")


@dataclass(frozen=True)
class Edit:
    """Replace `old`, which must stand exactly once in `path`, by `new`; an empty `old` makes a new file."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Kernel:
    """A Linux from a Debian source package: fragments over an empty configuration, then source edits."""

    name: str
    source: str
    arch: str
    fragments: tuple[str, ...]
    image: str
    edits: tuple[Edit, ...] = ()
    suite: str = ""
    """A Debian suite the system's own sources lack, where `source` is."""
    run_packages: tuple[str, ...] = ()

    @property
    def build_packages(self) -> tuple[str, ...]:
        return TOOLCHAIN if self.suite else (self.source, *TOOLCHAIN)

    @property
    def options(self) -> list[str]:
        lines = "\n".join((HERE / fragment).read_text() for fragment in self.fragments).splitlines()
        return sorted(line for line in lines if line.startswith("CONFIG_"))

    def inputs(self) -> tuple[object, ...]:
        version = package_version(self.source) if not self.suite else self.suite
        return (self.source, version, self.arch, self.options, self.image, self.edits)


@dataclass(frozen=True)
class Initramfs:
    """A cpio archive: busybox, some of Debian's programs with their libraries, and files of this folder."""

    name: str
    programs: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    build_packages: tuple[str, ...]
    run_packages: tuple[str, ...] = ()

    def inputs(self) -> tuple[object, ...]:
        versions = [package_version(package) for package in self.build_packages]
        texts = [(inside, (HERE / file).read_text()) for file, inside in self.files]
        return (self.programs, versions, texts, (HERE / "initramfs.py").read_text())


@dataclass(frozen=True)
class Emulator:
    """QEMU of another Debian suite, in a tree of its own, and scripts that run its programs out of that."""

    name: str
    package: str
    suite: str
    programs: tuple[str, ...]
    build_packages: tuple[str, ...] = ("debootstrap",)
    run_packages: tuple[str, ...] = ()

    def inputs(self) -> tuple[object, ...]:
        return (self.package, self.suite, self.programs, (HERE / "qemu-system").read_text())


@dataclass(frozen=True)
class Tree:
    """Debian for an emulated board: its kernel as it comes, and packages as an initramfs."""

    name: str
    arch: str
    suite: str
    packages: tuple[str, ...]
    modules: tuple[str, ...] = ()
    device_trees: tuple[str, ...] = ()
    build_packages: tuple[str, ...] = ("mmdebstrap",)
    run_packages: tuple[str, ...] = ("qemu-system-arm",)

    def inputs(self) -> tuple[object, ...]:
        texts = [(HERE / file).read_text() for file in ("tree.py", "board-init", "init")]
        return (self.arch, self.suite, self.packages, self.modules, self.device_trees, texts)


@dataclass(frozen=True)
class Package:
    """A Debian package of another suite, unpacked and not installed."""

    name: str
    package: str
    suite: str
    build_packages: tuple[str, ...] = ()
    run_packages: tuple[str, ...] = ()

    def inputs(self) -> tuple[object, ...]:
        return (self.package, self.suite)


@dataclass(frozen=True)
class Selftests:
    """The kernel's own tests of a subsystem, from a Debian source package; programs are compiled."""

    name: str
    source: str
    suite: str
    folder: str
    programs: tuple[str, ...]
    build_packages: tuple[str, ...] = ("gcc", "libc6-dev", "xz-utils")
    run_packages: tuple[str, ...] = ()

    def inputs(self) -> tuple[object, ...]:
        return (self.source, self.suite, self.folder, self.programs)


@dataclass(frozen=True)
class Suite:
    """A library's test suites, built in a Debian of its own by a script of this folder."""

    name: str
    source: str
    suite: str
    packages: tuple[str, ...]
    script: str
    build_packages: tuple[str, ...] = ("debootstrap",)
    run_packages: tuple[str, ...] = ()

    def inputs(self) -> tuple[object, ...]:
        return (self.source, self.suite, self.packages, (HERE / self.script).read_text())


Recipe = Kernel | Initramfs | Emulator | Tree | Package | Selftests | Suite


def _prompt_irq_work(timer_event: str) -> tuple[Edit, ...]:
    """Do interrupt work at once: UML leaves it to the next tick, up to 10 ms.

    gpio-sim's edges come by it; of two within a tick one was lost.
    """
    time, include = "arch/um/kernel/time.c", "#include <linux/interrupt.h>\n"
    handler = "static irqreturn_t um_timer("
    alarm = "void arch_irq_work_raise(void)\n{\n\tos_alarm_process(os_getpid());\n}\n\n"
    return (
        Edit(time, include, include + "#include <linux/irq_work.h>\n"),
        Edit(time, handler, alarm + handler),
        Edit(time, timer_event, timer_event + "\tirq_work_run();\n"),
    )


_UML_6_12_EDITS = (
    # A CPU with AMX has 11008 bytes of floating point state; init dies if they do not fit.
    Edit("arch/x86/um/user-offsets.c", "(HOST_FP_SIZE, 2696)", "(HOST_FP_SIZE, 16384)"),
    # Leave interrupt numbers for GPIO lines; without them a request for edges fails with ENODEV.
    Edit(
        "arch/um/include/asm/irq.h",
        "#define NR_IRQS\t\t\tUM_LAST_SIGNAL_IRQ\n",
        "#define NR_IRQS\t\t\t(UM_LAST_SIGNAL_IRQ + 1024)\n",
    ),
    *_prompt_irq_work("\t(*timer_clockevent.event_handler)(&timer_clockevent);\n"),
    # Something that takes a level interrupt; no driver of the kernel's does that here.
    Edit("drivers/gpio/level-irq.c", "", (HERE / "level-irq.c").read_text()),
    Edit(
        "drivers/gpio/Makefile",
        "obj-$(CONFIG_GPIO_VIRTIO)\t\t+= gpio-virtio.o\n",
        "obj-$(CONFIG_GPIO_VIRTIO)\t\t+= gpio-virtio.o level-irq.o\n",
    ),
)

_BOARD_PACKAGES = (
    "busybox-static",
    "coreutils",
    "dash",
    "dpkg",
    "fuse3",
    "gpiod",
    "kmod",
    "libc-bin",
    "passwd",
    "python3",
    "python3-libgpiod",
    "util-linux",
)
# a kernel's package wants one that makes initramfs, of which none is used; this is the smallest
_TINY = "tiny-initramfs"

_RECIPES: tuple[Recipe, ...] = (
    Kernel(
        name="uml",
        source="linux-source-6.12",
        arch="um",
        fragments=("common.config", "6.12.config", "uml.config", "machine.config"),
        image="linux",
        edits=_UML_6_12_EDITS,
        run_packages=("gpiod",),
    ),
    Kernel(
        name="x86",
        source="linux-source-6.12",
        arch="x86_64",
        fragments=("common.config", "6.12.config", "x86.config"),
        image="arch/x86/boot/bzImage",
        run_packages=("qemu-system-x86",),
    ),
    Initramfs(
        name="initramfs",
        programs=("gpiodetect", "gpioinfo", "gpioget", "gpioset", "gpiomon", "gpiofind"),
        files=(("init", "init"), ("gpio-sim", "bin/gpio-sim")),
        build_packages=("busybox-static", "gpiod"),
    ),
    Kernel(
        name="uml-7.3",
        source="linux-source-7.3",
        arch="um",
        fragments=("common.config", "uml.config"),
        image="linux",
        edits=_prompt_irq_work("\tevt->event_handler(evt);\n"),
        suite="trixie-backports",
    ),
    Emulator(name="qemu10", package="qemu-system-x86", suite="trixie", programs=("qemu-system-x86_64",)),
    Emulator(
        name="qemu10-arm",
        package="qemu-system-arm",
        suite="trixie",
        programs=("qemu-system-aarch64", "qemu-system-arm"),
    ),
    # the first that knows CDI and NRI
    Package(name="containerd", package="containerd", suite="trixie", run_packages=("runc",)),
    Selftests(
        name="selftests",
        source="linux-source-7.3",
        suite="trixie-backports",
        folder="tools/testing/selftests/gpio",
        programs=("gpio-cdev-uaf", "gpio-chip-info", "gpio-line-name", "gpio-mockup-cdev"),
        run_packages=("kmod",),
    ),
    Suite(
        name="libgpiod",
        source="libgpiod",
        suite="trixie",
        packages=(
            *("catch2", "dpkg-dev", "g++", "gawk", "gcc", "gpiod", "kmod", "libedit-dev", "libglib2.0-dev"),
            *("libkmod-dev", "libmount-dev", "make", "mount", "pkgconf", "python3-dev", "python3-setuptools"),
            *("procps", "shunit2"),
        ),
        script="libgpiod-suite",
    ),
    Tree(
        name="arm64",
        arch="arm64",
        suite="trixie",
        packages=("linux-image-arm64", _TINY, *_BOARD_PACKAGES),
        modules=("i2c-bcm2835",),
        device_trees=("bcm2711-rpi-4-b.dtb", "bcm2837-rpi-3-b.dtb"),
    ),
    Tree(
        name="armhf",
        arch="armhf",
        suite="bookworm",
        packages=("linux-image-armmp-lpae", _TINY, *_BOARD_PACKAGES),
        modules=("fuse", "gpio-aspeed", "gpio-pca953x", "i2c-aspeed"),
        device_trees=("aspeed-ast2600-evb.dtb",),
    ),
    Tree(
        name="riscv64",
        arch="riscv64",
        suite="trixie",
        packages=("linux-image-riscv64", "initramfs-tools", *_BOARD_PACKAGES),  # the tiny one is broken there
        device_trees=("hifive-unleashed-a00.dtb",),
        run_packages=("qemu-system-misc",),
    ),
    # machines that we know no system calls of: one of 32 bits, one that is big-endian
    Tree(
        name="i386",
        arch="i386",
        suite="bookworm",
        packages=("linux-image-686", _TINY, *_BOARD_PACKAGES),
        modules=("fuse",),
        run_packages=("qemu-system-x86",),
    ),
    Tree(
        name="s390x",
        arch="s390x",
        suite="bookworm",
        packages=("linux-image-s390x", _TINY, *_BOARD_PACKAGES),
        run_packages=("qemu-system-misc",),
    ),
)

RECIPES = {recipe.name: recipe for recipe in _RECIPES}

TARGETS = {
    "uml": ("uml",),
    "x86": ("initramfs", "x86"),
    "uml-7.3": ("uml-7.3",),
    "qemu10": ("qemu10",),
    "qemu10-arm": ("qemu10-arm",),
    "containerd": ("containerd",),
    "libgpiod": ("libgpiod",),
    "selftests": ("selftests",),
    "arm64": ("arm64",),
    "armhf": ("armhf",),
    "riscv64": ("riscv64",),
    "i386": ("i386",),
    "s390x": ("s390x",),
}
"""What a user asks for, and the recipes it takes, the one that gives it its path last."""


def cache_root() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GPIOVIRT_CACHE") or Path(home) / "gpiovirt").absolute() / "guests"


def build_path(recipe: Recipe) -> Path:
    """Where a build of exactly this recipe lies, whether or not it is there."""
    digest = hashlib.sha256(repr(recipe.inputs()).encode()).hexdigest()
    return cache_root() / f"{recipe.name}-{digest[:12]}"


def stale_builds(recipe: Recipe) -> list[Path]:
    """Builds of this recipe as it once was, and remains of interrupted ones."""
    ours = re.compile(re.escape(recipe.name) + r"-[0-9a-f]{12}(\.new)?")
    current = build_path(recipe)
    return [path for path in cache_root().glob("*") if ours.fullmatch(path.name) and path != current]
