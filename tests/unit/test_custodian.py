# SPDX-License-Identifier: MIT
"""The custodian with workers that do as a test says: what fails costs the chip that it is about."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gpiovirt.control.client import ANSWER_S
from gpiovirt.core.task import Future, Lock, start
from gpiovirt.daemon import chip as chip_module
from gpiovirt.daemon.chip import MEMORY, KeptChip
from gpiovirt.daemon.custodian import Custodian
from gpiovirt.daemon.directories import Directories
from gpiovirt.daemon.simulation import Simulation
from gpiovirt.daemon.store import Record, Store
from gpiovirt.errors import DeviceBusyError, GpiovirtError, HostError, UsageError
from gpiovirt.host.reactor import Reactor
from gpiovirt.protocols.control.answers import Event, LineEvent, LineHolder
from gpiovirt.virtual.definition import Definition
from gpiovirt.virtual.memory import KeptMemory
from tests.fake_worker import FakeForkServer, FakeWorker, serve_until

LINES = 8


class Workers:
    """What workers do: as they should, but for those that have a way of their own."""

    def __init__(self) -> None:
        self.ways: dict[str, Callable[[FakeWorker, dict[str, Any], list[int]], bool]] = {}
        self.lent: list[tuple[str, int]] = []
        self.ends: list[socket.socket | int] = []

    def __call__(self, worker: FakeWorker, body: dict[str, Any], fds: list[int]) -> None:
        if body["do"] == "serve":
            worker.spec, worker.files = body["spec"], worker.files + fds
        name = worker.spec.get("name", "simulator")
        if name in self.ways and self.ways[name](worker, body, fds):
            return
        if body["do"] == "serve":
            worker.say({"ready": True})
        elif body["do"] == "lend":
            self.lend(worker, body, name)
        elif "tag" in body:
            worker.say({"tag": body["tag"]})

    def lend(self, worker: FakeWorker, body: dict[str, Any], name: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reader, writer = os.pipe()
        self.lent.append((name, body["offset"]))
        self.ends += [ours, writer]
        line = {"direction": "input", "consumer": "", "used": False}
        worker.say({"tag": body["tag"], "line": line}, [theirs.fileno(), reader])
        theirs.close()
        os.close(reader)

    def close(self) -> None:
        for end in self.ends:
            os.close(end) if isinstance(end, int) else end.close()


class World:
    """A custodian of a simulated chip `sim`."""

    def __init__(self, folder: Path) -> None:
        self.reactor = Reactor()
        self.workers = Workers()
        self.forkserver = FakeForkServer(self.reactor, self.workers)
        directories = Directories(str(folder / "run"))
        directories.make()
        chips = [("sim", [f"L{offset}" for offset in range(LINES)])]
        self.simulation = Simulation(chips, [], directories, self.reactor, self.forkserver)
        self.store = Store(str(folder / "state"), directories.passing)
        self.custodian = Custodian(
            directories, self.store, self.reactor, self.forkserver, self.simulation, {}
        )
        self.simulation.start()
        self.until(lambda: self.simulation.ready.is_done)

    def until(self, condition: Callable[[], object]) -> None:
        serve_until(self.reactor, condition)

    def do(self, task: Any) -> Any:
        outcome: Future[Any] = start(task)
        self.until(lambda: outcome.is_done)
        return outcome.result()

    def new(self, name: str, lines: str, **rest: Any) -> KeptChip:
        made: KeptChip = self.do(self.custodian.new(record(name, lines, **rest)))
        return made

    def change(self, force: bool = False, **lines: str) -> Any:
        def wanted(chip: KeptChip) -> Record:
            definition = Definition.parse(chip.name, lines[chip.name])
            return chip.record._replace(definition=definition)

        return self.do(self.custodian.change(list(lines), wanted, force))

    def hold(self, chip: KeptChip, offset: int) -> None:
        KeptMemory(chip.files()[MEMORY], len(chip.lines), 0).held[offset] = 1

    def close(self) -> None:
        self.do(self.custodian.end())
        self.forkserver.close_all()
        self.workers.close()


def record(name: str, lines: str, **rest: Any) -> Record:
    return Record(Definition.parse(name, lines, {}, uid=os.getuid(), gid=os.getgid()), **rest)


def addresses(chip: KeptChip) -> list[str]:
    return [str(address) for address in chip.record.addresses]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_a_chip_is_made_of_lent_lines_served_and_deleted(world: World) -> None:
    chip = world.new("a", "sim 0-1")
    assert (chip.state, addresses(chip)) == ("live", ["sim:0", "sim:1"])
    assert [line.kind for line in chip.lines] == ["lent", "lent"]
    world.do(world.custodian.delete("a", False))
    assert not world.custodian.chips
    assert not world.store.load()


def test_a_mode_that_changes_while_the_former_change_is_recorded_is_not_undone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = record("a", "sim 0-1")
    chip = world.do(world.custodian.new(wanted._replace(definition=wanted.definition._replace(vm=True))))
    vm_path = chip.vm_path
    assert vm_path is not None
    save = world.store.save

    def save_and_change(record: Record) -> None:
        save(record)
        os.chmod(chip.device_path, 0o640)

    os.chmod(chip.device_path, 0o600)
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "save", save_and_change)
        world.custodian.on_attributes_changed("a")
    modes = [os.stat(path).st_mode & 0o777 for path in (chip.device_path, vm_path)]
    assert modes == [0o640, 0o600]
    world.custodian.on_attributes_changed("a")
    assert os.stat(vm_path).st_mode & 0o777 == chip.record.definition.mode == 0o640


def test_a_chip_whose_worker_cannot_serve_is_not_made(world: World) -> None:
    def fails(worker: FakeWorker, body: dict[str, Any], _fds: list[int]) -> bool:
        worker.say({"failed": "no"})
        return True

    world.workers.ways["a"] = fails
    with pytest.raises(HostError, match="cannot be served: no"):
        world.new("a", "sim 0")
    assert not world.custodian.chips
    assert not world.store.load()
    del world.workers.ways["a"]
    world.new("a", "sim 0")


def test_a_chip_waits_for_a_fork_server_that_begins_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a slow board; the time of the chip's worker begins then."""
    monkeypatch.setattr(chip_module, "_LIVE_NS", int(0.4e9))
    world.forkserver.imports = True
    made = start(world.custodian.new(record("a", "sim 0")))
    world.reactor.run_until(Future(), int(0.6e9))
    assert not made.is_done
    world.forkserver.finish_importing()
    world.until(lambda: made.is_done)
    assert made.result().state == "live"


