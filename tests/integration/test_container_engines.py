# SPDX-License-Identifier: MIT
"""Chips in containers of daemons: dockerd and containerd, with gpiovirt-runc as their runtime."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.container_rig import Machine, make_root, wait_for
from tests.integration.conftest import Installation, let_all_pass

SIMS = ("--sim", "sim-a:8", "--sim", "sim-b:4", "--wire", "sim-a:0=sim-a:1")
NODES = "/run/gpiovirt/containers/nodes"
CHECK = "gpiodetect; gpioset gpiochip0 0=1; gpioget gpiochip0 1; ls /sys/bus/gpio/devices"
CHECKED = ["gpiochip0 [plc] (4 lines)", "1", "gpiochip0"]
IMAGE = "gpio:1"
EXAMPLES = Path(__file__).parents[2] / "examples/containers"


@pytest.fixture(scope="module")
def machine(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if os.getuid():
        pytest.fail("dockerd and containerd are root's")
    folder = tmp_path_factory.mktemp("engines")
    let_all_pass(folder)
    made = Machine(folder, installation)
    try:
        make_root(folder / "root")
        made.start_daemon(*SIMS)
        made.gpiovirt("new", "plc", "sim-a 0-3", "--line", "2=safe=low")
        made.gpiovirt("new", "aux", "sim-b 0-1")
        yield made
    finally:
        made.close()


class Docker:
    """A dockerd whose default runtime is plain runc."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        folder = machine.folder / "docker"
        self.socket = f"unix://{folder}/socket"
        folder.mkdir()
        config = folder / "daemon.json"
        config.write_text(
            json.dumps({"runtimes": {"gpiovirt": {"path": str(machine.bin / "gpiovirt-runc")}}})
        )
        options: list[str | Path] = [
            "--config-file",
            config,
            "-s",
            "vfs",
            "--iptables=false",
            "--ip6tables=false",
        ]
        options += ["--bridge=none", "--data-root", folder / "data", "--exec-root", folder / "exec"]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = machine.start(
                "/usr/sbin/dockerd", *options, "-p", folder / "pid", "-H", self.socket, stdout=log, stderr=log
            )
        wait_for(lambda: self("version", check=False).returncode == 0)
        subprocess.run(["tar", "-C", machine.folder / "root", "-cf", folder / "image.tar", "."], check=True)
        self("import", str(folder / "image.tar"), IMAGE)

    def __call__(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.machine.run("/usr/bin/docker", "-H", self.socket, *arguments, **options)

    def start(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self("run", "--network", "none", "--runtime", "gpiovirt", *arguments, **options)


@pytest.fixture(scope="module")
def docker(machine: Machine) -> Iterator[Docker]:
    made = Docker(machine)
    yield made
    for container in made("ps", "-aq").stdout.split():
        made("rm", "-f", container)
    made.process.send_signal(signal.SIGTERM)
    made.process.wait(20)


def holders(machine: Machine) -> list[int]:
    told = json.loads(machine.gpiovirt("show", "plc", "--json"))
    return [line["offset"] for line in told["lines"] if line["used"]]


def test_docker_gives_a_chip_by_its_node(docker: Docker) -> None:
    done = docker.start("--rm", "-v", f"{NODES}/plc:/dev/gpiochip0", IMAGE, "sh", "-c", CHECK)
    assert done.stdout.splitlines() == CHECKED


def test_docker_gives_two_chips_as_the_numbers_that_are_said(docker: Docker) -> None:
    mounts = ["-v", f"{NODES}/plc:/dev/gpiochip1", "-v", f"{NODES}/aux:/dev/gpiochip0"]
    done = docker.start("--rm", *mounts, IMAGE, "gpiodetect")
    assert done.stdout.splitlines() == ["gpiochip0 [aux] (2 lines)", "gpiochip1 [plc] (4 lines)"]


def test_docker_executes_pauses_kills_and_starts_again(docker: Docker) -> None:
    machine = docker.machine
    program = ["gpioset", "--mode=signal", "gpiochip0", "2=1"]
    docker.start("-d", "--name", "line", "-v", f"{NODES}/plc:/dev/gpiochip0", IMAGE, *program)
    for _ in range(2):
        wait_for(lambda: holders(machine) == [2])
        assert '"gpioset"' in docker("exec", "line", "gpioinfo").stdout
        assert docker("exec", "--user", "1000", "line", "gpioget", "gpiochip0", "3").stdout == "0\n"
        docker("pause", "line")
        assert holders(machine) == [2]  # an output stays as it is while its program is frozen
        docker("unpause", "line")
        docker("kill", "line")
        wait_for(lambda: holders(machine) == [])
        docker("start", "line")
    docker("rm", "-f", "line")


def test_docker_shows_why_a_container_cannot_have_a_chip(docker: Docker) -> None:
    docker.start("-d", "--name", "first", "-v", f"{NODES}/plc:/dev/gpiochip0", IMAGE, "sleep", "1000")
    second = docker.start("--rm", "-v", f"{NODES}/plc:/dev/gpiochip0", IMAGE, "true", check=False)
    assert second.returncode
    assert "gpiovirt: the chip plc is in use by the container" in second.stderr
    docker("rm", "-f", "first")
    missing = docker.start("--rm", "-v", f"{NODES}/later:/dev/gpiochip0", IMAGE, "true", check=False)
    assert "gpiovirt: there is no chip later" in missing.stderr
    docker.machine.gpiovirt("new", "later", "sim-b 2")  # for which docker has made a folder
    done = docker.start("--rm", "-v", f"{NODES}/later:/dev/gpiochip0", IMAGE, "gpiodetect")
    assert done.stdout == "gpiochip0 [later] (1 lines)\n"
    docker.machine.gpiovirt("delete", "later")


# those of docs/ci.md, and whether they are enough
GIVEN = [
    ([], False),
    (["--security-opt", "seccomp=unconfined"], True),
    (["--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE"], True),
]


@pytest.mark.parametrize("user", ["0", "1000"])
@pytest.mark.parametrize(("options", "enough"), GIVEN, ids=["default", "unconfined", "capabilities"])
def test_programs_run_in_a_container_of_dockers_with_what_the_recipes_give_it(
    docker: Docker, installation: Installation, options: list[str], enough: bool, user: str
) -> None:
    folders = [Path(f"/{name}") for name in ("usr", "bin", "lib", "lib64")]
    own = [f"{folder}:{folder}:ro" for folder in folders if folder.exists()]
    mounts = [word for each in [*own, f"{installation.folder}:/gpiovirt:ro"] for word in ("-v", each)]
    within = ["--rm", "--network", "none", "--user", user, "-e", "PYTHONPATH=/gpiovirt", *options, *mounts]
    program = ["python3", "-m", "gpiovirt", "run", "--sim", "a:X,Y", "--wire", "a:0=a:1", "--"]
    script = "gpiodetect; python3 -m gpiovirt sim pull a:X up; gpioget gpiochip0 1"
    done = docker("run", *within, IMAGE, *program, "sh", "-c", script, check=False)
    if enough:
        assert (done.stdout, done.stderr) == ("gpiochip0 [a] (2 lines)\n1\n", "")
    else:
        assert done.returncode == 1
        assert "namespace" in done.stderr
        assert "docker run --security-opt seccomp=unconfined" in done.stderr


def test_compose_starts_a_killed_container_again(docker: Docker) -> None:
    machine = docker.machine
    command = ["docker-compose", "-H", docker.socket, "-f", str(EXAMPLES / "compose.yaml"), "-p", "line"]
    machine.run(*command, "up", "-d")
    started = docker("ps", "-q", "--no-trunc").stdout.strip()
    wait_for(lambda: holders(machine) == [2])
    for _ in range(2):
        pid = pid_of(docker, started)
        os.kill(pid, signal.SIGKILL)  # as the kernel does when memory is short
        wait_for(partial(is_another, docker, started, pid))
        wait_for(lambda: holders(machine) == [2])
    machine.run(*command, "down", "-t", "0")
    wait_for(lambda: holders(machine) == [])


def is_another(docker: Docker, container: str, pid: int) -> bool:
    return pid_of(docker, container) not in (pid, 0)


def pid_of(docker: Docker, container: str) -> int:
    return int(docker("inspect", "-f", "{{.State.Pid}}", container).stdout)


def test_podman_plays_a_pod_whose_killed_container_starts_again(machine: Machine) -> None:
    configuration = machine.folder / "containers.conf"
    limits = ["nofile=1024:1024", "nproc=4096:4096"]
    configuration.write_text(
        f"[containers]\ndefault_ulimits = {limits}\nnetns = 'host'\n[engine]\ncgroup_manager = 'cgroupfs'\n"
        f"hooks_dir = ['{machine.hooks}']\nevents_logger = 'file'\nruntime = '{machine.kube_runtime}'\n"
    )
    podman = ["env", f"CONTAINERS_CONF={configuration}", "podman"]
    archive = machine.folder / "image.tar"
    subprocess.run(["tar", "-C", machine.folder / "root", "-cf", archive, "."], check=True)
    machine.run(*podman, "import", archive, "localhost/gpio:1")
    machine.run(*podman, "kube", "play", "--network", "host", EXAMPLES / "pod.yaml")
    wait_for(lambda: holders(machine) == [2])
    inspect = [*podman, "inspect", "-f", "{{.State.Pid}}", "line-control"]
    pid = machine.run(*inspect).stdout
    os.kill(int(pid), signal.SIGKILL)
    wait_for(lambda: machine.run(*inspect).stdout not in (pid, "0\n") and holders(machine) == [2])
    machine.run(*podman, "pod", "rm", "-f", "-t", "0", "line")
    wait_for(lambda: holders(machine) == [])


def test_containerd_gives_a_chip_by_the_wrapper(machine: Machine) -> None:
    folder = machine.folder / "containerd"
    folder.mkdir()
    config = folder / "config.toml"
    config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    socket = f"{folder}/socket"
    options: list[str | Path] = ["--config", config, "--address", socket]
    options += ["--root", folder / "data", "--state", folder / "state"]
    with (folder / "log").open("wb") as log:
        process = machine.start("containerd", *options, stdout=log, stderr=log)
    ctr = ["ctr", "--address", socket]
    wait_for(lambda: machine.run(*ctr, "version", check=False).returncode == 0)
    mount = f"type=bind,src={NODES}/plc,dst=/dev/gpiochip-plc,options=bind:rw"
    done = machine.run(
        *(*ctr, "run", "--rm", "--runc-binary", str(machine.bin / "gpiovirt-runc"), "--mount", mount),
        *("--env", "PATH=/bin:/usr/bin"),
        *("--rootfs", str(machine.folder / "root"), "line", "/bin/sh", "-c", CHECK),
    )
    assert done.stdout.splitlines() == CHECKED
    process.send_signal(signal.SIGTERM)
    process.wait(20)
