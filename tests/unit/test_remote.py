# SPDX-License-Identifier: MIT
"""Files of a chip whose server is slow, away, replaced or hostile; the server runs on the same loop here."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gpiovirt.core.aggregate import Aggregate
from gpiovirt.core.line import Direction
from gpiovirt.errors import PeerError
from gpiovirt.exports.device import DeviceServer
from gpiovirt.exports.process.openable import Later
from gpiovirt.exports.process.remote import RemoteChip, RemoteChipFile
from gpiovirt.host.clock import now_ns
from gpiovirt.host.device_socket import DeviceSocket
from gpiovirt.host.fifo import PipeFifo
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Access, PathListener
from gpiovirt.protocols.gpiochip import Answer, wire
from gpiovirt.testing import Simulator
from gpiovirt.uapi import gpio as u
from tests.holders import program

IN, OUT = u.GPIO_V2_LINE_FLAG_INPUT, u.GPIO_V2_LINE_FLAG_OUTPUT
EDGES = u.GPIO_V2_LINE_FLAG_EDGE_RISING | u.GPIO_V2_LINE_FLAG_EDGE_FALLING


def get_line(offset: int, flags: int) -> bytes:
    config = u.gpio_v2_line_config.pack(flags, 0, b"", b"")
    return u.gpio_v2_line_request.pack(struct.pack("=I", offset), b"me", config, 1, 0, b"", 0)


class World:
    """A simulated chip whose server can be killed and started, and a chip as the supervisor sees it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "chip")
        self.simulator = Simulator(now_ns)
        self.sim = self.simulator.add_chip("s", [""] * 8)
        self.reactor = Reactor()
        self.listener: PathListener | None = None
        self.server: DeviceServer | None = None
        self.start()
        self.chip = RemoteChip(self.path, self.reactor, patience_s=0.3)
        self.files: list[RemoteChipFile] = []

    def start(self) -> None:
        self.listener = PathListener(self.path, Access(), socket.SOCK_SEQPACKET)
        self.server = DeviceServer(self.sim, self.listener, self.reactor)

    def kill(self) -> None:
        """As when gpiovirtd and the worker have been killed: the socket is there, and nobody listens."""
        assert self.server is not None
        assert self.listener is not None
        for file in list(self.server.files):
            file.close()
        self.server.close()
        self.listener.socket.close()
        self.server = None

    def turn(self, until: Callable[[], object] = lambda: False, timeout_s: float = 5) -> None:
        end = time.monotonic() + timeout_s
        while not until() and time.monotonic() < end:
            self.reactor.call_later(0.002, self.reactor.stop)
            self.reactor._running = True
            self.reactor.run()

    def open(self) -> RemoteChipFile:
        self.files.append(self.chip.open("gpiochip0", PipeFifo.make))
        return self.files[-1]

    def answer(self, answer: Answer | Later, timeout_s: float = 5) -> Answer:
        if isinstance(answer, Answer):
            return answer
        came: list[Answer] = []
        answer.then(came.append)
        self.turn(lambda: came, timeout_s)
        assert came
        return came[0]

    def lines(self, chip: RemoteChipFile, offset: int, flags: int) -> RemoteLines:
        answer = self.answer(chip.ioctl(u.GPIO_V2_GET_LINE_IOCTL, get_line(offset, flags)))
        assert not answer.errno, answer.why
        assert answer.file is not None
        return RemoteLines(answer.file)

    def close(self) -> None:
        for file in self.files:
            file.close()
            file.fifo.close()
        if self.server is not None:
            self.kill()
        self.reactor.close()


class RemoteLines:
    """A file of lines, with its read end as the program has it."""

    def __init__(self, file: object) -> None:
        self.file: RemoteChipFile = file  # type: ignore[assignment]
        self.program = self.file.fifo.reader
        self.file.fifo.reader = -1
        os.set_blocking(self.program, False)

    def events(self, world: World, count: int) -> list[int]:
        """Kinds of the events that have come."""
        kinds: list[int] = []

        def read() -> bool:
            try:
                records = os.read(self.program, 48 * 64)
            except BlockingIOError:
                return False
            kinds.extend(fields[1] for fields in u.gpio_v2_line_event.iter_unpack(records))
            return len(kinds) >= count

        world.turn(read, 2)
        return kinds

    def close(self) -> None:
        os.close(self.program)
        self.file.close()
        self.file.fifo.close()


def has_reader(fifo: PipeFifo) -> bool:
    poll = select.poll()
    poll.register(fifo.writer, 0)
    return not poll.poll(0)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def values(bits: int, mask: int = 1) -> bytes:
    return u.gpio_v2_line_values.pack(bits, mask)


