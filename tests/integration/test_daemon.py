# SPDX-License-Identifier: MIT
"""gpiovirtd with simulated lines: chips are made, used, and survive the death of any process."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gpiovirt.errors import GpiovirtError, HostError
from gpiovirt.host.child import process_start
from gpiovirt.protocols.control.answers import ChipState, RefusedError
from gpiovirt.protocols.control.requests import Change, ChangeAll, Delete, New, State
from gpiovirt.testing.daemon import Daemon
from gpiovirt.virtual.options import format_options, parse_options
from tests.integration.conftest import Installation, as_user, ordinary_uid

SIMS = ["--sim", "sim-a:8", "--sim", "sim-b:DOOR,LAMP"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, SIMS) as made:
        yield made


def run(daemon: Daemon, chip: str, *program: str) -> str:
    command = [sys.executable, "-m", "gpiovirt", "run", "--chip", chip, "--", *program]
    return subprocess.check_output(command, env=daemon.environment, text=True, timeout=30)


def new(daemon: Daemon, definition: str, **what: Any) -> ChipState:
    with daemon.client() as client:
        return client.ask(New(definition, **what))


def refused(daemon: Daemon, do: str, **what: Any) -> RefusedError:
    with pytest.raises(RefusedError) as raised:
        daemon.call(do, **what)
    return raised.value


def records(daemon: Daemon) -> list[str]:
    """Its chips' files; beside them is the record of what happens to them."""
    folders = (daemon.state, daemon.run / "state")
    return sorted(path.name for folder in folders for path in folder.iterdir() if path.name != "record")


def runs(pid: int) -> bool:
    """A process that has ended counts as such whether anybody has waited for it or not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


class Blinker:
    """A program that sets a line and reads it back for ever, and counts how often."""

    SOURCE = """
        import gpiod, mmap, sys
        from gpiod.line import Direction, Edge, Value
        with open(sys.argv[1], "r+b") as file:
            counter = mmap.mmap(file.fileno(), 8)
        settings = {
            0: gpiod.LineSettings(direction=Direction.OUTPUT, output_value=Value.ACTIVE),
            1: gpiod.LineSettings(direction=Direction.OUTPUT, output_value=Value.ACTIVE),
            2: gpiod.LineSettings(edge_detection=Edge.BOTH),
        }
        with gpiod.request_lines("/dev/gpiochip0", settings, consumer="blinker") as request:
            count = 0
            print("started", flush=True)
            while True:
                value = Value(count & 1)
                request.set_value(0, value)
                if request.get_value(0) != value or request.get_value(1) != Value.ACTIVE:
                    sys.exit("a request was lost")
                count += 1
                counter[:] = count.to_bytes(8, "little")
                if request.wait_edge_events(0):
                    for event in request.read_edge_events():
                        print(event.event_type.name, flush=True)
    """

    def __init__(self, daemon: Daemon, chip: str) -> None:
        self._counter = daemon.state.parent / "counter"
        self._counter.write_bytes(bytes(8))
        command = [sys.executable, "-m", "gpiovirt", "run", "--chip", chip, "--", sys.executable, "-c"]
        self.process = subprocess.Popen(
            [*command, textwrap.dedent(self.SOURCE), str(self._counter)],
            env=daemon.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "started"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def count(self) -> int:
        return int.from_bytes(self._counter.read_bytes(), "little")

    def has_gone_on(self) -> None:
        """It must do 20 rounds from now on."""
        goal = self.count() + 20
        deadline = time.monotonic() + 20
        while self.count() < goal:
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def __enter__(self) -> Blinker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_a_chip_is_live_when_new_returns(daemon: Daemon) -> None:
    chip = new(daemon, "sim-a 0 3, sim-b 0-1", name="plc")
    assert (chip.state, chip.num_lines) == ("live", 4)
    shown = run(daemon, "plc", "gpioinfo")
    assert "4 lines" in shown
    assert '"DOOR"' in shown


def test_new_device_gives_the_lowest_free_number(daemon: Daemon) -> None:
    assert [new(daemon, f"sim-a {i}").name for i in range(3)] == [f"gpio-virt-agg.{i}" for i in range(3)]
    with daemon.client() as client:
        client.ask(Delete(name="gpio-virt-agg.1"))
    assert new(daemon, "sim-a 1").name == "gpio-virt-agg.1"


@pytest.mark.parametrize(
    ("definition", "number", "message"),
    [
        ("", "EINVAL", "no lines given"),
        ("nochip 3", "ENODEV", "no chip 'nochip'"),
        ("NOLINE", "ENOENT", "no line is named 'NOLINE'"),
        ("sim-a 99", "ERANGE", "sim-a has no line 99"),
        ("sim-a 0 0", "EINVAL", "named twice"),
        ("sim-a 7", "EBUSY", 'line sim-a:7 is held by "gpiovirt:taken"'),
    ],
)
def test_what_cannot_be_made_is_refused_and_leaves_nothing(
    daemon: Daemon, definition: str, number: str, message: str
) -> None:
    new(daemon, "sim-a 7", name="taken")
    error = refused(daemon, "new", definition=definition, name="plc")
    assert errno.errorcode[error.errno] == number
    assert message in str(error)
    assert sorted(os.listdir(daemon.run / "chips")) == ["taken"]
    assert records(daemon) == ["taken.json"]


def test_delete_frees_lines_and_leaves_nothing(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-3", name="plc", vm=True)
    with daemon.client() as client:
        client.ask(Delete(name="plc"))
    for folder in ("chips", "vm"):
        assert os.listdir(daemon.run / folder) == []
    assert records(daemon) == []
    assert sorted(os.listdir(daemon.run / "workers")) == [":simulator", ":simulator.pid"]
    new(daemon, "sim-a 0-3", name="again")


def cpu_ns_of_connections(chip: ChipState) -> int:
    """CPU time that the chip's worker takes while a few programs come and go."""
    stat = Path(f"/proc/{chip.worker}/schedstat")
    before = int(stat.read_text().split()[0])
    for _ in range(20):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as program:
            program.connect(chip.device)
            time.sleep(0.015)
    return int(stat.read_text().split()[0]) - before


