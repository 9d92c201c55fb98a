# SPDX-License-Identifier: MIT
"""Others who try to stop, starve, blind or fool the containers' service or other containers."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.container_rig import USER, Bundle, Machine, make_root, wait_for
from tests.integration.conftest import USERS, Installation, let_all_pass
from tests.silent_file import silent_file

BOB = USERS["gpvbob"]
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIMS = ("--sim", "sim-a:4", "--sim", "sim-b:4", "--sim", "sim-c:4", "--wire", "sim-a:0=sim-a:1")
LISTENER = "run/gpiovirt/containers/listener"
# a runtime of one's own: a listener like a container's, and a question to a chip
IMPOSTOR = """
import array, fcntl, json, os, socket, sys
from gpiovirt.exports.process.filter import gpio_filter
from gpiovirt.host.seccomp import install_filter
from gpiovirt.uapi import gpio as u

chip, container = sys.argv[1:]
sock = socket.socket(socket.AF_UNIX)
sock.connect("/run/gpiovirt/containers/listener")
node = os.open(f"/run/gpiovirt/containers/nodes/{chip}", os.O_RDWR | os.O_NOCTTY)
state = {"fds": ["seccompFd"], "pid": 0, "state": {"id": container}}
state["metadata"] = json.dumps({"gpiochip0": chip})
socket.send_fds(sock, [json.dumps(state).encode()], [install_filter(gpio_filter())])
sock.close()
try:
    fcntl.ioctl(node, u.GPIO_GET_CHIPINFO_IOCTL, bytearray(68))
    print("served")
except OSError as error:
    print(error.errno, os.strerror(error.errno))
"""


@pytest.fixture(scope="module")
def machine(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory, users: None
) -> Iterator[Machine]:
    if os.getuid():
        pytest.fail("several users are needed, and root")
    folder = tmp_path_factory.mktemp("attacks")
    let_all_pass(folder)
    made = Machine(folder, installation)
    try:
        make_root(folder / "root")
        made.start_daemon(*SIMS)
        made.gpiovirt("new", "plc", "sim-a 0-3", "--owner", "gpvalice")
        made.gpiovirt("new", "aux", "sim-b 0-3")
        made.gpiovirt("new", "third", "sim-c 0-3")
        yield made
    finally:
        made.close()


_names = iter(range(1000))


def bundle(machine: Machine, chip: str, *args: str, mounts: tuple[str, ...] = ()) -> Bundle:
    def edit(config: dict[str, Any]) -> None:
        for source in mounts:
            destination = f"/{Path(source).name}"
            config["mounts"].append({"destination": destination, "source": source, "options": ["bind"]})

    return Bundle(machine, "crun", machine.folder / "root", f"a{next(_names)}", [chip], args, edit)


def connected(machine: Machine) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(f"{machine.root}/{LISTENER}")
    return sock


def ask(machine: Machine, question: object) -> dict[str, Any]:
    """What an editor is answered; no process is started for it."""
    with connected(machine) as sock:
        sock.sendall(json.dumps(question).encode())
        return dict(json.loads(sock.recv(1 << 16)))


def impostor(machine: Machine, user: int, chip: str, container: str) -> str:
    done = machine.run("/usr/bin/python3", "-c", IMPOSTOR, chip, container, user=user)
    return str(done.stdout.strip())


def test_a_terminal_that_was_made_exclusive_is_open_to_the_next_container(machine: Machine) -> None:
    exclude = """
import fcntl, os, termios
node = os.open("/run/gpiovirt/containers/nodes/plc", os.O_RDWR | os.O_NOCTTY)
fcntl.ioctl(node, termios.TIOCEXCL)
"""
    assert machine.run("/usr/bin/python3", "-c", exclude, user=BOB).returncode == 0
    assert "plc" in bundle(machine, "plc", "gpiodetect").run().stdout


def test_a_crowd_that_says_nothing_keeps_nobody_else_out(machine: Machine) -> None:
    crowd = """
import socket, sys, time
socks = [socket.socket(socket.AF_UNIX) for _ in range(400)]
for sock in socks:
    sock.connect("/run/gpiovirt/containers/listener")
