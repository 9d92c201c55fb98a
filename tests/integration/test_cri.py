# SPDX-License-Identifier: MIT
"""Chips in pods of real containerds, which are asked over gRPC as kubelet asks them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.container_rig import Machine, make_root, wait_for
from tests.cri import Containerd
from tests.integration.conftest import ROOT, Installation, let_all_pass
from tests.machine import outside

NODE = "/run/gpiovirt/containers/nodes/plc"
CHECK = "gpiodetect; gpioset gpiochip0 0=1; gpioget gpiochip0 1; ls /sys/bus/gpio/devices"
CHECKED = ["gpiochip0 [plc] (4 lines)", "1", "gpiochip0"]
BY_CDI = {"CDI_devices": [{"name": "gpiovirt.io/chip=plc"}]}
BY_MOUNT = {"mounts": [{"container_path": "/dev/gpiochip-plc", "host_path": NODE}]}
BY_NUMBER = {"mounts": [{"container_path": "/dev/gpiochip0", "host_path": NODE}]}


@pytest.fixture(scope="module")
def machine(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if os.getuid():
        pytest.fail("containerd is root's")
    folder = tmp_path_factory.mktemp("cri")
    let_all_pass(folder)
    made = Machine(folder, installation)
    try:
        make_root(folder / "root")
        made.start_daemon("--sim", "sim-a:8", "--wire", "sim-a:0=sim-a:1")
        made.gpiovirt("new", "plc", "sim-a 0-3")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def own(machine: Machine) -> Iterator[Containerd]:
    """That of this Debian."""
    made = Containerd(machine, "own", Path("/usr/bin"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def newer(machine: Machine) -> Iterator[Containerd]:
    """That of Debian 13, which knows CDI and NRI."""
    built = subprocess.check_output([*outside(), ROOT / "guests/build", "containerd"], text=True)
    made = Containerd(machine, "newer", Path(built.strip()) / "usr/bin")
    yield made
    made.close()


@pytest.mark.parametrize("asked", [BY_MOUNT, BY_NUMBER])
def test_a_pod_gets_a_chip_by_a_mount_where_the_runtime_has_no_cdi(
    own: Containerd, asked: dict[str, object]
) -> None:
    check_pod(own, asked)


@pytest.mark.parametrize("asked", [BY_CDI, BY_MOUNT])
def test_a_pod_gets_a_chip_by_cdi(newer: Containerd, asked: dict[str, object]) -> None:
    check_pod(newer, asked)


def check_pod(containerd: Containerd, asked: dict[str, object]) -> None:
    container = containerd.start("line", "gpiovirt", **asked)
    status, text = containerd.exec(container, "sh", "-c", CHECK)
    assert (status, text.splitlines()) == (0, CHECKED)
    with pytest.raises(grpc.RpcError, match="the chip plc is in use by the container"):
        containerd.start("other", "gpiovirt", **asked)
    containerd.remove_pods()
    container = containerd.start("line", "gpiovirt", **asked)  # it is free again
    assert containerd.exec(container, "gpiodetect") == (0, f"{CHECKED[0]}\n")
    containerd.remove_pods()


def test_a_pod_of_another_runtime_gets_nothing(newer: Containerd) -> None:
    with pytest.raises(grpc.RpcError, match="nobody to serve it; gpiovirt doctor says what is missing"):
        newer.start("line", "runc", **BY_CDI)
    newer.remove_pods()
    with pytest.raises(grpc.RpcError, match=r"unresolvable CDI devices gpiovirt\.io/chip=other"):
        newer.start("line", "gpiovirt", CDI_devices=[{"name": "gpiovirt.io/chip=other"}])
    newer.remove_pods()


def test_a_runtime_that_tells_plugins_no_seccomp_policy_is_not_given_a_container(
    machine: Machine, newer: Containerd
) -> None:
    """So NRI and ttRPC are spoken with a real runtime, up to what it cannot do yet."""
    plugins = machine.folder / "plugins"
    plugins.mkdir()
    where: list[str | Path] = ["--run", "/run/gpiovirt", "--plugins", plugins, "--nri", newer.nri]
    log = machine.folder / "kubernetes.log"
    with log.open("wb") as file:
        process = machine.start(sys.executable, "-m", "gpiovirt.kubernetes.main", *where, stderr=file)
    wait_for(lambda: r"50-gpiovirt\" connected" in newer.log.read_text())
    with pytest.raises(grpc.RpcError, match="use the RuntimeClass gpiovirt for this pod"):
        newer.start("line", "runc", **BY_CDI)
    newer.remove_pods()
    container = newer.start("other", "runc")  # one that asks for no chip is not touched
    assert newer.exec(container, "true") == (0, "")
    newer.remove_pods()
    process.terminate()
    assert process.wait(20) == 0, log.read_text()
