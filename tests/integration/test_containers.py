# SPDX-License-Identifier: MIT
"""Chips in containers: bundles of crun and runc, and podman, with programs that know nothing of gpiovirt."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.container_rig import IMAGE, USER, Bundle, Machine, give_subordinate_ids, make_root, wait_for
from tests.integration.conftest import Installation, let_all_pass

CHECK = """\
gpiodetect
gpioset gpiochip0 0=1
echo wired $(gpioget gpiochip0 1)
ls /sys/bus/gpio/devices
readlink /sys/dev/char/136:*/subsystem
"""
CHECKED = ["gpiochip0 [plc] (4 lines)", "wired 1", "gpiochip0", "../../../bus/gpio"]
SIMS = ("--sim", "sim-a:8", "--sim", "sim-b:4", "--wire", "sim-a:0=sim-a:1")
MAPPED = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"]
USERNS = [
    *([], ["--user", "1000"], ["--userns", "keep-id"], ["--userns", "nomap"], ["--userns", "auto"]),
    *(["--userns", "auto", "--user", "1000"], ["--userns", "keep-id", "--user", "5"], ["--cap-drop", "all"]),
    *(["--init"], ["--read-only"], ["--security-opt", "no-new-privileges"], ["--privileged"]),
]


@pytest.fixture(scope="module")
def machine(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory, users: None
) -> Iterator[Machine]:
    if os.getuid():
        pytest.fail("containers are made by root, and as another user by root")
    folder = tmp_path_factory.mktemp("containers")
    let_all_pass(folder)
    made = Machine(folder, installation)
    try:
        give_subordinate_ids("gpvalice")
        make_root(folder / "root")
        made.start_daemon(*SIMS)
        made.gpiovirt("new", "plc", "sim-a 0-3", "--line", "2=safe=low", "--owner", "gpvalice")
        made.gpiovirt("new", "aux", "sim-b 0-1")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def podman(machine: Machine) -> Machine:
    """With an image for root and for another user."""
    archive = machine.folder / "image.tar"
    subprocess.run(["tar", "-C", machine.folder / "root", "-cf", archive, "."], check=True)
    for user in (0, USER):
        machine.podman("import", archive, IMAGE, user=user)
    return machine


_names = iter(range(1000))


def bundle(
    machine: Machine, runtime: str, *args: str, chips: tuple[str, ...] = ("plc",), **options: Any
) -> Bundle:
    return Bundle(machine, runtime, machine.folder / "root", f"c{next(_names)}", chips, args, **options)


def mounting(source: str, destination: str = "/dev/gpiochip0") -> Callable[[dict[str, Any]], None]:
    mount = {"destination": destination, "type": "bind", "source": source, "options": ["bind"]}
    return lambda config: config["mounts"].append(mount)


def holders(machine: Machine, chip: str = "plc") -> list[dict[str, Any]]:
    told = json.loads(machine.gpiovirt("show", chip, "--json"))
    return [line for line in told["lines"] if line["used"]]


# bundles


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_container_has_its_chip_and_of_gpio_nothing_else(machine: Machine, runtime: str) -> None:
    done = bundle(machine, runtime, "sh", "-c", CHECK).run()
    assert done.stdout.splitlines() == CHECKED


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_wrapped_runtime_edits_what_asks_for_a_chip(machine: Machine, runtime: str) -> None:
    node = "/run/gpiovirt/containers/nodes/plc"
    mount = {"destination": "/dev/gpiochip0", "type": "bind", "source": node, "options": ["bind"]}
    made = bundle(
        machine,
        f"gpiovirt-{runtime}",
        "sh",
        "-c",
        CHECK,
        chips=(),
        edit=lambda config: config["mounts"].append(mount),
    )
    assert made.run().stdout.splitlines() == CHECKED
    plain = bundle(machine, f"gpiovirt-{runtime}", "ls", "/dev", chips=())
    before = (plain.folder / "config.json").read_bytes()
    assert "gpiochip0" not in plain.run().stdout
    assert (plain.folder / "config.json").read_bytes() == before


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_two_chips_are_numbered_in_order(machine: Machine, runtime: str) -> None:
    done = bundle(machine, runtime, "gpiodetect", chips=("aux", "plc")).run()
    assert done.stdout.splitlines() == ["gpiochip0 [aux] (2 lines)", "gpiochip1 [plc] (4 lines)"]


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_what_is_executed_in_a_running_container_has_the_chip(machine: Machine, runtime: str) -> None:
    made = bundle(machine, runtime, "gpioset", "--mode=signal", "gpiochip0", "2=1")
    made.start()
    wait_for(lambda: holders(machine))
    assert '"gpioset"' in made.exec(made.name, "gpioinfo")
    assert made.exec("--user", "1000", made.name, "gpioget", "gpiochip0", "3") == "0\n"
    ours, theirs = pty.openpty()
    done = machine.run(
        *(runtime, "exec", "--tty", made.name, "sh", "-c", "tty && gpioget gpiochip0 3"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        capture_output=False,
    )
    os.close(theirs)
    assert done.returncode == 0
    assert os.read(ours, 4096).split()[-1] == b"0"
    os.close(ours)
    made.kill()
    wait_for(lambda: not holders(machine))


@pytest.mark.parametrize("architecture", ["x86_64", "i386"])
def test_static_programs_of_either_size_have_it(
    machine: Machine, c_programs: dict[str, str], architecture: str
) -> None:
    edit = mounting(c_programs[architecture], "/client")
    made = bundle(machine, "crun", "/client", "/dev/gpiochip0", edit=edit)
    done = made.run(check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_runtime_that_fails_early_leaves_the_listener_well(machine: Machine) -> None:
    failed = bundle(machine, "crun", "/no/such/program").run(check=False)
    assert failed.returncode
    assert bundle(machine, "crun", "gpiodetect").run().stdout.startswith("gpiochip0 [plc]")


def test_a_container_under_another_profile_has_what_that_allows(machine: Machine) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["ioctl", "chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
        }

    done = bundle(machine, "crun", "sh", "-c", "gpiodetect; tty", edit=edit).run(check=False)
    assert done.stdout.splitlines() == ["gpiochip0 [plc] (4 lines)", "not a tty"]


# life and death


def test_a_killed_container_leaves_its_lines_safe_and_the_next_is_served(machine: Machine) -> None:
    made = bundle(machine, "crun", "gpioset", "--mode=signal", "gpiochip0", "2=1")
    for _ in range(2):
        made.start()
        wait_for(lambda: holders(machine))
        before_ns = time.time_ns()
        made.kill()
        wait_for(lambda: not holders(machine))
        records = log_of(machine, "plc", since_ns=before_ns)
        assert [(record["what"], record["value"]) for record in records if record["offset"] == 2] == [
            ("released", 0),
            ("configured", 0),
        ]


def log_of(machine: Machine, chip: str, since_ns: int) -> list[dict[str, Any]]:
    time.sleep(0.3)  # the recorder's turn
    text = machine.gpiovirt("log", chip, "--json")
    return [record for line in text.splitlines() if (record := json.loads(line))["time_ns"] >= since_ns]


def test_the_record_says_which_container_it_was(machine: Machine) -> None:
    began_ns = time.time_ns()
    annotations = {
        "io.kubernetes.cri.image-name": "registry.example/line:7",
        "io.kubernetes.cri.sandbox-namespace": "factory",
        "io.kubernetes.cri.sandbox-name": "line-0",
    }
    made = bundle(
        machine,
        "crun",
        "gpioget",
        "gpiochip0",
        "3",
        edit=lambda config: config.update(annotations=annotations),
    )
    made.run()
    whos = [record["who"] for record in log_of(machine, "plc", began_ns) if record["what"] == "requested"]
    assert [(who["kind"], who["consumer"], who["command"]) for who in whos] == [
        ("container", "gpioget", f"container {made.name} image registry.example/line:7 pod factory/line-0")
    ]


def test_containers_outlive_gpiovirtd_their_service_and_their_chips_worker(machine: Machine) -> None:
    made = bundle(machine, "crun", "sh", "-c", "gpioset --mode=signal gpiochip0 2=1 & sleep 1000")
    made.start()
    wait_for(lambda: holders(machine))
    pid = holders(machine)[0]["holder"]["pid"]
    machine.stop_daemon()
    assert "connect" in machine.run("crun", "exec", made.name, "true", check=False).stderr
    machine.start_daemon(*SIMS)
    assert [line["holder"]["pid"] for line in holders(machine)] == [pid]
    assert made.exec(made.name, "gpioget", "gpiochip0", "3") == "0\n"
    worker = json.loads(machine.gpiovirt("show", "plc", "--json"))["worker"]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: json.loads(machine.gpiovirt("show", "plc", "--json"))["worker"] not in (0, worker))
    assert made.exec(made.name, "gpioget", "gpiochip0", "3") == "0\n"
    assert [line["offset"] for line in holders(machine)] == [2]
    made.kill()
    wait_for(lambda: not holders(machine))


# podman


@pytest.mark.parametrize("options", USERNS, ids=lambda options: "-".join(options) or "plain")
def test_podman_gives_a_chip_to_a_container_of_its_owner(podman: Machine, options: list[str]) -> None:
    done = podman.podman(
        "run", "--rm", *options, "--device", "gpiovirt.io/chip=plc", IMAGE, "sh", "-c", CHECK, user=USER
    )
    assert done.stdout.splitlines() == CHECKED


@pytest.mark.parametrize("options", [[], ["--privileged"], MAPPED], ids=" ".join)
def test_podman_gives_a_chip_to_a_container_of_root(podman: Machine, options: list[str]) -> None:
    done = podman.podman(
        "run", "--rm", *options, "--device", "gpiovirt.io/chip=plc", IMAGE, "sh", "-c", CHECK
    )
    assert done.stdout.splitlines() == CHECKED


def test_podman_executes_kills_and_starts_again(podman: Machine) -> None:
    began_ns = time.time_ns()
    command = ["gpioset", "--mode=signal", "gpiochip0", "2=1"]
    podman.podman(
        "run", "-d", "--name", "line", "--device", "gpiovirt.io/chip=plc", IMAGE, *command, user=USER
    )
    for _ in range(2):
        wait_for(lambda: holders(podman))
        for as_user in ([], ["--user", "1000"]):
            told = podman.podman("exec", *as_user, "line", "gpioinfo", user=USER).stdout
            assert '"gpioset"' in told
        podman.podman("kill", "line", user=USER)
        wait_for(lambda: not holders(podman))
        podman.podman("start", "line", user=USER)
    podman.podman("rm", "-f", "-t", "0", "line", user=USER)
    who = next(r for r in log_of(podman, "plc", began_ns) if r["what"] == "requested")["who"]
    assert who["uid"] == USER
    assert who["command"].split()[2:] == ["line", "image", IMAGE]


def test_two_containers_have_a_chip_each_and_one_chip_has_one_container(podman: Machine) -> None:
    sleep = ["--device", "gpiovirt.io/chip=plc", IMAGE, "sleep", "1000"]
    podman.podman("run", "-d", "--name", "first", *sleep)
    other = podman.podman("run", "--rm", "--device", "gpiovirt.io/chip=aux", IMAGE, "gpiodetect")
    assert other.stdout == "gpiochip0 [aux] (2 lines)\n"
    second = podman.podman("run", "--rm", *sleep, check=False)
    assert second.returncode
    assert "the chip plc is in use by the container" in second.stderr
    podman.podman("rm", "-f", "-t", "0", "first")
    assert podman.podman("run", "--rm", "--device", "gpiovirt.io/chip=plc", IMAGE, "gpiodetect").stdout


def test_a_users_own_gpiovirtd_serves_their_containers(podman: Machine) -> None:
    own = podman.start(
        *(podman.bin / "gpiovirtd", "--sim", "own:4", "--no-config", "--no-files", "--no-api"),
        user=USER,
        stderr=subprocess.PIPE,
    )
    assert own.stderr
    assert "ready" in own.stderr.readline()
    environment = {**podman.environment, "GPIOVIRT_RUNTIME_DIR": f"/run/user/{USER}/gpiovirt"}
    podman.run(podman.bin / "gpiovirt", "new", "mine", "own 0-1", user=USER, env=environment)
    node = f"/run/user/{USER}/gpiovirt/containers/nodes/mine"
    for userns in ([], ["--userns", "keep-id"]):
        done = podman.podman(
            "run", "--rm", *userns, "-v", f"{node}:/dev/gpiochip0", IMAGE, "gpiodetect", user=USER
        )
        assert done.stdout == "gpiochip0 [mine] (2 lines)\n"
    own.send_signal(signal.SIGINT)
    own.wait(20)


# refused


def test_a_strangers_chip_is_refused_before_the_container_is_made(podman: Machine) -> None:
    done = podman.podman(
        "run", "--rm", "--device", "gpiovirt.io/chip=aux", IMAGE, "true", user=USER, check=False
    )
    assert done.returncode
    assert "the chip aux is root:root's (0660), and gpvalice may not use it" in done.stderr


def test_without_a_service_the_start_fails_and_says_why(podman: Machine) -> None:
    listener = "/run/gpiovirt/containers/listener"
    podman.run("mv", listener, f"{listener}.away")
    try:
        done = podman.podman("run", "--rm", "--device", "gpiovirt.io/chip=aux", IMAGE, "true", check=False)
    finally:
        podman.run("mv", f"{listener}.away", listener)
    assert done.returncode
    assert f"nobody serves containers at {listener}: start gpiovirtd" in done.stderr


def test_without_a_door_the_start_fails_and_names_doctor(podman: Machine) -> None:
    done = podman.podman(
        "run", "--rm", "--device", "gpiovirt.io/chip=aux", IMAGE, "true", hook=False, check=False
    )
    assert done.returncode
    assert "container-has-no-listener_see-gpiovirt-doctor" in done.stderr


def test_a_chip_that_is_not_there_is_unknown_to_engines_and_wrappers(podman: Machine) -> None:
    done = podman.podman("run", "--rm", "--device", "gpiovirt.io/chip=none", IMAGE, "true", check=False)
    assert "gpiovirt.io/chip=none" in done.stderr
    node = "/run/gpiovirt/containers/nodes/none"
    made = bundle(podman, "gpiovirt-runc", "true", chips=(), edit=mounting(node))
    done = made.run(check=False)
    assert done.returncode == 1
    assert done.stderr == "gpiovirt: there is no chip none; gpiovirt list shows those that are\n"


def test_a_container_without_chips_is_started_as_ever(podman: Machine) -> None:
    assert "gpiochip" not in podman.podman("run", "--rm", IMAGE, "ls", "/dev").stdout


def test_a_bundle_that_is_edited_again_does_not_change(machine: Machine) -> None:
    made = bundle(machine, "crun", "true")
    config = made.config()
    machine.gpiovirt("oci", "edit", "--chip", "plc", str(made.folder))
    assert made.config() == config
