# SPDX-License-Identifier: MIT
"""The program's private /dev and /sys: everything as it was, but of GPIO only its own chips.

In a guise, it also sees another machine: device tree, processors and the links of that.

Each directory that must differ is covered by a tmpfs into which its entries are bound again. That
needs no overlayfs, works unprivileged, and vanishes with the last process of the mount namespace.
"""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import NamedTuple

from gpiovirt.errors import HostError
from gpiovirt.host import libc

__all__ = ["CONFIGFS", "PLAIN", "DeviceNode", "Guise", "Tree", "enter", "hide", "mount_fuse", "show"]

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_BIND = 4096
_MS_REC = 16384
_MS_SLAVE = 1 << 19
_MNT_DETACH = 2
_BELOW = "/dev/.gpiovirt"
CONFIGFS = "/sys/kernel/config"
DEVICES = "/sys/devices/platform"
_BUS = "/sys/bus/platform"
_MODPROBE = "/etc/modprobe.d"
_DRIVERS = ("gpio-sim", "gpio-aggregator")
_OUR_DEVICES = (*(f"{driver}." for driver in _DRIVERS), "gpiovirt.")
_CONTAINER = (
    "in a container, have the engine allow it: docker run --security-opt seccomp=unconfined, and "
    "--security-opt apparmor=unconfined where AppArmor is active"
)


class Tree(Enum):
    """Where FUSE shows files that are served."""

    CLASS_GPIO = "/sys/class/gpio"
    CONFIGFS = CONFIGFS
    AGGREGATOR = f"{_BUS}/drivers/gpio-aggregator"


class DeviceNode(NamedTuple):
    """`/dev/NAME`, shown in place of the placeholder tty `/dev/pts/N`; `number` is its st_rdev."""

    name: str
    tty: str
    number: int

    @property
    def dev(self) -> str:
        """MAJ:MIN"""
        return f"{os.major(self.number)}:{os.minor(self.number)}"


class Guise(NamedTuple):
    """The machine that a program is to believe it runs on; what is empty stays as it is.

    Files of `device_tree` and `dmi` are named by their paths there.
    """

    links: Mapping[str, str] = {}
    """In /dev, name -> a node's name"""
    compatible: Mapping[str, bytes] = {}
    """What a node's controller is, by the node's name"""
    device_tree: Mapping[str, bytes] = {}
    cpuinfo: bytes = b""
    dmi: Mapping[str, bytes] = {}
    release: bytes = b""
    """The kernel's"""


PLAIN = Guise()
"""The machine as it is"""


def enter(nodes: Sequence[DeviceNode], guise: Guise = PLAIN, trees: Sequence[Tree] = ()) -> list[int]:
    """Move this process into a mount namespace where /dev and /sys show just `nodes` of GPIO.

    Returns the files, each an open /dev/fuse, by which `trees` are to be served.

    As root with a mount namespace alone, otherwise in a user namespace in which the user has the
    same uid and gid. HostError says what the kernel refused.
    """
    try:
        libc.unshare(_CLONE_NEWNS)
    except PermissionError:
        _enter_user_namespace()
    try:
        libc.mount("none", "/", None, _MS_REC | _MS_SLAVE)
        # what is below /dev last: its entries are what the others are bound from
        _show_in_sys(nodes, guise.compatible)
        _put_on(guise)
        if Tree.CONFIGFS in trees:
            _show_drivers()
        fuses = [_mount_tree(tree) for tree in trees]
        _show_in_dev(nodes, guise.links)
    except OSError as error:
        raise HostError.of(f"cannot prepare a private /dev and /sys ({error.filename})", error) from error
    return fuses


def _enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS)
        for name, content in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(content)
    except OSError as error:
        if uid == 0:
            raise HostError(
                f"root can create neither a mount nor a user namespace here ({error.strerror}); {_CONTAINER}"
            ) from error
        raise HostError(
            f"no user namespace for an ordinary user here ({error.strerror}); run as root, or allow them: "
            "sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000 "
            f"kernel.apparmor_restrict_unprivileged_userns=0, whichever exist; {_CONTAINER}"
        ) from error


