# SPDX-License-Identifier: MIT
"""A containerd that is asked as kubelet asks it: the part of CRI that makes a pod and a container in it."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import tarfile
from pathlib import Path
from typing import Any

import grpc

from gpiovirt.kubernetes.messages import make_classes
from tests.container_rig import Machine, wait_for

IMAGE = "localhost/gpio:1"
_NODE = 2  # NamespaceMode: the host's network, for which no plugin of CNI is needed
# api.proto of CRI, v1
_CRI = make_classes(
    "runtime.v1",
    {
        "Empty": {},
        "Metadata": {"name": (1, "string"), "uid": (2, "string"), "namespace": (3, "string")},
        "NamespaceOption": {"network": (1, "int32")},
        "SecurityContext": {"namespace_options": (1, "NamespaceOption")},
        "LinuxPod": {"security_context": (2, "SecurityContext")},
        "Pod": {"metadata": (1, "Metadata"), "linux": (8, "LinuxPod")},
        "RunPodSandboxRequest": {"config": (1, "Pod"), "runtime_handler": (2, "string")},
        "RunPodSandboxResponse": {"pod_sandbox_id": (1, "string")},
        "ContainerMetadata": {"name": (1, "string")},
        "Image": {"image": (1, "string")},
        "Mount": {"container_path": (1, "string"), "host_path": (2, "string")},
        "CDIDevice": {"name": (1, "string")},
        "ContainerContext": {"namespace_options": (3, "NamespaceOption")},
        "LinuxContainer": {"security_context": (2, "ContainerContext")},
        "Container": {
            "metadata": (1, "ContainerMetadata"),
            "image": (2, "Image"),
            "command": (3, "string*"),
            "mounts": (7, "Mount*"),
            "linux": (15, "LinuxContainer"),
            "CDI_devices": (17, "CDIDevice*"),
        },
        "CreateContainerRequest": {
            "pod_sandbox_id": (1, "string"),
            "config": (2, "Container"),
            "sandbox_config": (3, "Pod"),
        },
        "CreateContainerResponse": {"container_id": (1, "string")},
        "StartContainerRequest": {"container_id": (1, "string")},
        "RemoveContainerRequest": {"container_id": (1, "string")},
        "RemovePodSandboxRequest": {"pod_sandbox_id": (1, "string")},
        "ExecSyncRequest": {"container_id": (1, "string"), "cmd": (2, "string*"), "timeout": (3, "int64")},
        "ExecSyncResponse": {"stdout": (1, "bytes"), "stderr": (2, "bytes"), "exit_code": (3, "int32")},
    },
)


def image_of(root: Path, path: Path) -> None:
    """Write the image of one layer, an archive as `docker save` makes it; it sleeps if nothing is said."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.add(root, ".")
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "10000"], "Env": ["PATH=/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        for name, content in (
            ("config.json", json.dumps(config).encode()),
            ("layer.tar", layer.getvalue()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


class Containerd:
    """Its runtime handler `gpiovirt` is gpiovirt-runc; programs are taken from `where`."""

    def __init__(self, machine: Machine, name: str, where: Path) -> None:
        self._machine = machine
        folder = machine.folder / name
        folder.mkdir()
        self.nri = folder / "nri.sock"
        self.log = folder / "log"
        config = folder / "config.toml"
        config.write_text(
            f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
enable_cdi = true
cdi_spec_dirs = ["/var/run/cdi"]
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gpiovirt]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gpiovirt.options]
BinaryName = "{machine.bin / "gpiovirt-runc"}"
[plugins."io.containerd.nri.v1.nri"]
disable = false
socket_path = "{self.nri}"
plugin_path = "{folder}/no-plugins"
"""
        )
        socket = f"{folder}/socket"
        options: list[str | Path] = ["--config", config, "--address", socket]
        options += ["--root", folder / "data", "--state", folder / "state"]
        search = f"PATH={where}:{machine.environment['PATH']}"
        with self.log.open("wb") as log:
            self._process = machine.start("env", search, "containerd", *options, stdout=log, stderr=log)
        self.ctr = ["env", search, "ctr", "--address", socket]
        wait_for(lambda: machine.run(*self.ctr, "version", check=False).returncode == 0)
        image_of(machine.folder / "root", folder / "image.tar")
        machine.run(*self.ctr, "-n", "k8s.io", "images", "import", folder / "image.tar")
        self._channel = grpc.insecure_channel(f"unix:{socket}")
        self._pods: list[str] = []

    def __call__(self, method: str, answer: str = "Empty", **fields: Any) -> Any:
        return self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            lambda message: bytes(message.SerializeToString()),
            _CRI[answer].FromString,
        )(_CRI[f"{method}Request"](**fields), timeout=60)

    def start(self, name: str, handler: str, **asked: Any) -> str:
        """A container in a pod of its own, which sleeps; grpc.RpcError if the runtime refuses."""
        network = {"network": _NODE}
        pod = {
            "metadata": {"name": name, "uid": name, "namespace": "factory"},
            "linux": {"security_context": {"namespace_options": network}},
        }
        sandbox = self("RunPodSandbox", "RunPodSandboxResponse", config=pod, runtime_handler=handler)
        self._pods.append(sandbox.pod_sandbox_id)
        config = {
            "metadata": {"name": "line"},
            "image": {"image": IMAGE},
            "linux": {"security_context": {"namespace_options": network}},
            **asked,
        }
        made = self(
            "CreateContainer",
            "CreateContainerResponse",
            pod_sandbox_id=sandbox.pod_sandbox_id,
            config=config,
            sandbox_config=pod,
        )
        self("StartContainer", container_id=made.container_id)
        return str(made.container_id)

    def exec(self, container: str, *command: str) -> tuple[int, str]:
        """A program's status, and what it prints."""
        done = self("ExecSync", "ExecSyncResponse", container_id=container, cmd=command, timeout=30)
        return done.exit_code, done.stdout.decode() + done.stderr.decode()

    def remove_pods(self) -> None:
        for pod in self._pods:
            self("RemovePodSandbox", pod_sandbox_id=pod)
        self._pods.clear()

    def close(self) -> None:
        self.remove_pods()
        self._channel.close()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)
