# SPDX-License-Identifier: MIT
"""From `gpiovirt.io/plc: 1` to a program in a container, with a kubelet and a runtime of our own."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import kubernetes_validate
import pytest

from gpiovirt.kubernetes.messages import DRA, KUBELET, NRI, REGISTRATION, TTRPC
from gpiovirt.protocols.control.requests import Delete, New
from gpiovirt.testing.bundle import configuration, make_root
from gpiovirt.testing.daemon import Daemon
from tests.container_rig import wait_for

PLUGIN, RUNTIME = 1, 2


class Kubelet:
    """Takes registrations in its folder, then asks as kubelet does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registered: queue.Queue[Any] = queue.Queue()
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            self._register,
            KUBELET["RegisterRequest"].FromString,
            lambda message: bytes(message.SerializeToString()),
        )
        service = grpc.method_handlers_generic_handler("v1beta1.Registration", {"Register": handler})
        self._server.add_generic_rpc_handlers((service,))
        for path in folder.glob("*.sock"):  # as kubelet does when it starts
            path.unlink()
        self._server.add_insecure_port(f"unix:{folder}/kubelet.sock")
        self._server.start()

    def _register(self, request: Any, _context: grpc.ServicerContext) -> Any:
        self.registered.put(request)
        return KUBELET["Empty"]()

    @contextmanager
    def plugin(self, endpoint: str) -> Iterator[grpc.Channel]:
        with grpc.insecure_channel(f"unix:{self.folder}/{endpoint}") as channel:
            yield channel

    def close(self) -> None:
        self._server.stop(0).wait()


def call(channel: grpc.Channel, method: str, request: Any, answer: str) -> Any:
    return channel.unary_unary(
        f"/v1beta1.DevicePlugin/{method}",
        lambda message: bytes(message.SerializeToString()),
        KUBELET[answer].FromString,
    )(request, timeout=10)


