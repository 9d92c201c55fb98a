# SPDX-License-Identifier: MIT
"""What our NRI plugin answers to a runtime: how a container that asks for chips is adjusted. No I/O.

An adjustment of a seccomp policy replaces it, so a container whose policy the runtime does not tell is
refused: it would have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gpiovirt.errors import GpiovirtError, UsageError
from gpiovirt.kubernetes.messages import NRI
from gpiovirt.kubernetes.ttrpc import Answer, Call, Trunk, parse
from gpiovirt.protocols.oci import Grant, edit, find_markers

__all__ = ["NAME", "Plugin", "adjustment"]

NAME, INDEX = "gpiovirt", "50"
_SERVICE = "nri.pkg.api.v1alpha1.Runtime"
_CREATE_CONTAINER = 4  # Event
_UNCONFINED = 1  # SecurityProfile.ProfileType


class Plugin:
    """`chip_of` knows nodes, `grant` asks the containers' service for chips by device; GpiovirtError."""

    def __init__(
        self,
        chip_of: Callable[[str], str | None],
        grant: Callable[[Mapping[str, str]], Grant],
        machine: str,
    ) -> None:
        self._trunk = Trunk()
        self._chip_of = chip_of
        self._grant = grant
        self._machine = machine
        self.is_registered = False
        """The runtime has taken us"""

    def begin(self) -> bytes:
        """What to send first."""
        request = NRI["RegisterPluginRequest"](plugin_name=NAME, plugin_idx=INDEX)
        return self._trunk.call(_SERVICE, "RegisterPlugin", request.SerializeToString())

    def receive(self, data: bytes) -> bytes:
        """What to send to a runtime that has sent this; PeerError if it cannot be a runtime."""
        return b"".join(self._hear(each) for each in self._trunk.receive(data))

    def _hear(self, message: Call | Answer) -> bytes:
        if isinstance(message, Answer):
            if message.error:
                raise UsageError(f"the runtime does not take this plugin: {message.error}")
            self.is_registered = True
            return b""
        try:
            answer = self._answer(message.method, message.payload)
        except GpiovirtError as error:
            return self._trunk.answer(message.stream, error=f"gpiovirt: {error}")
        return self._trunk.answer(message.stream, answer.SerializeToString())

    def _answer(self, method: str, payload: bytes) -> Any:
        match method:
            case "Configure":
                return NRI["ConfigureResponse"](events=1 << (_CREATE_CONTAINER - 1))
            case "Synchronize":
                more = parse(NRI["SynchronizeRequest"], payload).more
                return NRI["SynchronizeResponse"](more=more)
            case "CreateContainer":
                container = parse(NRI["CreateContainerRequest"], payload).container
                made = adjustment(container, self._chip_of, self._grant, self._machine)
                return NRI["CreateContainerResponse"](adjust=made)
        return NRI["Empty"]()


def adjustment(
    container: Any,
    chip_of: Callable[[str], str | None],
    grant: Callable[[Mapping[str, str]], Grant],
    machine: str,
) -> Any:
    """The ContainerAdjustment for its chips, None if it asks for none; GpiovirtError if that cannot be."""
    mounts = [_mount(mount) for mount in container.mounts]
    config: dict[str, Any] = {"mounts": [dict(mount) for mount in mounts]}
    markers = find_markers(config, chip_of)
    if not markers:
        return None
    linux = container.linux
    if linux.HasField("seccomp_policy") and linux.seccomp_policy.default_action:
        config["linux"] = {"seccomp": _seccomp(linux.seccomp_policy)}
    elif not linux.HasField("seccomp_profile") or linux.seccomp_profile.profile_type != _UNCONFINED:
        raise UsageError(
            "this runtime does not tell NRI plugins a container's seccomp policy, and it would be lost; "
            "use the RuntimeClass gpiovirt for this pod"
        )
    edit(config, markers, grant({marker.device: marker.chip for marker in markers}), machine)
    adjusted = NRI["ContainerAdjustment"]()
    for before, after in zip(mounts, config["mounts"], strict=False):
        if before != after:  # removed, and made anew elsewhere
            adjusted.mounts.add(destination=f"-{before['destination']}")
            adjusted.mounts.add(**after)
    for added in config["mounts"][len(mounts) :]:
        adjusted.mounts.add(**added)
    _fill(adjusted.linux.seccomp_policy, config["linux"]["seccomp"])
    return adjusted


def _mount(mount: Any) -> dict[str, Any]:
    return {
        "destination": mount.destination,
        "type": mount.type,
        "source": mount.source,
        "options": list(mount.options),
    }


def _seccomp(policy: Any) -> dict[str, Any]:
    """As a configuration has it."""
    rules = []
    for syscall in policy.syscalls:
        args = [
            {"index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op}
            for arg in syscall.args
        ]
        rule = {"names": list(syscall.names), "action": syscall.action, "args": args}
        if syscall.HasField("errno_ret"):
            rule["errnoRet"] = syscall.errno_ret.value
        rules.append(rule)
    made = {
        "defaultAction": policy.default_action,
        "architectures": list(policy.architectures),
        "flags": list(policy.flags),
        "listenerPath": policy.listener_path,
        "syscalls": rules,
    }
    if policy.HasField("default_errno"):
        made["defaultErrnoRet"] = policy.default_errno.value
    return made


def _fill(policy: Any, seccomp: Mapping[str, Any]) -> None:
    policy.default_action = seccomp["defaultAction"]
    policy.architectures.extend(seccomp.get("architectures", ()))
    policy.flags.extend(seccomp.get("flags", ()))
    policy.listener_path = seccomp["listenerPath"]
    policy.listener_metadata = seccomp["listenerMetadata"]
    if "defaultErrnoRet" in seccomp:
        policy.default_errno.value = seccomp["defaultErrnoRet"]
    for rule in seccomp["syscalls"]:
        syscall = policy.syscalls.add(names=rule["names"], action=rule["action"])
        if "errnoRet" in rule:
            syscall.errno_ret.value = rule["errnoRet"]
        for arg in rule.get("args") or ():
            syscall.args.add(
                index=arg["index"], value=arg["value"], value_two=arg.get("valueTwo", 0), op=arg["op"]
            )
