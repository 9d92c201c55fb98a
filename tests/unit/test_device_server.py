# SPDX-License-Identifier: MIT
"""A chip at a socket: what a peer sends costs that peer, and nobody else."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gpiovirt.core.aggregate import Aggregate
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.exports.device import DeviceServer, _ChipConnection, _Lines
from gpiovirt.host.clock import now_ns
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener
from gpiovirt.protocols.gpiochip import Answer, wire
from gpiovirt.testing import Simulator
from gpiovirt.uapi import gpio as u

PASSRIGHTS = 83
REQUEST = u.gpio_v2_line_request.pack(
    bytes(256), b"test", u.gpio_v2_line_config.pack(u.GPIO_V2_LINE_FLAG_OUTPUT, 0, b"", b""), 1, 0, b"", 0
)
VALUES = u.gpio_v2_line_values.pack(1, 1)


class World:
    """A server, and its loop to turn."""

    def __init__(self, folder: Path, files_max: int | None = None) -> None:
        self.path = str(folder / "chip")
        self.simulator = Simulator(now_ns)
        self.chip = self.simulator.add_chip("s", ["", ""])
        self.reactor = Reactor()
        self.listener = PathListener(self.path, Access(mode=0o666), socket.SOCK_SEQPACKET)
        self.server = DeviceServer(self.chip, self.listener, self.reactor, files_max)
        self.sockets: list[socket.socket] = []
        self.fds: list[int] = []

    def turn(self) -> None:
        for _ in range(3):
            self.reactor.soon(lambda: self.reactor.soon(self.reactor.stop))
            self.reactor._running = True
            self.reactor.run()

    def until(self, condition: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline_s
            self.turn()

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(5)
        sock.connect(self.path)
        self.sockets.append(sock)
        return sock

    def ask(self, sock: socket.socket, packet: bytes) -> tuple[Answer, list[int], int]:
        sock.send(packet)
        self.turn()
        said, fds, _, _ = socket.recv_fds(sock, wire.PACKET_MAX, 3)
        _, answer, file = wire.decode_answer(said)
        return answer, fds, file

    def open(self) -> socket.socket:
        sock = self.connect()
        answer, fds, _ = self.ask(sock, wire.encode_open(""))
        assert not answer.errno
        for fd in fds:
            os.close(fd)
        return sock

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        for fd in self.fds:
            os.close(fd)
        self.server.close()
        self.listener.close()
        self.reactor.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def opened(world: World, chip: socket.socket, offset: int = 0) -> tuple[int, list[int]]:
    """The number of a file of a line, and its pipe."""
    request = offset.to_bytes(4, "little") + REQUEST[4:]
    answer, fds, file = world.ask(chip, wire.encode_ioctl(7, u.GPIO_V2_GET_LINE_IOCTL, request))
    assert not answer.errno, answer.why
    assert file
    return file, fds


def kinds_of_connections(world: World) -> dict[str, tuple[socket.socket, bytes]]:
    chip = world.open()
    file, pipe = opened(world, chip)
    world.fds += pipe
    return {
        "open": (world.connect(), wire.encode_open("gpiochip0")),
        "ioctl": (chip, wire.encode_ioctl(8, u.GPIO_GET_CHIPINFO_IOCTL, b"")),
        "request": (chip, wire.encode_ioctl(9, u.GPIO_V2_GET_LINE_IOCTL, b"\1" + REQUEST[1:])),
        "values": (chip, wire.encode_ioctl(10, u.GPIO_V2_LINE_SET_VALUES_IOCTL, VALUES, file=file)),
    }


@pytest.mark.parametrize("kernel", ["refuses", "lets through"])
@pytest.mark.parametrize("kind", ["open", "ioctl", "request", "values"])
def test_no_file_of_a_peer_is_ever_received(world: World, kind: str, kernel: str) -> None:
    sock, packet = kinds_of_connections(world)[kind]
    world.turn()
    if kernel == "lets through":  # as all do before Linux 6.16
        for file in world.server.files:
            with suppress(OSError):
                if not isinstance(file, _Lines):
                    file._socket.setsockopt(socket.SOL_SOCKET, PASSRIGHTS, 1)
    reader, writer = os.pipe()  # whose reader would see if another has its writer
    os.set_blocking(reader, False)
    before = set(os.listdir("/proc/self/fd"))
    try:
        socket.send_fds(sock, [packet], [writer] * 3)
    except PermissionError:
        assert kernel == "refuses"
        sock.send(packet)
    os.close(writer)
    world.turn()
    assert os.read(reader, 1) == b""  # nobody has
    said, fds, _, _ = socket.recv_fds(sock, wire.PACKET_MAX, 3)
    assert wire.decode_answer(said)[1].errno == 0
    for fd in fds:
        os.close(fd)
    held = set(os.listdir("/proc/self/fd")) - before
    assert len(held) <= {"open": 1, "ioctl": 0, "request": 4, "values": 0}[kind]
    os.close(reader)


def test_a_connections_end_is_the_end_of_all_its_files(world: World) -> None:
    chip = world.open()
    pipes = [opened(world, chip, offset)[1] for offset in (0, 1)]
    assert world.chip.line_info(0).used
    assert world.chip.line_info(1).used
    chip.close()
    world.turn()
    assert not world.chip.line_info(0).used
    assert not world.chip.line_info(1).used
    assert not world.server.files
    for reader, writer in pipes:
        os.close(writer)
        assert os.read(reader, 1) == b""  # the server's is closed
        os.close(reader)


def test_lines_outlive_their_chips_file(world: World) -> None:
    chip = world.open()
    file, pipe = opened(world, chip)
    world.fds += pipe
    chip.send(wire.encode_close(0))
    answer, _, _ = world.ask(chip, wire.encode_ioctl(8, u.GPIO_GET_CHIPINFO_IOCTL, b""))
    assert answer.errno == errno.ENODEV
    set_values = wire.encode_ioctl(9, u.GPIO_V2_LINE_SET_VALUES_IOCTL, VALUES, file=file)
    assert world.ask(chip, set_values)[0].errno == 0
    assert world.simulator.level("s", 0) == 1


def test_a_file_that_is_told_to_be_closed_is_closed_and_no_other(world: World) -> None:
    chip = world.open()
    one, (reader, writer) = opened(world, chip, 0)
    other, pipe = opened(world, chip, 1)
    world.fds += pipe
    for number in (one, one, 77):  # again, or one that there never was: nothing to do
        chip.send(wire.encode_close(number))
    world.turn()
    assert [world.chip.line_info(offset).used for offset in (0, 1)] == [False, True]
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    for number, expected in ((one, errno.ENODEV), (other, 0)):
        packet = wire.encode_ioctl(9, u.GPIO_V2_LINE_SET_VALUES_IOCTL, VALUES, file=number)
        assert world.ask(chip, packet)[0].errno == expected


def test_a_file_has_a_number_that_no_open_one_has(world: World) -> None:
    chip = world.open()
    kept, pipe = opened(world, chip, 0)
    world.fds += pipe
    (connection,) = (file for file in world.server.files if isinstance(file, _ChipConnection))
    connection._last = wire.FILES_MAX  # as after so many requests
    second, (reader, writer) = opened(world, chip, 1)
    assert second == kept + 1 == 2
    os.close(reader)
    os.close(writer)


def test_who_has_files_of_lines_cannot_reach_anothers(world: World) -> None:
    mine, pipe = opened(world, world.open(), 0)
    world.fds += pipe
    packet = wire.encode_ioctl(9, u.GPIO_V2_LINE_SET_VALUES_IOCTL, VALUES, file=mine)
    assert world.ask(world.open(), packet)[0].errno == errno.ENODEV
    assert world.simulator.level("s", 0) == 0


def test_lines_that_vanish_hang_up_and_only_they(world: World) -> None:
    gone = world.simulator.add_chip("gone", [""])
    made = Aggregate("plc", [(gone, 0), (world.chip, 1)], now_ns)
    world.server.chip = made
    chip = world.open()
    file, pipe = opened(world, chip, 0)
    other, pipe_of_other = opened(world, chip, 1)
    world.simulator.unplug("gone")
    world.turn()
    assert wire.decode_answer(chip.recv(wire.PACKET_MAX))[::2] == (wire.HANG_UP_TAG, file)
    set_values = wire.encode_ioctl(9, u.GPIO_V2_LINE_SET_VALUES_IOCTL, VALUES, file=other)
    assert world.ask(chip, set_values)[0].errno == 0
    for fd in (*pipe, *pipe_of_other):
        os.close(fd)
    world.turn()
    made.close()


def test_lines_are_free_when_nobody_can_read_their_events_any_more(world: World) -> None:
    """Though a supervisor that was stopped still has the connection, and says nothing."""
    _, (reader, writer) = opened(world, world.open())
    copy = os.dup(reader)
    os.close(reader)
    world.turn()
    assert world.chip.line_info(0).used
    os.close(copy)
    world.turn()
    assert not world.chip.line_info(0).used
    os.close(writer)


def test_lines_that_were_closed_can_be_had_at_once(world: World) -> None:
    chip = world.open()
    _, (reader, writer) = opened(world, chip)
    chip.send(wire.encode_ioctl(8, u.GPIO_V2_GET_LINE_IOCTL, REQUEST))
    os.close(reader)
    world.turn()
    said, fds, _, _ = socket.recv_fds(chip, wire.PACKET_MAX, 3)
    assert wire.decode_answer(said)[1].errno == 0
    for fd in (*fds, writer):
        os.close(fd)


class Limited(World):
    """Its user may have three files."""

    def opens(self, count: int) -> list[int]:
        """What each open of an ordinary user gets; 255: no answer."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            if os.getuid() == 0:
                os.setuid(4242)
            kept = []
            for _ in range(count):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                sock.settimeout(10)
                try:
                    sock.connect(self.path)
                    sock.send(wire.encode_open(""))
                    said = sock.recv(wire.PACKET_MAX)
                except OSError:
                    said = b""
                kept.append(sock)
                os.write(writer, bytes([wire.decode_answer(said)[1].errno if said else 255]))
            os._exit(0)
        os.close(writer)
        seen = b""
        ended: list[bool] = []

        def on_seen() -> None:
            nonlocal seen
            got = os.read(reader, 100)
            seen += got
            if not got:
                ended.append(True)
                self.reactor.stop()

        self.reactor.add_reader(reader, on_seen)
        self.reactor.call_later(10, self.reactor.stop)
        self.reactor._running = True
        self.reactor.run()
        self.reactor.remove_reader(reader)
        os.close(reader)
        os.waitpid(child, 0)
        assert ended
        return list(seen)


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Limited]:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o711)
    made = Limited(tmp_path, files_max=3)
    yield made
    made.close()


