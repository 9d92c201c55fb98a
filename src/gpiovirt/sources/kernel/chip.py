# SPDX-License-Identifier: MIT
"""A chip of the kernel, and lines held of it.

Each line is a kernel request of its own, so that lines can be given back and taken one by one. A chip that
has vanished takes its lines again when it is back.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from fcntl import ioctl
from functools import partial
from typing import Protocol

import gpiod
from gpiod import line as gpiod_line

from gpiovirt.core.chip import ChipInfo, EdgeSink, InfoSink, PresenceSink
from gpiovirt.core.line import (
    AS_IS,
    Bias,
    Clock,
    Direction,
    Drive,
    Edge,
    EdgeEvent,
    InfoEvent,
    InfoEventType,
    LineInfo,
    LineSettings,
)
from gpiovirt.errors import (
    ChipGoneError,
    GpiovirtError,
    HostError,
    InvalidError,
    LineBusyError,
    NotPermittedError,
    OffsetError,
)
from gpiovirt.protocols.gpiochip.holder import encode_config, encode_request
from gpiovirt.uapi import gpio as u

__all__ = ["Event", "KernelChip", "Reader", "Waits"]

Event = tuple[int, Callable[[], None]]
"""(timestamp in ns, what tells its sink)"""
Reader = Callable[[], Iterable[Event]]
Follower = Callable[[bool], bool]
"""Told that a chip has vanished (False) or is back (True), until it returns that this will do."""

_EVENTS_KEPT = 256  # per line, until this process reads them
_EVENTS_READ = 64


def _decode(info: gpiod.LineInfo) -> LineInfo:
    bias = Bias.AS_IS if info.bias is gpiod_line.Bias.UNKNOWN else Bias[info.bias.name]
    return LineInfo(
        info.offset,
        info.name or "",
        info.consumer or "",
        info.used,
        Direction[info.direction.name],
        LineSettings(
            edge=Edge[info.edge_detection.name],
            bias=bias,
            drive=Drive[info.drive.name],
            active_low=info.active_low,
            debounce_period_us=info.debounce_period // timedelta(microseconds=1),
            event_clock=Clock[info.event_clock.name],
        ),
    )


class Waits(Protocol):
    """What the chip needs of those who have found it."""

    def on_readable(self) -> None:
        """Deliver what has happened on all chips."""

    def add_reader(self, fd: int, read: Reader) -> None:
        """Let `read` get the events whenever `fd` is readable."""

    def remove_reader(self, fd: int) -> None:
        """To be called before the fd is closed; more than once is harmless."""

    def look_soon(self) -> None:
        """A chip has vanished."""


class KernelChip:
    """A chip of the kernel."""

    def __init__(self, chip: gpiod.Chip, chips: Waits, path: str) -> None:
        info = chip.get_info()
        self.chip = chip
        self.chips = chips
        self.path = path
        self.info = ChipInfo(info.name, info.label, info.num_lines)
        self.is_gone = False
        self._watchers: list[InfoSink] = []
        self._requests: list[KernelRequest] = []
        self._followers: dict[Follower, bool] = {}  # whether it has to be told once more
        chips.add_reader(chip.fd, self._read_info)

    def fileno(self) -> int:
        """The chip's open file."""
        return self.chip.fd

    def is_there(self) -> bool:
        """Whether the kernel still has it."""
        if not self.is_gone:
            try:
                self.chip.get_info()
            except OSError:
                self.vanish()
        return not self.is_gone

    @property
    def is_used(self) -> bool:
        """Somebody holds lines of it, watches or follows it."""
        return bool(self._requests or self._watchers or self._followers)

    def close(self) -> None:
        """To be called of a chip that is not used."""
        if not self.is_gone:
            self.chips.remove_reader(self.chip.fd)
            self.chip.close()

    def follow(self, follower: Follower) -> Callable[[], None]:
        """Tell it from now on when the chip vanishes and when it is back; returns what ends that."""
        self._followers[follower] = False

        def unfollow() -> None:
            self._followers.pop(follower, None)

        return unfollow

    @property
    def is_incomplete(self) -> bool:
        """The chip has vanished, or is back but somebody else took lines of it."""
        return (
            self.is_gone
            or any(request.has_lost_lines for request in self._requests)
            or any(self._followers.values())
        )

    def vanish(self) -> None:
        """The kernel has no such chip any more."""
        if not self.is_gone:
            self.is_gone = True
            self.chips.remove_reader(self.chip.fd)
            for request in list(self._requests):
                request.lose_lines()
            self.chip.close()
            for follower in list(self._followers):
                self._followers[follower] = True
                follower(False)
            self.chips.look_soon()

    def comes_back_as(self, path: str) -> bool:
        """Whether the chip at `path` has this chip's label, and so is this chip again from now on."""
        try:
            chip = gpiod.Chip(path)
        except OSError:
            return False
        info = chip.get_info()
        if (info.label, info.num_lines) != self.info[1:]:
            chip.close()
            return False
        self.chip = chip
        self.path = path
        self.info = ChipInfo(info.name, info.label, info.num_lines)
        self.is_gone = False
        self.chips.add_reader(chip.fd, self._read_info)
        if self._watchers:
            self._start_watch()
        return True

    def take_back(self) -> None:
        """Hold again what was held when the chip vanished, as far as it can be had."""
        if not self.is_gone:
            for request in list(self._requests):
                request.retake_lines()
            for follower in [follower for follower, waits in self._followers.items() if waits]:
                self._followers[follower] = not follower(True)

    def forget(self, request: KernelRequest) -> None:
        """The request is released."""
        if request in self._requests:
            self._requests.remove(request)

    def line_info(self, offset: int) -> LineInfo:
        self._check(offset)
        try:
            return _decode(self.chip.get_line_info(offset))
        except OSError as error:
            raise self.failure("cannot look at", offset, error) from error

    def watch(self, sink: InfoSink) -> Callable[[], None]:
        if not self._watchers:
            self._start_watch()
        self._watchers = [*self._watchers, sink]

        def unwatch() -> None:
            self._watchers = [other for other in self._watchers if other is not sink]
            if not self._watchers and not self.is_gone:
                for offset in range(self.info.num_lines):
                    self.chip.unwatch_line_info(offset)

        return unwatch

    def _start_watch(self) -> None:
        for offset in range(self.info.num_lines):
            self.chip.watch_line_info(offset)

    def _read_info(self) -> list[Event]:
        try:
            event = self.chip.read_info_event()
        except OSError:
            self.vanish()
            return []
        told = InfoEvent(InfoEventType(event.event_type.value), event.timestamp_ns, _decode(event.line_info))
        return [(event.timestamp_ns, partial(self._tell, told))]

    def _tell(self, event: InfoEvent) -> None:
        for sink in self._watchers:
            sink(event)

    def request(
        self,
        offsets: Sequence[int],
        settings: Sequence[LineSettings],
        consumer: str,
        on_edge: EdgeSink | None = None,
        on_presence: PresenceSink | None = None,
    ) -> KernelRequest:
        for offset in offsets:
            self._check(offset)
        request = KernelRequest(self, tuple(offsets), consumer, on_edge, on_presence)
        try:
            for offset, wanted in zip(offsets, settings, strict=True):
                request.take(offset, wanted)
        except BaseException:
            request.release()
            raise
        self._requests.append(request)
        return request

    def _check(self, offset: int) -> None:
        if not 0 <= offset < self.info.num_lines:
            raise OffsetError(
                f"{self.info.label} has no line {offset}: its {self.info.num_lines} lines are "
                f"0 to {self.info.num_lines - 1}"
            )

    def failure(self, what: str, offset: int, error: OSError) -> GpiovirtError:
        """What an error of the kernel means, said so that its reader can act on it."""
        line = f"{self.info.label}:{offset}"
        if self.is_gone:
            return ChipGoneError(f"the chip {self.info.label} has vanished")
        number = error.errno
        if number in (errno.EBUSY, errno.EBADF):
            holder = self.chip.get_line_info(offset).consumer or "the kernel"
            return LineBusyError(f'line {line} is held by "{holder}"; release it or choose another')
        if number == errno.ENODEV:
            self.vanish()
            return ChipGoneError(f"the chip {self.info.label} has vanished")
        if number == errno.EPERM:
            return NotPermittedError(f"{what} line {line}: it is an input")
        if number == errno.EINVAL:
            return InvalidError(f"{what} line {line}: the kernel refuses these settings")
        return HostError.of(f"{what} line {line}", OSError(number, os.strerror(number or errno.EIO)))


