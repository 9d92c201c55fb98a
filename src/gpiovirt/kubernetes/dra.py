# SPDX-License-Identifier: MIT
"""The driver for Dynamic Resource Allocation: a claim that says `lines` gets a chip of its own.

A node offers so many chips to be made. What a claim's chip is made of is in its configuration, and taken when
the claim is prepared; the chip is deleted when the claim is no longer needed.

Specification: kubelet's dra/v1 and pluginregistration/v1, resource.k8s.io/v1.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from typing import Any

import grpc

from gpiovirt.control.client import Client
from gpiovirt.errors import GpiovirtError, HostError, UsageError
from gpiovirt.kubernetes.api_server import ApiServer
from gpiovirt.kubernetes.messages import DRA, REGISTRATION
from gpiovirt.protocols.cdi import KIND
from gpiovirt.protocols.control.requests import Delete, New

__all__ = ["DRIVER", "PREFIX", "Driver", "chip_of_claim", "definition_of", "resource_slice"]

_log = logging.getLogger(__name__)

DRIVER = "gpiovirt.io"
CHIPS = 32
"""That claims can make on a node"""
PREFIX = "claim-"
"""Of the names of claims' chips"""
_UID_SHOWN = 24  # of the 32 digits: a chip's name has 31 characters
_ERROR_MAX = 400


def resource_slice(node: str) -> dict[str, Any]:
    """What the node offers."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{node}-{DRIVER}"},
        "spec": {
            "driver": DRIVER,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": f"chip-{number}"} for number in range(CHIPS)],
        },
    }


def chip_of_claim(uid: str) -> str:
    """The name of a claim's chip; UsageError for what is no UID."""
    digits = uid.replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{32}", digits):
        raise UsageError(f"{uid[:40]!r} is not the UID of a claim")
    return PREFIX + digits[:_UID_SHOWN]


def definition_of(claim: dict[str, Any], uid: str) -> tuple[New, list[dict[str, str]]]:
    """The chip that a claim asks for, and the devices allocated for it; UsageError if it does not say one."""
    match claim:
        case {"metadata": {"uid": str(found)}, "status": {"allocation": {"devices": dict(devices)}}}:
            pass
        case _:
            raise UsageError("the claim is not allocated")
    if found != uid:
        raise UsageError("the claim is another one by now")
    results = [
        each
        for each in devices.get("results") or ()
        if isinstance(each, dict) and each.get("driver") == DRIVER
    ]
    if not results or not all(
        isinstance(r.get(k), str) for r in results for k in ("request", "pool", "device")
    ):
        raise UsageError(f"no device of {DRIVER} is allocated to the claim")
    said: dict[str, Any] = {}
    for each in devices.get("config") or ():
        match each:
            case {"opaque": {"driver": str(driver), "parameters": dict(parameters)}} if driver == DRIVER:
                said |= parameters  # what a claim says comes after what its class does
    match said:
        case {"lines": str(lines)}:
            pass
        case _:
            raise UsageError("the claim's configuration does not say which lines: parameters: {lines: ...}")
    options = said.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(each, str) for each in options.values()):
        raise UsageError("options of the claim are not texts by line")
    return New(lines, chip_of_claim(uid), options), results


class Driver:
    """Prepares claims for the kubelet that watches `plugins` and `registry`, its directories. HostError."""

    def __init__(self, control: str, api: ApiServer, node: str, plugins: str, registry: str) -> None:
        self._control = control
        self._api = api
        self._node = node
        folder = f"{plugins}/{DRIVER}"
        os.makedirs(folder, mode=0o750, exist_ok=True)
        self._endpoint = f"{folder}/dra.sock"
        self.is_registered = False
        self._dra = _serve(
            self._endpoint,
            "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin",
            {
                "NodePrepareResources": (self._prepare_all, DRA["Claims"]),
                "NodeUnprepareResources": (self._unprepare_all, DRA["Claims"]),
            },
        )
        self._registration = _serve(
            f"{registry}/{DRIVER}-reg.sock",
            "pluginregistration.Registration",
            {
                "GetInfo": (self._info, REGISTRATION["InfoRequest"]),
                "NotifyRegistrationStatus": (self._on_registered, REGISTRATION["RegistrationStatus"]),
            },
        )

    def _info(self, _request: Any) -> Any:
        return REGISTRATION["PluginInfo"](
            type="DRAPlugin", name=DRIVER, endpoint=self._endpoint, supported_versions=["v1.DRAPlugin"]
        )

    def _on_registered(self, status: Any) -> Any:
        self.is_registered = status.plugin_registered
        if not self.is_registered:
            _log.error("kubelet does not take the driver %s: %s", DRIVER, status.error)
        return REGISTRATION["RegistrationStatusResponse"]()

    def publish(self) -> None:
        """Tell the API server what there is to claim; HostError."""
        self._api.publish(resource_slice(self._node))

    def _prepare_all(self, request: Any) -> Any:
        response = DRA["NodePrepareResourcesResponse"]()
        for claim in request.claims:
            entry = response.claims.add(key=claim.uid)
            try:
                self._prepare(claim, entry.value)
            except (GpiovirtError, OSError) as error:
                _log.warning("claim %s/%s: %s", claim.namespace, claim.name, error)
                entry.value.ClearField("devices")
                entry.value.error = str(error)[:_ERROR_MAX]
        return response

    def _prepare(self, claim: Any, prepared: Any) -> None:
        wanted, results = definition_of(self._api.claim(claim.namespace, claim.name), claim.uid)
        with Client(self._control) as client:
            # kubelet asks again for what it has been told, as after its restart
            if wanted.name not in {chip.name for chip in client.chips()}:
                client.ask(wanted)
        for result in results:
            prepared.devices.add(
                request_names=[result["request"]],
                pool_name=result["pool"],
                device_name=result["device"],
                cdi_device_ids=[f"{KIND}={wanted.name}"],
            )

    def _unprepare_all(self, request: Any) -> Any:
        response = DRA["NodeUnprepareResourcesResponse"]()
        for claim in request.claims:
            entry = response.claims.add(key=claim.uid)
            try:
                with Client(self._control) as client:
                    name = chip_of_claim(claim.uid)
                    if name in {chip.name for chip in client.chips()}:
                        client.ask(Delete(name, force=True))
            except (GpiovirtError, OSError) as error:
                entry.value.error = str(error)[:_ERROR_MAX]
            entry.value.SetInParent()
        return response

    def close(self) -> None:
        """Serve kubelet no more; chips of claims stay."""
        for server in (self._registration, self._dra):
            server.stop(1).wait()


_Calls = dict[str, tuple[Callable[[Any], Any], Any]]


def _serve(path: str, service: str, calls: _Calls) -> grpc.Server:
    with suppress(FileNotFoundError):
        os.unlink(path)
    server = grpc.server(futures.ThreadPoolExecutor(2))

    def handler(answer: Callable[[Any], Any], request: Any) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.unary_unary_rpc_method_handler(
            lambda asked, _context: answer(asked),
            request.FromString,
            lambda message: bytes(message.SerializeToString()),
        )

    handlers = {name: handler(*call) for name, call in calls.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise HostError(f"cannot listen at {path}") from error
    server.start()
    return server