def _cover(directory: str, hide: Callable[[os.DirEntry[str]], bool]) -> None:
    """Cover `directory` by a tmpfs with the same entries, less those to `hide`."""
    below = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(directory) as entries:
            shown = [entry for entry in entries if not hide(entry)]
        _mount_tmpfs(directory)
        for entry in shown:
            if entry.is_symlink():
                os.symlink(os.readlink(entry.name, dir_fd=below), entry.path)
                continue
            if entry.is_dir(follow_symlinks=False):
                os.mkdir(entry.path)
            else:
                _make_mount_point(entry.path)
            libc.mount(f"/proc/self/fd/{below}/{entry.name}", entry.path, None, _MS_BIND | _MS_REC)
    finally:
        os.close(below)


def _mount_tmpfs(directory: str) -> None:
    libc.mount("gpiovirt", directory, "tmpfs", _MS_NOSUID, "mode=0755,size=4m")


def _make_mount_point(path: str) -> None:
    """A node that may be made without privilege, and that readdir calls a character device."""
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(0, 0))


def _is_gpio(entry: os.DirEntry[str]) -> bool:
    """Chips, and a Raspberry Pi's registers."""
    return entry.name.startswith(("gpiochip", "gpiomem"))


def _show_in_dev(nodes: Sequence[DeviceNode], links: Mapping[str, str]) -> None:
    # ptmx finds /dev/pts from the directory it is in, so it must be reached through that directory
    below = libc.clone_tree("/dev")
    _cover("/dev", lambda entry: _is_gpio(entry) or entry.path in ("/dev/ptmx", _BELOW))
    os.mkdir(_BELOW)
    libc.attach_tree(below, _BELOW)
    for entry in filter(_is_gpio, os.scandir(_BELOW)):
        libc.mount("/dev/null", entry.path, None, _MS_BIND)
    os.symlink(f"{_BELOW}/ptmx", "/dev/ptmx")
    for node in nodes:
        _add_to_dev(node)
    for link, name in links.items():
        os.symlink(name, f"/dev/{link}")


def _show_in_sys(nodes: Sequence[DeviceNode], compatible: Mapping[str, bytes]) -> None:
    """What libgpiod 1.6 and 2 look up: bus/gpio/devices/NAME/dev and dev/char/MAJ:MIN/subsystem."""
    _cover("/sys/bus", lambda entry: entry.name == "gpio")
    # the kernel's own are all links
    _cover("/sys/dev/char", lambda entry: not entry.is_symlink() or "/gpiochip" in os.readlink(entry.path))
    if os.path.isdir("/sys/class/gpio"):  # the old interface, by which real lines can be exported
        _mount_tmpfs("/sys/class/gpio")
    for node in nodes:
        _add_to_sys(node)
        if node.name in compatible:
            _write(f"/sys/bus/gpio/devices/{node.name}/of_node/compatible", compatible[node.name])


def _add_to_dev(node: DeviceNode) -> None:
    path = f"/dev/{node.name}"
    _make_mount_point(path)
    libc.mount(node.tty, path, None, _MS_BIND)


def _add_to_sys(node: DeviceNode) -> None:
    device = f"/sys/bus/gpio/devices/{node.name}"
    os.makedirs(device)
    _write(f"{device}/dev", f"{node.dev}\n".encode())
    os.makedirs(f"/sys/dev/char/{node.dev}")
    os.symlink("../../../bus/gpio", f"/sys/dev/char/{node.dev}/subsystem")


# what comes and goes while the program runs; only where Tree.CONFIGFS was shown


def show(device: str, nodes: Sequence[DeviceNode]) -> int:
    """Show a platform device and its chips; the file by which its directory is to be served. OSError."""
    try:
        os.mkdir(f"{DEVICES}/{device}")
        fuse = mount_fuse(f"{DEVICES}/{device}")
        os.symlink(f"../../../devices/platform/{device}", f"{_BUS}/devices/{device}")
        for node in nodes:
            _add_to_sys(node)
            _add_to_dev(node)
    except OSError:
        hide(device, nodes)
        raise
    return fuse


