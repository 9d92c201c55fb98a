# SPDX-License-Identifier: MIT
"""Other tasks' files and memory."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

import pytest

from gpiovirt.host.task import Task, Tasks


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


def test_a_task_is_of_its_process_and_effective_user() -> None:
    seen: list[tuple[int, int]] = []

    def look() -> None:
        task = Task(threading.get_native_id())
        seen.append(task.process())
        task.close()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(os.getpid(), os.geteuid())]
    ready, child_is_ready = os.pipe()
    other = os.getuid() or 4242
    child = os.fork()
    if not child:
        with suppress(BaseException):
            os.setresuid(-1, other, -1)
            os.write(child_is_ready, b".")
            signal.pause()
        os._exit(1)
    os.close(child_is_ready)
    try:
        os.read(ready, 1)
        task = Task(child)
        assert task.process() == (child, other)
        task.close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