def test_a_user_has_so_many_files_and_is_told(limited: Limited) -> None:
    assert limited.opens(5) == [0, 0, 0, errno.EMFILE, errno.EMFILE]
    limited.turn()
    assert limited.opens(1) == [0]


def test_another_version_is_told_so(world: World, caplog: pytest.LogCaptureFixture) -> None:
    packet = bytearray(wire.encode_open(""))
    packet[8] = 99
    answer, _, _ = world.ask(world.connect(), bytes(packet))
    assert answer.errno == errno.EPROTONOSUPPORT
    assert "version 99" in answer.why


def test_what_peers_do_wrong_cannot_fill_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            with world.connect() as sock:
                sock.send(b"garbage")
                world.turn()
    assert 1 <= len(caplog.records) <= 10


def test_a_reason_is_logged_with_the_peer_for_who_looks_for_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    chip = world.open()
    with caplog.at_level(logging.DEBUG):
        answer, _, _ = world.ask(chip, wire.encode_ioctl(1, u.GPIO_V2_GET_LINE_IOCTL, b"\7" + REQUEST[1:]))
    assert answer.errno == errno.EINVAL
    assert "s has no line 7" in answer.why
    assert f"(pid {os.getpid()}, uid {os.getuid()})" in caplog.text
    assert "s has no line 7" in caplog.text


