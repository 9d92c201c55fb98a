# SPDX-License-Identifier: MIT
"""What goes wrong is said in one line that tells what, where and what to do; nothing is left."""

from __future__ import annotations

import os
import subprocess

import pytest

from gpiovirt.control.simulator import socket_of
from tests.integration.conftest import Installation, Runner, as_user, ordinary_uid
from tests.integration.test_run import assert_nothing_left

SIM = ["--sim", "sim-a:4", "--sim", "sim-b:DOOR,LAMP,DOOR"]


def gpiovirt(run: Runner, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [run.python, "-m", "gpiovirt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, **run.options())


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ([], 2, "no program to run"),
        (["--sim", "gpio-sim.0:node0:8", "--", "true"], 2, "quote a label or name that has a colon or comma"),
        ([*SIM, "--hog", "sim-a:0=who:there:input", "--", "true"], 2, "quote a WHO with a colon"),
        (
            [*SIM, "--chip", "x=nosuch 0", "--", "true"],
            2,
            "no chip 'nosuch'; the chips here are: sim-a, sim-b",
        ),
        ([*SIM, "--chip", "x=simb 0", "--", "true"], 2, "no chip 'simb' (did you mean sim-b"),
        ([*SIM, "--chip", "x=LAMB", "--", "true"], 2, "no line is named 'LAMB' (did you mean LAMP?)"),
        (["--board", "pi44", "--", "true"], 2, "no board 'pi44' (did you mean pi4?)"),
        ([*SIM, "--chip", "x=GATE", "--", "true"], 2, "no line is named 'GATE'"),
        ([*SIM, "--chip", "x=sim-a", "--", "true"], 2, "add offsets: sim-a 0-3"),
        ([*SIM, "--chip", "x=DOOR", "--", "true"], 2, "not unique (sim-b:0, sim-b:2)"),
        ([*SIM, "--chip", "x=sim-a 4", "--", "true"], 2, "sim-a has no line 4: its 4 lines are 0 to 3"),
        ([*SIM, "--chip", "x=sim-a 1 1", "--", "true"], 2, "line sim-a:1 is named twice"),
        ([*SIM, "--chip", "x=sim-a 3-0", "--", "true"], 2, "a range must ascend: '3-0' at column 7"),
        ([*SIM, "--chip", "x=sim-a 0x1", "--", "true"], 2, "'0x1' at column 7"),
        ([*SIM, "--chip", "x=", "--", "true"], 2, "no lines given"),
        ([*SIM, "--chip", "sim-a 0", "--", "true"], 2, "write NAME=LINES"),
        ([*SIM, "--chip", "sim-a=sim-b 0", "--", "true"], 2, "'sim-a' is in use"),
        ([*SIM, "--chip", "x=sim-a 0", "--chip", "x=sim-a 1", "--", "true"], 2, "'x' is in use"),
        ([*SIM, "--chip", "x=sim-a 0", "--chip", "y=sim-a 0", "--", "true"], 1, 'is held by "gpiovirt:x"'),
        (["--sim", "sim-a", "--", "true"], 2, "write LABEL:COUNT or LABEL:NAME,NAME"),
        (["--sim", "sim-a:0", "--", "true"], 2, "a chip has 1 to 65535 lines"),
        ([*SIM, "--wire", "sim-a:0", "--", "true"], 2, "write LINE=LINE"),
        ([*SIM, "--wire", "sim-a:0=sim-c:1", "--", "true"], 2, "no simulated chip 'sim-c'"),
        ([*SIM, "--hog", "sim-a:0=me:sideways", "--", "true"], 2, "output-low"),
        ([*SIM, "--", "/no/such/program"], 1, "cannot run '/no/such/program': No such file or directory"),
        ([*SIM, "--", "/etc"], 1, "cannot run '/etc': Permission denied"),
    ],
)
def test_run_says_what_is_wrong(run: Runner, arguments: list[str], status: int, says: str) -> None:
    done = gpiovirt(run, "run", *arguments)
    assert done.returncode == status
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpiovirt: ")
    assert says in line
    assert_nothing_left(run)


def test_an_unknown_command_is_told_with_those_there_are(run: Runner) -> None:
    done = gpiovirt(run, "frobnicate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpiovirt: no command 'frobnicate'; the commands are: run, ")


