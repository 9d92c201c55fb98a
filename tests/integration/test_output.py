# SPDX-License-Identifier: MIT
"""Commands whose output is not read to its end, or cannot be written, end as cat(1) does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from gpiovirt.control import simulator
from gpiovirt.control.simulator import SimClient
from gpiovirt.errors import HostError
from tests.integration.conftest import Runner

COMMANDS = [["--help"], ["run", "--help"], ["doctor"], ["list"], ["sim", "list"]]
UNBUFFERED = pytest.mark.parametrize("unbuffered", ["", "1"])


def started(run: Runner, arguments: list[str], unbuffered: str) -> subprocess.Popen[str]:
    """The command, with simulated chips of 5000 lines: more than a pipe holds."""
    command = [run.python, "-m", "gpiovirt", *arguments]
    options = run.options()
    options["env"] = {**options["env"], "PYTHONUNBUFFERED": unbuffered}
    return subprocess.Popen(
        run.command(command, sims=["sim-a:5000"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@UNBUFFERED
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_reader_that_leaves_ends_a_command_silently(
    run: Runner, arguments: list[str], unbuffered: str
) -> None:
    with started(run, arguments, unbuffered) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == -signal.SIGPIPE


def test_the_first_line_of_many_can_be_had_alone(run: Runner) -> None:
    with started(run, ["list"], "") as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline().startswith("gpiochip0 [sim-a] 5000 lines")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == -signal.SIGPIPE


def test_all_lines_of_large_simulators_are_listed(run: Runner) -> None:
    """More than one answer of the simulator holds."""
    sims = ["sim-a:5000", "sim-b:1", f"sim-c:{','.join(chr(0x1F600) * 7 for _ in range(300))}"]
    listed = run(run.python, "-m", "gpiovirt", "sim", "list", sims=sims)
    assert listed.stderr == ""
    lines = [line.split()[0] for line in listed.stdout.splitlines()]
    counts = {"sim-a": 5000, "sim-b": 1, "sim-c": 300}
    assert lines == [f"{chip}:{offset}" for chip, count in counts.items() for offset in range(count)]


QUESTIONS = """\
import socket, os
for first in ("-1", "null", '"x"', "1e9", "true", "[]", "99999999999999999999"):
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.connect("\\0" + os.environ["GPIOVIRT_SIM"])
    control.send(b'{"do": "list", "first": %s}' % first.encode())
    print(control.recv(9999).decode())
"""


def test_a_simulator_refuses_to_list_from_nowhere(run: Runner) -> None:
    *refused, beyond = run.script(QUESTIONS).splitlines()
    assert refused == ['{"error": "first: expected a number of lines"}'] * 6
    assert beyond == '{"lines": [], "more": false}'


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b'{"lines": [{"chip": "a"}], "more": true}', "has lines without an end"),
        (b'{"lines": {}, "more": true}', "breaks the protocol"),
        (b'{"more": true}', "breaks the protocol"),
        (b'{"lines": [], "more": true}', ""),
        (b'{"lines": []}', ""),
    ],
)
def test_a_simulator_that_makes_no_sense_is_not_listened_to_for_ever(
    answer: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulator, "_LINES_MAX", 100)
    name = f"gpiovirt/sim/{os.getuid()}/{os.getpid()}.test"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind("\0" + name)
        listener.listen()
        with SimClient(name) as client, ThreadPoolExecutor() as threads:
            theirs, _ = listener.accept()

            def serve() -> None:
                with theirs:
                    while theirs.recv(1000):
                        theirs.send(answer)

            served = threads.submit(serve)
            with pytest.raises(HostError, match=says) if says else nullcontext():
                assert client.lines() == []
            client.close()
            served.result()


def test_a_full_disk_is_told_in_one_line() -> None:
    with open("/dev/full", "w") as full:
        listed = subprocess.run(
            [sys.executable, "-m", "gpiovirt", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={},
            text=True,
            check=False,
        )
    assert listed.returncode == 1
    assert listed.stderr == "gpiovirt: cannot write to standard output: No space left on device\n"
