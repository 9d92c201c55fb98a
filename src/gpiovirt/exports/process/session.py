# SPDX-License-Identifier: MIT
"""A session: a program and all its children, the chips they can open, and the files they have open.

It owns what becomes of a trapped call: whose file it is for, what its argument says, when it is
answered. It never waits for anybody but the kernel.
"""

import errno
import os
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import NamedTuple, cast

from gpiovirt.core.task import Future
from gpiovirt.errors import GpiovirtError
from gpiovirt.exports.process.openable import Later, Openable, OpenFile, refused
from gpiovirt.host.fifo import PipeFifo
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.seccomp import Listener, Notification
from gpiovirt.host.task import Task, Tasks
from gpiovirt.protocols.gpiochip import Answer, FifoShape
from gpiovirt.uapi import gpio as u
from gpiovirt.uapi.seccomp import AUDIT_ARCH_I386, COMPAT_ARCHES

__all__ = ["FileId", "Session", "Trap"]

FileId = tuple[int, int]
"""(device, inode)"""

Trap = Callable[[Task, int, Sequence[int]], "int | Future[int] | None"]
"""What becomes of a system call, by its task, that one's thread id and its arguments: an errno (0: done), one
that is to come, or None to let the kernel do it"""

_IOC_WRITE = 0x40000000  # asm-generic/ioctl.h: the caller's argument is read
_HOT = frozenset({u.GPIO_V2_LINE_GET_VALUES_IOCTL, u.GPIO_V2_LINE_SET_VALUES_IOCTL})
_NAMES = {value: name for name, value in vars(u).items() if name.endswith("_IOCTL")}
_POLLIN = select.POLLIN
_UNSENT_MAX = 64
_LOST_MAX = 1024


class _Unsent(NamedTuple):
    """A request whose caller was away when it was to be answered: its fd is installed already."""

    task: Task
    cmd: int
    address: int
    arg: bytes
    reply: bytes
    file_id: FileId


