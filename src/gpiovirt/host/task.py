# SPDX-License-Identifier: MIT
"""Another task's open files and memory, through /proc; safe against a recycled thread id.

A directory of /proc kept open belongs to its task for ever: once that is gone, every look-up in it
fails, whoever has the number now.
"""

from __future__ import annotations

import os

__all__ = ["Task", "Tasks"]


class Task:
    """A task by its thread id; all methods raise OSError when it is gone."""

    __slots__ = ("directory",)

    def __init__(self, tid: int) -> None:
        self.directory = os.open(f"/proc/{tid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def file(self, fd: int) -> tuple[int, int]:
        """What the fd refers to, whatever its number: (device, inode)."""
        status = os.stat(f"fd/{fd}", dir_fd=self.directory)
        return status.st_dev, status.st_ino

    def file_flags(self, fd: int) -> int:
        """O_* flags of the fd, O_CLOEXEC among them."""
        with open(os.open(f"fdinfo/{fd}", os.O_RDONLY, dir_fd=self.directory), encoding="ascii") as fdinfo:
            for line in fdinfo:
                if line.startswith("flags:"):
                    return int(line.split()[1], 8)
        return 0

    def open_memory(self) -> int:
        """An fd to pread and pwrite the task's memory with."""
        return os.open("mem", os.O_RDWR | os.O_CLOEXEC, dir_fd=self.directory)

    def close(self) -> None:
        """Forget the task."""
        os.close(self.directory)


class Tasks:
    """The tasks last asked for, by thread id."""

    _KEPT = 64

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}

    def file(self, tid: int, fd: int) -> tuple[Task, tuple[int, int]]:
        """The task and what its fd refers to; OSError if either does not exist."""
        task = self._tasks.get(tid)
        if task is not None:
            try:
                return task, task.file(fd)
            except OSError:  # it may be a new task of that number
                self._tasks.pop(tid).close()
        if len(self._tasks) >= self._KEPT:
            self._tasks.pop(next(iter(self._tasks))).close()
        task = self._tasks[tid] = Task(tid)
        return task, task.file(fd)