def hide(device: str, nodes: Sequence[DeviceNode]) -> None:
    """Show them no more, as far as they are shown."""
    for node in nodes:
        path = f"/dev/{node.name}"
        with suppress(OSError):
            libc.umount(path, _MNT_DETACH)
        with suppress(OSError):
            os.unlink(path)
        shown, char = f"/sys/bus/gpio/devices/{node.name}", f"/sys/dev/char/{node.dev}"
        for file in (f"{shown}/dev", f"{char}/subsystem"):
            with suppress(OSError):
                os.unlink(file)
        for directory in (shown, char):
            with suppress(OSError):
                os.rmdir(directory)
    with suppress(OSError):
        os.unlink(f"{_BUS}/devices/{device}")
    with suppress(OSError):
        libc.umount(f"{DEVICES}/{device}", _MNT_DETACH)
    with suppress(OSError):
        os.rmdir(f"{DEVICES}/{device}")


def _show_drivers() -> None:
    """What asks whether gpio-sim and gpio-aggregator are there is told so."""

    def is_ours(entry: os.DirEntry[str]) -> bool:
        return entry.name in _DRIVERS or entry.name.startswith(_OUR_DEVICES)

    for directory in (DEVICES, f"{_BUS}/devices", f"{_BUS}/drivers"):
        _cover(directory, is_ours)
    os.mkdir(f"{_BUS}/drivers/gpio-sim")
    modules = [driver.replace("-", "_") for driver in _DRIVERS]
    _cover("/sys/module", lambda entry: entry.name in modules)
    for module in modules:
        _write(f"/sys/module/{module}/initstate", b"live\n")
    if os.path.isdir(_MODPROBE):  # as it is where modprobe(8) is
        _cover(_MODPROBE, lambda _entry: False)
        text = "".join(f"install {driver} /bin/true\n" for driver in _DRIVERS)
        _write(f"{_MODPROBE}/gpiovirt.conf", text.encode())


def _mount_tree(tree: Tree) -> int:
    """The file by which it is served."""
    path = tree.value
    parent, _, name = path.rpartition("/")
    if not os.path.isdir(path):
        if tree is not Tree.AGGREGATOR:  # whose parent is covered
            _cover(parent, lambda _entry: False)
        os.mkdir(f"{parent}/{name}")
    return mount_fuse(path)


def mount_fuse(path: str) -> int:
    """Mount a FUSE; the file by which it is served must be opened in the user namespace that mounts."""
    try:
        fuse = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise HostError.of(
            f"cannot serve {path} to the program: /dev/fuse cannot be opened; load the module fuse, or give "
            "the container that device (--device /dev/fuse)",
            error,
        ) from error
    owner = f"user_id={os.geteuid()},group_id={os.getegid()}"
    options = f"fd={fuse},rootmode=40755,{owner},default_permissions,allow_other"
    libc.mount("gpiovirt", path, "fuse", _MS_NOSUID | _MS_NODEV, options)
    return fuse


def _put_on(guise: Guise) -> None:
    """Show another machine in /proc and /sys, as far as there is something there to be covered.

    /proc/device-tree is a link to what is shown in /sys, or missing where the kernel knows no device trees.
    """
    is_board = guise._replace(release=b"") != PLAIN
    if is_board and os.path.isdir("/sys/firmware"):
        _cover("/sys/firmware", lambda entry: entry.name in ("devicetree", "fdt", "acpi"))
        for path, content in guise.device_tree.items():
            _write(f"/sys/firmware/devicetree/base/{path}", content)
    if is_board and os.path.isdir("/sys/devices/virtual/dmi/id"):
        _mount_tmpfs("/sys/devices/virtual/dmi/id")
        for path, content in guise.dmi.items():
            _write(f"/sys/devices/virtual/dmi/id/{path}", content)
    for path, content in (("/proc/cpuinfo", guise.cpuinfo), ("/proc/sys/kernel/osrelease", guise.release)):
        if content:
            staged = "/sys/bus/.staged"
            _write(staged, content)
            libc.mount(staged, path, None, _MS_BIND)
            os.unlink(staged)


def _write(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