class _Held:
    """One line, held by a kernel request of its own; `fd` is -1 while it is not held.

    It is lost while its chip is away. Whether it is an output is None until somebody asks.
    """

    __slots__ = ("fd", "is_lost", "is_output", "last_seqno", "offset", "watches")

    def __init__(self, offset: int, fd: int, is_output: bool | None) -> None:
        self.offset = offset
        self.fd = fd
        self.is_lost = False
        self.is_output = is_output
        self.watches = False
        self.last_seqno = 0


class KernelRequest:
    """The LineRequest of a KernelChip."""

    def __init__(
        self,
        chip: KernelChip,
        offsets: tuple[int, ...],
        consumer: str,
        on_edge: EdgeSink | None,
        on_presence: PresenceSink | None,
    ) -> None:
        self._chip = chip
        self._consumer = consumer
        self._on_edge = on_edge
        self._on_presence = on_presence
        self._held: list[_Held] = []
        self._seqno = 0
        self.offsets = offsets

    def take(self, offset: int, wanted: LineSettings) -> None:
        """Hold one more line."""
        self._held.append(self._hold(offset, wanted))

    def _hold(self, offset: int, wanted: LineSettings) -> _Held:
        buffer_size = _EVENTS_KEPT if self._on_edge else 1  # with one the kernel refuses edges
        argument = bytearray(encode_request(offset, wanted, self._consumer, buffer_size))
        try:
            ioctl(self._chip.fileno(), u.GPIO_V2_GET_LINE_IOCTL, argument)
        except OSError as error:
            raise self._chip.failure("cannot take", offset, error) from error
        is_output = None if wanted.direction is Direction.AS_IS else wanted.direction is Direction.OUTPUT
        held = _Held(offset, int.from_bytes(argument[-4:], sys.byteorder), is_output)
        self._watch(held, wanted)
        return held

    def _watch(self, held: _Held, wanted: LineSettings) -> None:
        """Wait for the line's edges, if they are wanted."""
        if bool(wanted.edge) == held.watches:
            return
        held.watches = bool(wanted.edge)
        if held.watches:
            self._chip.chips.add_reader(held.fd, lambda: self._read_edges(held))
        else:
            self._chip.chips.remove_reader(held.fd)

    def _is_output(self, held: _Held) -> bool:
        if held.is_output is None:
            held.is_output = self._chip.line_info(held.offset).direction is Direction.OUTPUT
        return held.is_output

    def _give_up(self, held: _Held) -> None:
        if held.fd < 0:
            return
        self._watch(held, AS_IS)
        os.close(held.fd)
        held.fd = -1

    def _read_edges(self, held: _Held) -> list[Event]:
        try:
            records = os.read(held.fd, u.gpio_v2_line_event.size * _EVENTS_READ)
        except OSError:
            self._chip.vanish()
            return []
        return [
            (record[0], partial(self._tell, held, record))
            for record in u.gpio_v2_line_event.iter_unpack(records)
        ]

    def _tell(self, held: _Held, record: tuple[int, int, int, int, int]) -> None:
        timestamp_ns, kind, offset, _, line_seqno = record
        # events that the kernel dropped count, as they would in one request for all the lines
        self._seqno += line_seqno - held.last_seqno
        held.last_seqno = line_seqno
        if self._on_edge is not None:
            rising = kind == u.GPIO_V2_LINE_EVENT_RISING_EDGE
            self._on_edge(EdgeEvent(offset, rising, timestamp_ns, self._seqno, line_seqno))

    def get_values(self, mask: int) -> int:
        bits = 0
        for i, held in enumerate(self._held):
            if mask >> i & 1:
                try:
                    value = ioctl(held.fd, u.GPIO_V2_LINE_GET_VALUES_IOCTL, _FIRST)
                except OSError as error:
                    raise self._chip.failure("cannot read", held.offset, error) from error
                bits |= (value[0] & 1) << i
        return bits

    def set_values(self, mask: int, bits: int) -> None:
        chosen = [(i, held) for i, held in enumerate(self._held) if mask >> i & 1]
        for _, held in chosen if len(chosen) > 1 else ():  # of one line the kernel says it
            if not self._is_output(held):
                raise NotPermittedError(f"line {self._chip.info.label}:{held.offset} is an input")
        for i, held in chosen:
            try:
                ioctl(held.fd, u.GPIO_V2_LINE_SET_VALUES_IOCTL, _SET[bits >> i & 1])
            except OSError as error:
                raise self._chip.failure("cannot set", held.offset, error) from error

    def reconfigure(self, settings: Mapping[int, LineSettings]) -> None:
        for i, wanted in settings.items():
            if wanted.direction is Direction.AS_IS:
                continue
            held = self._held[i]
            if held.fd < 0:
                self._held[i] = self._hold(held.offset, wanted)
                continue
            if watched := held.watches:
                self._chip.chips.on_readable()  # edges so far are of a line as it was
            try:
                ioctl(held.fd, u.GPIO_V2_LINE_SET_CONFIG_IOCTL, encode_config(wanted))
            except OSError as error:
                raise self._chip.failure("cannot configure", held.offset, error) from error
            held.is_output = wanted.direction is Direction.OUTPUT
            if watched:
                self._chip.chips.on_readable()  # and so is one that a change of its bias caused
            self._watch(held, wanted)

    def relinquish(self, mask: int) -> None:
        """What a line does when it is released is its driver's to say, so it really is released."""
        for i, held in enumerate(self._held):
            if mask >> i & 1:
                self._give_up(held)
                with suppress(GpiovirtError):  # somebody was faster: it is tried again when it is next used
                    self._held[i] = self._hold(held.offset, AS_IS)

    @property
    def has_lost_lines(self) -> bool:
        """The chip had vanished and not all lines are held again."""
        return any(held.is_lost for held in self._held)

    def lose_lines(self) -> None:
        """The chip has vanished."""
        for held in self._held:
            self._give_up(held)
            held.is_lost = True
            if self._on_presence is not None:
                self._on_presence(held.offset, False)

    def retake_lines(self) -> None:
        """The chip is back."""
        for i, held in enumerate(self._held):
            if held.is_lost:
                with suppress(GpiovirtError):  # somebody has it: looked at again
                    self._held[i] = self._hold(held.offset, AS_IS)
                    if self._on_presence is not None:
                        self._on_presence(held.offset, True)

    def release(self) -> None:
        held, self._held = self._held, []
        for line in held:
            self._give_up(line)
        self._chip.forget(self)


_FIRST = u.gpio_v2_line_values.pack(0, 1)
_SET = (u.gpio_v2_line_values.pack(0, 1), u.gpio_v2_line_values.pack(1, 1))