class Session:
    """Serves the chips of `nodes`: (device, inode) of a placeholder -> (what opens the chip, device name).

    `on_unseen` is called once, when a caller may not be looked at, and may change that: its user namespace
    may be another one. `traps` are for system calls besides ioctl, by architecture and number.
    """

    def __init__(
        self,
        listener: Listener,
        nodes: Mapping[FileId, tuple[Openable, str]],
        reactor: Reactor,
        on_end: "Callable[[Session], object]",
        on_refusal: Callable[[str], object] | None = None,
        tasks: Tasks | None = None,
        on_unseen: Callable[[Notification], object] | None = None,
        traps: Mapping[tuple[int, int], Trap] = MappingProxyType({}),
    ) -> None:
        self._listener = listener
        self._nodes = dict(nodes)
        self._traps = traps
        self._reactor = reactor
        self._on_end = on_end
        self._on_refusal = on_refusal
        self._on_unseen = on_unseen
        self._tasks = tasks or Tasks()
        self._files: dict[FileId, OpenFile] = {}
        self._lost: dict[FileId, None] = {}
        """Files that have hung up: nobody can tell when the program closes them"""
        self._opened: list[PipeFifo] = []
        self._unsent: dict[int, _Unsent] = {}
        reactor.add_first(listener.fileno(), self._on_ready)

    def _on_ready(self, events: int) -> None:
        if not events & _POLLIN:  # no filtered task is left
            self.end()
            return
        try:
            call = self._listener.receive()
        except OSError:  # the caller was killed or interrupted before we had it
            return
        trap = self._traps.get((call.arch, self._listener.last[3])) if self._traps else None
        try:
            number = self._answer(call) if trap is None else self._spring(call, trap)
        except Exception as error:  # must not hang the caller
            number = self._failure(call, error)
        if number is not None:
            with suppress(OSError):  # the caller is gone
                self._listener.answer(call.id, number)

    def add_node(self, file_id: FileId, openable: Openable, name: str) -> None:
        """Serve one more chip, or another one in place of one that is gone."""
        self._nodes[file_id] = openable, name

    def drop_node(self, file_id: FileId) -> None:
        """Its chip is gone; whoever has the placeholder open, and has not used it yet, learns that."""
        self._nodes[file_id] = refused(errno.ENODEV, "the chip has vanished"), ""

    def _spring(self, call: Notification, trap: Trap) -> int | None:
        """The errno to answer a system call other than ioctl with, or None as _answer()."""
        task = self._tasks.living(call.tid)
        if task.is_new:
            self._confirm(call, task)
        outcome = trap(task, call.tid, self._listener.last[6:])
        if outcome is None:
            self._listener.proceed(call.id)
        elif not isinstance(outcome, int):
            future = outcome
            future.then(lambda: self._answer_trap(call, future))
            return None
        return outcome

    def _answer_trap(self, call: Notification, future: Future[int]) -> None:
        try:
            number = future.result()
        except Exception as error:
            number = self._failure(call, error)
        with suppress(OSError):  # the caller is gone
            self._listener.answer(call.id, number)

    def end(self) -> None:
        """Serve nobody any more; all files are closed."""
        self._reactor.remove_first(self._listener.fileno())
        for file_id in list(self._files):
            self._close(file_id)
        self._on_end(self)

    def _failure(self, call: Notification, error: Exception) -> int:
        """The errno that an error becomes; if the fault is ours, it is reported."""
        if isinstance(error, OSError | GpiovirtError):
            return self._refuse(call, error.errno or errno.EIO, str(error))
        sys.excepthook(type(error), error, error.__traceback__)
        return errno.EIO

    def _refuse(self, call: Notification, number: int, why: str) -> int:
        """That errno, and the reason to whoever wants to know."""
        if self._on_refusal is not None:
            name = _NAMES.get(call.cmd, f"{call.cmd:#x}")
            self._on_refusal(
                f"{self._tasks.name(call.tid)} ({call.tid}): {name}: {os.strerror(number)}: {why}"
            )
        return number

    def _answer(self, call: Notification) -> int | None:
        """The errno to answer with, or None when it is answered already, or will be."""
        try:
            task, file_id = self._look(call)
            if task.is_new:
                self._confirm(call, task)
        except PermissionError:  # it could be one of ours
            return self._refuse(call, errno.EPERM, "its supervisor is not permitted to look at its files")
        except OSError:  # not an open file: EBADF, says the kernel
            self._listener.proceed(call.id)
            return None
        file = self._files.get(file_id)
        if file is None:
            node = self._nodes.get(file_id)
            if node is None:
                if file_id in self._lost:
                    return self._refuse(call, errno.ENODEV, "the chip of the file has vanished")
                self._listener.proceed(call.id)  # not ours
                return None
            file = self._open(call, task, *node)
        cmd = call.cmd
        if cmd not in _HOT:
            if cmd not in _NAMES:
                return self._refuse(call, errno.EINVAL, "no such ioctl")
            # files closed by now free their lines before anybody asks about them
            self._reactor.serve_ready()
        return self._ioctl(call, task, file)

    def _look(self, call: Notification) -> tuple[Task, FileId]:
        """Who calls, and what its file is; OSError."""
        try:
            return self._tasks.file(call.tid, call.fd)
        except PermissionError:
            on_unseen, self._on_unseen = self._on_unseen, None
            if on_unseen is None:
                raise
            on_unseen(call)
            return self._tasks.file(call.tid, call.fd)

    def _confirm(self, call: Notification, task: Task) -> None:
        """The number was still the caller's when the task was opened; OSError if not."""
        self._listener.check(call.id)
        task.is_new = False

    def _ioctl(self, call: Notification, task: Task, file: OpenFile) -> int | None:
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
        if self._unsent:
            reply = self._restarted(call, task, file, address, arg)
            if reply is not None:
                return self._reply(task, address, reply)
        answer = file.ioctl(cmd, arg, call.arch == AUDIT_ARCH_I386)
        if isinstance(answer, Later):
            answer.then(lambda late: self._answer_late(call, address, arg, late))
            return None
        number, reply, opened, _, _ = answer
        if number or opened or self._opened:
            return self._conclude(call, task, address, arg, answer)
        return 0 if reply is None else self._reply(task, address, reply)

    def _answer_late(self, call: Notification, address: int, arg: bytes, answer: Answer) -> None:
        """An answer has come after its call was left waiting."""
        try:
            task = self._tasks.task(call.tid)
            if task.is_new:
                self._confirm(call, task)
        except OSError:  # the caller is gone
            if answer.file is not None:
                file = cast("OpenFile", answer.file)
                file.close()
                file.fifo.close()
            return
        try:
            number = self._conclude(call, task, address, arg, answer)
        except Exception as error:
            number = self._failure(call, error)
        if number is not None:
            with suppress(OSError):  # the caller is gone
                self._listener.answer(call.id, number)

    def _conclude(
        self, call: Notification, task: Task, address: int, arg: bytes, answer: Answer
    ) -> int | None:
        """Do in the caller what the answer says."""
        if answer.file is not None:
            return self._install(call, task, address, arg, answer)
        if self._opened:
            self._discard_opened()
        if answer.errno:
            return self._refuse(call, answer.errno, answer.why)
        if answer.reply is not None:
            return self._reply(task, address, answer.reply)
        return 0

    @staticmethod
    def _reply(task: Task, address: int, reply: bytes) -> int:
        try:
            return 0 if task.write(address, reply) == len(reply) else errno.EFAULT
        except (OSError, OverflowError):
            return errno.EFAULT

    # files

    def _open_fifo(self, shape: FifoShape) -> PipeFifo:
        fifo = PipeFifo.make(shape)
        self._opened.append(fifo)
        return fifo

    def _discard_opened(self) -> None:
        """A request failed after its pipe was made."""
        for fifo in self._opened:
            fifo.close()
        self._opened.clear()

    def _open(self, call: Notification, task: Task, openable: Openable, name: str) -> OpenFile:
        """Put a chip file in place of the placeholder that the caller opened."""
        flags = task.file_flags(call.fd)
        try:
            file = openable(name, self._open_fifo, self._reactor, task)
        except BaseException:
            self._discard_opened()
            raise
        file_id = self._adopt(file)
        fifo = file.fifo
        try:
            os.set_blocking(fifo.reader, not flags & os.O_NONBLOCK)
            self._listener.add_fd(call.id, fifo.reader, flags & os.O_CLOEXEC, replace=call.fd)
        except BaseException:
            self._close(file_id)
            raise
        fifo.close_reader()
        return file

    def _install(
        self, call: Notification, task: Task, address: int, arg: bytes, answer: Answer
    ) -> int | None:
        """Open the new file in the caller, and store its number in the caller's argument."""
        file = cast("OpenFile", answer.file)
        reply = answer.reply or b""
        file_id = self._adopt(file)
        failed = self._reply(task, address, reply)  # once the fd is there, nothing may fail any more
        if failed:
            self._close(file_id)
            return failed
        try:
            number = self._listener.add_fd(call.id, file.fifo.reader, os.O_CLOEXEC)
        except OSError as error:  # EMFILE in the caller, or it is gone
            self._close(file_id)
            return error.errno or errno.EIO
        file.fifo.close_reader()
        reply = reply[: answer.fd_at] + number.to_bytes(4, sys.byteorder) + reply[answer.fd_at + 4 :]
        self._reply(task, address, reply)
        try:
            self._listener.answer(call.id, 0)
        except OSError:
            self._keep_unsent(call.tid, _Unsent(task, call.cmd, address, arg, reply, file_id))
        return None

    def _adopt(self, file: OpenFile) -> FileId:
        """From now on the file lives until the last copy of its read end is closed."""
        fifo = file.fifo
        with suppress(ValueError):  # another process made it
            self._opened.remove(fifo)
        file_id = fifo.identity
        self._files[file_id] = file
        self._lost.pop(file_id, None)
        adopted = self._reactor.polls
        self._reactor.add_hangup(fifo.writer, lambda: self._on_closed(file_id, adopted))
        fifo.on_hang_up = lambda: self._lose(file_id, fifo)
        return file_id

    def _on_closed(self, file_id: FileId, adopted: int) -> None:
        if self._reactor.polls != adopted:  # otherwise it may have been about a former file of that number
            self._close(file_id)

    def _lose(self, file_id: FileId, fifo: PipeFifo) -> None:
        """The file is about to hang up, and cannot tell any more when it is closed."""
        self._reactor.remove_reader(fifo.writer)
        self._files.pop(file_id, None)
        while len(self._lost) >= _LOST_MAX:
            del self._lost[next(iter(self._lost))]
        self._lost[file_id] = None

    def _close(self, file_id: FileId) -> None:
        file = self._files.pop(file_id, None)
        if file is None:
            return
        self._reactor.remove_reader(file.fifo.writer)
        if self._unsent:
            for tid in [tid for tid, unsent in self._unsent.items() if unsent.file_id == file_id]:
                del self._unsent[tid]
        try:
            file.close()
        except GpiovirtError as error:
            sys.stderr.write(f"gpiovirt: {error}\n")
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
        file.fifo.close()

    # Without WAIT_KILLABLE_RECV a signal can take the caller away after its fd was installed. The kernel
    # restarts its ioctl then, and that must get the same answer and not EBUSY.

    def _keep_unsent(self, tid: int, unsent: _Unsent) -> None:
        while len(self._unsent) >= _UNSENT_MAX:
            self._close(self._unsent.pop(next(iter(self._unsent))).file_id)
        self._unsent[tid] = unsent

    def _restarted(
        self, call: Notification, task: Task, file: OpenFile, address: int, arg: bytes
    ) -> bytes | None:
        """The answer if this call is one that has been served already.

        If it is another, its thread does not know of the fd that it has: the lines are free again.
        """
        unsent = self._unsent.pop(call.tid, None)
        if unsent is None:
            return None
        if unsent[:4] == (task, call.cmd, address, arg):
            return unsent.reply
        if self._files.get(unsent.file_id) is not file:
            self._close(unsent.file_id)
        return None
