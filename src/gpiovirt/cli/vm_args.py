# SPDX-License-Identifier: MIT
"""gpiovirt vm-args: what to give a virtual machine monitor so that it uses a chip's socket."""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Sequence

from gpiovirt.control import chip_socket, vm_socket
from gpiovirt.errors import HostError, UsageError

__all__ = ["configure", "main"]

EPILOG = """\
The guest sees the chip as its /dev/gpiochipN through its driver gpio-virtio (CONFIG_GPIO_VIRTIO).
All of these give the guest memory that can be shared, which vhost-user needs. The chip must be served
already: where there is no such socket, nothing is printed and the exit status is 1.

examples:
  qemu-system-x86_64 -M q35 $(gpiovirt vm-args qemu /run/plc.sock --memory 1G) ...
  cloud-hypervisor $(gpiovirt vm-args cloud-hypervisor /run/plc.sock) ...
  linux $(gpiovirt vm-args uml /run/plc.sock) ...
  gpiovirt vm-args libvirt /run/plc.sock      # XML for `virsh edit`
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("vmm", choices=list(_VMMS), help="the virtual machine monitor")
    parser.add_argument(
        "sockets",
        metavar="SOCKET",
        nargs="+",
        help="as given to `gpiovirt serve --vm`, or the name of one of gpiovirtd's chips",
    )
    parser.add_argument("--memory", metavar="SIZE", default="512M", help="the VM's memory (default: 512M)")
    parser.add_argument(
        "--reconnect",
        action="store_true",
        help="have QEMU connect again when `gpiovirt serve` was restarted (7.2 does; 10.0 refuses to start); "
        "not needed for gpiovirtd's chips, whose connection stays",
    )


def main(options: argparse.Namespace) -> int:
    """Print the arguments."""
    if not options.memory[:1].isdigit() or not options.memory.isalnum():
        raise UsageError(f"--memory {options.memory!r}: write a size, as 512M or 2G")
    if options.reconnect and options.vmm not in ("qemu", "libvirt"):
        raise UsageError(f"--reconnect is QEMU's; {options.vmm} has nothing like it")
    known = [vm_socket(text) for text in options.sockets]
    paths = [of or _path(text) for of, text in zip(known, options.sockets, strict=True)]
    options.kept = {path for path in known if path}
    if any(set(path) & set(" \t\n*?[]'\"\\") for path in paths):
        raise UsageError(
            "a socket's path with a blank or a quote in it does not survive $(...); choose another"
        )
    print(_VMMS[options.vmm](paths, options))
    return 0


def _path(text: str) -> str:
    """The socket's path; HostError if there is none that a VM could connect to."""
    if path := vm_socket(text):
        return path
    if chip_socket(text):
        raise HostError(
            f"{text} is not for VMs; delete it and make it again with: gpiovirt new {text} LINES --vm"
        )
    path = os.path.abspath(text)
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            return path
    except FileNotFoundError:
        pass
    except OSError as error:
        raise HostError.of(f"cannot look at {path}", error) from error
    if "/" in text:
        raise HostError(f"{path} is no socket; start first: gpiovirt serve ... --vm NAME={path}")
    raise HostError(f"gpiovirtd has no chip {text!r} (`gpiovirt list` shows them), and {path} is no socket")


# QEMU places what comes past libvirt first, and libvirt places its own from 1 up, some at 0x1a to 0x1f
_LIBVIRT_SLOTS = range(0x18, 0x07, -1)


def _devices(paths: list[str], options: argparse.Namespace, slots: Sequence[int] = ()) -> list[str]:
    arguments = []
    for number, path in enumerate(paths):
        name = f"gpiovirt{number}"
        again = ",reconnect=1" if options.reconnect and path not in options.kept else ""
        arguments += ["-chardev", f"socket,id={name},path={path.replace(',', ',,')}{again}"]
        where = f",addr={slots[number]:#x}" if slots else ""
        arguments += ["-device", f"vhost-user-gpio-pci,chardev={name}{where}"]
    return arguments


def _qemu(paths: list[str], options: argparse.Namespace) -> str:
    ram = ["-m", options.memory]
    ram += ["-object", f"memory-backend-memfd,id=gpiovirt-ram,size={options.memory},share=on"]
    return " ".join([*ram, "-machine", "memory-backend=gpiovirt-ram", *_devices(paths, options)])


def _libvirt(paths: list[str], options: argparse.Namespace) -> str:
    """libvirt has no element for the device: its arguments go past it to QEMU."""
    from xml.sax.saxutils import quoteattr

    if len(paths) > len(_LIBVIRT_SLOTS):
        raise UsageError(f"{len(paths)} chips; a domain of libvirt can have {len(_LIBVIRT_SLOTS)}")
    devices = _devices(paths, options, _LIBVIRT_SLOTS)
    arguments = [f"  <qemu:arg value={quoteattr(text)}/>" for text in devices]
    return "\n".join(
        [
            "<!-- in <domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ...>; the user that",
            "     runs QEMU must be allowed to connect: owner NAME=libvirt-qemu:kvm of gpiovirt serve -->",
            "<memoryBacking>",
            "  <source type='memfd'/>",
            "  <access mode='shared'/>",
            "</memoryBacking>",
            "<qemu:commandline>",
            *arguments,
            "</qemu:commandline>",
        ]
    )


def _cloud_hypervisor(paths: list[str], options: argparse.Namespace) -> str:
    devices = [f"virtio_id=41,socket={path},queue_sizes=[256,256]" for path in paths]
    return " ".join(["--memory", f"size={options.memory},shared=on", "--generic-vhost-user", *devices])


def _uml(paths: list[str], options: argparse.Namespace) -> str:
    return " ".join([f"mem={options.memory}", *(f"virtio_uml.device={path}:41" for path in paths)])


_VMMS = {
    "qemu": _qemu,
    "libvirt": _libvirt,
    "cloud-hypervisor": _cloud_hypervisor,
    "uml": _uml,
}
