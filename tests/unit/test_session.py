# SPDX-License-Identifier: MIT
"""Corners of a session that real programs do not reach on this kernel, and faults of what it serves."""

from __future__ import annotations

import errno
import os
import select
import struct
from collections.abc import Callable, Iterator

import pytest

from gpiovirt.core.deadline import Deadlines
from gpiovirt.exports.process.openable import Later, OpenFile, local
from gpiovirt.exports.process.session import Session
from gpiovirt.exports.process.supervisor import Supervisor
from gpiovirt.host.clock import now_ns
from gpiovirt.host.fifo import PipeFifo
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.seccomp import Listener, Notification
from gpiovirt.host.task import Task, Tasks
from gpiovirt.protocols.gpiochip import CHIP_FIFO, Answer, FifoShape
from gpiovirt.testing import Simulator

GET_LINE, CHIPINFO, LINEINFO, GET_VALUES = 0xC250B407, 0x8044B401, 0xC100B405, 0xC010B40E
X86_64 = 0xC000003E
PLACEHOLDER, SLOW_PLACEHOLDER, FAILING_PLACEHOLDER = (1, 1), (1, 2), (1, 3)


class FakeTask(Task):
    """A task whose memory is one bytearray, and whose fds are those of `files`."""

    def __init__(self) -> None:
        self.memory = bytearray(4096)
        self.files: dict[int, tuple[int, int]] = {}
        self.is_new = False

    def file(self, fd: int) -> tuple[int, int]:
        if fd not in self.files:
            raise FileNotFoundError
        return self.files[fd]

    def file_flags(self, fd: int) -> int:
        return os.O_RDWR

    def name(self) -> str:
        return "prog"

    def process(self) -> tuple[int, int]:
        return 100, 1000

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.memory[address : address + size])

    def write(self, address: int, content: bytes) -> int:
        self.memory[address : address + len(content)] = content
        return len(content)


class FakeTasks(Tasks):
    """Tasks that are there, by thread id."""

    def __init__(self, task: FakeTask) -> None:
        self.tasks = {100: task, 101: task}

    def file(self, tid: int, fd: int) -> tuple[Task, tuple[int, int]]:
        return self.tasks[tid], self.tasks[tid].file(fd)

    def task(self, tid: int) -> Task:
        if tid not in self.tasks:
            raise FileNotFoundError
        return self.tasks[tid]


class FakeListener(Listener):
    """The kernel's side; answers fail while the caller is away for a signal."""

    def __init__(self, task: FakeTask) -> None:
        self.fd, self._wakes = os.pipe()
        self._task = task
        self.caller_is_away = False
        self.answers: list[tuple[int, int | str]] = []
        self.installed: list[int] = []
        self._calls: list[Notification] = []

    def trap(self, call: Notification) -> None:
        self._calls.append(call)
        os.write(self._wakes, b".")

    def hang_up(self) -> None:
        os.close(self._wakes)

    def receive(self) -> Notification:
        os.read(self.fd, 1)
        return self._calls.pop(0)

    def answer(self, id_: int, error: int) -> None:
        if self.caller_is_away:
            raise FileNotFoundError
        self.answers.append((id_, error))

    def proceed(self, id_: int) -> None:
        self.answers.append((id_, "kernel"))

    def check(self, id_: int) -> None:
        pass

    def add_fd(self, id_: int, source_fd: int, flags: int, replace: int | None = None) -> int:
        mine = os.dup(source_fd)
        self.installed.append(mine)
        number = 10 + len(self.installed) if replace is None else replace
        status = os.fstat(mine)
        self._task.files[number] = (status.st_dev, status.st_ino)
        return number


class SlowFile:
    """A chip file that answers when it is told to, and may fail."""

    def __init__(self, open_fifo: Callable[[FifoShape], PipeFifo]) -> None:
        self.fifo = open_fifo(CHIP_FIFO)
        self.waiting: list[Later] = []
        self.close_fails: Exception | None = None

    def ioctl(self, cmd: int, arg: bytes, compat: bool = False) -> Answer | Later:
        if cmd == GET_VALUES:
            raise RuntimeError("a fault of ours")
        self.waiting.append(Later())
        return self.waiting[-1]

    def close(self) -> None:
        if self.close_fails is not None:
            raise self.close_fails


