# SPDX-License-Identifier: MIT
"""Rules of gpiovirtd's chips: for several programs at once, and over the death of processes."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

import pytest

from gpiovirt.protocols.control.answers import ForceEvent, RefusedError, RuleEvent
from gpiovirt.protocols.control.requests import Change, Force, New, Rearm
from gpiovirt.testing import LevelChange
from gpiovirt.testing.daemon import Daemon
from gpiovirt.testing.virtio_driver import RequestFailedError
from gpiovirt.testing.vmm import Vmm
from tests.integration.test_configuration import command, describe

SIMS = ["--sim", "panel:START,STOP,MOTOR FWD,MOTOR REV,LAMP,HEARTBEAT,DOOR"]
PLC = """
lines = ["START STOP", { name = "MOTOR FWD" }, { name = "MOTOR REV" }, "LAMP HEARTBEAT DOOR"]

[line."MOTOR FWD"]
direction = "output"
safe = "low"
min_on_ms = 50

[line."MOTOR REV"]
safe = "low"

[[interlock]]
never_both = ["MOTOR FWD", "MOTOR REV"]

[[interlock]]
only_while = { line = "MOTOR FWD", is = { "DOOR" = 0, "STOP" = 0 } }

[watchdog]
line = "HEARTBEAT"
timeout_ms = 300
rearm = "operator"
"""
WITH_VM = f"vm = true\n{PLC}"
PLC_RULES = tomllib.loads(PLC)
NAMES = ["START", "STOP", "MOTOR FWD", "MOTOR REV", "LAMP", "HEARTBEAT", "DOOR"]
FWD, REV, LAMP, HEARTBEAT, DOOR = 2, 3, 4, 5, 6
RACE_S = float(os.environ.get("GPIOVIRT_RACE", "2"))  # a minute, by hand


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, SIMS) as made:
        made.config.mkdir()
        describe(made.config, plc=PLC)
        command(made, "check")
        command(made, "apply")
        yield made


class Consumer:
    """A program that holds lines as outputs and sets them as told; with `beats` it toggles HEARTBEAT."""

    SOURCE = """
        import gpiod, sys, threading, time
        from gpiod.line import Direction, Value
        offsets = [int(offset) for offset in sys.argv[2].split(",")]
        settings = {o: gpiod.LineSettings(direction=Direction.OUTPUT) for o in offsets}
        request = gpiod.request_lines("/dev/gpiochip0", settings, consumer="consumer")
        beats = sys.argv[1] == "beats"
        if beats:
            heart = gpiod.request_lines(
                "/dev/gpiochip0", {5: gpiod.LineSettings(direction=Direction.OUTPUT)}, consumer="heart"
            )
            def beat():
                value = 0
                while True:
                    value ^= 1
                    heart.set_value(5, Value(value))
                    time.sleep(0.05)
            threading.Thread(target=beat, daemon=True).start()
        print("ready", flush=True)
        for row in sys.stdin:
            offset, value = map(int, row.split())
            try:
                request.set_value(offset, Value(value))
                print(0, flush=True)
            except OSError as error:
                print(error.errno, flush=True)
    """

    def __init__(self, daemon: Daemon, *offsets: int, beats: bool = True) -> None:
        arguments = ["beats" if beats else "-", ",".join(map(str, offsets))]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gpiovirt", "run", "--chip", "plc", "--"),
                *(sys.executable, "-c", textwrap.dedent(self.SOURCE), *arguments),
            ],
            env=daemon.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._said() == "ready"

    def _said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def set(self, offset: int, value: int) -> int:
        """The errno."""
        self.send(f"{offset} {value}\n")
        return self.answer()

    def send(self, rows: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(rows)
        self.process.stdin.flush()

    def answer(self) -> int:
        return int(self._said())

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def levels(daemon: Daemon, *offsets: int) -> list[int]:
    with daemon.simulator() as world:
        return [world.get(f"panel:{offset}") for offset in offsets]


def pull(daemon: Daemon, offset: int, level: str) -> None:
    with daemon.simulator() as world:
        world.pull(f"panel:{offset}", level)


def wait_until(daemon: Daemon, offset: int, level: int, within_s: float = 5) -> float:
    """How long it took."""
    started = time.monotonic()
    while levels(daemon, offset) != [level]:
        assert time.monotonic() - started < within_s
        time.sleep(0.002)
    return time.monotonic() - started


def kill_worker(daemon: Daemon) -> None:
    """And wait for the next."""
    worker = daemon.show("plc").chip.worker
    os.kill(worker, signal.SIGKILL)
    daemon.wait_for(lambda: daemon.show("plc").chip.worker not in (0, worker))
    daemon.wait_for(lambda: daemon.show("plc").chip.state == "live")


def rules(daemon: Daemon) -> dict[str, dict[str, object]]:
    told = json.loads(command(daemon, "rules", "plc", "--json"))
    return {rule["text"]: rule for rule in told}


def test_the_rules_of_a_file_hold_for_a_program(daemon: Daemon) -> None:
    with Consumer(daemon, FWD, REV, LAMP) as consumer:
        assert consumer.set(FWD, 1) == 0
        assert consumer.set(REV, 1) == errno.EPERM
        assert levels(daemon, FWD, REV) == [1, 0]
        time.sleep(0.06)
        pull(daemon, DOOR, "up")
        wait_until(daemon, FWD, 0)
        assert consumer.set(FWD, 1) == errno.EPERM
        pull(daemon, DOOR, "down")
        assert consumer.set(FWD, 1) == 0
        told = command(daemon, "rules", "plc")
    assert "never both MOTOR FWD and MOTOR REV  (1 refused)" in told
    assert "MOTOR FWD only while DOOR is 0 and STOP is 0  (1 refused, 1 tripped)" in told
    wait_until(daemon, FWD, 0)


def test_a_consumer_that_hangs_is_found_by_the_watchdog_and_an_operator_ends_that(daemon: Daemon) -> None:
    with Consumer(daemon, FWD, LAMP) as consumer:
        assert consumer.set(FWD, 1) == 0
        time.sleep(0.4)
        assert levels(daemon, FWD) == [1]
        consumer.process.send_signal(signal.SIGSTOP)
        wait_until(daemon, FWD, 0, within_s=1)
        consumer.process.send_signal(signal.SIGCONT)
        time.sleep(0.1)
        assert consumer.set(FWD, 1) == errno.EPERM
        assert "tripped now" in command(daemon, "rules", "plc")
        kill_worker(daemon)
        assert consumer.set(FWD, 1) == errno.EPERM, "nor does a restart end it"
        command(daemon, "rearm", "plc")
        assert consumer.set(FWD, 1) == 0
        assert command(daemon, "rearm", "plc") == "the watchdog of plc has not tripped\n"


def test_whoever_cannot_manage_cannot_re_arm(daemon: Daemon) -> None:
    with daemon.client(acting_for=(1234, [1234])) as client, pytest.raises(RefusedError) as raised:
        client.ask(Rearm("plc"))
    assert raised.value.errno in (errno.EPERM, errno.ENOENT)


def test_interlocks_hold_while_the_chips_process_dies(daemon: Daemon) -> None:
    with Consumer(daemon, FWD, REV) as consumer:
        assert consumer.set(FWD, 1) == 0
        kill_worker(daemon)
        assert consumer.set(REV, 1) == errno.EPERM
        assert levels(daemon, FWD, REV) == [1, 0]
        pull(daemon, DOOR, "up")
        wait_until(daemon, FWD, 0)


@pytest.mark.parametrize(
    ("start", "fill"),
    [(0, b"\xff"), (0, b"\0"), (8, b"\xff"), (8, random.Random(8).randbytes(64))],
    ids=["header", "nothing", "state", "noise"],
)
def test_what_a_worker_has_spoilt_keeps_no_line_high(daemon: Daemon, start: int, fill: bytes) -> None:
    """One that is taken over can write what it likes into the memory that the next one begins with."""
    with Consumer(daemon, FWD) as consumer:
        assert consumer.set(FWD, 1) == 0
        worker = daemon.show("plc").chip.worker
        for fd in Path(f"/proc/{worker}/fd").iterdir():
            if os.readlink(fd).startswith(("/memfd:gpiovirt:plc ", "/memfd:gpiovirt:plc:record ")):
                with fd.open("r+b") as file:
                    size = min(os.fstat(file.fileno()).st_size, 1 << 16)
                    file.seek(start)
                    file.write((fill * size)[: size - start])
        os.kill(worker, signal.SIGKILL)
    wait_until(daemon, FWD, 0, within_s=4)
    daemon.wait_for(lambda: daemon.show("plc").chip.worker not in (0, worker))
    daemon.wait_for(lambda: not daemon.show("plc").lines[FWD].used)
    command(daemon, "rearm", "plc")
    with Consumer(daemon, FWD, REV) as consumer:
        assert consumer.set(FWD, 1) == 0
        assert consumer.set(REV, 1) == errno.EPERM, "rules hold"
    assert "fault of ours" not in daemon.log()


def test_conditions_that_changed_while_nobody_served_count(daemon: Daemon) -> None:
    with Consumer(daemon, FWD) as consumer:
        assert consumer.set(FWD, 1) == 0
        worker = daemon.show("plc").chip.worker
        os.kill(worker, signal.SIGSTOP)
        pull(daemon, DOOR, "up")
        with suppress(ProcessLookupError):  # it is replaced when it does not answer
            os.kill(worker, signal.SIGKILL)
        wait_until(daemon, FWD, 0, within_s=2)


@contextmanager
def followed(daemon: Daemon) -> Iterator[list[LevelChange]]:
    """All changes of the panel meanwhile, in their order."""
    changes: list[LevelChange] = []
    marker = 0

    def follow(watched: Iterator[LevelChange]) -> None:
        changes.extend(takewhile(lambda change: change.offset != marker, watched))

    with daemon.simulator() as world:
        follower = threading.Thread(target=follow, args=(world.watch(),))
        follower.start()
        yield changes
        world.pull(f"panel:{marker}", "up")
        follower.join()


def assert_never_both(changes: Sequence[LevelChange]) -> None:
    now = {FWD: 0, REV: 0}
    for change in changes:
        if change.offset in now:
            now[change.offset] = change.level
            assert now != {FWD: 1, REV: 1}
    assert {change.offset for change in changes if change.level} >= {FWD, REV}, "both ran"


def test_two_consumers_race_and_never_win_both(daemon: Daemon) -> None:
    with (
        Consumer(daemon, FWD) as one,
        Consumer(daemon, REV, beats=False) as other,
        followed(daemon) as changes,
    ):
        deadline = time.monotonic() + RACE_S
        while time.monotonic() < deadline:
            for consumer, offset in ((one, FWD), (other, REV)):
                consumer.send(f"{offset} 1\n{offset} 0\n" * 20)
            for consumer in (one, other):
                assert {consumer.answer() for _ in range(40)} <= {0, errno.EPERM}
    assert_never_both(changes)


def test_a_vm_and_a_program_race_and_never_win_both(daemon: Daemon) -> None:
    describe(daemon.config, plc=WITH_VM)
    command(daemon, "apply")
    with Consumer(daemon, FWD) as consumer, Vmm(ram_bytes=1 << 26) as vmm:
        vmm.connect(str(daemon.run / "vm/plc"))
        vmm.start()
        vmm.driver.direction_output(REV, 0)
        refused = 0
        with followed(daemon) as changes:
            deadline = time.monotonic() + RACE_S
            while time.monotonic() < deadline:
                consumer.send(f"{FWD} 1\n{FWD} 0\n" * 20)
                for level in (1, 0) * 20:
                    try:
                        vmm.driver.set_value(REV, level)
                    except RequestFailedError:
                        refused += 1
                assert {consumer.answer() for _ in range(40)} <= {0, errno.EPERM}
    assert_never_both(changes)
    assert refused, "they met"


def test_a_vm_and_a_program_have_the_same_rules(daemon: Daemon) -> None:
    describe(daemon.config, plc=WITH_VM)
    command(daemon, "apply")
    with Consumer(daemon, FWD) as consumer, Vmm() as vmm:
        vmm.connect(str(daemon.run / "vm/plc"))
        vmm.start()
        vmm.driver.direction_output(REV, 0)
        assert consumer.set(FWD, 1) == 0
        with pytest.raises(RequestFailedError):
            vmm.driver.set_value(REV, 1)
        with pytest.raises(RequestFailedError):
            vmm.driver.direction_output(DOOR, 1)
        assert levels(daemon, FWD, REV, DOOR) == [1, 0, 0]
        assert consumer.set(FWD, 0) == 0
        wait_until(daemon, FWD, 0)
        vmm.driver.set_value(REV, 1)
        assert consumer.set(FWD, 1) == errno.EPERM
        vmm.stop()  # the guest is reset
        vmm.boot()
        vmm.start()
        wait_until(daemon, REV, 0)
        assert consumer.set(FWD, 1) == 0


def test_a_vm_that_is_refused_goes_on_over_the_death_of_the_chips_process(daemon: Daemon) -> None:
    describe(daemon.config, plc=WITH_VM)
    command(daemon, "apply")
    with Vmm() as vmm:
        vmm.connect(str(daemon.run / "vm/plc"))
        vmm.start()
        vmm.driver.direction_output(HEARTBEAT, 0)
        vmm.driver.direction_output(FWD, 1)
        time.sleep(0.4)
        assert levels(daemon, FWD) == [0], "the guest hangs"
        kill_worker(daemon)
        with pytest.raises(RequestFailedError):
            vmm.driver.set_value(FWD, 1)
        command(daemon, "rearm", "plc")
        vmm.driver.set_value(HEARTBEAT, 1)
        vmm.driver.set_value(FWD, 1)
        assert levels(daemon, FWD) == [1]


def test_an_operator_forces_lines_and_everybody_sees_that(daemon: Daemon) -> None:
    with Consumer(daemon, LAMP, FWD, REV) as consumer, daemon.client() as client:
        events = client.watch("plc")
        command(daemon, "force", "plc:LAMP=high")
        assert levels(daemon, LAMP) == [1]
        assert consumer.set(LAMP, 0) == 0
        assert levels(daemon, LAMP) == [1]
        assert ", forced high" in command(daemon, "show", "plc")
        assert consumer.set(FWD, 1) == 0
        assert "never both" in command(daemon, "force", "plc:MOTOR REV=1", status=1)
        kill_worker(daemon)
        assert levels(daemon, LAMP) == [1]
        assert ", forced high" in command(daemon, "show", "plc")
        command(daemon, "force", "--clear", "plc:LAMP")
        wait_until(daemon, LAMP, 0)
        assert command(daemon, "force", "--clear", "plc") == "nothing is forced there\n"
        assert command(daemon, "force", "--clear") == "nothing is forced there\n"
        assert "--clear ends a force" in command(daemon, "force", "plc:LAMP=0", "--clear", status=2)
        told = [next(event for event in events if isinstance(event, ForceEvent)) for _ in range(2)]
    assert [(event.event, event.offset, event.level) for event in told] == [
        ("line-forced", LAMP, "high"),
        ("line-unforced", LAMP, ""),
    ]


def test_a_force_of_days_and_one_without_end_are_kept(daemon: Daemon) -> None:
    assert "at most 168h" in command(daemon, "force", "plc:LAMP=0", "--for", "169h", status=2)
    with daemon.client() as client:
        client.ask(Force("plc", "LAMP", "low", 30 * 86400 * 1000))
    kill_worker(daemon)
    assert daemon.show("plc").lines[LAMP].forced == "low"


def test_a_force_does_not_go_to_another_line(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.ask(Change("plc", rules={}, options={}))
        command(daemon, "force", "plc:LAMP=high")
        client.ask(Change("plc", definition='LAMP START STOP HEARTBEAT DOOR "MOTOR FWD" "MOTOR REV"'))
    assert not any(line.forced for line in daemon.show("plc").lines if line.name != "LAMP")


def test_the_watchdog_of_outputs_in_use_is_not_taken_away(daemon: Daemon) -> None:
    with Consumer(daemon, LAMP), daemon.client() as client:
        rules = {"interlock": PLC_RULES["interlock"]}
        with pytest.raises(RefusedError, match="its options or rules would change"):
            client.ask(Change("plc", rules=rules))


def test_a_large_chip_with_rules_can_be_shown(tmp_path: Path) -> None:
    with Daemon(tmp_path, ["--sim", "big:1024"]) as daemon, daemon.client() as client:
        names = {str(o): f"name={'n' * 25}{o},direction=output,min-on=1ms" for o in range(1024)}
        client.ask(New("big 0-1023", "plc", names))
        for _ in range(3):
            told = client.show("plc")
            assert len(told.lines) == 1024
            assert told.rule_states[-1].text.startswith("and ")
        assert told.chip.restarts == 0


def test_whoever_cannot_manage_cannot_force(daemon: Daemon) -> None:
    with daemon.client(acting_for=(1234, [1234])) as client, pytest.raises(RefusedError) as raised:
        client.ask(Force("plc", "LAMP", "high"))
    assert raised.value.errno in (errno.EPERM, errno.ENOENT)
    assert levels(daemon, LAMP) == [0]


def test_rules_survive_a_file_and_differ_when_they_do(daemon: Daemon) -> None:
    assert command(daemon, "diff") == ""
    command(daemon, "save", "plc")
    assert command(daemon, "diff") == ""
    (daemon.config / "plc.toml").write_text(PLC.replace("= 300", "= 400"))
    assert '+watchdog {"line": "HEARTBEAT", "timeout_ms": 400' in command(daemon, "diff", status=1)
    command(daemon, "apply")
    assert any("within 400 ms" in text for text in rules(daemon))


def test_rules_do_not_change_under_a_holder_unless_forced(daemon: Daemon) -> None:
    with Consumer(daemon, FWD), daemon.client() as client:
        with pytest.raises(RefusedError, match="its options or rules would change") as raised:
            client.ask(Change("plc", rules={}))
        assert raised.value.errno == errno.EBUSY
        assert "never both MOTOR FWD and MOTOR REV" in rules(daemon)
    with daemon.client() as client:
        daemon.wait_for(lambda: not any(line.used for line in daemon.show("plc").lines))
        client.ask(Change("plc", rules={}))
    assert rules(daemon).keys() == {"MOTOR FWD is an output", "MOTOR FWD is at least 50 ms on"}


def test_what_rules_do_is_told_as_it_happens(daemon: Daemon) -> None:
    with daemon.client() as client, Consumer(daemon, FWD, REV) as consumer:
        events = client.watch("plc")
        consumer.set(FWD, 1)
        consumer.set(REV, 1)
        holder = daemon.show("plc").lines[REV].holder
        assert holder is not None
        told = next(event for event in events if isinstance(event, RuleEvent))
    assert (told.event, told.offset, told.uid) == ("rule-refused", REV, os.getuid())
    assert told.pid == holder.pid
    assert "it may not be 1 while MOTOR FWD is" in told.why


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"MOTOR REV"]\n\n[[', '"LIFT"]\n\n[['), "interlock.0: plc has no line 'LIFT'"),
        (('safe = "low"\nmin', 'safe = "high"\nmin'), "the safe state of MOTOR FWD is 1"),
        (
            ('safe = "low"\nmin', "min"),
            "goes to its safe state when it may not be 1 any more, and that has none",
        ),
        (("min_on_ms = 50", "min_on_ms = -1"), "line.MOTOR FWD.min_on_ms: expected 0 or more"),
        (("timeout_ms = 300", "timeout_ms = 3"), "watchdog.timeout_ms: expected"),
        (('rearm = "operator"', 'rearm = "nobody"'), "watchdog.rearm"),
        (('direction = "output"', 'direction = "input"'), "line.MOTOR FWD: "),
        (("never_both", "never_all"), "interlock.0"),
        (('"DOOR" = 0', '"DOOR" = 2'), "interlock.1.only_while.is.DOOR"),
    ],
)
def test_a_rule_that_cannot_be_is_told_by_file_and_key(
    daemon: Daemon, change: tuple[str, str], said: str
) -> None:
    assert PLC.count(change[0]) >= 1
    (daemon.config / "plc.toml").write_text(PLC.replace(*change, 1))
    for what, status in (("check", 1), ("apply", 2)):
        told = command(daemon, what, status=status)
        assert told.startswith("gpiovirt: plc.toml: ") or "plc.toml: " in told
        assert said in told
    assert "never both MOTOR FWD and MOTOR REV" in rules(daemon)