def test_what_is_not_answered_in_time_is_answered_late(world: World) -> None:
    chip = world.open()
    answer = chip.ioctl(u.GPIO_GET_CHIPINFO_IOCTL, b"")
    assert isinstance(answer, Later)
    assert u.gpiochip_info.unpack(world.answer(answer).reply or b"")[2] == 8


def test_calls_of_one_file_are_answered_in_their_order(world: World) -> None:
    chip = world.open()
    lines = world.lines(chip, 0, OUT)
    order: list[int] = []
    for number in range(5):
        later = lines.file.ioctl(u.GPIO_V2_LINE_SET_VALUES_IOCTL, values(number & 1))
        assert isinstance(later, Later)
        later.then(lambda answer, number=number: order.append(number))  # type: ignore[misc]
    world.turn(lambda: len(order) == 5)
    assert order == list(range(5))
    assert world.simulator.level("s", 0) == 0
    lines.close()


def test_many_files_without_a_server_cost_the_loop_nothing(world: World) -> None:
    chips = [world.open() for _ in range(20)]
    for chip in chips:
        assert not world.answer(chip.ioctl(u.GPIO_GET_CHIPINFO_IOCTL, b"")).errno
    world.kill()
    world.turn(timeout_s=0.02)
    began = time.monotonic()
    laters = [chip.ioctl(u.GPIO_GET_CHIPINFO_IOCTL, b"") for chip in chips]
    opened = world.open().ioctl(u.GPIO_GET_CHIPINFO_IOCTL, b"")
    assert time.monotonic() - began < 0.1
    answers = [world.answer(later, 2) for later in [*laters, opened]]
    assert time.monotonic() - began < 1  # all of them together wait once
    assert {answer.errno for answer in answers} == {errno.ENODEV}


def test_lines_are_as_they_were_at_a_new_server_and_edges_go_on(world: World) -> None:
    chip = world.open()
    out, seen = world.lines(chip, 0, OUT), world.lines(chip, 1, IN | EDGES)
    assert not world.answer(out.file.ioctl(u.GPIO_V2_LINE_SET_VALUES_IOCTL, values(1))).errno
    world.simulator.pull("s", 1, 1)
    assert seen.events(world, 1) == [1]
    for count in range(3):  # again and again
        world.kill()
        late = out.file.ioctl(u.GPIO_V2_LINE_GET_VALUES_IOCTL, values(0))
        world.turn(timeout_s=0.05)
        assert not world.sim.line_info(0).used
        world.start()
        answer = world.answer(late)
        assert u.gpio_v2_line_values.unpack(answer.reply or b"")[0] == 1
        world.turn(lambda: world.sim.line_info(1).used)
        assert world.sim.line_info(0).direction is Direction.OUTPUT
        assert world.simulator.level("s", 0) == 1
        world.simulator.pull("s", 1, count & 1)
        assert seen.events(world, 1) == [1 if count & 1 else 2]
    out.close()
    seen.close()
    world.turn(lambda: not any(world.sim.line_info(i).used for i in (0, 1)))
    assert not any(world.sim.line_info(i).used for i in (0, 1))


def test_the_programs_close_shows_while_the_first_server_and_while_another_writes(world: World) -> None:
    chip = world.open()
    lines = world.lines(chip, 1, IN | EDGES)
    for restarts in (False, True):
        if restarts:
            world.kill()
            world.start()
            world.turn(lambda: world.sim.line_info(1).used)
        copy = os.dup(lines.program)
        assert has_reader(lines.file.fifo)
        os.close(lines.program)
        assert has_reader(lines.file.fifo)
        lines.program = copy
    os.close(copy)
    assert not has_reader(lines.file.fifo)
    lines.file.close()
    lines.file.fifo.close()


def test_info_events_come_from_a_new_server_too(world: World) -> None:
    chip = world.open()
    os.set_blocking(chip.fifo.reader, False)
    query = u.gpio_v2_line_info.pack(b"", b"", 3, 0, 0, b"", b"")
    assert not world.answer(chip.ioctl(u.GPIO_V2_GET_LINEINFO_WATCH_IOCTL, query)).errno
    world.kill()
    world.turn(timeout_s=0.05)
    world.start()
    assert not world.answer(chip.ioctl(u.GPIO_GET_CHIPINFO_IOCTL, b"")).errno
    world.lines(chip, 3, IN).close()
    seen = b""

    def read() -> bool:
        nonlocal seen
        with suppress(BlockingIOError):
            seen += os.read(chip.fifo.reader, 4096)
        return len(seen) >= u.gpio_v2_line_info_changed.size

    world.turn(read)
    assert u.gpio_v2_line_info_changed.unpack(seen[: u.gpio_v2_line_info_changed.size])[2] == 1