class Runtime:
    """The other side of NRI, for one plugin at a time."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(30)
        self._socket = socket.socket(socket.AF_UNIX)

    def accept(self) -> None:
        self._socket.close()
        self._socket, _ = self._listener.accept()
        self._socket.settimeout(30)
        connection, stream, kind, content = self._receive()
        assert (connection, kind) == (RUNTIME, 1)
        request = TTRPC["Request"].FromString(content)
        assert (request.service, request.method) == ("nri.pkg.api.v1alpha1.Runtime", "RegisterPlugin")
        assert NRI["RegisterPluginRequest"].FromString(request.payload).plugin_name == "gpiovirt"
        self._send(RUNTIME, stream, 2, TTRPC["Response"]())
        self._stream = -1
        assert self.ask("Configure", NRI["ConfigureRequest"](), "ConfigureResponse").events == 1 << 3
        self.ask("Synchronize", NRI["SynchronizeRequest"](), "SynchronizeResponse")

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            assert part, "the plugin has ended the connection"
            data += part
        return data

    def _receive(self) -> tuple[int, int, int, bytes]:
        content = b""
        while len(content) < 10 or len(content) < 10 + struct.unpack_from(">I", content)[0]:
            connection, length = struct.unpack(">II", self._read(8))
            assert length <= 4096, "a runtime fails a frame that it has no room for"
            content += self._read(length)
        _, stream, kind, _ = struct.unpack_from(">IIBB", content)
        return connection, stream, kind, content[10:]

    def _send(self, connection: int, stream: int, kind: int, message: Any) -> None:
        content = message.SerializeToString()
        content = struct.pack(">IIBB", len(content), stream, kind, 0) + content
        self._socket.sendall(struct.pack(">II", connection, len(content)) + content)

    def ask(self, method: str, request: Any, answer: str) -> Any:
        self._stream += 2
        payload = request.SerializeToString()
        self._send(PLUGIN, self._stream, 1, TTRPC["Request"](method=method, payload=payload))
        connection, stream, kind, content = self._receive()
        assert (connection, stream, kind) == (PLUGIN, self._stream, 2)
        response = TTRPC["Response"].FromString(content)
        if response.status.code:
            raise RuntimeError(response.status.message)
        return NRI[answer].FromString(response.payload)

    def create(self, config: dict[str, Any]) -> None:
        """Make a container, adjusted as the plugin says."""
        made = NRI["Container"](id="c")
        for mount in config["mounts"]:
            made.mounts.add(**mount)
        made.linux.seccomp_profile.profile_type = 1
        adjust = self.ask(
            "CreateContainer", NRI["CreateContainerRequest"](container=made), "CreateContainerResponse"
        ).adjust
        for mount in adjust.mounts:
            gone = mount.destination.removeprefix("-")
            config["mounts"] = [each for each in config["mounts"] if each["destination"] != gone]
            if gone == mount.destination:
                kept = {"destination": gone, "type": mount.type, "source": mount.source}
                config["mounts"].append({**kept, "options": list(mount.options)})
        policy = adjust.linux.seccomp_policy
        config["linux"]["seccomp"] = {
            "defaultAction": policy.default_action,
            "architectures": list(policy.architectures),
            "listenerPath": policy.listener_path,
            "listenerMetadata": policy.listener_metadata,
            "syscalls": [
                {
                    "names": list(rule.names),
                    "action": rule.action,
                    "args": [
                        {"index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op}
                        for arg in rule.args
                    ],
                }
                for rule in policy.syscalls
            ],
        }

    def close(self) -> None:
        self._socket.close()

    def end(self) -> None:
        self.close()
        self._listener.close()


class Cluster:
    def __init__(self, folder: Path, daemon: Daemon, *options: str) -> None:
        self.daemon = daemon
        self.plugins = folder / "plugins"
        self.plugins.mkdir()
        self.kubelet = Kubelet(self.plugins)
        self.runtime = Runtime(folder / "nri.sock")
        self.log = (folder / "kubernetes.log").open("wb")
        where = ["--run", str(daemon.run), "--plugins", str(self.plugins), "--nri", f"{folder}/nri.sock"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gpiovirt.kubernetes.main", *where, *options], stderr=self.log
        )

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(20)
        self.kubelet.close()
        self.runtime.end()
        self.log.close()
        assert status == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short name: a socket's path has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="kube-") as name:
        yield Path(name)


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    if os.getuid():
        pytest.fail("containers of runc are made by root")
    with Daemon(folder, ["--sim", "sim-a:8", "--no-files", "--no-api"]) as made:
        with made.client() as client:
            client.ask(New("sim-a 0-3", "plc"))
        yield made


def test_a_pod_that_asks_for_a_chip_gets_it(daemon: Daemon, folder: Path) -> None:
    with Cluster(folder, daemon) as cluster:
        cluster.runtime.accept()
        request = cluster.kubelet.registered.get(timeout=20)
        assert (request.version, request.resource_name) == ("v1beta1", "gpiovirt.io/plc")
        with cluster.kubelet.plugin(request.endpoint) as channel:
            seen: queue.Queue[list[tuple[str, str]]] = queue.Queue()
            threading.Thread(target=watch, args=(channel, seen), daemon=True).start()
            while seen.get(timeout=20) != [("plc", "Healthy")]:
                pass
            wanted = KUBELET["AllocateRequest"](container_requests=[{"devices_ids": ["plc"]}])
            (given,) = call(channel, "Allocate", wanted, "AllocateResponse").container_responses
            assert [device.name for device in given.cdi_devices] == ["gpiovirt.io/chip=plc"]

            # what an engine makes of a CDI device, then of what NRI says
            spec = json.loads((daemon.run / "containers/cdi/gpiovirt-plc.json").read_text())
            (mount,) = spec["devices"][0]["containerEdits"]["mounts"]
            config = configuration(str(make_root(folder / "root")), ["gpiodetect"])
            config["mounts"].append(
                {
                    "destination": mount["containerPath"],
                    "source": mount["hostPath"],
                    "type": mount["type"],
                    "options": mount["options"],
                }
            )
            cluster.runtime.create(config)
            bundle = folder / "bundle"
            bundle.mkdir()
            (bundle / "config.json").write_text(json.dumps(config))
            command = ["runc", "run", "--bundle", str(bundle), f"kube-{os.getpid()}"]
            assert subprocess.check_output(command, text=True) == "gpiochip0 [plc] (4 lines)\n"

            # without an editor no pod is to start; a chip that is gone is no device
            cluster.runtime.close()
            assert seen.get(timeout=20) == [("plc", "Unhealthy")]
            cluster.runtime.accept()
            assert seen.get(timeout=20) == [("plc", "Healthy")]
            with daemon.client() as client:
                client.ask(Delete("plc"))
            while (told := seen.get(timeout=20)) != []:
                assert told == [("plc", "Unhealthy")]


def watch(channel: grpc.Channel, seen: queue.Queue[list[tuple[str, str]]]) -> None:
    stream = channel.unary_stream(
        "/v1beta1.DevicePlugin/ListAndWatch",
        lambda message: bytes(message.SerializeToString()),
        KUBELET["ListAndWatchResponse"].FromString,
    )(KUBELET["Empty"]())
    try:
        for response in stream:
            seen.put([(device.ID, device.health) for device in response.devices])
    except grpc.RpcError:  # the plugin has ended
        return


def test_a_new_kubelet_learns_of_the_chips_again_and_one_without_cdi_gets_a_mount(
    daemon: Daemon, folder: Path
) -> None:
    with Cluster(folder, daemon, "--no-nri", "--no-cdi") as cluster:
        assert cluster.kubelet.registered.get(timeout=20).resource_name == "gpiovirt.io/plc"
        cluster.kubelet.close()
        cluster.kubelet = Kubelet(cluster.plugins)
        request = cluster.kubelet.registered.get(timeout=20)
        wait_for(lambda: (cluster.plugins / request.endpoint).exists())
        with cluster.kubelet.plugin(request.endpoint) as channel:
            wanted = KUBELET["AllocateRequest"](container_requests=[{"devices_ids": ["plc"]}])
            (given,) = call(channel, "Allocate", wanted, "AllocateResponse").container_responses
        (mount,) = given.mounts
        assert (mount.container_path, mount.host_path) == (
            "/dev/gpiochip-plc",
            f"{daemon.run}/containers/nodes/plc",
        )


class ApiServer(ThreadingHTTPServer):
    """The objects of resource.k8s.io/v1, by path."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _ApiRequest)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _ApiRequest(BaseHTTPRequestHandler):
    server: ApiServer

    def _serve(self) -> None:
        path = self.path.removeprefix("/apis/resource.k8s.io/v1")
        self.server.asked.append(f"{self.command} {path}")
        if self.command != "GET":
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path = f"/resourceslices/{body['metadata']['name']}"
            body["metadata"]["resourceVersion"] = str(len(self.server.asked))
            self.server.objects[path] = body
        found = self.server.objects.get(path)
        answer = json.dumps(found or {"kind": "Status"}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = _serve  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing."""


UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
CHIP = "claim-0a1b2c3d4e5f60718293a4b5"


def claim(parameters: object, uid: str = UID) -> dict[str, Any]:
    result = {"driver": "gpiovirt.io", "request": "chip", "pool": "plant-7", "device": "chip-3"}
    config = {"opaque": {"driver": "gpiovirt.io", "parameters": parameters}, "source": "FromClaim"}
    devices = {"results": [result, {"driver": "other"}], "config": [config]}
    return {"metadata": {"uid": uid}, "status": {"allocation": {"devices": devices}}}


def dra(channel: grpc.Channel, method: str, kind: str) -> Any:
    claims = DRA["Claims"](claims=[{"namespace": "factory", "uid": UID, "name": "line"}])
    return channel.unary_unary(
        f"/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/{method}",
        lambda message: bytes(message.SerializeToString()),
        DRA[kind].FromString,
    )(claims, timeout=20)


def test_a_claim_that_says_lines_gets_a_chip_of_its_own(daemon: Daemon, folder: Path) -> None:
    kubelet = folder / "kubelet"
    for name in ("plugins", "plugins_registry"):
        (kubelet / name).mkdir(parents=True)
    with ApiServer() as api:
        options = ["--no-nri", "--dra", "--node", "plant-7", "--api", api.url, "--kubelet", str(kubelet)]
        with Cluster(folder, daemon, *options):
            slice_path = "/resourceslices/plant-7-gpiovirt.io"
            wait_for(lambda: slice_path in api.objects)
            spec = api.objects[slice_path]["spec"]
            assert (spec["driver"], spec["nodeName"]) == ("gpiovirt.io", "plant-7")
            kubernetes_validate.validate(api.objects[slice_path], "1.34", strict=True)
            with grpc.insecure_channel(f"unix:{kubelet}/plugins_registry/gpiovirt.io-reg.sock") as channel:
                info = channel.unary_unary(
                    "/pluginregistration.Registration/GetInfo",
                    lambda message: bytes(message.SerializeToString()),
                    REGISTRATION["PluginInfo"].FromString,
                )(REGISTRATION["InfoRequest"](), timeout=20)
            assert (info.type, list(info.supported_versions)) == ("DRAPlugin", ["v1.DRAPlugin"])
            with grpc.insecure_channel(f"unix:{info.endpoint}") as channel:
                path = "/namespaces/factory/resourceclaims/line"
                for wrong, why in (
                    (claim({"lines": "sim-a 0"}), "is held by"),
                    (claim({"lines": "nowhere 0"}), "nowhere"),
                    (claim({}), "does not say which lines"),
                    (claim({"lines": "sim-a 5"}, uid="another"), "another one by now"),
                    ({"metadata": {"uid": UID}}, "not allocated"),
                ):
                    api.objects[path] = wrong
                    (entry,) = dra(channel, "NodePrepareResources", "NodePrepareResourcesResponse").claims
                    assert why in entry.value.error
                    assert not entry.value.devices
                api.objects[path] = claim({"lines": "sim-a 5-6", "options": {"0": "safe=low"}})
                for _ in range(2):  # kubelet may ask again
                    (entry,) = dra(channel, "NodePrepareResources", "NodePrepareResourcesResponse").claims
                    assert (entry.key, entry.value.error) == (UID, "")
                    (device,) = entry.value.devices
                    assert list(device.cdi_device_ids) == [f"gpiovirt.io/chip={CHIP}"]
                    assert (device.pool_name, device.device_name) == ("plant-7", "chip-3")
                    assert list(device.request_names) == ["chip"]
                shown = daemon.show(CHIP)
                assert (shown.chip.state, len(shown.lines), shown.options) == ("live", 2, {"0": "safe=low"})
                for _ in range(2):
                    (entry,) = dra(channel, "NodeUnprepareResources", "NodeUnprepareResourcesResponse").claims
                    assert (entry.key, entry.value.error) == (UID, "")
                with daemon.client() as client:
                    assert [chip.name for chip in client.chips()] == ["plc"]
