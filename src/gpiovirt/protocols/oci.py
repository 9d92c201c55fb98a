# SPDX-License-Identifier: MIT
"""A container's final configuration, and what a chip adds to it: nodes, a view of /sys, a listener.

A chip is asked for by a marker, a bind mount of its node; what made the mount does not matter. Nothing else
in a configuration, neither environment nor annotations, is taken for one: any image may have those.

Specification: opencontainers/runtime-spec config.md, config-linux.md.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from gpiovirt.errors import UsageError
from gpiovirt.uapi.gpio import GPIO_IOC_TYPE

__all__ = [
    "CHIPS_MAX",
    "DEVICES_MAX",
    "WAIT_KILLABLE",
    "Grant",
    "Marker",
    "decode_metadata",
    "edit",
    "encode_metadata",
    "find_markers",
    "marker_mount",
    "parse_config",
    "refuse",
]

Config = dict[str, Any]

CHIPS_MAX = 16
"""Of a container"""
DEVICES_MAX = 64
"""A chip is /dev/gpiochip0 to 63 in a container"""
WAIT_KILLABLE = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
"""The flag with which signals do not interrupt a request; not all runtimes know it"""

_NUMBERED = re.compile(r"/dev/gpiochip([0-9]|[1-9][0-9])")
_NAMED = re.compile(r"/dev/gpiochip-.+")
_ARG = 1  # of ioctl(2): the request, whose bits 8 to 15 are the type
_TYPE_MASK = 0xFF00
_GPIO = GPIO_IOC_TYPE << 8
_WHY_MAX = 90  # a socket's path has at most 107 bytes; sockaddr_un(7)
_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    "armv7l": ["SCMP_ARCH_ARM"],
    "riscv64": ["SCMP_ARCH_RISCV64"],
}
"""By machine: itself, and those whose programs it runs, too"""


class Marker(NamedTuple):
    """A chip that is asked for, and the device it is to be in the container: gpiochip0, ..."""

    chip: str
    device: str
    mount: int
    """Index of the mount that asks for it"""


class Grant(NamedTuple):
    """What the service answers: its listener, and directories to lay over /sys/bus and /sys/dev/char."""

    listener: str
    bus: tuple[str, ...]
    char: tuple[str, ...]


def parse_config(text: bytes) -> Config:
    """UsageError for what is no configuration."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the container's configuration is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UsageError("the container's configuration is not a JSON object")
    return config


def find_markers(config: Config, chip_of: Callable[[str], str | None]) -> list[Marker]:
    """The chips that it asks for, in the order of its mounts; `chip_of` knows the sources of markers.

    A destination /dev/gpiochipN stays, /dev/gpiochip-NAME becomes the next free number. UsageError for more
    chips than can be, a chip or a device twice, or mounts that are none.
    """
    found: list[tuple[int, str, str]] = []
    for index, mount in enumerate(_list(config, "mounts")):
        source = mount.get("source") if isinstance(mount, dict) else None
        if isinstance(source, str) and (chip := chip_of(source)) is not None:
            destination = mount.get("destination")
            if not isinstance(destination, str) or not destination.startswith("/"):
                raise UsageError(f"the mount of the chip {chip} has no destination")
            found.append((index, chip, destination))
    if len(found) > CHIPS_MAX:
        raise UsageError(f"a container has {CHIPS_MAX} chips at most, and this asks for {len(found)}")
    taken = [int(match[1]) for _, _, path in found if (match := _NUMBERED.fullmatch(path))]
    free = iter(number for number in range(DEVICES_MAX) if number not in taken)
    markers = []
    for index, chip, destination in found:
        match = _NUMBERED.fullmatch(destination)
        number = int(match[1]) if match else next(free)
        if number >= DEVICES_MAX:
            raise UsageError(f"{destination}: a chip is at most /dev/gpiochip{DEVICES_MAX - 1}")
        markers.append(Marker(chip, f"gpiochip{number}", index))
    for what, names in (
        ("chip", [marker.chip for marker in markers]),
        ("device", [marker.device for marker in markers]),
    ):
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"the {what} {twice[0]} is asked for twice; say it once")
    return markers


def marker_mount(source: str, chip: str) -> dict[str, Any]:
    """The mount that asks for a chip, to be numbered."""
    return {
        "destination": f"/dev/gpiochip-{chip}",
        "type": "bind",
        "source": source,
        "options": ["bind", "rw", "nosuid", "noexec"],
    }