def test_a_file_closed_while_its_server_is_away_is_not_opened_again(world: World) -> None:
    chip = world.open()
    lines, other = world.lines(chip, 0, OUT), world.lines(chip, 1, OUT)
    world.kill()
    world.turn(timeout_s=0.03)
    lines.close()
    world.start()
    world.turn(lambda: world.sim.line_info(1).used)
    world.turn(timeout_s=0.05)
    assert [i for i in range(8) if world.sim.line_info(i).used] == [1]
    other.close()


def test_a_line_that_another_has_meanwhile_is_lost_and_no_other(world: World) -> None:
    chip = world.open()
    lines, other = world.lines(chip, 0, OUT), world.lines(chip, 1, OUT)
    world.kill()
    world.turn(timeout_s=0.03)
    held = world.sim.request([0], [world.sim.line_info(1).settings], program("another"))
    world.start()
    answer = world.answer(lines.file.ioctl(u.GPIO_V2_LINE_GET_VALUES_IOCTL, values(0)))
    assert answer.errno == errno.EBUSY
    assert "another" in answer.why
    assert lines.file.fifo.writer == -1
    assert not world.answer(other.file.ioctl(u.GPIO_V2_LINE_GET_VALUES_IOCTL, values(0))).errno
    held.release()
    other.close()
    lines.close()


def test_a_chip_that_is_deleted_is_gone_at_once(world: World) -> None:
    chip = world.open()
    assert not world.answer(chip.ioctl(u.GPIO_GET_CHIPINFO_IOCTL, b"")).errno
    world.kill()
    os.unlink(world.path)
    began = time.monotonic()
    assert world.answer(chip.ioctl(u.GPIO_GET_CHIPINFO_IOCTL, b"")).errno == errno.ENODEV
    assert time.monotonic() - began < 0.2
    with pytest.raises(OSError, match="no longer exists") as raised:
        world.chip.open("gpiochip0", PipeFifo.make)
    assert raised.value.errno == errno.ENODEV


def test_a_chip_that_is_closed_leaves_its_lines_open_at_each_server(world: World) -> None:
    chip = world.open()
    lines = world.lines(chip, 0, OUT)
    chip.close()
    for _ in range(2):
        for value in (1, 0, 1):
            assert not world.answer(lines.file.ioctl(u.GPIO_V2_LINE_SET_VALUES_IOCTL, values(value))).errno
            assert world.simulator.level("s", 0) == value
        world.turn(timeout_s=0.02)
        assert len(world.server.files if world.server else ()) == 2  # the connection, and the lines
        world.kill()
        world.start()
        world.turn(lambda: world.sim.line_info(0).used)
        assert world.simulator.level("s", 0) == 1
    lines.close()
    world.turn(lambda: not (world.server and world.server.files))
    assert world.server is not None
    assert not world.server.files


def test_many_files_of_lines_are_one_connection(world: World) -> None:
    chip = world.open()
    held = [world.lines(chip, offset, OUT) for offset in range(8)]
    assert world.server is not None
    assert len({id(file._socket) for file in world.server.files if hasattr(file, "_socket")}) == 1
    before = len(os.listdir("/proc/self/fd"))
    for lines in held:
        lines.close()
    world.turn(lambda: len(world.server.files if world.server else ()) == 1)
    # the program's end, this end's copy, and the server's
    assert before - len(os.listdir("/proc/self/fd")) == 3 * 8


def test_a_file_closed_while_it_is_being_asked_leaves_the_others_their_answers(world: World) -> None:
    chip = world.open()
    lines, other = world.lines(chip, 0, OUT), world.lines(chip, 1, OUT)
    asked = lines.file.ioctl(u.GPIO_V2_LINE_SET_VALUES_IOCTL, values(1))
    request = chip.ioctl(u.GPIO_V2_GET_LINE_IOCTL, get_line(2, OUT))
    after = other.file.ioctl(u.GPIO_V2_LINE_SET_VALUES_IOCTL, values(1))
    lines.close()
    assert world.answer(asked).errno == errno.ENODEV
    assert not world.answer(after).errno
    assert world.simulator.level("s", 1) == 1
    answer = world.answer(request)
    assert not answer.errno
    RemoteLines(answer.file).close()
    other.close()


def test_a_request_whose_chip_is_closed_before_its_answer_leaves_no_line_held(world: World) -> None:
    chip = world.open()
    other = world.lines(chip, 1, OUT)
    request = chip.ioctl(u.GPIO_V2_GET_LINE_IOCTL, get_line(2, OUT))
    chip.close()
    assert world.answer(request).errno == errno.ENODEV
    world.turn(lambda: not world.sim.line_info(2).used)
    assert not world.answer(other.file.ioctl(u.GPIO_V2_LINE_GET_VALUES_IOCTL, values(0))).errno
    assert not world.sim.line_info(2).used
    other.close()