def test_a_chip_is_refused_before_its_client_gives_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chip_module._FORKS_NS + chip_module._LIVE_NS < ANSWER_S * 1e9
    for name in ("_FORKS_NS", "_LIVE_NS"):
        monkeypatch.setattr(chip_module, name, int(0.2e9))
    world.forkserver.imports = True
    with pytest.raises(HostError, match="forks workers is still starting; try again"):
        world.new("a", "sim 0")
    assert not world.custodian.chips
    world.forkserver.finish_importing()
    assert world.new("a", "sim 0").state == "live"


def test_a_chip_that_cannot_be_served_when_changed_is_as_it_was(world: World) -> None:
    chip, other = world.new("a", "sim 0-1"), world.new("b", "sim 2")
    world.hold(chip, 0)

    def fails(worker: FakeWorker, body: dict[str, Any], _fds: list[int]) -> bool:
        if body["do"] == "serve" and len(worker.spec["lines"]) == 2:
            worker.say({"failed": "no"})
            return True
        return False

    world.workers.ways["b"] = fails
    with pytest.raises(HostError, match="the chip b cannot be served"):
        world.change(a="sim 0-1 3", b="sim 2 4")
    assert addresses(chip) == ["sim:0", "sim:1"]
    assert addresses(other) == ["sim:2"]
    assert {chip.state, other.state} == {"live"}
    assert chip.held() == [0]
    assert {len(record.addresses) for record in world.store.load()} == {1, 2}
    world.new("c", "sim 3-4")