def test_sim_without_a_simulator_says_how_to_start_one(run: Runner) -> None:
    """In a network namespace, where abstract sockets live, that nobody else has."""
    alone = ["unshare", "--user", "--map-current-user", "--net"]
    command = [*alone, run.python, "-m", "gpiovirt", "sim", "get", "a:0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **run.options())
    assert done.returncode == 1
    assert (
        done.stderr
        == "gpiovirt: no simulator is running; start one with: gpiovirt run --sim sim-a:8 -- PROGRAM\n"
    )


def test_sim_with_an_unknown_line_says_what_there_is(run: Runner) -> None:
    script = 'for line in a:9 x:0 GATE; do "$1" -m gpiovirt sim get $line; echo $?; done'
    done = run("sh", "-c", script, "sh", run.python, sims=["a:4"])
    assert done.stdout == "2\n2\n2\n"
    assert done.stderr.splitlines() == [
        "gpiovirt: a has no line 9: its 4 lines are 0 to 3",
        "gpiovirt: no simulated chip 'x'; the chips are: a",
        "gpiovirt: no simulated line is named 'GATE'; write CHIP:OFFSET or CHIP:NAME; "
        "the chips are: a (4 lines)",
    ]


def wait_for_sim(run: Runner, process: subprocess.Popen[str]) -> None:
    for _ in range(100):
        if gpiovirt(run, "sim", "--pid", str(process.pid), "list").returncode == 0:
            return
    raise TimeoutError("the simulator does not answer")


def test_several_simulators_are_told_apart(run: Runner) -> None:
    with (
        run.popen("sleep", "30", sims=["one:2"]) as first,
        run.popen("sleep", "30", sims=["two:2"]) as second,
    ):
        try:
            for process, line in ((first, "one:0"), (second, "two:1")):
                wait_for_sim(run, process)
                run.sim("pull", line, "up")
                assert run.sim("get", line) == "1"
            refused = gpiovirt(run, "sim", "list")
            assert refused.returncode == 2
            assert "choose one with --pid" in refused.stderr
        finally:
            first.kill()
            second.kill()
    assert_nothing_left(run)


def test_another_users_simulator_is_out_of_reach(run: Runner) -> None:
    """Root reaches every user's; others reach their own."""
    if os.getuid() != 0:
        return  # there is no other user to be
    script = (
        "import socket, sys\n"
        "control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "control.connect('\\0' + sys.argv[1])\n"
        'control.send(b\'{"do": "list"}\')\n'
        "print(len(control.recv(9999)))\n"
    )
    with run.popen("sleep", "30", sims=["mine:2"]) as process:
        try:
            wait_for_sim(run, process)
            command = [run.python, "-c", script, socket_of(process.pid)]
            found = {
                uid: subprocess.run(
                    command, capture_output=True, text=True, check=False, **run.options() | as_user(uid)
                ).stdout
                for uid in (run.uid, 0, 4343)
            }
        finally:
            process.kill()
    assert int(found[run.uid]) > 0
    assert int(found[0]) > 0
    assert found[4343] in ("", "0\n")


def test_nested_runs_are_refused(run: Runner) -> None:
    done = run(run.python, "-m", "gpiovirt", "run", "--sim", "b:2", "--", "true")
    assert done.returncode == 1
    assert done.stderr.startswith("gpiovirt: this process is under another seccomp listener already")


def test_root_without_namespaces_is_told_what_to_do(installation: Installation) -> None:
    """In a user namespace whose own limit of user namespaces is none."""
    run = Runner(installation, ordinary_uid())
    limit = (
        "echo 0 >/proc/sys/user/max_user_namespaces && "
        'exec setpriv --bounding-set=-all --inh-caps=-all "$0" -m gpiovirt run --sim a:1 -- true'
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", limit, run.python],
        capture_output=True,
        text=True,
        check=False,
        **run.options(),
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "gpiovirt: root can create neither a mount nor a user namespace here (No space"
    )
    assert "docker run --security-opt seccomp=unconfined" in done.stderr
    assert_nothing_left(run)


def test_an_ordinary_user_without_namespaces_is_told_what_to_do(installation: Installation) -> None:
    """The limit is set by the user's own root in a namespace, which then becomes another user of it."""
    run = Runner(installation, ordinary_uid())
    become = (
        "import ctypes, os, sys\n"
        "uid, libc = os.getuid(), ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.unshare(0x10000000) == 0\n"
        "open('/proc/self/uid_map', 'w').write(f'{uid} {uid} 1')\n"
        "open('/proc/sys/user/max_user_namespaces', 'w').write('0')\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'gpiovirt', 'run', '--sim', 'a:1', '--', 'true'])\n"
    )
    done = subprocess.run(
        [run.python, "-c", become], capture_output=True, text=True, check=False, **run.options()
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("gpiovirt: no user namespace for an ordinary user here (No space left")
    assert "run as root, or allow them: sysctl" in done.stderr
    assert_nothing_left(run)