class World:
    """A session, its program, and what is beside them."""

    def __init__(self) -> None:
        simulator = Simulator(now_ns)
        self.chip = simulator.add_chip("a", [""] * 4)
        self.task = FakeTask()
        self.task.files = {3: PLACEHOLDER, 4: SLOW_PLACEHOLDER, 5: FAILING_PLACEHOLDER, 6: (9, 9)}
        self.tasks = FakeTasks(self.task)
        self.listener = FakeListener(self.task)
        self.slow: list[SlowFile] = []
        self.refusals: list[str] = []
        self.reactor = Reactor()
        self.ended: list[Session] = []
        self.session = Session(
            self.listener,
            {
                PLACEHOLDER: (local(self.chip), "gpiochip0"),
                SLOW_PLACEHOLDER: (self._open_slow, "gpiochip1"),
                FAILING_PLACEHOLDER: (self._fail, "gpiochip2"),
            },
            self.reactor,
            self.ended.append,
            self.refusals.append,
            self.tasks,
        )
        self._ids = iter(range(1, 1000))

    def _open_slow(
        self, _name: str, open_fifo: Callable[[FifoShape], PipeFifo], _reactor: Reactor, _task: Task
    ) -> OpenFile:
        self.slow.append(SlowFile(open_fifo))
        return self.slow[-1]

    def _fail(self, _name: str, _open_fifo: object, _reactor: Reactor, _task: Task) -> OpenFile:
        raise PermissionError(errno.EACCES, "not yours")

    def turn(self, seconds: float = 0) -> None:
        self.reactor.call_later(seconds, self.reactor.stop)
        self.reactor._running = True
        self.reactor.run()

    def call(self, fd: int, cmd: int, tid: int = 100) -> int:
        """The call's id; what became of it is in the listener's answers."""
        id_ = next(self._ids)
        self.listener.trap(Notification(id_, tid, X86_64, fd, cmd, 0))
        self.turn()
        return id_

    def get_line(self, offset: int, tid: int = 100) -> int:
        raw = bytearray(592)
        struct.pack_into("=I", raw, 0, offset)
        struct.pack_into("=I", raw, 560, 1)
        self.task.write(0, bytes(raw))
        return self.call(3, GET_LINE, tid)

    @property
    def last(self) -> tuple[int, int | str]:
        return self.listener.answers[-1]

    def number(self) -> int:
        """The fd that a GET_LINE gave."""
        (number,) = struct.unpack_from("=i", self.task.read(0, 592), 588)
        return int(number)

    def used(self) -> list[int]:
        return [offset for offset in range(4) if self.chip.line_info(offset).used]

    def close(self) -> None:
        for fd in self.listener.installed:
            os.close(fd)
        self.session.end()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def test_a_request_interrupted_after_its_fd_was_installed_is_answered_again(world: World) -> None:
    """seccomp_unotify(2): without WAIT_KILLABLE_RECV the kernel restarts the caller's ioctl."""
    world.listener.caller_is_away = True
    world.get_line(0)
    assert world.listener.answers == []
    world.listener.caller_is_away = False
    again = world.get_line(0)
    assert world.listener.answers == [(again, 0)]
    assert world.number() == 12
    third = world.get_line(0)
    assert world.last == (third, errno.EBUSY)


def test_a_request_that_is_another_gets_no_former_ones_answer(world: World) -> None:
    world.listener.caller_is_away = True
    world.get_line(0)
    world.listener.caller_is_away = False
    other = world.get_line(2)
    assert world.last == (other, 0)
    assert world.number() == 13
    assert world.used() == [2]  # nobody knows of the first fd


def test_a_request_is_served_anew_after_any_other_call_of_its_thread(world: World) -> None:
    world.listener.caller_is_away = True
    world.get_line(0)
    world.listener.caller_is_away = False
    world.call(3, CHIPINFO)
    again = world.get_line(0)
    assert world.last == (again, 0)
    assert world.number() == 13


def test_another_threads_call_leaves_the_answer_kept(world: World) -> None:
    world.listener.caller_is_away = True
    world.get_line(0)
    world.listener.caller_is_away = False
    world.call(3, CHIPINFO, tid=101)
    again = world.get_line(0)
    assert world.last == (again, 0)
    assert world.number() == 12


def test_answers_kept_for_callers_that_stay_away_are_bounded(world: World) -> None:
    world.tasks.tasks |= dict.fromkeys(range(200, 300), world.task)
    world.listener.caller_is_away = True
    for tid in range(200, 300):
        world.get_line(0, tid)
        world.get_line(1, tid)
    assert len(world.session._unsent) <= 64


def test_an_answer_that_comes_late_keeps_no_other_call_waiting(world: World) -> None:
    slow = world.call(4, CHIPINFO)
    quick = world.call(3, CHIPINFO)
    assert world.listener.answers == [(quick, 0)]
    world.slow[0].waiting[0].answer(Answer(0, b"late"))
    assert world.last == (slow, 0)
    assert world.task.read(0, 4) == b"late"