def test_a_change_is_undone_also_if_that_cannot_be_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = world.new("a", "sim 0-1")

    def fails(worker: FakeWorker, body: dict[str, Any], _fds: list[int]) -> bool:
        if body["do"] == "serve" and len(worker.spec["lines"]) == 3:

            def full(_record: Record) -> None:
                raise HostError("No space left")

            monkeypatch.setattr(world.store, "save", full)
            worker.say({"failed": "no"})
            return True
        return False

    world.workers.ways["a"] = fails
    with pytest.raises(HostError, match="cannot be served"):
        world.change(a="sim 0-2")
    assert addresses(chip) == ["sim:0", "sim:1"]
    assert all(line.file for line in chip.lines)
    assert chip.state == "live"
    monkeypatch.undo()


def test_lines_that_are_held_are_moved_by_force_only(world: World) -> None:
    chip = world.new("a", "sim 0-1")
    world.hold(chip, 1)
    with pytest.raises(DeviceBusyError, match="line 1 of a is held"):
        world.change(a="sim 0")
    with pytest.raises(DeviceBusyError, match="line 1 of a is held"):
        world.do(world.custodian.delete("a", False))
    world.change(a="sim 0", force=True)
    assert addresses(chip) == ["sim:0"]


def test_no_chip_is_made_of_lines_of_its_own_by_a_change_of_several(world: World) -> None:
    world.new("a", "sim 0-1")
    world.new("b", "sim 2-3")
    with pytest.raises(UsageError, match="lines of its own"):
        world.change(a="b 0", b="a 0")
    assert {chip.state for chip in world.custodian.chips.values()} == {"live"}


def test_changes_at_the_same_time_are_all_kept(world: World) -> None:
    chip = world.new("a", "sim 0-3")

    def named(offset: int) -> Callable[[KeptChip], Record]:
        def wanted(chip: KeptChip) -> Record:
            texts: Mapping[str, str] = {**chip.record.definition.texts(), str(offset): f"name=N{offset}"}
            return chip.record._replace(definition=Definition.parse("a", "sim 0-3", texts))

        return wanted

    tasks = [start(world.custodian.change(["a"], named(offset))) for offset in range(4)]
    tasks_of_owner = start(world.custodian.own(chip, os.getuid(), os.getgid(), 0o600))
    world.until(lambda: tasks_of_owner.is_done and all(task.is_done for task in tasks))
    assert chip.names() == ["N0", "N1", "N2", "N3"]
    assert chip.record.definition.mode == 0o600


def test_who_lends_without_an_end_holds_no_other_chip_up(world: World) -> None:
    world.new("a", "sim 0-1")
    borrower = world.new("b", "a 0-1")
    healthy = world.new("c", "sim 2")

    def mute(_worker: FakeWorker, body: dict[str, Any], _fds: list[int]) -> bool:
        return bool(body["do"] == "lend")

    world.workers.ways["a"] = mute
    for end in world.workers.ends:
        if isinstance(end, socket.socket):
            end.close()  # all lines hang up
    world.until(lambda: borrower.lock.is_held)
    world.until(lambda: healthy.custody.is_complete)
    assert not borrower.custody.is_complete
    world.do(world.custodian.delete("b", True))


@pytest.mark.parametrize(
    "answer",
    [
        {"line": {"direction": "input"}},
        {"errno": 16, "holder": "x\x1b\n" * 100},
        {"errno": 0},
        {"errno": 10**18},
        {"errno": -1},
        {},
        {"line": 7},
    ],
)
def test_a_lender_that_makes_no_sense_fails_its_borrower_only(world: World, answer: dict[str, Any]) -> None:
    world.new("a", "sim 0")

    def nonsense(worker: FakeWorker, body: dict[str, Any], _fds: list[int]) -> bool:
        if body["do"] != "lend":
            return False
        with open("/dev/null") as null:
            worker.say({**answer, "tag": body["tag"]}, [null.fileno()] * 2)
        return True

    world.workers.ways["a"] = nonsense
    with pytest.raises(GpiovirtError):
        world.new("b", "a 0")
    del world.workers.ways["a"]
    world.until(lambda: world.custodian.chips["a"].state == "live")
    world.new("b", "a 0")


