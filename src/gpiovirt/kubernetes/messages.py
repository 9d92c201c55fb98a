# SPDX-License-Identifier: MIT
"""The messages of kubelet, NRI and ttRPC that are used here, field by field: there is nothing to compile.

Specification: api.proto of kubelet's deviceplugin/v1beta1, pluginregistration/v1 and dra/v1, and of nri's
pkg/api; ttrpc's request.proto.
Fields that are not named here are left out of what is sent, and skipped in what comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["DRA", "KUBELET", "NRI", "REGISTRATION", "TTRPC", "make_classes"]

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
}
_REPEATED = "*"

Messages = Mapping[str, Mapping[str, tuple[int, str]]]
"""By name: each field's number and type, of which a * at the end means many"""

_KUBELET: Messages = {
    "Empty": {},
    "DevicePluginOptions": {},
    "RegisterRequest": {"version": (1, "string"), "endpoint": (2, "string"), "resource_name": (3, "string")},
    "Device": {"ID": (1, "string"), "health": (2, "string")},
    "ListAndWatchResponse": {"devices": (1, "Device*")},
    "ContainerAllocateRequest": {"devices_ids": (1, "string*")},
    "AllocateRequest": {"container_requests": (1, "ContainerAllocateRequest*")},
    "Mount": {"container_path": (1, "string"), "host_path": (2, "string")},
    "CDIDevice": {"name": (1, "string")},
    "ContainerAllocateResponse": {"mounts": (2, "Mount*"), "cdi_devices": (5, "CDIDevice*")},
    "AllocateResponse": {"container_responses": (1, "ContainerAllocateResponse*")},
}
_REGISTRATION: Messages = {
    "InfoRequest": {},
    "PluginInfo": {
        "type": (1, "string"),
        "name": (2, "string"),
        "endpoint": (3, "string"),
        "supported_versions": (4, "string*"),
    },
    "RegistrationStatus": {"plugin_registered": (1, "bool"), "error": (2, "string")},
    "RegistrationStatusResponse": {},
}
# a map is, as bytes, many messages of key and value
_DRA: Messages = {
    "Claim": {"namespace": (1, "string"), "uid": (2, "string"), "name": (3, "string")},
    "Claims": {"claims": (1, "Claim*")},
    "Device": {
        "request_names": (1, "string*"),
        "pool_name": (2, "string"),
        "device_name": (3, "string"),
        "cdi_device_ids": (4, "string*"),
    },
    "Prepared": {"devices": (1, "Device*"), "error": (2, "string")},
    "PreparedEntry": {"key": (1, "string"), "value": (2, "Prepared")},
    "NodePrepareResourcesResponse": {"claims": (1, "PreparedEntry*")},
    "Unprepared": {"error": (1, "string")},
    "UnpreparedEntry": {"key": (1, "string"), "value": (2, "Unprepared")},
    "NodeUnprepareResourcesResponse": {"claims": (1, "UnpreparedEntry*")},
}
_TTRPC: Messages = {
    "Request": {"service": (1, "string"), "method": (2, "string"), "payload": (3, "bytes")},
    "Status": {"code": (1, "int32"), "message": (2, "string")},
    "Response": {"status": (1, "Status"), "payload": (2, "bytes")},
}
_NRI: Messages = {
    "Empty": {},
    "RegisterPluginRequest": {"plugin_name": (1, "string"), "plugin_idx": (2, "string")},
    "ConfigureRequest": {"runtime_name": (2, "string"), "runtime_version": (3, "string")},
    "ConfigureResponse": {"events": (2, "int32")},
    "SynchronizeResponse": {"more": (2, "bool")},
    "SynchronizeRequest": {"more": (3, "bool")},
    "Mount": {
        "destination": (1, "string"),
        "type": (2, "string"),
        "source": (3, "string"),
        "options": (4, "string*"),
    },
    "OptionalUInt32": {"value": (1, "uint32")},
    "LinuxSeccompArg": {
        "index": (1, "uint32"),
        "value": (2, "uint64"),
        "value_two": (3, "uint64"),
        "op": (4, "string"),
    },
    "LinuxSyscall": {
        "names": (1, "string*"),
        "action": (2, "string"),
        "errno_ret": (3, "OptionalUInt32"),
        "args": (4, "LinuxSeccompArg*"),
    },
    "LinuxSeccomp": {
        "default_action": (1, "string"),
        "default_errno": (2, "OptionalUInt32"),
        "architectures": (3, "string*"),
        "flags": (4, "string*"),
        "listener_path": (5, "string"),
        "listener_metadata": (6, "string"),
        "syscalls": (7, "LinuxSyscall*"),
    },
    "SecurityProfile": {"profile_type": (1, "int32")},
    "LinuxContainer": {"seccomp_profile": (7, "SecurityProfile"), "seccomp_policy": (8, "LinuxSeccomp")},
    "Container": {"id": (1, "string"), "mounts": (9, "Mount*"), "linux": (11, "LinuxContainer")},
    "CreateContainerRequest": {"container": (2, "Container")},
    "LinuxContainerAdjustment": {"seccomp_policy": (6, "LinuxSeccomp")},
    "ContainerAdjustment": {"mounts": (3, "Mount*"), "linux": (6, "LinuxContainerAdjustment")},
    "CreateContainerResponse": {"adjust": (1, "ContainerAdjustment")},
}


def make_classes(package: str, messages: Messages) -> dict[str, type[Any]]:
    """A class of each message."""
    file = descriptor_pb2.FileDescriptorProto(name=f"gpiovirt/{package}", package=package, syntax="proto3")
    for name, fields in messages.items():
        described = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            base = kind.removesuffix(_REPEATED)
            label = _Field.LABEL_REPEATED if kind.endswith(_REPEATED) else _Field.LABEL_OPTIONAL
            made = described.field.add(name=field, number=number, label=label)
            if base in _SCALARS:
                made.type = _SCALARS[base]
            else:
                made.type, made.type_name = _Field.TYPE_MESSAGE, f".{package}.{base}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    }


KUBELET = make_classes("v1beta1", _KUBELET)
REGISTRATION = make_classes("pluginregistration", _REGISTRATION)
DRA = make_classes("k8s.io.kubelet.pkg.apis.dra.v1", _DRA)
TTRPC = make_classes("ttrpc", _TTRPC)
NRI = make_classes("nri.pkg.api.v1alpha1", _NRI)
