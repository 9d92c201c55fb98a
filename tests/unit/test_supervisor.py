# SPDX-License-Identifier: MIT
"""Corners of the supervisor that real programs do not reach on this kernel."""

from __future__ import annotations

import os
import struct

import pytest

from gpiovirt.exports.process.supervisor import Supervisor
from gpiovirt.host.clock import now_ns
from gpiovirt.host.seccomp import Notification
from gpiovirt.host.task import Task, Tasks
from gpiovirt.protocols.gpiochip import ChipFile, FifoFactory, File
from gpiovirt.testing import Simulator

GET_LINE, CHIPINFO = 0xC250B407, 0x8044B401


class FakeTask:
    """A task whose memory is one bytearray, and whose fd 3 is the chip."""

    is_new = False

    def __init__(self) -> None:
        self.memory = bytearray(1024)

    def file_flags(self, fd: int) -> int:
        return os.O_RDWR

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.memory[address : address + size])

    def write(self, address: int, content: bytes) -> int:
        self.memory[address : address + len(content)] = content
        return len(content)


class FakeListener:
    """The kernel's side; answers fail while the caller is away for a signal."""

    def __init__(self) -> None:
        self.caller_is_away = False
        self.answers: list[int] = []
        self.files: list[int] = []

    def answer(self, id_: int, error: int) -> None:
        if self.caller_is_away:
            raise FileNotFoundError
        self.answers.append(error)

    def check(self, id_: int) -> None:
        pass

    def add_fd(self, id_: int, source_fd: int, flags: int, replace: int | None = None) -> int:
        self.files.append(os.dup(source_fd))
        return replace or 10


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    simulator = Simulator(now_ns)
    chip = simulator.add_chip("a", [""])

    def opener(name: str, open_fifo: FifoFactory, _waits: object) -> File:
        return ChipFile(chip, name, open_fifo)

    made = Supervisor({(1, 1): (opener, "gpiochip0")}, now_ns, simulator.deadlines)
    made._listener = FakeListener()  # type: ignore[assignment]
    task = FakeTask()
    found = {3: (1, 1)}
    monkeypatch.setattr(made, "_tasks", type("", (), {"file": lambda _, tid, fd: (task, found[fd])})())
    return made


def call(supervisor: Supervisor, cmd: int) -> None:
    answer = supervisor._answer(Notification(1, 100, 0xC000003E, 3, cmd, 0))
    if answer is not None:
        supervisor._listener.answer(1, answer)


def test_a_request_interrupted_after_its_fd_was_installed_is_answered_again(supervisor: Supervisor) -> None:
    """seccomp_unotify(2): without WAIT_KILLABLE_RECV the kernel restarts the caller's ioctl."""
    listener = supervisor._listener
    assert isinstance(listener, FakeListener)
    task, _ = supervisor._tasks.file(100, 3)
    raw = bytearray(592)
    struct.pack_into("=I", raw, 560, 1)
    task.write(0, bytes(raw))
    listener.caller_is_away = True
    call(supervisor, GET_LINE)
    assert listener.answers == []
    listener.caller_is_away = False
    task.write(0, bytes(raw))
    call(supervisor, GET_LINE)
    assert listener.answers == [0]
    assert struct.unpack_from("=i", task.read(0, 592), 588) == (10,)
    call(supervisor, GET_LINE)
    assert listener.answers == [0, 16]
    for fd in listener.files:
        os.close(fd)


def test_a_task_is_told_by_its_files_and_memory() -> None:
    tasks = Tasks()
    reader, writer = os.pipe()
    task, found = tasks.file(os.getpid(), reader)
    status = os.fstat(writer)
    assert found == (status.st_dev, status.st_ino)
    assert tasks.file(os.getpid(), reader)[0] is task
    assert task.file_flags(reader) & os.O_CLOEXEC
    with pytest.raises(OSError, match="No such"):
        tasks.file(os.getpid(), 999)
    os.close(reader)
    os.close(writer)


def test_memory_is_read_and_written_and_unmapped_memory_is_not() -> None:
    import ctypes

    buffer = ctypes.create_string_buffer(b"hello", 16)
    task = Task(os.getpid())
    assert task.read(ctypes.addressof(buffer), 5) == b"hello"
    assert task.write(ctypes.addressof(buffer), b"HELLO") == 5
    assert buffer.value == b"HELLO"
    for address in (0, 1 << 47):
        with pytest.raises(OSError, match="Input/output"):
            task.read(address, 16)
    task.close()


def test_a_dead_task_has_no_files() -> None:
    child = os.fork()
    if not child:
        os.read(os.pipe()[0], 1)
    tasks = Tasks()
    task, _ = tasks.file(child, 0)
    os.kill(child, 9)
    os.waitpid(child, 0)
    with pytest.raises(OSError, match="No such"):
        task.file(0)
    with pytest.raises(OSError, match="No such"):
        tasks.file(child, 0)
