# SPDX-License-Identifier: MIT
"""What a program can open as a chip: one of this process, or one that another process serves.

Every program's start reads this module, so what opens a chip is imported when one is opened.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from gpiovirt.core.chip import Chip
    from gpiovirt.exports.process.remote import RemoteChip
    from gpiovirt.host.fifo import PipeFifo
    from gpiovirt.host.reactor import Reactor
    from gpiovirt.host.task import Task
    from gpiovirt.protocols.gpiochip import Answer, ChipFile, FifoShape
    from gpiovirt.sources.simulator import Vanishing

__all__ = ["Later", "OpenFile", "Openable", "local", "refused", "remote", "removable"]


class Later:
    """An answer that is still to come."""

    __slots__ = ("_answer", "_then")

    def __init__(self) -> None:
        self._answer: Answer | None = None
        self._then: Callable[[Answer], object] | None = None

    def then(self, callback: Callable[[Answer], object]) -> None:
        """Have `callback` called with it, once."""
        if self._answer is not None:
            callback(self._answer)
        else:
            self._then = callback

    def answer(self, answer: Answer) -> None:
        """Here it is."""
        self._answer = answer
        if self._then is not None:
            self._then(answer)


class OpenFile(Protocol):
    """A File of the character device whose answers may come later, and whose fifo is a pipe."""

    @property
    def fifo(self) -> PipeFifo:
        """Its read end is the program's file."""

    def ioctl(self, cmd: int, arg: bytes, compat: bool) -> Answer | Later:
        """As File's."""

    def close(self) -> None:
        """The last copy of the file is closed."""


Openable = Callable[[str, "Callable[[FifoShape], PipeFifo]", "Reactor", "Task"], OpenFile]
"""Opens a chip as a device of that name for a task; it never waits. OSError if that is gone"""


def local(chip: Chip) -> Openable:
    """A chip of this process."""

    def openable(
        name: str, open_fifo: Callable[[FifoShape], PipeFifo], _reactor: Reactor, task: Task
    ) -> OpenFile:
        from gpiovirt.core.holder import Holder, HolderKind
        from gpiovirt.protocols.gpiochip import ChipFile

        opener = Holder("", HolderKind.PROGRAM, *task.process())
        return cast("OpenFile", ChipFile(chip, name, open_fifo, opener))

    return openable


class Removable(Protocol):
    """A chip of this process that may go; it tells `files`."""

    @property
    def is_there(self) -> bool:
        """Whether it can be opened."""

    @property
    def files(self) -> set[Vanishing]:
        """Those that are open."""


def removable(chip: Chip, presence: Removable) -> Openable:
    """A chip of this process that may go, as `presence`, which mostly is the chip itself, says."""
    opens = local(chip)

    def openable(
        name: str, open_fifo: Callable[[FifoShape], PipeFifo], reactor: Reactor, task: Task
    ) -> OpenFile:
        if not presence.is_there:
            raise OSError(errno.ENODEV, "the chip is unplugged")
        file = cast("ChipFile", opens(name, open_fifo, reactor, task))
        presence.files.add(file)
        file.on_close = lambda: presence.files.discard(file)
        return cast("OpenFile", file)

    return openable


def refused(number: int, why: str) -> Openable:
    """A chip that is not to be had, with the errno that says so."""

    def openable(
        _name: str, _open_fifo: Callable[[FifoShape], PipeFifo], _reactor: Reactor, _task: Task
    ) -> OpenFile:
        raise OSError(number, why)

    return openable


def remote(path: str, container: str = "") -> Openable:
    """The chip that is served at the socket `path`."""
    chip: RemoteChip | None = None

    def openable(
        name: str, open_fifo: Callable[[FifoShape], PipeFifo], reactor: Reactor, _task: Task
    ) -> OpenFile:
        nonlocal chip
        if chip is None:
            from gpiovirt.exports.process.remote import RemoteChip

            chip = RemoteChip(path, reactor, container=container)
        return chip.open(name, open_fifo)

    return openable