def test_an_answer_that_comes_late_may_bring_a_file(world: World) -> None:
    call = world.call(4, CHIPINFO)
    file = SlowFile(PipeFifo.make)
    world.slow[0].waiting[0].answer(Answer(0, bytes(8), file, 4))  # type: ignore[arg-type]
    assert world.last == (call, 0)
    (number,) = struct.unpack_from("=i", world.task.read(0, 8), 4)
    assert world.task.files[number] == file.fifo.identity


def test_a_file_that_comes_after_its_caller_has_gone_is_closed(world: World) -> None:
    world.call(4, CHIPINFO)
    file = SlowFile(PipeFifo.make)
    world.tasks.tasks.clear()
    world.slow[0].waiting[0].answer(Answer(0, bytes(8), file, 4))  # type: ignore[arg-type]
    assert file.fifo.writer == -1
    assert world.listener.answers == []


def test_a_fault_in_one_file_is_eio_there_and_nothing_elsewhere(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.call(4, CHIPINFO)
    call = world.call(4, GET_VALUES)
    assert world.last == (call, errno.EIO)
    assert "a fault of ours" in capsys.readouterr().err
    call = world.call(3, CHIPINFO)
    assert world.last == (call, 0)


@pytest.mark.parametrize("fault", [RuntimeError("a fault of ours"), OSError(errno.ENXIO, "another's")])
def test_a_fault_of_a_reader_is_not_the_answer_to_a_call(world: World, fault: Exception) -> None:
    readable = os.eventfd(1)

    def fails() -> None:
        raise fault

    world.reactor.add_reader(readable, fails)
    call = world.call(3, LINEINFO)
    assert world.last == (call, 0)
    world.reactor.remove_reader(readable)
    os.close(readable)


def test_a_fault_of_a_deadline_ends_no_session(world: World) -> None:
    def fails() -> None:
        raise OSError(errno.ENXIO, "of a timer")

    world.reactor.call_later(0, fails)
    call = world.call(3, CHIPINFO)
    assert world.last == (call, 0)


@pytest.mark.parametrize("fault", [RuntimeError("a fault of ours"), OSError(errno.EIO, "of its socket")])
def test_a_file_that_fails_to_close_is_closed_all_the_same(world: World, fault: Exception) -> None:
    world.call(4, CHIPINFO)
    world.slow[0].close_fails = fault
    os.close(world.listener.installed.pop())
    world.turn()
    assert world.session._files == {}
    call = world.call(3, CHIPINFO)
    assert world.last == (call, 0)


def test_a_file_that_has_hung_up_is_forgotten_but_for_its_errno(world: World) -> None:
    world.get_line(0)
    number = world.number()
    assert len(world.session._files) == 2
    world.session._files[world.task.files[number]].fifo.hang_up()
    assert len(world.session._files) == 1
    call = world.call(number, GET_VALUES)
    assert world.last == (call, errno.ENODEV)
    assert select.select([world.listener.installed[-1]], [], [], 0)[0]  # at its end


def test_a_close_that_is_told_of_a_former_file_of_that_number_closes_nothing(world: World) -> None:
    world.get_line(0)
    fifo = world.session._files[world.task.files[world.number()]].fifo
    world.reactor._callbacks[fifo.writer]()  # in the turn that the file was opened in
    assert world.used() == [0]
    os.close(world.listener.installed.pop())
    world.turn()
    assert world.used() == []


def test_what_cannot_be_opened_says_why(world: World) -> None:
    call = world.call(5, CHIPINFO)
    assert world.last == (call, errno.EACCES)
    assert "not yours" in world.refusals[-1]


def test_a_refusal_is_told_with_its_reason(world: World) -> None:
    world.get_line(0)
    world.get_line(0)
    assert world.refusals == [
        'prog (100): GPIO_V2_GET_LINE_IOCTL: Device or resource busy: line a:0 is held by "?" '
        "(pid 100, uid 1000); release it or choose another"
    ]


def test_files_that_are_not_ours_are_the_kernels(world: World) -> None:
    for fd in (6, 99):
        call = world.call(fd, CHIPINFO)
        assert world.last == (call, "kernel")


def test_a_session_ends_with_its_last_task_and_frees_its_lines(world: World) -> None:
    world.get_line(1)
    world.listener.hang_up()
    world.turn()
    assert world.ended == [world.session]
    assert world.used() == []


def test_a_supervisor_serves_its_sessions_until_the_last_has_ended() -> None:
    supervisor = Supervisor(Deadlines())
    listeners = [FakeListener(FakeTask()) for _ in range(2)]
    for listener in listeners:
        supervisor.add(listener, {})
    order: list[str] = []
    supervisor.reactor.call_later(0, listeners[0].hang_up)
    supervisor.reactor.call_later(0.01, lambda: order.append("one left"))
    supervisor.reactor.call_later(0.02, listeners[1].hang_up)
    supervisor.run()
    assert order == ["one left"]
