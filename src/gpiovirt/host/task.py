# SPDX-License-Identifier: MIT
"""Another task's open files and memory, through /proc; safe against a recycled thread id.

A directory of /proc kept open belongs to its task for ever: once the task is gone, every look-up in it
fails, whoever has the thread id now. An open `mem` belongs to an address space for ever, so it is kept
only where no other process shares that: then it reads nothing once the task has called exec.
"""

from __future__ import annotations

import os

from gpiovirt.core.text import printable
from gpiovirt.host import libc

__all__ = ["Task", "Tasks"]

_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Task:
    """A task by its thread id; all methods raise OSError when it is gone.

    `is_new` until its maker has verified that the thread id was the right task's.
    """

    __slots__ = ("_directory", "_fds", "_memory", "_tid", "is_new")

    def __init__(self, tid: int) -> None:
        self._tid = tid
        self.is_new = True
        self._memory = -1
        self._directory = os.open(f"/proc/{tid}", _FLAGS)
        try:
            self._fds = os.open("fd", _FLAGS, dir_fd=self._directory)
        except OSError:
            os.close(self._directory)
            raise

    def file(self, fd: int) -> tuple[int, int]:
        """What the fd refers to, whatever its number: (device, inode)."""
        status = os.stat(str(fd), dir_fd=self._fds)
        return status.st_dev, status.st_ino

    def file_flags(self, fd: int) -> int:
        """O_* flags of the fd, O_CLOEXEC among them."""
        with open(os.open(f"fdinfo/{fd}", os.O_RDONLY, dir_fd=self._directory), encoding="ascii") as fdinfo:
            for line in fdinfo:
                if line.startswith("flags:"):
                    return int(line.split()[1], 8)
        return 0

    def name(self) -> str:
        """comm, made printable."""
        return printable(self._read("comm", 64).decode(errors="replace").strip())

    def process(self) -> tuple[int, int]:
        """(pid, effective uid) of its process."""
        _, _, after = self._read("status", 4096).partition(b"\nTgid:\t")  # proc_pid_status(5)
        pid, _, after = after.partition(b"\n")
        return int(pid), int(after.partition(b"\nUid:\t")[2].split(None, 2)[1])

    def _parent(self) -> int:
        return int(self._read("stat", 1024).rpartition(b") ")[2].split()[1])  # proc_pid_stat(5)

    def _read(self, name: str, size: int) -> bytes:
        """The beginning of a file in the task's directory."""
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            return os.read(fd, size)
        finally:
            os.close(fd)

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of the task's memory; OSError or OverflowError if they are not all there."""
        if self._memory >= 0:
            content = os.pread(self._memory, size, address)
            if len(content) == size:
                return content
            self._forget_memory()  # it has called exec
        memory = os.open("mem", os.O_RDWR | os.O_CLOEXEC, dir_fd=self._directory)
        if not libc.shares_memory(self._tid, self._parent()):
            self._memory = memory
            return os.pread(memory, size, address)
        try:
            return os.pread(memory, size, address)
        finally:
            os.close(memory)

    def write(self, address: int, content: bytes) -> int:
        """Write to the task's memory; the number of bytes written."""
        if self._memory >= 0:
            if os.pwrite(self._memory, content, address) == len(content):
                return len(content)
            self._forget_memory()  # it has called exec
        memory = os.open("mem", os.O_RDWR | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            return os.pwrite(memory, content, address)
        finally:
            os.close(memory)

    def _forget_memory(self) -> None:
        os.close(self._memory)
        self._memory = -1

    def close(self) -> None:
        """Forget the task."""
        if self._memory >= 0:
            self._forget_memory()
        os.close(self._fds)
        os.close(self._directory)


class Tasks:
    """The tasks used last, by thread id."""

    _KEPT = 64

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}

    def file(self, tid: int, fd: int) -> tuple[Task, tuple[int, int]]:
        """The task and what its fd refers to; OSError if either does not exist."""
        task = self._tasks.get(tid)
        if task is not None:
            try:
                return task, task.file(fd)
            except OSError:  # it may be a new task with that thread id
                self._tasks.pop(tid).close()
        task = self.task(tid)
        return task, task.file(fd)

    def task(self, tid: int) -> Task:
        """The task; OSError if there is none."""
        task = self._tasks.get(tid)
        if task is None:
            if len(self._tasks) >= self._KEPT:
                self._tasks.pop(next(iter(self._tasks))).close()
            task = self._tasks[tid] = Task(tid)
        return task

    def living(self, tid: int) -> Task:
        """The task that has this thread id now; OSError if there is none."""
        task = self._tasks.get(tid)
        if task is not None:
            try:
                task.process()
            except OSError:  # it may be a new task with that thread id
                self._tasks.pop(tid).close()
        return self.task(tid)

    def name(self, tid: int) -> str:
        """The task's own name for itself, for people."""
        try:
            return self.task(tid).name()
        except OSError:
            return "a program"
