# SPDX-License-Identifier: MIT
"""Files of a chip that another process serves, for the supervisor: what it is asked it passes on.

The process that serves may die and be replaced: then the files are opened again there, the lines
requested as they were last, and what was being asked is asked again. The program notices nothing.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from struct import Struct

from gpiovirt.errors import PeerError
from gpiovirt.host.device_socket import DeviceSocket
from gpiovirt.host.fifo import PipeFifo
from gpiovirt.host.reactor import Waits
from gpiovirt.protocols.gpiochip import Answer, Fifo, FifoFactory, v1
from gpiovirt.uapi import gpio as u

__all__ = ["RemoteChipFile"]

_PATIENCE_S = 5  # for a server that is being started again
_OPENING = frozenset({u.GPIO_V2_GET_LINE_IOCTL, u.GPIO_GET_LINEHANDLE_IOCTL, u.GPIO_GET_LINEEVENT_IOCTL})
_WATCHING = frozenset({u.GPIO_V2_GET_LINEINFO_WATCH_IOCTL, u.GPIO_GET_LINEINFO_WATCH_IOCTL})
_GONE = Answer(errno.ENODEV)
_u32 = Struct("=I")


class _RemoteFile:
    """What chip and line files share: the socket, and what to do when its other end is gone."""

    def __init__(self, path: str, name: str, fifo: Fifo, waits: Waits) -> None:
        assert isinstance(fifo, PipeFifo)
        self.fifo: PipeFifo = fifo
        self._pipe = fifo
        self._path = path
        self._name = name
        self._waits = waits
        self._socket: DeviceSocket | None = None

    def _on_readable(self) -> None:
        """The file has hung up, or its server is gone."""
        assert self._socket is not None
        try:
            if self._socket.look():
                self._lose()
        except (OSError, PeerError):
            self._reopen()

    def _reopen(self) -> None:
        """Open the file anew at whoever serves the chip now, or lose it."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._replace(self._open_again())
                return
            except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            except (OSError, PeerError):
                break
        self._lose()

    def _open_again(self) -> DeviceSocket:
        raise NotImplementedError

    def _replace(self, new: DeviceSocket | None) -> None:
        former, self._socket = self._socket, new
        if former is not None:
            self._waits.remove_reader(former.fileno())
            former.close()
        if new is not None:
            self._waits.add_reader(new.fileno(), self._on_readable)

    def _lose(self) -> None:
        self._replace(None)
        self.fifo.hang_up()

    def close(self) -> None:
        self._replace(None)


class RemoteChipFile(_RemoteFile):
    """An open chip."""

    def __init__(self, path: str, name: str, open_fifo: FifoFactory, waits: Waits) -> None:
        super().__init__(path, name, open_fifo(v1.HANDLE_FIFO), waits)
        self._open_fifo = open_fifo
        self._watched: dict[int, int] = {}
        self._replace(self._connect())

    def _connect(self) -> DeviceSocket:
        return DeviceSocket.open(self._path, self._name, self._pipe.writer)

    def _open_again(self) -> DeviceSocket:
        new = self._connect()
        for offset, cmd in self._watched.items():
            size = u.ioc_size(cmd)
            query = bytearray(size)
            at = 64 if cmd == u.GPIO_V2_GET_LINEINFO_WATCH_IOCTL else 0
            _u32.pack_into(query, at, offset)
            new.plain_ioctl(cmd, bytes(query), False)
        return new

    def ioctl(self, cmd: int, arg: bytes, compat: bool = False) -> Answer:
        if cmd in _OPENING:
            return self._request(cmd, arg, compat)
        while self._socket is not None:
            try:
                error, argument = self._socket.plain_ioctl(cmd, arg, compat)
            except (OSError, PeerError):
                self._reopen()
                continue
            if not error and cmd in _WATCHING:
                (offset,) = _u32.unpack_from(arg, 64 if cmd == u.GPIO_V2_GET_LINEINFO_WATCH_IOCTL else 0)
                self._watched[offset] = cmd
            elif not error and cmd == u.GPIO_GET_LINEINFO_UNWATCH_IOCTL:
                self._watched.pop(_u32.unpack(arg)[0], None)
            return Answer(error, argument)
        return _GONE

    def _request(self, cmd: int, arg: bytes, compat: bool) -> Answer:
        fifo = self._open_fifo(v1.HANDLE_FIFO)
        assert isinstance(fifo, PipeFifo)
        while self._socket is not None:
            try:
                opened = self._socket.open_ioctl(cmd, arg, compat, fifo.writer)
            except (OSError, PeerError):
                self._reopen()
                continue
            if opened.file is None:
                return Answer(opened.errno or errno.EIO, opened.argument)
            file = _RemoteLines(self._path, self._name, fifo, self._waits, opened.file, (cmd, arg, compat))
            return Answer(0, opened.argument, file, opened.fd_at)
        return _GONE