def edit(
    config: Config, markers: Sequence[Marker], grant: Grant, machine: str, flags: Iterable[str] = ()
) -> None:
    """Give the container those chips. UsageError if it has a listener of somebody else's.

    `machine` is what uname(2) says, `flags` are those for seccomp(2) that the runtime is known to take.
    """
    linux = _object(config, "linux")
    mounts = _list(config, "mounts")
    seccomp = _seccomp(linux, machine)
    former = seccomp.get("listenerPath")
    if former not in (None, "", grant.listener):
        raise UsageError("the container has another seccomp listener already, and there can be one only")
    for marker in markers:
        mount = mounts[marker.mount]
        if _NAMED.fullmatch(mount["destination"]):
            mount["destination"] = f"/dev/{marker.device}"
    # an edited configuration that is edited again, as after a checkpoint, has them
    _mount(mounts, "/sys/bus", grant.bus)
    _mount(mounts, "/sys/dev/char", grant.char)
    _mask(linux, "/sys/class/gpio")
    _trap(seccomp)
    seccomp["listenerPath"] = grant.listener
    seccomp["listenerMetadata"] = encode_metadata(markers)
    if flags := list(flags):
        known = _list(seccomp, "flags")
        known += [flag for flag in flags if flag not in known]


def refuse(config: Config, why: str, machine: str) -> None:
    """Have whatever runtime gets it fail, and say `why`: that is the path of the listener that it lacks."""
    seccomp = _seccomp(_object(config, "linux"), machine)
    _trap(seccomp)
    seccomp["listenerPath"] = f"/gpiovirt: {why}".encode()[:_WHY_MAX].decode(errors="ignore")


def encode_metadata(markers: Iterable[Marker]) -> str:
    """What the runtime tells the listener: which chips the container has."""
    return json.dumps({marker.device: marker.chip for marker in markers})


def decode_metadata(text: object) -> dict[str, str]:
    """Chips by device; UsageError."""
    try:
        chips = json.loads(text) if isinstance(text, str) and len(text) <= 4096 else None
    except (ValueError, RecursionError):
        chips = None
    if not isinstance(chips, dict) or not 0 < len(chips) <= CHIPS_MAX:
        raise UsageError("the listener is not told which chips it is for")
    for device, chip in chips.items():
        if not _NUMBERED.fullmatch(f"/dev/{device}") or not isinstance(chip, str):
            raise UsageError("the listener is told of no chip and device")
    return chips


def _mount(mounts: list[Any], destination: str, layers: Sequence[str]) -> None:
    """A read-only view of it with those directories above what is there."""
    layer = {
        "destination": destination,
        "type": "overlay",
        "source": "gpiovirt",
        "options": ["ro", "nosuid", "nodev", "noexec", f"lowerdir={':'.join([*layers, destination])}"],
    }
    if layer not in mounts:
        mounts.append(layer)


def _mask(linux: Config, path: str) -> None:
    masked = _list(linux, "maskedPaths")
    if path not in masked:
        masked.append(path)


def _seccomp(linux: Config, machine: str) -> Config:
    """Its profile; one that allows all if it has none, as in a privileged container."""
    seccomp = _object(linux, "seccomp")
    if not seccomp:
        seccomp["defaultAction"] = "SCMP_ACT_ALLOW"
        if machine in _ARCHITECTURES:
            seccomp["architectures"] = list(_ARCHITECTURES[machine])
    if not isinstance(seccomp.get("defaultAction"), str):
        raise UsageError("the container's seccomp profile has no default action")
    return seccomp


def _trap(seccomp: Config) -> None:
    """Have ioctls of GPIO told to the listener.

    libseccomp lets a rule without conditions swallow one that has some, and cannot say "not equal under a
    mask": such a rule becomes eight, one for each bit of the type in which another ioctl may differ.
    """
    trap = _rule("SCMP_ACT_NOTIFY", _TYPE_MASK, _GPIO)
    rules: list[Any] = []
    for rule in _list(seccomp, "syscalls"):
        names = rule.get("names") if isinstance(rule, dict) else None
        if not isinstance(names, list):
            raise UsageError("the container's seccomp profile has a rule without names")
        if rule == trap:
            continue
        if "ioctl" not in names or rule.get("args"):
            rules.append(rule)
            continue
        if others := [name for name in names if name != "ioctl"]:
            rules.append({**rule, "names": others})
        rest = {key: value for key, value in rule.items() if key not in ("names", "args")}
        rules += [{**_rule("", bit, ~_GPIO & bit), **rest} for bit in _BITS]
    seccomp["syscalls"] = [*rules, trap]


_BITS = [1 << bit for bit in range(8, 16)]


def _rule(action: str, mask: int, value: int) -> dict[str, Any]:
    return {
        "names": ["ioctl"],
        "action": action,
        "args": [{"index": _ARG, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}],
    }


def _list(holder: Config, key: str) -> list[Any]:
    found = holder.get(key)
    if found is None:
        found = holder[key] = []
    if not isinstance(found, list):
        raise UsageError(f"{key} in the container's configuration is not a list")
    return found


def _object(holder: Config, key: str) -> Config:
    found = holder.get(key)
    if found is None:
        found = holder[key] = {}
    if not isinstance(found, dict):
        raise UsageError(f"{key} in the container's configuration is not an object")
    return found