def test_a_line_is_held_by_the_process_that_connected(world: World) -> None:
    other = os.getuid() or 4242
    folder = Path(world.path).parent
    folder.chmod(0o755)
    child = os.fork()
    if not child:
        with suppress(BaseException):
            os.chdir(folder)
            os.setresuid(other, other, other)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.connect("chip")
            sock.send(wire.encode_open(""))
            sock.recv(wire.PACKET_MAX)
            sock.send(wire.encode_ioctl(7, u.GPIO_V2_GET_LINE_IOCTL, REQUEST))
            socket.recv_fds(sock, wire.PACKET_MAX, 3)
            signal.pause()
        os._exit(1)
    try:
        world.until(lambda: world.chip.line_info(0).used)
        assert world.chip.line_info(0).holder == Holder("test", HolderKind.PROGRAM, child, other)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_line_is_lent_to_a_chip_of_whoever_asks(world: World) -> None:
    info, fds = world.server.lend(0, "gpiovirt:plc", Holder("", HolderKind.CHIP, 77, 0))
    for fd in fds:
        os.close(fd)
    assert info.holder == Holder("gpiovirt:plc", HolderKind.CHIP, 77, 0)
    opened(world, world.open(), 1)
    with pytest.raises(OSError, match="busy") as caught:
        world.server.lend(1, "gpiovirt:plc", Holder("", HolderKind.CHIP, 77, 0))
    assert caught.value.filename == f'"test" (pid {os.getpid()}, uid {os.getuid()})'
