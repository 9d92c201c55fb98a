# SPDX-License-Identifier: MIT
"""An open file of /dev/gpiochipN: chip and line info, watches, and requests of both uAPI versions."""

from __future__ import annotations

import errno
from collections.abc import Callable
from struct import Struct

from gpiovirt.core.chip import Chip
from gpiovirt.core.holder import Holder
from gpiovirt.core.line import InfoEvent
from gpiovirt.errors import GpiovirtError
from gpiovirt.protocols.gpiochip import v1, v2
from gpiovirt.protocols.gpiochip.file import (
    GONE,
    UNKNOWN,
    Answer,
    Fifo,
    FifoFactory,
    FifoShape,
    invalid,
    refusal,
)
from gpiovirt.uapi import gpio as u

__all__ = ["CHIP_FIFO", "ChipFile", "fifo_of"]

_u32 = Struct("=I")
_INFO_EVENTS = 32  # records the kernel keeps for a chip file's reader
CHIP_FIFO = FifoShape(u.gpio_v2_line_info_changed.size, _INFO_EVENTS, False)


class ChipFile:
    """One open file of a chip; its Fifo carries the info events of the lines it watches."""

    def __init__(self, chip: Chip, name: str, open_fifo: FifoFactory, opener: Holder) -> None:
        """`name` is the device's, as in /dev/NAME; `open_fifo` serves this file and what it opens.

        Lines are held by `opener`, whoever the file is passed on to, with the label of each request.
        """
        info = chip.info
        self._chip = chip
        self._chip_info = u.gpiochip_info.pack(u.cstring(name), u.cstring(info.label), info.num_lines)
        self._num_lines = info.num_lines
        self._open_fifo = open_fifo
        self._opener = opener
        self.fifo: Fifo = open_fifo(CHIP_FIFO)
        self._watched: set[int] = set()
        self._watch_abi = 0
        self._unwatch: Callable[[], None] | None = None
        self._gone = False
        self.on_close: Callable[[], object] | None = None

    def vanish(self) -> None:
        """The chip is gone: the file hangs up, and can only be closed."""
        self._gone = True
        self.close()
        self.fifo.hang_up()

    def ioctl(self, cmd: int, arg: bytes, compat: bool = False) -> Answer:
        if self._gone:
            return GONE
        try:
            if cmd == u.GPIO_V2_GET_LINE_IOCTL:
                return v2.get_line(self._chip, arg, self._open_fifo, self._opener)
            if cmd == u.GPIO_GET_CHIPINFO_IOCTL:
                return Answer(0, self._chip_info)
            if cmd in (u.GPIO_V2_GET_LINEINFO_IOCTL, u.GPIO_V2_GET_LINEINFO_WATCH_IOCTL):
                fields = u.gpio_v2_line_info.unpack(arg)
                if any(fields[6]):
                    return invalid("padding that is not zero")
                return self._line_info(fields[2], 2, cmd == u.GPIO_V2_GET_LINEINFO_WATCH_IOCTL)
            if cmd in (u.GPIO_GET_LINEINFO_IOCTL, u.GPIO_GET_LINEINFO_WATCH_IOCTL):
                offset = u.gpioline_info.unpack(arg)[0]
                return self._line_info(offset, 1, cmd == u.GPIO_GET_LINEINFO_WATCH_IOCTL)
            if cmd == u.GPIO_GET_LINEINFO_UNWATCH_IOCTL:
                return self._end_watch(_u32.unpack(arg)[0])
            if cmd == u.GPIO_GET_LINEHANDLE_IOCTL:
                return v1.get_linehandle(self._chip, arg, self._open_fifo, self._opener)
            if cmd == u.GPIO_GET_LINEEVENT_IOCTL:
                return v1.get_lineevent(self._chip, arg, self._open_fifo, self._opener, compat)
        except GpiovirtError as error:
            return refusal(error)
        return UNKNOWN

    def _line_info(self, offset: int, abi: int, watch: bool) -> Answer:
        info = self._chip.line_info(offset)
        if watch:
            if self._watch_abi not in (0, abi):
                return Answer(errno.EPERM, why="the file watches lines by the other version of the uAPI")
            self._watch_abi = abi
            if offset in self._watched:
                return Answer(errno.EBUSY, why=f"the file watches line {offset} already")
            self._watched.add(offset)
            if self._unwatch is None:
                self._unwatch = self._chip.watch(self._on_info)
        return Answer(0, v2.encode_info(info) if abi == 2 else v1.encode_info(info))

    def _end_watch(self, offset: int) -> Answer:
        if offset >= self._num_lines:
            return invalid(f"there is no line {offset}")
        if offset not in self._watched:
            return Answer(errno.EBUSY, why=f"the file does not watch line {offset}")
        self._watched.remove(offset)
        return Answer(0)

    def _on_info(self, event: InfoEvent) -> None:
        if event.info.offset in self._watched:
            encode = v2.encode_info_changed if self._watch_abi == 2 else v1.encode_info_changed
            self.fifo.put(encode(event))

    def close(self) -> None:
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        if self.on_close is not None:
            self.on_close()


def fifo_of(cmd: int, arg: bytes, compat: bool) -> FifoShape:
    """What the events of the file go through that this request opens."""
    if cmd == u.GPIO_V2_GET_LINE_IOCTL:
        return v2.line_fifo(arg)
    return v1.event_fifo(compat) if cmd == u.GPIO_GET_LINEEVENT_IOCTL else v1.HANDLE_FIFO