def test_lines_that_vanish_are_gone_and_no_other_of_their_chip(world: World) -> None:
    plug = world.simulator.add_chip("plug", [""])
    made = Aggregate("plc", [(plug, 0), (world.sim, 1)], now_ns)
    assert world.server is not None
    world.server.chip = made
    chip = world.open()
    gone, other = world.lines(chip, 0, OUT), world.lines(chip, 1, OUT)
    world.simulator.unplug("plug")
    world.turn(lambda: gone.file.fifo.writer == -1, 2)
    assert gone.file.fifo.writer == -1
    assert world.answer(gone.file.ioctl(u.GPIO_V2_LINE_GET_VALUES_IOCTL, values(0))).errno == errno.ENODEV
    assert not world.answer(other.file.ioctl(u.GPIO_V2_LINE_SET_VALUES_IOCTL, values(1))).errno
    assert world.simulator.level("s", 1) == 1
    gone.close()
    other.close()


# a server that was taken over


def fake_server() -> tuple[DeviceSocket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return DeviceSocket(ours, None, 0.05), theirs


def answer_with(
    sock: DeviceSocket,
    server: socket.socket,
    files: list[int],
    cmd: int = u.GPIO_V2_GET_LINE_IOCTL,
    number: int = 1,
) -> Answer | None:
    sock.send(cmd, get_line(0, IN) if cmd == u.GPIO_V2_GET_LINE_IOCTL else b"", False)
    tag = struct.unpack_from("=I", server.recv(wire.PACKET_MAX))[0]
    socket.send_fds(server, [wire.encode_answer(tag, Answer(0, bytes(592), None, 588), number)], files)
    return sock.receive()


@pytest.mark.parametrize("kind", ["none", "null", "pipe", "sockets", "three", "no pipe"])
def test_wrong_files_beside_an_answer_are_refused_and_none_is_kept(kind: str) -> None:
    sock, server = fake_server()
    reader, writer = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    one, other = socket.socketpair()
    files = {
        "none": [],
        "null": [null],
        "pipe": [writer],
        "sockets": [one.fileno(), other.fileno()],
        "three": [null, reader, writer],
        "no pipe": [reader, null],
    }[kind]
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(PeerError):
        answer_with(sock, server, files)
    assert len(os.listdir("/proc/self/fd")) == before
    for fd in (reader, writer, null):
        os.close(fd)
    for end in (one, other, server):
        end.close()
    sock.close()


def test_a_new_file_that_is_said_to_be_the_chip_is_refused() -> None:
    sock, server = fake_server()
    pipe = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(PeerError, match="number 0"):
        answer_with(sock, server, list(pipe), number=0)
    assert len(os.listdir("/proc/self/fd")) == before
    for fd in pipe:
        os.close(fd)
    server.close()
    sock.close()


def test_hang_ups_before_an_answer_cannot_keep_who_asks_for_long() -> None:
    sock, server = fake_server()
    stop = threading.Event()

    def hangs_up() -> None:
        number = 0
        while not stop.wait(0.02):
            number = number % 1000 + 1
            with suppress(OSError):
                server.send(wire.encode_hang_up(number), socket.MSG_DONTWAIT)

    thread = threading.Thread(target=hangs_up)
    thread.start()
    sock.send(u.GPIO_GET_CHIPINFO_IOCTL, b"", False)
    began = time.monotonic()
    assert sock.wait() is None
    assert time.monotonic() - began < 0.6  # 64 of them would take 1.3
    stop.set()
    thread.join()
    server.close()
    sock.close()


def test_files_beside_an_answer_that_brings_none_are_not_received() -> None:
    sock, server = fake_server()
    before = len(os.listdir("/proc/self/fd"))
    null = os.open(os.devnull, os.O_RDWR)
    assert answer_with(sock, server, [null], u.GPIO_GET_CHIPINFO_IOCTL) is not None
    os.close(null)
    assert len(os.listdir("/proc/self/fd")) == before
    sock.close()
    server.close()


def test_a_server_that_says_what_nobody_asked_for_is_one_that_makes_no_sense() -> None:
    sock, server = fake_server()
    sock.send(u.GPIO_GET_CHIPINFO_IOCTL, b"", False)
    for _ in range(10):
        server.send(wire.encode_answer(999, Answer(0)))
    with pytest.raises(PeerError, match="to no request"):
        sock.receive()
    sock.close()
    server.close()


def test_an_answer_waited_for_has_its_time() -> None:
    sock, server = fake_server()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        sock.ioctl(u.GPIO_GET_CHIPINFO_IOCTL, b"")
    assert 0.04 < time.monotonic() - began < 1
    sock.close()
    server.close()