print(flush=True)
time.sleep(60)
"""
    process = machine.start("/usr/bin/python3", "-c", crowd, user=BOB, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    began_s = time.monotonic()
    assert bundle(machine, "plc", "gpiodetect").run().stdout == "gpiochip0 [plc] (4 lines)\n"
    assert time.monotonic() - began_s < 10
    of_bob = [
        status
        for status in Path("/proc").glob("[0-9]*/status")
        if "gpiovirt-cont" in (text := read(status)) and f"Uid:\t{BOB}\t" in text
    ]
    assert len(of_bob) <= 128
    wait_for(lambda: "containers or programs in them" in machine.log_text())
    process.kill()
    process.wait()


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@pytest.mark.parametrize(
    "message",
    [
        *(b"{", b"}", b"[" * 30000 + b"}", b'{"state": {}}', b"\xff" * 70000, b'{"prepare": {"x": 1}}'),
        b'{"fds": ["seccompFd"], "state": {"id": "c"}, "metadata": "{\\"gpiochip0\\": \\"plc\\"}"}',
    ],
    ids=lambda message: message[:12].decode(errors="replace"),
)
def test_what_is_no_message_is_the_senders_own_trouble(machine: Machine, message: bytes) -> None:
    with connected(machine) as sock:
        sock.sendall(message)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
    assert "bus" in ask(machine, {"prepare": {"gpiochip0": "plc"}})


def test_many_files_beside_a_message_are_not_kept(machine: Machine) -> None:
    for _ in range(20):
        with connected(machine) as sock:
            socket.send_fds(sock, [b"{}"], [0] * 200)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
    assert "bus" in ask(machine, {"prepare": {"gpiochip0": "plc"}})
    assert machine.log_text().count("neither the state") < 15  # what is complained of is counted


def test_a_file_that_hangs_whoever_touches_it_hangs_one_process_only(
    machine: Machine, tmp_path: Path
) -> None:
    metadata = json.dumps({"gpiochip0": "plc"})
    state = {"fds": ["seccompFd"], "pid": 0, "metadata": metadata, "state": {"id": "c"}}
    with silent_file(tmp_path / "fuse") as fd, ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(connected(machine))
            socket.send_fds(sock, [json.dumps(state).encode()], [fd])
        for _ in range(3):
            assert "bus" in ask(machine, {"prepare": {"gpiochip0": "aux"}})


@pytest.mark.parametrize(
    ("chip", "why"),
    [
        ("../chips/plc", "there is no chip"),
        ("plc\0", "there is no chip"),
        ("x" * 3000, "there is no chip"),
        ("\x1b[2J", "there is no chip"),
        ("", "there is no chip"),
    ],
    ids=range(5),
)
def test_a_name_that_is_none_leads_nowhere(machine: Machine, chip: str, why: str) -> None:
    answer = ask(machine, {"prepare": {"gpiochip0": chip}})
    assert why in answer["why"]
    assert "bus" not in answer


def test_a_strangers_runtime_gets_no_chip_and_keeps_none_from_others(machine: Machine) -> None:
    assert impostor(machine, BOB, "plc", "c") == "13 Permission denied"
    assert impostor(machine, USER, "plc", "c") == "served"  # its owner's does
    assert bundle(machine, "plc", "gpiodetect").run().stdout == "gpiochip0 [plc] (4 lines)\n"


def test_who_says_to_be_a_container_of_another_users_is_not_taken_for_it(machine: Machine) -> None:
    made = bundle(machine, "plc", "gpioset", "--mode=signal", "gpiochip0", "2=1")
    made.start()
    wait_for(lambda: '"gpioset"' in machine.gpiovirt("show", "plc"))
    assert impostor(machine, USER, "plc", made.name) == "16 Device or resource busy"
    made.kill()


def test_supervisors_of_a_user_are_out_of_that_users_reach(machine: Machine) -> None:
    script = f"{IMPOSTOR}\nimport time\ntime.sleep(60)"
    process = machine.start(
        "/usr/bin/python3", "-u", "-c", script, "plc", "c", user=USER, stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == "served\n"
    found = [
        status.parent.name
        for status in Path("/proc").glob("[0-9]*/status")
        if "Name:\tgpiovirt\n" in (text := read(status)) and f"Uid:\t{USER}\t{USER}\t{USER}" in text
    ]
    assert len(found) == 1
    for file in ("mem", "environ", "maps"):
        done = machine.run("cat", f"/proc/{found[0]}/{file}", user=USER, check=False)
        assert "Permission denied" in done.stderr
    process.kill()
    process.wait()


def test_two_hostile_containers_do_not_disturb_a_third(machine: Machine) -> None:
    """On as many CPUs as there are programs nothing would be seen at all; here they share."""
    client = str(machine.folder / "client")
    command = ["gcc", "-O2", "-static", "-o", client, str(BENCHMARKS / "client.c")]
    subprocess.run(command, check=True)

    def latencies_us() -> tuple[float, float]:
        made = bundle(machine, "plc", "/client", "get", "3000", "/dev/gpiochip0", mounts=(client,))
        median_ns, p99_ns, _ = map(int, made.run().stdout.split())
        return median_ns / 1000, p99_ns / 1000

    def all_latencies() -> tuple[float, float]:
        found = [latencies_us() for _ in range(3)]
        return statistics.median(each[0] for each in found), statistics.median(each[1] for each in found)

    alone = all_latencies()
    flood = "while true; do /client request 100000 /dev/gpiochip0; done"
    storm = "while true; do gpioinfo; gpioset gpiochip0 9=1; gpioget gpiochip0 0; done >/dev/null 2>&1"
    hostile = [
        bundle(machine, "aux", "sh", "-c", flood, mounts=(client,)),
        bundle(machine, "third", "sh", "-c", storm),
    ]
    for made in hostile:
        made.start()
    wait_for(lambda: '"' in machine.gpiovirt("show", "aux"))
    beside = all_latencies()
    for made in hostile:
        made.kill()
    # they are more than there are CPUs: what is left of those is shared, and nothing beyond that is lost
    figures = f"GET_VALUES, median and p99 in us: alone {alone}, beside two hostile containers {beside}"
    (machine.folder / "figures").write_text(figures)
    assert beside[0] < 20 * alone[0], figures
    assert beside[1] < 100_000, figures