@pytest.mark.parametrize(
    "status",
    [
        None,
        {"lines": []},
        {
            "lines": [{"direction": "input", "consumer": "x" * 1000 + "\ud800", "used": True}],
            "consumers": [],
            "vm": 1,
        },
        {"lines": [{"direction": "no", "consumer": "", "used": True}], "consumers": [], "vm": None},
        {
            "lines": [{"direction": "input", "consumer": "", "used": True}],
            "consumers": [{"pid": 1, "uid": 10**40, "gid": 0}],
            "vm": None,
            "rules": [],
        },
        {
            "lines": [{"direction": "input", "consumer": "", "used": True}],
            "consumers": [],
            "vm": None,
            "rules": [{"text": "", "refused": 10**40, "trips": 0, "tripped": False}],
        },
    ],
)
def test_a_status_that_makes_no_sense_is_none(world: World, status: Any) -> None:
    chip = world.new("a", "sim 0")

    def nonsense(worker: FakeWorker, body: dict[str, Any], _fds: list[int]) -> bool:
        if body["do"] != "status":
            return False
        worker.say({"tag": body["tag"], "status": status})
        return True

    world.workers.ways["a"] = nonsense
    assert world.do(chip.status(5)) is None


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ({"kind": "vm", "pid": 812, "uid": 107, "more": 1}, LineHolder("vm", 812, 107)),
        ({"kind": "king", "pid": 812, "uid": 107}, "nonsense"),
        ({"kind": [], "pid": 812, "uid": 107}, "nonsense"),
        ({"kind": "vm", "pid": -1, "uid": 107}, "nonsense"),
        ({"kind": "vm", "pid": 812, "uid": 10**40}, "nonsense"),
        ("vm", "nonsense"),
        (None, None),
    ],
)
def test_who_holds_a_line_is_known_if_it_makes_sense(world: World, said: Any, known: Any) -> None:
    chip = world.new("a", "sim 0")
    line = {"direction": "input", "consumer": "x", "used": True, "holder": said, "forced": ""}

    def tells(worker: FakeWorker, body: dict[str, Any], _fds: list[int]) -> bool:
        if body["do"] != "status":
            return False
        worker.say(
            {"tag": body["tag"], "status": {"lines": [line], "consumers": [], "vm": None, "rules": []}}
        )
        return True

    world.workers.ways["a"] = tells
    status = world.do(chip.status(5))
    if known == "nonsense":
        assert status is None
    else:
        assert status is not None
        assert status.lines[0].holder == known


def test_what_a_worker_says_of_itself_has_the_size_and_characters_of_names(world: World) -> None:
    chip = world.new("a", "sim 0")
    heard: list[Event] = []
    world.custodian.watch(lambda _chip, event: heard.append(event))
    worker = world.forkserver.of("a")
    told = {"event": "requested", "timestamp_ns": 1, "offset": 0, "direction": "input", "used": True}
    worker.say({**told, "consumer": "\ud800" * 1000, "chip": "forged"})
    world.until(lambda: heard)
    assert heard == [LineEvent("line-requested", "a", 1, 0, "L0", "input", "?" * 64, True, None)]
    worker.say({**told, "consumer": "", "timestamp_ns": 10**400})
    world.until(lambda: chip.handle.restarts == 1 and chip.state == "live")


def test_a_chip_goes_on_when_its_worker_cannot_be_replaced_at_first(world: World) -> None:
    chip = world.new("a", "sim 0")
    world.forkserver.is_broken = True
    world.forkserver.of("a").die()
    world.until(lambda: chip.state == "starting")
    with pytest.raises(HostError, match="no more processes"):
        world.new("b", "sim 1")
    assert list(world.custodian.chips) == ["a"]
    world.forkserver.is_broken = False
    world.until(lambda: chip.state == "live")
    world.new("b", "sim 1")


def test_any_number_may_wait_for_a_lock(world: World) -> None:
    lock, first = Lock(), Future[None]()
    done: list[int] = []

    async def wait(number: int) -> None:
        async with lock:
            if not number:
                await first
            done.append(number)

    for number in range(5000):
        start(wait(number))
    first.set(None)
    assert done == list(range(5000))
    assert not lock.is_held
