# SPDX-License-Identifier: MIT
"""Lines that one process lends another, which keeps their values for as long as they are what they were."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpiovirt.core.gpiolib import GpioChip
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import Bias, Direction, Drive, LineSettings
from gpiovirt.exports.device import DeviceServer, _LentConnection
from gpiovirt.host.clock import now_ns
from gpiovirt.host.device_socket import DeviceSocket
from gpiovirt.host.reactor import Reactor
from gpiovirt.protocols.gpiochip import wire
from gpiovirt.protocols.gpiochip.caller import encode_config
from gpiovirt.sources.line_files import RemoteLine
from gpiovirt.sources.simulator import SimChip, Simulator
from gpiovirt.uapi import gpio as u

FIRST = u.gpio_v2_line_values.pack(0, 1)
BORROWER = Holder("", HolderKind.CHIP, 77, 0)


class Lender:
    """A simulated chip of four lines, of which 2 and 3 are wired, and borrowed lines of it."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.simulator = Simulator(now_ns, self.reactor.deadlines)
        self.server = DeviceServer(self.simulator.add_chip("s", [""] * 4), None, self.reactor)
        self.simulator.wire(("s", 2), ("s", 3))
        self.lines: list[RemoteLine] = []

    def borrow(self, offset: int) -> RemoteLine:
        _, (sock, events) = self.server.lend(offset, "gpiovirt:plc", BORROWER)
        self.lines.append(RemoteLine(DeviceSocket(socket.socket(fileno=sock), None, 5), events))
        return self.lines[-1]

    def do(self, call: Callable[[], Any]) -> Any:
        """What a call returns or raises whose other end is served meanwhile, as by another process."""
        done: list[Callable[[], Any]] = []

        def calls() -> None:
            try:
                value = call()
                done.append(lambda: value)
            except OSError as error:
                failed = error

                def fails() -> None:
                    raise failed

                done.append(fails)

        thread = threading.Thread(target=calls)
        thread.start()
        while thread.is_alive():
            self.reactor.call_later(0.0005, self.reactor.stop)
            self.reactor._running = True
            self.reactor.run()
        thread.join()
        return done[0]()

    def get(self, line: RemoteLine) -> int:
        return int(self.do(lambda: line.ioctl(u.GPIO_V2_LINE_GET_VALUES_IOCTL, FIRST))[0])

    def set(self, line: RemoteLine, level: int) -> None:
        argument = u.gpio_v2_line_values.pack(level, 1)
        self.do(lambda: line.ioctl(u.GPIO_V2_LINE_SET_VALUES_IOCTL, argument))

    def configure(self, line: RemoteLine, wanted: LineSettings) -> None:
        self.do(lambda: line.ioctl(u.GPIO_V2_LINE_SET_CONFIG_IOCTL, encode_config(wanted)))

    def close(self) -> None:
        for line in self.lines:
            line.close()
        self.server.close()
        self.reactor.close()


@pytest.fixture
def lender() -> Iterator[Lender]:
    made = Lender()
    yield made
    made.close()


@pytest.fixture
def asked(lender: Lender, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ioctls that the lender has been asked."""
    numbers: list[int] = []
    receive = _LentConnection._receive

    def note(self: _LentConnection, packet: bytes) -> None:
        numbers.append(wire.decode_ioctl(packet)[1])
        receive(self, packet)

    monkeypatch.setattr(_LentConnection, "_receive", note)
    return numbers


def test_a_value_is_asked_for_once_until_it_changes(lender: Lender, asked: list[int]) -> None:
    line = lender.borrow(0)
    for level in (0, 1, 0):
        lender.simulator.pull("s", 0, level)
        assert [lender.get(line) for _ in range(5)] == [level] * 5
    assert len(asked) == 3


def test_a_change_is_told_once_though_there_are_many(lender: Lender, asked: list[int]) -> None:
    """Who does not read fills no queue."""
    line = lender.borrow(0)
    assert lender.get(line) == 0
    for level in [1, 0] * 5000:
        lender.simulator.pull("s", 0, level)
    lender.simulator.pull("s", 0, 1)
    assert lender.get(line) == 1
    assert len(asked) == 2


def test_a_value_is_told_to_have_changed_before_the_answer_to_who_changed_it(lender: Lender) -> None:
    output, seen = lender.borrow(2), lender.borrow(3)
    lender.configure(output, LineSettings(Direction.OUTPUT))
    for level in (0, 1, 0, 1):
        lender.set(output, level)
        assert lender.get(seen) == level
        assert lender.get(output) == level


def test_a_debounced_value_is_not_kept(lender: Lender, asked: list[int]) -> None:
    line = lender.borrow(0)
    assert lender.get(line) == 0
    lender.configure(line, LineSettings(Direction.INPUT, debounce_period_us=1000))
    before = len(asked)
    assert [lender.get(line) for _ in range(3)] == [0] * 3
    assert len(asked) - before == 3


def test_a_line_whose_chip_is_unplugged_has_no_value(lender: Lender) -> None:
    line = lender.borrow(0)
    assert lender.get(line) == 0
    lender.simulator.unplug("s")
    with pytest.raises(OSError) as raised:
        lender.get(line)
    assert raised.value.errno == errno.ENODEV or isinstance(raised.value, ConnectionError)


def test_who_lends_the_lines_of_others_lets_nothing_be_kept(lender: Lender, asked: list[int]) -> None:
    """A chip of hardware, or of lines of another chip, does not know when a level changes."""
    chip = lender.server.chip
    assert isinstance(chip, SimChip)
    chip.tell_once = partial(GpioChip.tell_once, chip)  # type: ignore[method-assign]
    line = lender.borrow(0)
    assert [lender.get(line) for _ in range(3)] == [0] * 3
    assert len(asked) == 3


def test_a_lender_that_says_more_than_it_may_cannot_keep_a_borrower_for_long() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line = DeviceSocket(ours, None, 0.05)
    theirs.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            theirs.send(wire.CHANGED)
    assert not line.is_quiet()
    with pytest.raises(OSError):  # it has not answered in time, however much it said
        line.value(FIRST)
    line.close()
    theirs.close()


Step = tuple[str, int, int]
_steps = st.lists(
    st.tuples(
        st.sampled_from(["pull", "stick", "unstick", "set", "input", "output", "drain", "debounce"]),
        st.integers(0, 3),
        st.integers(0, 1),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(_steps)
def test_a_borrower_reads_what_the_lines_are_whatever_happened(steps: list[Step]) -> None:
    lender = Lender()
    lines = [lender.borrow(offset) for offset in range(4)]
    debounced: set[int] = set()
    simulator = lender.simulator
    for what, offset, level in steps:
        match what:
            case "pull":
                simulator.pull("s", offset, level)
            case "stick" | "unstick":
                simulator.stick("s", offset, level if what == "stick" else None)
            case "set":
                with suppress(OSError):  # it is an input
                    lender.set(lines[offset], level)
            case "input" | "output" | "drain" | "debounce":
                wanted = LineSettings(
                    Direction.OUTPUT if what in ("output", "drain") else Direction.INPUT,
                    bias=Bias.PULL_UP if level and what == "input" else Bias.AS_IS,
                    drive=Drive.OPEN_DRAIN if what == "drain" else Drive.PUSH_PULL,
                    debounce_period_us=1_000_000 if what == "debounce" else 0,
                    output_value=level,
                )
                lender.configure(lines[offset], wanted)
                debounced.discard(offset)
                if what == "debounce":
                    debounced.add(offset)
        for number, line in enumerate(lines):
            if number not in debounced:
                assert lender.get(line) == simulator.level("s", number), (what, offset, level)
    lender.close()
