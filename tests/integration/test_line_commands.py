# SPDX-License-Identifier: MIT
"""gpiovirt get, set, pulse and monitor: lines of gpiovirtd's chips from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest

from gpiovirt.protocols.control.answers import RefusedError
from gpiovirt.protocols.control.requests import Change, New, Read
from gpiovirt.testing.daemon import Daemon
from tests.integration.test_configuration import command
from tests.integration.test_rules import followed

PLC = New("panel 0-3", "plc", {"LAMP": "safe=low", "MOTOR": "safe=low,min-on=300ms"})


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, ["--sim", "panel:DOOR,STOP,LAMP,MOTOR"]) as made:
        with made.client() as client:
            client.ask(PLC)
        yield made


@contextmanager
def beside(daemon: Daemon, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on meanwhile."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gpiovirt", *arguments],
        env=daemon.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def used(daemon: Daemon, offset: int) -> bool:
    return daemon.show("plc").lines[offset].used


def next_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def test_levels_are_read_whoever_holds_the_lines(daemon: Daemon) -> None:
    with daemon.simulator() as world:
        world.pull("panel:DOOR", "up")
    assert command(daemon, "get", "plc:DOOR") == "1\n"
    assert command(daemon, "get", "plc:1") == "0\n"
    with beside(daemon, "set", "plc:LAMP=on", "--hold"):
        daemon.wait_for(lambda: used(daemon, 2))
        assert command(daemon, "get", "plc:LAMP") == "1\n"
        assert command(daemon, "get", "plc") == "plc:DOOR 1\nplc:STOP 0\nplc:LAMP 1\nplc:MOTOR 0\n"
        told = json.loads(command(daemon, "get", "plc:LAMP", "--json"))
        assert told == [{"chip": "plc", "offset": 2, "name": "LAMP", "direction": "output", "level": 1}]
    assert not daemon.show("plc").lines[0].used, "reading holds nothing"


def test_a_level_that_is_set_is_held_until_interrupted(daemon: Daemon) -> None:
    with beside(daemon, "set", "plc:LAMP=1", "--hold") as holder:
        assert next_line(holder.stderr) == "holding until Ctrl-C\n"
        said = command(daemon, "set", "plc:LAMP=0", status=1)
        assert f'plc:LAMP: line plc:2 (LAMP) is held by "gpiovirt set" (pid {holder.pid}' in said
        holder.send_signal(signal.SIGINT)
        assert holder.wait(10) == 0
    daemon.wait_for(lambda: command(daemon, "get", "plc:LAMP") == "0\n")


def test_a_level_is_held_for_a_time(daemon: Daemon) -> None:
    with followed(daemon) as changes:
        command(daemon, "set", "plc:LAMP=high", "plc:3=high", "--hold", "0.3s")
        daemon.wait_for(lambda: command(daemon, "get", "plc:LAMP") == "0\n")
    seen = {(change.offset, change.level): change.timestamp_ns for change in changes}
    assert seen[2, 0] - seen[2, 1] >= 300_000_000


def test_who_sets_a_line_without_holding_it_is_told_what_became_of_it(daemon: Daemon) -> None:
    said = command(daemon, "set", "plc:LAMP=1")
    assert said == "plc:LAMP is low again, its safe state: use --hold to keep it\n"
    assert command(daemon, "set", "plc:DOOR=1") == "", "it has none: it stays"
    assert command(daemon, "get", "plc:DOOR") == "1\n"


def test_pulses_are_as_long_and_as_many_as_told(daemon: Daemon) -> None:
    with followed(daemon) as changes:
        command(daemon, "pulse", "plc:LAMP", "20ms", "x3", "--gap", "5ms")
    lamp = [change for change in changes if change.offset == 2]
    assert [change.level for change in lamp] == [1, 0] * 3
    widths = [(b.timestamp_ns - a.timestamp_ns) / 1e6 for a, b in zip(lamp[::2], lamp[1::2], strict=True)]
    gaps = [(b.timestamp_ns - a.timestamp_ns) / 1e6 for a, b in zip(lamp[1:-1:2], lamp[2::2], strict=True)]
    assert min(widths) >= 20
    assert min(gaps) >= 5


def test_rules_hold_for_pulses(daemon: Daemon) -> None:
    with followed(daemon) as changes:
        command(daemon, "pulse", "plc:MOTOR", "1ms")
        daemon.wait_for(lambda: command(daemon, "get", "plc:MOTOR") == "0\n")
    on, off = [change.timestamp_ns for change in changes if change.offset == 3]
    assert off - on >= 300_000_000


def test_edges_are_shown_as_they_happen(daemon: Daemon) -> None:
    with beside(daemon, "monitor", "plc:DOOR", "plc:STOP", "-n", "3") as monitor, daemon.simulator() as world:
        daemon.wait_for(lambda: used(daemon, 0) and used(daemon, 1))
        world.pull("panel:DOOR", "up")
        world.pull("panel:STOP", "up")
        world.pull("panel:DOOR", "down")
        said, _ = monitor.communicate(timeout=10)
    words = [line.split()[1:] for line in said.splitlines()]
    assert words == [["plc:DOOR", "rising"], ["plc:STOP", "rising"], ["plc:DOOR", "falling"]]


def test_a_monitor_ends_when_its_chip_does(daemon: Daemon) -> None:
    with beside(daemon, "monitor", "plc:DOOR", "--json", "--edge", "falling") as monitor:
        daemon.wait_for(lambda: used(daemon, 0))
        with daemon.simulator() as world:
            world.pull("panel:DOOR", "up")
            world.pull("panel:DOOR", "down")
        told = json.loads(next_line(monitor.stdout))
        assert (told["name"], told["edge"], told["lost"]) == ("DOOR", "falling", 0)
        command(daemon, "delete", "-f", "plc")
        assert monitor.wait(10) == 1
        assert "its chip has ended, or was changed" in next_line(monitor.stderr)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["get", "plc:DOR"], 2, "'plc:DOR': plc has no such line; did you mean DOOR?"),
        (["get", "plc:9"], 2, "plc has no such line; its offsets are 0 to 3"),
        (["get", "nochip:1"], 2, "no chip 'nochip'; the chips are: plc"),
        (["get", ":1"], 2, "write CHIP:LINE, as in plc:LAMP"),
        (["set", "plc:LAMP=2"], 2, "'2' is no level; use one of 0, 1, low, high, off, on"),
        (["set", "plc:LAMP"], 2, "write CHIP:LINE=LEVEL"),
        (["set", "plc"], 2, "write CHIP:LINE=LEVEL, or CHIP LINE=OPTIONS"),
        (["set", "plc", "LAMP=pull-up", "--hold"], 2, "--hold is for levels"),
        (["set", "plc:LAMP=1", "--replace"], 2, "--replace and --force are for options"),
        (["set", "plc:LAMP=1", "plc:2=0"], 2, "plc:LAMP is named twice"),
        (["monitor", "plc:DOOR", "plc:DOOR"], 2, "plc:DOOR is named twice"),
        (["set", "plc", "LAMP=1"], 2, "for a level write plc:LAMP=1"),
        (["set", "--hold", "plc:LAMP=1", "plc:STOP=1"], 2, "that is no time; write --hold after the lines"),
        (["list", "nope", "--json"], 2, "no chip 'nope'"),
        (["set", "plc:LAMP=1", "--hold", "soon"], 2, "'soon' is not a duration"),
        (["pulse", "plc:LAMP", "1ms", "x0"], 2, "write how many as xN"),
        (["pulse", "plc:LAMP", "quick"], 2, "'quick' is not a duration"),
    ],
)
def test_what_is_wrong_is_said(daemon: Daemon, arguments: list[str], status: int, said: str) -> None:
    assert said in command(daemon, *arguments, status=status)


RULES = {
    "interlock": [{"never_both": ["LAMP", "MOTOR"]}],
    "watchdog": {"line": "STOP", "timeout_ms": 100, "rearm": "operator"},
}


def test_several_levels_are_set_all_or_none(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.ask(Change("plc", rules=RULES))
    with followed(daemon) as changes:
        said = command(daemon, "set", "plc:DOOR=1", "plc:LAMP=1", "plc:MOTOR=1", status=1)
    assert "never both LAMP and MOTOR" in said
    assert changes == []


def test_what_a_rule_has_undone_is_told(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.ask(Change("plc", rules=RULES))
    said = command(daemon, "set", "plc:LAMP=1", "--hold", "1s", status=1)
    assert said == "plc:LAMP is 0: a rule, or an operator, has it so\n"
    command(daemon, "rearm", "plc")
    assert "a rule, or an operator, has it so" in command(daemon, "pulse", "plc:LAMP", "400ms", status=1)
    assert '"gpiovirt pulse"' in command(daemon, "log", "plc", "--line", "LAMP")


def test_many_who_look_take_no_line_from_a_holder(tmp_path: Path) -> None:
    """A worker that is busy with questions is not one that hangs."""
    with Daemon(tmp_path, ["--sim", "wide:1024"]) as daemon, ExitStack() as stack:
        clients = [stack.enter_context(daemon.client()) for _ in range(40)]
        clients[0].ask(New("wide 0-1023", "w"))
        worker = daemon.show("w").chip.worker
        stack.enter_context(beside(daemon, "set", "w:5=1", "--hold"))
        daemon.wait_for(lambda: daemon.show("w").lines[5].used)
        askers = [threading.Thread(target=client.ask, args=(Read("w"),)) for client in clients]
        for thread in askers:
            thread.start()
        for thread in askers:
            thread.join()
        assert daemon.show("w").chip.worker == worker
        assert daemon.show("w").lines[5].used


def test_a_line_is_read_once_per_question(daemon: Daemon) -> None:
    with daemon.client() as client, pytest.raises(RefusedError, match="line 0 of plc is asked for twice"):
        client.ask(Read("plc", ("DOOR", "0")))


def test_a_level_of_a_chip_that_one_may_not_use_is_not_told(daemon: Daemon) -> None:
    os.chmod(daemon.show("plc").chip.device, 0o600)
    with (
        daemon.client(acting_for=(1234, [1234])) as client,
        pytest.raises(RefusedError, match="no chip 'plc'"),
    ):
        client.ask(Read("plc", ("DOOR",)))
