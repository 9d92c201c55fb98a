# SPDX-License-Identifier: MIT
"""gpiovirt vm-args: the arguments with which a virtual machine monitor uses a chip's socket."""

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
All of these give the guest shared memory, which vhost-user needs. The chip must be served already:
if there is no such socket, nothing is printed and the exit status is 1.

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
        help="have QEMU reconnect after `gpiovirt serve` was restarted (7.2 does; 10.0 refuses to start); "
        "not needed for gpiovirtd's chips, whose connections survive",
    )


def main(options: argparse.Namespace) -> int:
    """Print the arguments."""
    if not options.memory[:1].isdigit() or not options.memory.isalnum():
        raise UsageError(f"--memory {options.memory!r}: write a size, e.g. 512M or 2G")
    if options.reconnect and options.vmm not in ("qemu", "libvirt"):
        raise UsageError(f"--reconnect is QEMU's; {options.vmm} has nothing like it")
    known = [vm_socket(text) for text in options.sockets]
    paths = [of or _path(text) for of, text in zip(known, options.sockets, strict=True)]
    options.kept = {path for path in known if path}
    if any(set(path) & set(" \t\n*?[]'\"\\") for path in paths):
        raise UsageError(
            "a socket path that contains a blank or a quote does not survive $(...); choose another"
        )
    print(_VMMS[options.vmm](paths, options))
    return 0


def _path(text: str) -> str:
    """The socket's path; HostError if there is none that a VM could connect to."""
    if path := vm_socket(text):
        return path
    if chip_socket(text):
        raise HostError(
            f"{text} is not for VMs; delete it and make it anew with: gpiovirt new {text} LINES --vm"
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
        raise HostError(f"{path} is not a socket; first start: gpiovirt serve ... --vm NAME={path}")
    raise HostError(
        f"gpiovirtd has no chip {text!r} (`gpiovirt list` shows them), and {path} is not a socket"
    )


# QEMU places devices that bypass libvirt first, and libvirt places its own from 1 up, some at 0x1a to 0x1f
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
    """libvirt has no element for the device: the arguments bypass it and go to QEMU."""
    from xml.sax.saxutils import quoteattr

    if len(paths) > len(_LIBVIRT_SLOTS):
        raise UsageError(f"{len(paths)} chips; a libvirt domain can have at most {len(_LIBVIRT_SLOTS)}")
    devices = _devices(paths, options, _LIBVIRT_SLOTS)
    arguments = [f"  <qemu:arg value={quoteattr(text)}/>" for text in devices]
    return "\n".join(
        [
            "<!-- in <domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ...>; the user that",
            "     runs QEMU must be allowed to connect: gpiovirt serve, owner NAME=libvirt-qemu:kvm -->",
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
