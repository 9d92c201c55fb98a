# SPDX-License-Identifier: MIT
"""The device plugin: each chip is a resource, gpiovirt.io/NAME, of which a node has one.

Specification: kubelet's deviceplugin/v1beta1. A resource is unhealthy while its chip is not live, or no
editor of containers is there; kubelet then starts no pod with it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import suppress
from typing import Any

import grpc

from gpiovirt.errors import HostError
from gpiovirt.kubernetes.messages import KUBELET
from gpiovirt.protocols.cdi import KIND

__all__ = ["KUBELET_DIRECTORY", "ChipPlugin", "register"]

_log = logging.getLogger(__name__)

KUBELET_DIRECTORY = "/var/lib/kubelet/device-plugins"
_VENDOR = "gpiovirt.io"
_VERSION = "v1beta1"
_SERVICE = f"{_VERSION}.DevicePlugin"
_PATIENCE_S = 10.0
_LOOK_S = 1.0  # a stream that its kubelet has left ends within that


class ChipPlugin:
    """Serves one chip to kubelet at a socket in `directory`; `node` is mounted where CDI is not used.

    HostError if the socket cannot be had.
    """

    def __init__(self, chip: str, directory: str, node: str, uses_cdi: bool) -> None:
        self.chip = chip
        self.endpoint = f"gpiovirt-{chip}.sock"
        self._node = node
        self._uses_cdi = uses_cdi
        self._is_healthy = False
        self._changed = threading.Condition()
        self._has_ended = False
        path = f"{directory}/{self.endpoint}"
        with suppress(FileNotFoundError):
            os.unlink(path)
        # kubelet watches for as long as it lives: a stream has a thread, a call another
        self._server = grpc.server(futures.ThreadPoolExecutor(4, f"gpiovirt-{chip}"))
        self._server.add_generic_rpc_handlers((self._handler(),))
        try:
            if not self._server.add_insecure_port(f"unix:{path}"):
                raise HostError(f"cannot listen at {path}")
        except RuntimeError as error:
            raise HostError(f"cannot listen at {path}") from error
        self._server.start()

    def _handler(self) -> grpc.GenericRpcHandler:
        def unary(call: Callable[[Any], Any], request: str) -> grpc.RpcMethodHandler[Any, Any]:
            return grpc.unary_unary_rpc_method_handler(
                lambda asked, _context: call(asked), KUBELET[request].FromString, _serialize
            )

        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "GetDevicePluginOptions": unary(lambda _: KUBELET["DevicePluginOptions"](), "Empty"),
                "Allocate": unary(self._allocate, "AllocateRequest"),
                "ListAndWatch": grpc.unary_stream_rpc_method_handler(
                    lambda _request, context: self._list_and_watch(context),
                    KUBELET["Empty"].FromString,
                    _serialize,
                ),
            },
        )

    def set_health(self, is_healthy: bool) -> None:
        """Tell kubelet, if that is news."""
        with self._changed:
            if self._is_healthy != is_healthy:
                self._is_healthy = is_healthy
                self._changed.notify_all()

    def _list_and_watch(self, context: grpc.ServicerContext) -> Iterator[Any]:
        told: bool | None = None
        while context.is_active():
            with self._changed:
                if self._is_healthy == told and not self._has_ended:
                    self._changed.wait(_LOOK_S)
                healthy, ended = self._is_healthy, self._has_ended
            if ended:
                yield KUBELET["ListAndWatchResponse"]()
                return
            if healthy != told:
                told = healthy
                device = KUBELET["Device"](ID=self.chip, health="Healthy" if healthy else "Unhealthy")
                yield KUBELET["ListAndWatchResponse"](devices=[device])

    def _allocate(self, request: Any) -> Any:
        response = KUBELET["AllocateResponse"]()
        for wanted in request.container_requests:
            given = response.container_responses.add()
            for _ in wanted.devices_ids:
                if self._uses_cdi:
                    given.cdi_devices.add(name=f"{KIND}={self.chip}")
                else:
                    given.mounts.add(container_path=f"/dev/gpiochip-{self.chip}", host_path=self._node)
        return response

    def close(self) -> None:
        """The chip is gone: kubelet is told that there is no device any more."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        self._server.stop(_LOOK_S).wait()


def register(plugin: ChipPlugin, directory: str) -> None:
    """Tell kubelet of a chip; HostError if it does not want it."""
    with grpc.insecure_channel(f"unix:{directory}/kubelet.sock") as channel:
        call = channel.unary_unary(
            f"/{_VERSION}.Registration/Register", _serialize, KUBELET["Empty"].FromString
        )
        request = KUBELET["RegisterRequest"](
            version=_VERSION, endpoint=plugin.endpoint, resource_name=f"{_VENDOR}/{plugin.chip}"
        )
        try:
            call(request, timeout=_PATIENCE_S)
        except grpc.RpcError as error:
            raise HostError(f"kubelet does not take {_VENDOR}/{plugin.chip}: {error}") from error
    _log.info("%s: kubelet knows it as %s/%s", plugin.chip, _VENDOR, plugin.chip)


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())
