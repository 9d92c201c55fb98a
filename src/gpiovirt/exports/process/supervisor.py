# SPDX-License-Identifier: MIT
"""The supervisor: answers the trapped GPIO ioctls of a program and all its children.

One thread. poll(2) and not epoll waits for the listener, since only poll passes on the kernel's
hint to wake us on the caller's CPU; everything slower waits in one epoll beneath it.
"""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from gpiovirt.core.chip import Now
from gpiovirt.core.deadline import Deadlines
from gpiovirt.core.line import Clock
from gpiovirt.errors import GpiovirtError
from gpiovirt.host.fifo import PipeFifo
from gpiovirt.host.seccomp import Listener, Notification
from gpiovirt.host.task import Task, Tasks
from gpiovirt.protocols.gpiochip import FifoFactory, FifoShape, File
from gpiovirt.uapi import gpio as u
from gpiovirt.uapi.seccomp import AUDIT_ARCH_I386, COMPAT_ARCHES

if TYPE_CHECKING:
    from gpiovirt.host.reactor import Waits

__all__ = ["Openable", "Supervisor"]

Openable = Callable[[str, FifoFactory, "Waits"], File]
"""Opens a chip as a device of that name: what is to be read besides is registered with the last"""

_IOC_WRITE = 0x40000000  # asm-generic/ioctl.h: the caller's argument is read
_HOT = frozenset({u.GPIO_V2_LINE_GET_VALUES_IOCTL, u.GPIO_V2_LINE_SET_VALUES_IOCTL})
_KNOWN = frozenset(value for name, value in vars(u).items() if name.endswith("_IOCTL"))
_FileId = tuple[int, int]