def test_a_polled_chip_looks_for_more_before_it_sleeps(daemon: Daemon) -> None:
    new(daemon, "sim-a 0", name="plc")
    sleeps = cpu_ns_of_connections(daemon.show("plc").chip)
    with daemon.client() as client:
        client.ask(Change(name="plc", poll_us=10_000))
    polls = cpu_ns_of_connections(daemon.show("plc").chip)
    assert polls > 3 * sleeps
    daemon.stop()
    daemon.start()
    assert daemon.show("plc").chip.poll_us == 10_000
    for poll_us in (-1, 10_001, "1"):
        refused(daemon, "change", name="plc", poll_us=poll_us)


def test_a_chip_in_use_is_deleted_by_force_only(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-2", name="plc")
    with Blinker(daemon, "plc") as blinker:
        error = refused(daemon, "delete", name="plc")
        told = daemon.show("plc")
        (opener,) = told.consumers
        assert f'is held by "blinker" (pid {opener.pid}, uid {os.getuid()})' in str(error)
        assert told.lines[0].holder == ("program", opener.pid, os.getuid())
        assert told.lines[1].holder == ("program", opener.pid, os.getuid())
        shown = subprocess.check_output(
            [sys.executable, "-m", "gpiovirt", "show", "plc"], env=daemon.environment, text=True
        )
        assert f'"blinker" (pid {opener.pid}, root)' in shown or os.getuid()
        with daemon.client() as client:
            client.ask(Delete(name="plc", force=True))
        assert blinker.process.wait(10) != 0  # its lines are gone, as when a chip is unplugged


def test_all_of_the_largest_chip_is_shown(tmp_path: Path) -> None:
    """With names and options as long as they can be, and all lines held by one with a name to match."""
    hold = """
        import gpiod, sys
        held = [
            gpiod.request_lines("/dev/gpiochip0", {tuple(range(first, first + 64)): None}, consumer='"' * 31)
            for first in range(0, 1024, 64)
        ]
        print("held", flush=True)
        sys.stdin.read()
    """
    long = "pull-down,active-low,debounce=4000001us,safe=input,name="
    options = {str(offset): long + f"{offset:04}".ljust(17, "\u00e4") for offset in range(1024)}
    with Daemon(tmp_path, ["--sim", "sim-a:1024"]) as daemon, daemon.client() as client:
        client.ask(New(name="plc", definition="sim-a 0-1023", options=options))
        holder = subprocess.Popen(
            [
                *(sys.executable, "-m", "gpiovirt", "run", "--chip", "plc", "--"),
                *(sys.executable, "-c", textwrap.dedent(hold)),
            ],
            env=daemon.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            told = client.show("plc")
            assert [line.offset for line in told.lines] == list(range(1024))
            assert {line.consumer for line in told.lines} == {'"' * 31}
            assert all(line.holder and line.holder.uid == os.getuid() for line in told.lines)
            assert told.options == {key: format_options(parse_options(text)) for key, text in options.items()}
            holder.communicate()


def test_killing_a_worker_costs_its_programs_nothing(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-1, DOOR", name="plc")
    with Blinker(daemon, "plc") as blinker, daemon.simulator() as world:
        for count in range(1, 6):
            former = daemon.show("plc").chip.worker
            os.kill(former, signal.SIGKILL)
            blinker.has_gone_on()
            assert world.get("sim-a:1") == 1
            assert daemon.show("plc").chip.worker != former
            world.pull("sim-b:DOOR", "up" if count % 2 else "down")
            assert blinker.line() == ("RISING_EDGE" if count % 2 else "FALLING_EDGE")


def test_killing_the_daemon_costs_its_programs_nothing(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-1, DOOR", name="plc")
    with Blinker(daemon, "plc") as blinker:
        worker = daemon.show("plc").chip.worker
        for _ in range(3):
            daemon.kill()
            blinker.has_gone_on()
            daemon.start()
            assert daemon.show("plc").chip.worker == worker
            blinker.has_gone_on()


def test_worker_and_daemon_can_be_killed_one_after_the_other(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-1, DOOR", name="plc")
    with Blinker(daemon, "plc") as blinker:
        for _ in range(3):
            daemon.kill()
            daemon.start()
            os.kill(daemon.show("plc").chip.worker, signal.SIGKILL)
            blinker.has_gone_on()


def test_sighup_executes_the_daemon_again_in_place(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-1, DOOR", name="plc")
    with Blinker(daemon, "plc") as blinker:
        worker = daemon.show("plc").chip.worker
        before = daemon.log().count("ready")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for(lambda: daemon.log().count("ready") > before)
        blinker.has_gone_on()
        assert daemon.show("plc").chip.worker == worker


def test_sigterm_leaves_the_chips_and_sigint_ends_them(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-1, DOOR", name="plc")
    worker = daemon.show("plc").chip.worker
    assert daemon.stop() == 0
    assert "3 lines" in run(daemon, "plc", "gpioinfo")
    daemon.start()
    assert daemon.show("plc").chip.worker == worker
    daemon.stop(signal.SIGINT)
    assert os.listdir(daemon.run / "chips") == []
    deadline = time.monotonic() + 5
    while runs(worker):
        assert time.monotonic() < deadline


def test_a_second_daemon_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    other = [sys.executable, "-m", "gpiovirt.cli.daemon", "--run", str(daemon.run), "--state", str(tmp_path)]
    done = subprocess.run(other, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert f"another gpiovirtd runs on {daemon.run} (pid {daemon.process.pid})" in done.stderr


def test_a_chip_ends_with_its_creator(daemon: Daemon) -> None:
    creator = subprocess.Popen(["sleep", "1000"])
    started = process_start(creator.pid)
    with daemon.client() as client:
        client.ask(New("sim-a 0", "plc", lifetime="process", pid=creator.pid, started=started))
        daemon.kill()
    daemon.start()
    assert daemon.show("plc").chip.creator == creator.pid
    creator.kill()
    creator.wait()
    daemon.wait_for(lambda: not os.path.exists(daemon.run / "chips/plc"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_chip_that_is_being_deleted_ends_with_the_daemon(daemon: Daemon, how: signal.Signals) -> None:
    for _ in range(5):
        new(daemon, "sim-a 0-2", name="plc", permanent=True)
        worker = daemon.show("plc").chip.worker
        deleting = threading.Thread(target=delete_if_it_lives, args=(daemon,))
        with Blinker(daemon, "plc"):
            deleting.start()
            while os.path.exists(daemon.run / "chips/plc"):
                pass  # a deletion takes a millisecond from now on
            daemon.process.send_signal(how)
            if how != signal.SIGHUP:
                daemon.process.wait()
                daemon.start()
            deleting.join()
        wait_for_end(daemon, worker)
        daemon.wait_for(lambda: has_no_chips(daemon))
    assert new(daemon, "sim-a 0-2", name="plc").state == "live"


def wait_for_end(daemon: Daemon, pid: int) -> None:
    daemon.wait_for(lambda: not runs(pid))


def delete_if_it_lives(daemon: Daemon) -> None:
    with suppress(GpiovirtError), daemon.client() as client:
        client.ask(Delete(name="plc", force=True))


def has_no_chips(daemon: Daemon) -> bool:
    """False, too, of one that is not there yet."""
    with suppress(GpiovirtError), daemon.client() as client:
        return not client.chips()
    return False


def test_a_chip_whose_creator_ended_meanwhile_takes_its_worker_along(daemon: Daemon) -> None:
    creator = subprocess.Popen(["sleep", "1000"])
    started = process_start(creator.pid)
    with daemon.client() as client:
        client.ask(New("sim-a 0", "plc", lifetime="process", pid=creator.pid, started=started))
        worker = daemon.show("plc").chip.worker
        daemon.kill()
    creator.kill()
    creator.wait()
    daemon.start()
    wait_for_end(daemon, worker)
    assert has_no_chips(daemon)


def test_a_chip_ends_with_the_connection_that_made_it(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.ask(New(definition="sim-a 0", name="plc", lifetime="connection"))
        assert daemon.show("plc").chip.state == "live"
    daemon.wait_for(lambda: not os.path.exists(daemon.run / "chips/plc"))


def test_lines_take_their_safe_state_when_nobody_holds_them(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-2", name="plc", options={"1": "safe=low"})
    with daemon.simulator() as world:
        world.pull("sim-a:1", "up")
        with Blinker(daemon, "plc"):
            assert world.get("sim-a:1") == 1
        daemon.wait_for(lambda: world.get("sim-a:1") == 0)


def test_a_change_touches_no_line_that_stays(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-2", name="plc")
    run(daemon, "plc", "gpioset", "gpiochip0", "1=1")
    with daemon.client() as client, daemon.simulator() as world:
        assert world.get("sim-a:1") == 1
        error = refused(daemon, "change", name="plc", definition="sim-a 0-2 99")
        assert "has no line 99" in str(error)
        assert daemon.show("plc").chip.num_lines == 3
        client.ask(Change(name="plc", definition="sim-a 1 4"))
        assert world.get("sim-a:1") == 1
        assert [line.source for line in daemon.show("plc").lines] == ["sim-a:1", "sim-a:4"]
        new(daemon, "sim-a 0 2", name="rest")


def test_a_line_is_never_moved_under_its_holder(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-2", name="plc")
    with Blinker(daemon, "plc") as blinker, daemon.simulator() as world:
        for definition in ("sim-a 1-3", "sim-a 0", "sim-a 1 0 2", "sim-a 4 1 2"):
            error = refused(daemon, "change", name="plc", definition=definition)
            assert 'is held by "blinker" (pid' in str(error)
            assert ", and would be swapped for another line" in str(error)
            assert error.errno == errno.EBUSY
        error = refused(daemon, "set", name="plc", options={"0": "active-low"})
        assert 'is held by "blinker"' in str(error)
        blinker.has_gone_on()
        with daemon.client() as client:
            client.ask(Change(name="plc", definition="sim-a 0-2 5", options={"3": "safe=high"}))
        blinker.has_gone_on()
        assert world.get("sim-a:5") == 1
        levels = {line: world.get(f"sim-a:{line}") for line in (3, 4)}
        with daemon.client() as client:
            client.ask(Change(name="plc", definition="sim-a 3 4 2", force=True))
        assert blinker.process.wait(10) != 0
        assert {line: world.get(f"sim-a:{line}") for line in (3, 4)} == levels


def test_a_program_of_a_deleted_chip_is_not_the_next_ones_of_its_name(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-2", name="plc")
    with Blinker(daemon, "plc") as blinker, daemon.client() as client:
        os.kill(daemon.show("plc").chip.worker, signal.SIGSTOP)  # nobody is there to tell the program
        client.ask(Delete(name="plc", force=True))
        client.ask(New(name="plc", definition="sim-a 5-7"))
        assert blinker.process.wait(20) != 0
        assert not any(line.used for line in daemon.show("plc").lines)


def test_a_chip_is_not_made_of_itself(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-1", name="a")
    new(daemon, "a 0", name="b")
    assert "made of lines of its own" in str(refused(daemon, "change", name="a", definition="b 0"))
    with daemon.client() as client:
        assert {chip.state for chip in client.chips()} == {"live"}


def test_chips_exchange_lines_in_one_step(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-1", name="a")
    new(daemon, "sim-a 2-3", name="b")
    run(daemon, "a", "gpioset", "gpiochip0", "1=1")
    changes = (Change("a", "sim-a 0 3"), Change("b", "sim-a 2 1"))
    with daemon.client() as client, daemon.simulator() as world:
        client.ask(ChangeAll(changes))
        assert world.get("sim-a:1") == 1
    shown = {name: [line.source for line in daemon.show(name).lines] for name in ("a", "b")}
    assert shown == {"a": ["sim-a:0", "sim-a:3"], "b": ["sim-a:2", "sim-a:1"]}


@pytest.mark.parametrize("order", ["program, worker", "worker, program"])
def test_a_safe_state_holds_when_program_and_worker_die_together(daemon: Daemon, order: str) -> None:
    new(daemon, "sim-a 0-2", name="plc", options={"1": "safe=low"})
    with Blinker(daemon, "plc") as blinker, daemon.simulator() as world:
        assert world.get("sim-a:1") == 1
        for who in order.split(", "):
            os.kill(blinker.process.pid if who == "program" else daemon.show("plc").chip.worker, 9)
        daemon.wait_for(lambda: world.get("sim-a:1") == 0, timeout_s=10)
        daemon.wait_for(lambda: not any(line.used for line in daemon.show("plc").lines))


def test_a_worker_that_hangs_with_its_program_dead_is_replaced(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-2", name="plc", options={"1": "safe=low"})
    with Blinker(daemon, "plc") as blinker, daemon.simulator() as world:
        daemon.kill()
        daemon.start()  # whose fork server is no parent of the worker
        os.kill(daemon.show("plc").chip.worker, signal.SIGSTOP)
        os.kill(blinker.process.pid, signal.SIGKILL)
        daemon.wait_for(lambda: world.get("sim-a:1") == 0, timeout_s=10)


def test_options_hold_for_programs(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-1", name="plc", options={"0": "active-low", "1": "pull-up"})
    with daemon.simulator() as world:
        world.pull("sim-a:0", "up")
        assert run(daemon, "plc", "gpioget", "gpiochip0", "0", "1") == "0 1\n"
        run(daemon, "plc", "gpioset", "gpiochip0", "0=1")
        assert world.get("sim-a:0") == 0


def test_chips_can_be_made_of_lines_of_chips(daemon: Daemon) -> None:
    new(daemon, "sim-a 0-3", name="inner")
    new(daemon, "inner 2 0", name="outer")
    run(daemon, "outer", "gpioset", "gpiochip0", "0=1")
    with daemon.simulator() as world:
        assert world.get("sim-a:2") == 1
        os.kill(daemon.show("inner").chip.worker, signal.SIGKILL)
        daemon.wait_for(lambda: all(line.there for line in daemon.show("outer").lines))
        assert world.get("sim-a:2") == 1


def test_state_that_is_none_is_told_and_left_alone(daemon: Daemon) -> None:
    new(daemon, "sim-a 0", name="plc")
    daemon.kill()
    (daemon.state / "broken.json").write_text('{"name": 3}')
    daemon.start()
    assert "broken.json is not the state of a chip" in daemon.log()
    assert daemon.show("plc").chip.state == "live"
    assert (daemon.state / "broken.json").exists()


def test_who_breaks_the_control_protocol_is_answered_and_dropped(daemon: Daemon) -> None:
    import socket

    for packet in (b"{", b"[]", b'"x"', b"\xff" * 1000, b"[" * 100000):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(daemon.run / "control"))
            sock.send(packet)
            assert b"error" in sock.recv(4096)
            assert sock.recv(4096) == b""
    assert "unknown request 'dance'" in str(refused(daemon, "dance"))
    with daemon.client() as client:
        assert client.ask(State()).chips == 0


def test_a_client_without_a_daemon_says_how_to_start_one(tmp_path: Path) -> None:
    from gpiovirt.control.client import Client

    with pytest.raises(HostError, match="cannot reach gpiovirtd"):
        Client(str(tmp_path / "control"))


@pytest.mark.parametrize(
    ("definition", "line"), [("sim-b 0-1, sim-a 1 99", 2), ("sim-b 0, NOLINE", 1), ("sim-b 0-1, sim-a 7", 2)]
)
def test_a_refusal_tells_which_line_it_is_about(daemon: Daemon, definition: str, line: int) -> None:
    new(daemon, "sim-a 7", name="taken")
    assert refused(daemon, "new", definition=definition, name="plc").line == line
    assert refused(daemon, "new", definition="sim-a 0", name="plc", options={"3": "safe=low"}).line is None


def test_a_chip_that_ends_with_its_creator_cannot_be_permanent(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.ask(New(definition="sim-a 0", name="plc", lifetime="connection"))
        assert f"ends with process {daemon.process.pid}" in str(refused(daemon, "save", name="plc"))
        assert not daemon.show("plc").chip.permanent


def test_a_chip_that_waits_for_its_lines_is_shown(tmp_path: Path) -> None:
    with Daemon(tmp_path, SIMS) as former:
        new(former, "DOOR LAMP", name="plc", permanent=True, options={"0": "name=GATE", "1": "safe=low"})
        former.stop(signal.SIGINT)
    with Daemon(tmp_path) as daemon:
        shown = daemon.show("plc")
        assert (shown.chip.state, shown.lines) == ("waiting", ())
        assert shown.options == {"0": "name=GATE", "1": "safe=low"}
        with daemon.client() as client:
            client.ask(Delete(name="plc"))


def test_verbose_says_why_a_call_was_refused(tmp_path: Path) -> None:
    with Daemon(tmp_path, [*SIMS, "-v"]) as daemon:
        new(daemon, "sim-a 0", name="plc")
        with pytest.raises(subprocess.CalledProcessError):
            run(daemon, "plc", "gpioset", "gpiochip0", "0=1", "0=0")
        assert 'Device or resource busy: line plc:0 is held by "gpioset"' in daemon.log()


def test_a_line_cannot_be_given_a_name_that_no_line_can_have(daemon: Daemon) -> None:
    assert "cannot name a line" in str(
        refused(daemon, "new", definition="sim-a 0", name="plc", options={"0": "name=" + "x" * 32})
    )


def test_the_conformance_suite_on_a_daemons_chip(tmp_path: Path) -> None:
    """All of it but what lines do when they are given back: the daemon keeps them, as they are."""
    with Daemon(tmp_path, ["--sim", "bank-a:,,DOOR,", "--sim", "bank-b:,LAMP,,"]) as daemon:
        new(daemon, "bank-a 0-3, bank-b 0-3", name="plc")
        suite = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/conformance"]
        done = subprocess.run(
            [sys.executable, "-m", "gpiovirt", "run", "--chip", "plc", "--", *suite],
            cwd=Path(__file__).parents[2],
            env={
                **daemon.environment,
                "GPIOVIRT_SIM": daemon.simulator_socket(),
                "GPIOVIRT_RIG": "kept:/dev/gpiochip0",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b1[0-9]{2} passed", done.stdout)
    assert "skipped" not in done.stdout


def test_an_ordinary_user_has_a_daemon_of_his_own(installation: Installation, tmp_path: Path) -> None:
    uid = ordinary_uid()
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, uid, uid)
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(installation.folder),
        "XDG_RUNTIME_DIR": str(folder),
        "HOME": str(folder),
    }
    python = [installation.python, "-m"]
    started = {"env": environment, "text": True, **as_user(uid)}
    log = tmp_path / "log"
    with log.open("wb") as file:
        daemon = subprocess.Popen([*python, "gpiovirt.cli.daemon", *SIMS], stderr=file, **started)
    try:
        deadline = time.monotonic() + 20
        while "ready" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        subprocess.run([*python, "gpiovirt", "new", "plc", "sim-a 0-3"], check=True, **started)
        run = [*python, "gpiovirt", "run", "--chip", "plc", "--", "gpioinfo"]
        assert "4 lines" in subprocess.check_output(run, **started)
        socket = folder / "gpiovirt/chips/plc"
        assert (socket.stat().st_uid, socket.stat().st_mode & 0o777) == (uid, 0o660)
        assert (folder / "gpiovirt/state/plc.json").exists()
    finally:
        daemon.send_signal(signal.SIGINT)
        assert daemon.wait(20) == 0
        shutil.rmtree(folder)
