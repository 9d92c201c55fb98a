# SPDX-License-Identifier: MIT
"""Our NRI plugin, told what runtimes tell it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gpiovirt.errors import HostError, PeerError, UsageError
from gpiovirt.kubernetes.messages import NRI, TTRPC
from gpiovirt.kubernetes.nri import Plugin, adjustment
from gpiovirt.kubernetes.ttrpc import PLUGIN, RUNTIME, Trunk
from gpiovirt.protocols.oci import Grant

NODES = "/run/gpiovirt/containers/nodes/"
PROFILE = json.loads((Path(__file__).with_name("oci") / "docker-20.10.json").read_text())["linux"]["seccomp"]


def chip_of(source: str) -> str | None:
    return source.removeprefix(NODES) if source.startswith(NODES) else None


def grant(chips: Mapping[str, str]) -> Grant:
    if "busy" in chips.values():
        raise HostError("the chip busy is in use by the container 1")
    return Grant("/run/gpiovirt/containers/listener", ("/l/bus",), ("/l/char",))


def container(*chips: str, policy: bool = True, profile: int | None = 0) -> Any:
    made = NRI["Container"](id="c")
    made.mounts.add(destination="/proc", type="proc", source="proc")
    for chip in chips:
        made.mounts.add(
            destination=f"/dev/gpiochip-{chip}", source=NODES + chip, type="bind", options=["bind"]
        )
    if profile is not None:
        made.linux.seccomp_profile.profile_type = profile
    if policy:
        made.linux.seccomp_policy.default_action = PROFILE["defaultAction"]
        made.linux.seccomp_policy.default_errno.value = 1
        made.linux.seccomp_policy.architectures.extend(PROFILE["architectures"])
        for rule in PROFILE["syscalls"]:
            syscall = made.linux.seccomp_policy.syscalls.add(names=rule["names"], action=rule["action"])
            for arg in rule.get("args", ()):
                syscall.args.add(
                    index=arg["index"], value=arg["value"], value_two=arg.get("valueTwo", 0), op=arg["op"]
                )
    return made


def adjusted(made: Any) -> Any:
    return adjustment(made, chip_of, grant, "x86_64")


def frames(content: bytes, size: int = 1 << 20, connection: int = PLUGIN) -> bytes:
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(struct.pack(">II", connection, len(part)) + part for part in parts)


def asking(method: str, message: Any, stream: int = 1) -> bytes:
    request = TTRPC["Request"](service="x", method=method, payload=message.SerializeToString())
    content = bytes(request.SerializeToString())
    return struct.pack(">IIBB", len(content), stream, 1, 0) + content


def answered(data: bytes) -> Any:
    """A ttRPC response out of frames, none of which may be larger than a runtime reads."""
    content = b""
    while data:
        connection, length = struct.unpack_from(">II", data)
        assert (connection, length <= 4096) == (PLUGIN, True)
        content, data = content + data[8 : 8 + length], data[8 + length :]
    length, _, kind, _ = struct.unpack_from(">IIBB", content)
    assert (kind, len(content)) == (2, 10 + length)
    return TTRPC["Response"].FromString(content[10:])


def test_a_container_with_a_chip_is_adjusted_and_its_policy_kept() -> None:
    made = adjusted(container("plc", "aux"))
    assert [mount.destination for mount in made.mounts] == [
        *("-/dev/gpiochip-plc", "/dev/gpiochip0", "-/dev/gpiochip-aux", "/dev/gpiochip1"),
        *("/sys/bus", "/sys/dev/char"),
    ]
    policy = made.linux.seccomp_policy
    assert (policy.default_action, policy.default_errno.value) == (PROFILE["defaultAction"], 1)
    assert json.loads(policy.listener_metadata) == {"gpiochip0": "plc", "gpiochip1": "aux"}
    allowed = {name for rule in policy.syscalls for name in rule.names if name != "ioctl"}
    assert allowed == {name for rule in PROFILE["syscalls"] for name in rule["names"]} - {"ioctl"}
    assert [rule.action for rule in policy.syscalls if "ioctl" in rule.names] == [
        *(["SCMP_ACT_ALLOW"] * 8),
        "SCMP_ACT_NOTIFY",
    ]


def test_a_container_without_chips_is_left_alone() -> None:
    assert adjusted(container()) is None


@pytest.mark.parametrize("profile", [None, 0, 2])
def test_a_container_whose_policy_is_not_told_does_not_lose_it(profile: int | None) -> None:
    with pytest.raises(UsageError, match="RuntimeClass gpiovirt"):
        adjusted(container("plc", policy=False, profile=profile))


def test_an_unconfined_container_stays_so() -> None:
    policy = adjusted(container("plc", policy=False, profile=1)).linux.seccomp_policy
    assert policy.default_action == "SCMP_ACT_ALLOW"
    assert [rule.action for rule in policy.syscalls] == ["SCMP_ACT_NOTIFY"]


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_runtime_is_answered_however_its_frames_are_cut(size: int) -> None:
    plugin = Plugin(chip_of, grant, "x86_64")
    assert struct.unpack_from(">I", plugin.begin())[0] == RUNTIME
    taken = struct.pack(">IIBB", 0, 1, 2, 0)
    assert plugin.receive(frames(taken, size, RUNTIME)) == b""
    assert plugin.is_registered
    data = frames(asking("Configure", NRI["ConfigureRequest"]()), size)
    events = NRI["ConfigureResponse"].FromString(answered(plugin.receive(data)).payload).events
    assert events == 8
    data = frames(asking("CreateContainer", NRI["CreateContainerRequest"](container=container("plc"))), size)
    said = b"".join(plugin.receive(data[at : at + 1000]) for at in range(0, len(data), 1000))
    made = NRI["CreateContainerResponse"].FromString(answered(said).payload)
    assert made.adjust.mounts[1].destination == "/dev/gpiochip0"


def test_what_cannot_be_is_the_error_of_that_container_only() -> None:
    plugin = Plugin(chip_of, grant, "x86_64")
    for chips, why in ((("busy",), "in use by the container 1"), (("plc", "plc"), "asked for twice")):
        request = NRI["CreateContainerRequest"](container=container(*chips))
        response = answered(plugin.receive(frames(asking("CreateContainer", request))))
        assert response.status.code
        assert why in response.status.message
    assert not answered(plugin.receive(frames(asking("StateChange", NRI["Empty"]())))).status.code


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">II", PLUGIN, 1 << 30),
        frames(struct.pack(">IIBB", 1 << 30, 1, 1, 0)),
        frames(struct.pack(">IIBB", 2, 1, 1, 0) + b"\xff\xff"),
    ],
)
def test_what_is_no_stream_of_a_runtimes_ends_it(data: bytes) -> None:
    with pytest.raises(PeerError):
        Trunk().receive(data)


def test_a_runtime_that_refuses_us_says_why() -> None:
    content = TTRPC["Response"](status={"code": 13, "message": "no plugins here"}).SerializeToString()
    with pytest.raises(UsageError, match="no plugins here"):
        Plugin(chip_of, grant, "x86_64").receive(
            frames(struct.pack(">IIBB", len(content), 1, 2, 0) + content, connection=RUNTIME)
        )