class Supervisor:
    """Serves the chips of `nodes`: (device, inode) of a placeholder -> (what opens the chip, device name)."""

    def __init__(self, nodes: Mapping[_FileId, tuple[Openable, str]], now: Now, deadlines: Deadlines) -> None:
        self._nodes = nodes
        self._now = now
        self.deadlines = deadlines
        self._tasks = Tasks()
        self._files: dict[_FileId, File] = {}
        self._slow = select.epoll()
        self._readers: dict[int, Callable[[], object]] = {}
        self._opened: list[PipeFifo] = []
        self._unsent: dict[tuple[int, int, int], bytes] = {}

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        """Call back when `fd` is readable or hung up."""
        self._readers[fd] = callback
        self._slow.register(fd, select.EPOLLIN)

    def add_hangup(self, fd: int, callback: Callable[[], object]) -> None:
        """Call back when the other end of `fd` is closed."""
        self._readers[fd] = callback
        self._slow.register(fd, 0)

    def remove_reader(self, fd: int) -> None:
        """Call back no more; to be called before the fd is closed."""
        if self._readers.pop(fd, None) is not None:
            self._slow.unregister(fd)

    def run(self, listener: Listener) -> None:
        """Serve until no filtered task is left."""
        self._listener = listener
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(self._slow, select.POLLIN)
        while True:
            for fd, events in poll.poll(self._timeout_ms()):
                if fd != listener.fd:
                    self._run_readers()
                elif events & select.POLLIN:
                    self._serve()
                else:
                    return

    def _timeout_ms(self) -> float | None:
        """Until the next deadline; those that have passed are served."""
        while (deadline_ns := self.deadlines.next_deadline_ns()) is not None:
            now_ns = self._now(Clock.MONOTONIC)
            if deadline_ns > now_ns:
                return (deadline_ns - now_ns) / 1e6
            self.deadlines.on_deadline(now_ns)
        return None

    def _run_readers(self) -> None:
        """Closed files first: who closes a file and then asks must see its lines released."""
        for fd, _ in sorted(self._slow.poll(0), key=lambda ready: ready[1] & select.EPOLLIN):
            callback = self._readers.get(fd)
            if callback is not None:
                callback()

    def _serve(self) -> None:
        try:
            call = self._listener.receive()
        except OSError:  # the caller was killed or interrupted before we had it
            return
        try:
            answer = self._answer(call)
        except OSError as error:
            answer = error.errno or errno.EIO
        except Exception as error:  # a fault of ours must not hang the caller
            sys.excepthook(type(error), error, error.__traceback__)
            answer = errno.EIO
        if answer is not None:
            with suppress(OSError):  # the caller is gone
                self._listener.answer(call.id, answer)

    def _answer(self, call: Notification) -> int | None:
        """The errno to answer with, or None when it is answered already."""
        try:
            task, file_id = self._tasks.file(call.tid, call.fd)
            if task.is_new:
                # its number was still the caller's when we opened it
                self._listener.check(call.id)
                task.is_new = False
        except OSError:  # not an open file: EBADF, says the kernel
            self._listener.proceed(call.id)
            return None
        file = self._files.get(file_id)
        if file is None:
            node = self._nodes.get(file_id)
            if node is None:  # not ours
                self._listener.proceed(call.id)
                return None
            file = self._open(call, task, *node)
        cmd = call.cmd
        if cmd not in _HOT:
            if cmd not in _KNOWN:
                return errno.EINVAL
            # files closed by now free their lines before anybody asks about them
            self._run_readers()
        return self._ioctl(call, task, file)

    def _ioctl(self, call: Notification, task: Task, file: File) -> int | None:
        cmd, address = call.cmd, call.arg
        if call.arch in COMPAT_ARCHES:
            address &= 0xFFFFFFFF
        arg = b""
        if cmd & _IOC_WRITE:
            try:
                arg = task.read(address, u.ioc_size(cmd))
            except (OSError, OverflowError):
                return errno.EFAULT
            if len(arg) != u.ioc_size(cmd):
                return errno.EFAULT
        restarted = self._unsent.pop((call.tid, cmd, address), None) if self._unsent else None
        if restarted is not None:
            return self._reply(task, address, restarted)
        answer = file.ioctl(cmd, arg, call.arch == AUDIT_ARCH_I386)
        if answer.file is not None:
            return self._install(call, task, answer.file, answer.reply or b"", answer.fd_at, address)
        if self._opened:
            self._discard_opened()
        if answer.reply is not None:
            return self._reply(task, address, answer.reply)
        return answer.errno

    @staticmethod
    def _reply(task: Task, address: int, reply: bytes) -> int:
        try:
            return 0 if task.write(address, reply) == len(reply) else errno.EFAULT
        except (OSError, OverflowError):
            return errno.EFAULT

    def _open_fifo(self, shape: FifoShape) -> PipeFifo:
        fifo = PipeFifo.make(shape)
        self._opened.append(fifo)
        return fifo

    def _discard_opened(self) -> None:
        """A request failed after its pipe was made."""
        for fifo in self._opened:
            fifo.close()
        self._opened.clear()

    def _open(self, call: Notification, task: Task, openable: Openable, name: str) -> File:
        """Put a chip file in place of the placeholder that the caller opened."""
        flags = task.file_flags(call.fd)
        try:
            file = openable(name, self._open_fifo, self)
        except OSError:
            self._discard_opened()
            raise
        try:
            fifo = self._adopt(file)
            os.set_blocking(fifo.reader, not flags & os.O_NONBLOCK)
            self._listener.add_fd(call.id, fifo.reader, flags & os.O_CLOEXEC, replace=call.fd)
        except BaseException:
            self._close(file)
            raise
        fifo.close_reader()
        return file

    def _install(
        self, call: Notification, task: Task, file: File, reply: bytes, fd_at: int, address: int
    ) -> int | None:
        """Open the new file in the caller, and store its number in the caller's argument."""
        fifo = self._adopt(file)
        failed = self._reply(task, address, reply)  # once the fd is there, nothing may fail any more
        if failed:
            self._close(file)
            return failed
        try:
            number = self._listener.add_fd(call.id, fifo.reader, os.O_CLOEXEC)
        except OSError as error:  # EMFILE in the caller, or it is gone
            self._close(file)
            return error.errno or errno.EIO
        fifo.close_reader()
        reply = reply[:fd_at] + number.to_bytes(4, sys.byteorder) + reply[fd_at + 4 :]
        self._reply(task, address, reply)
        try:
            self._listener.answer(call.id, 0)
        except OSError:
            # Without WAIT_KILLABLE_RECV a signal can take the caller away here, fd already installed:
            # the kernel restarts its ioctl, and that must get this answer and not EBUSY.
            self._unsent[call.tid, call.cmd, address] = reply
        return None

    def _adopt(self, file: File) -> PipeFifo:
        """From now on the file lives until the last copy of its read end is closed."""
        fifo = file.fifo
        assert isinstance(fifo, PipeFifo)
        self._opened.remove(fifo)
        self._files[fifo.identity] = file
        self._readers[fifo.writer] = lambda: self._close(file)
        self._slow.register(fifo.writer, 0)
        fifo.on_hang_up = lambda: self.remove_reader(fifo.writer)
        return fifo

    def _close(self, file: File) -> None:
        fifo = file.fifo
        assert isinstance(fifo, PipeFifo)
        try:
            file.close()
        except GpiovirtError as error:
            sys.stderr.write(f"gpiovirt: {error}\n")
        if fifo.writer in self._readers:
            self.remove_reader(fifo.writer)
            del self._files[fifo.identity]
        else:
            self._opened.remove(fifo)
        fifo.close()