class _RemoteLines(_RemoteFile):
    """An open file of lines, and all that it takes to request them again as they are."""

    def __init__(
        self,
        path: str,
        name: str,
        fifo: PipeFifo,
        waits: Waits,
        socket: DeviceSocket,
        request: tuple[int, bytes, bool],
    ) -> None:
        super().__init__(path, name, fifo, waits)
        self._request = request
        self._config = b""
        self._bits = self._mask = 0  # driven since it was configured
        self._replace(socket)

    def ioctl(self, cmd: int, arg: bytes, compat: bool = False) -> Answer:
        while self._socket is not None:
            try:
                error, argument = self._socket.plain_ioctl(cmd, arg, compat)
            except (OSError, PeerError):
                self._reopen()
                continue
            if not error:
                self._remember(cmd, arg)
            return Answer(error, argument)
        return _GONE

    def _remember(self, cmd: int, arg: bytes) -> None:
        if cmd == u.GPIO_V2_LINE_SET_VALUES_IOCTL:
            bits, mask = u.gpio_v2_line_values.unpack(arg)
            self._bits = self._bits & ~mask | bits & mask
            self._mask |= mask
        elif cmd in (u.GPIO_V2_LINE_SET_CONFIG_IOCTL, u.GPIOHANDLE_SET_CONFIG_IOCTL):
            self._config = arg
            self._bits = self._mask = 0
        elif cmd == u.GPIOHANDLE_SET_LINE_VALUES_IOCTL:
            self._config = self._v1_config(arg)

    def _v1_config(self, values: bytes) -> bytes:
        """The gpiohandle_config that is in force, with these default values."""
        if self._config:
            flags, _ = u.gpiohandle_config.unpack(self._config)
        else:
            flags = u.gpiohandle_request.unpack(self._request[1])[64]
        return u.gpiohandle_config.pack(flags, values)

    def _open_again(self) -> DeviceSocket:
        reader, writer = os.pipe()  # for the chip's file, which is closed again at once
        try:
            chip = DeviceSocket.open(self._path, self._name, writer)
        finally:
            os.close(reader)
            os.close(writer)
        try:
            cmd, _, compat = self._request
            opened = chip.open_ioctl(cmd, self._request_again(), compat, self._pipe.writer)
            if opened.file is None:
                raise OSError(opened.errno, os.strerror(opened.errno))
            return opened.file
        finally:
            with suppress(OSError):
                chip.close()

    def _request_again(self) -> bytes:
        """The request that asks for the lines as they are configured and driven now."""
        cmd, arg, _ = self._request
        if cmd == u.GPIO_V2_GET_LINE_IOCTL:
            fields = list(u.gpio_v2_line_request.unpack(arg))
            fields[2] = _with_values(self._config or fields[2], self._bits, self._mask)
            return u.gpio_v2_line_request.pack(*fields)
        if cmd == u.GPIO_GET_LINEHANDLE_IOCTL and self._config:
            fields = list(u.gpiohandle_request.unpack(arg))
            flags, values = u.gpiohandle_config.unpack(self._config)
            fields[64:66] = [flags or fields[64], values]
            return u.gpiohandle_request.pack(*fields)
        return arg


def _with_values(config: bytes, bits: int, mask: int) -> bytes:
    """A gpio_v2_line_config whose outputs in `mask` start as `bits`: of two attributes the first counts."""
    if not mask:
        return config
    flags, num_attrs, padding, attrs = u.gpio_v2_line_config.unpack(config)
    size = u.gpio_v2_line_config_attribute.size
    kept = [attrs[i * size : (i + 1) * size] for i in range(num_attrs)]
    rest = []
    for raw in kept:
        kind, _, value, lines = u.gpio_v2_line_config_attribute.unpack(raw)
        if kind == u.GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES:
            bits |= value & lines & ~mask
            mask |= lines
        else:
            rest.append(raw)
    first = u.gpio_v2_line_config_attribute.pack(u.GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES, 0, bits, mask)
    all_attrs = [first, *rest][: u.GPIO_V2_LINE_NUM_ATTRS_MAX]
    return u.gpio_v2_line_config.pack(flags, len(all_attrs), padding, b"".join(all_attrs))
