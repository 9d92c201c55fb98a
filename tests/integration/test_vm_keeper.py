# SPDX-License-Identifier: MIT
"""A VMM whose back-end is killed again and again, anywhere, and notices nothing: a keeper has its session."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpiovirt.errors import PeerError
from gpiovirt.exports.vm.connection import Connection
from gpiovirt.exports.vm.keeper import Keeper
from gpiovirt.exports.vm.keeping import Keeping
from gpiovirt.exports.vm.parked import Parked
from gpiovirt.exports.vm.server import VmServer
from gpiovirt.exports.vm.session import Answer, Update
from gpiovirt.exports.vm.state import QUEUE_SIZE_MAX, KeptState, Tracked, state_size
from gpiovirt.host.clock import now_ns
from gpiovirt.host.mapping import map_shared, shared_memory
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.unix_socket import Peer, SocketListener
from gpiovirt.protocols.vhost_user import Outgoing
from gpiovirt.protocols.vhost_user import messages as m
from gpiovirt.protocols.vhost_user.messages import Request
from gpiovirt.protocols.vhost_user.session import SessionState, VringState
from gpiovirt.protocols.virtio_gpio.record import Record
from gpiovirt.sources.simulator import Simulator
from gpiovirt.testing.vmm import Vmm
from gpiovirt.uapi import virtio_gpio as u

LINES = 4
BOTH = u.VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH


class Mortal(Keeping):
    """Kills its process when `left` places have been passed: before and after each word to the keeper."""

    def __init__(self, channel: socket.socket | None, left: int) -> None:
        super().__init__(channel)
        self.left = left

    def place(self) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    def finish(
        self,
        sock: socket.socket,
        state: str,
        changes: tuple[Mapping[str, int], Sequence[str]],
        message: bytes,
        answers: Sequence[Outgoing],
    ) -> str:
        self.place()
        reason = super().finish(sock, state, changes, message, answers)
        self.place()
        return reason

    def note(self, put: Mapping[str, int], dropped: Sequence[str] = (), state: str | None = None) -> None:
        super().note(put, dropped, state)
        self.place()

    def _ask(self, update: Update) -> Answer | None:
        self.place()
        return super()._ask(update)


class Host:
    """A chip of simulated lines, 0 wired to 1, served to VMs by processes that die at given places.

    Those after are killed by kill() only. What it knows of its lines is in `state`, as with gpiovirtd.
    """

    def __init__(self, path: str, lives: Sequence[int] = (), with_keeper: bool = True) -> None:
        self._children: list[int] = []
        self._listener = socket.socket(socket.AF_UNIX)
        with suppress(FileNotFoundError):
            os.unlink(path)
        self._listener.bind(path)
        self._listener.listen(8)
        self._state = shared_memory("state", state_size(LINES))
        self.channel, keeper = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.keeper = self._fork(lambda: self._keep(keeper)) if with_keeper else 0
        keeper.close()
        self.nursery = self._fork(lambda: self._serve_all(lives))

    def _fork(self, what: Callable[[], None]) -> int:
        pid = os.fork()
        if not pid:
            try:
                what()
            finally:
                os._exit(0)
        self._children.append(pid)
        return pid

    def _keep(self, channel: socket.socket) -> None:
        self.channel.close()
        self._listener.close()
        Keeper(channel).run()

    def _serve_all(self, lives: Sequence[int]) -> None:
        os.setpgid(0, 0)
        for left in chain(lives, repeat(0)):
            pid = os.fork()
            if not pid:
                try:
                    self._serve(left)
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)

    def _serve(self, left: int) -> None:
        simulator = Simulator(now_ns)
        chip = simulator.add_chip("s", [""] * LINES)
        simulator.wire(simulator.find_line("s:0"), simulator.find_line("s:1"))
        reactor = Reactor(simulator.deadlines)
        listener = SocketListener(self._listener.dup())
        state = KeptState(map_shared(self._state, state_size(LINES)))
        VmServer(chip, listener, state, reactor, {}, keeping=Mortal(self.channel.dup(), left))
        reactor.run()

    def kill(self) -> None:
        """Kill the process that serves; the next one does so."""
        (child,) = map(int, Path(f"/proc/{self.nursery}/task/{self.nursery}/children").read_text().split())
        os.kill(child, signal.SIGKILL)

    def another_keeper(self) -> None:
        """For the next who serves."""
        self.channel, keeper = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.keeper = self._fork(lambda: self._keep(keeper))
        keeper.close()

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.nursery, signal.SIGKILL)
        self._listener.close()
        self.channel.close()
        os.close(self._state)
        for pid in self._children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "vm")


@pytest.fixture
def host(path: str) -> Iterator[Host]:
    with Host(path) as host:
        yield host


def use(vmm: Vmm, rounds: int = 3) -> None:
    """What a guest does: each value is what was set, and each edge comes."""
    driver = vmm.driver
    driver.direction_output(0, 0)
    driver.direction_input(1)
    driver.set_irq_type(1, BOTH)
    for value in [1, 0] * rounds:
        driver.unmask(1)
        driver.set_value(0, value)
        deadline = time.monotonic() + 5
        while not (events := driver.events()):
            vmm.wait(u.VIRTIO_GPIO_EVENTQ, 0.2)
            assert time.monotonic() < deadline, "no edge"
        assert events == [(1, u.VIRTIO_GPIO_IRQ_STATUS_VALID)]
        assert driver.get_value(1) == value
    driver.set_irq_type(1, u.VIRTIO_GPIO_IRQ_TYPE_NONE)


def life(path: str, inflight: bool = False) -> None:
    """All of a VM's life, with a reboot in it."""
    with Vmm() as vmm:
        vmm.connect(path)
        if inflight:
            vmm.get_inflight()
        vmm.start()
        use(vmm)
        bases = vmm.stop()
        vmm.start(bases)
        use(vmm)
        vmm.stop()
        vmm.boot()
        vmm.start()
        use(vmm)


@pytest.mark.parametrize("inflight", [False, True])
def test_vmm_notices_nothing_wherever_its_back_end_is_killed(path: str, inflight: bool) -> None:
    """Each back-end dies a place further on than the one before, till one sees the end."""
    with Host(path, lives=[4 + step % 7 for step in range(60)]):
        life(path, inflight)


@given(lives=st.lists(st.integers(3, 120), max_size=8), inflight=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_vmm_notices_nothing_whenever_its_back_ends_are_killed(
    lives: list[int], inflight: bool, tmp_path: Path
) -> None:
    path = str(tmp_path / "vm")
    with Host(path, lives):
        life(path, inflight)


def test_message_that_is_half_there_when_the_back_end_dies_is_not_lost(host: Host, path: str) -> None:
    with Vmm() as vmm:
        vmm.connect(path)
        vmm.start()
        vmm.driver.direction_output(0, 1)
        assert vmm.sock is not None
        kick = os.eventfd(0)
        message = m.header.pack(Request.SET_VRING_KICK, m.VERSION | m.NEED_REPLY_MASK, 8) + m.u64.pack(0)
        for cut in (1, 11, 12, 13, 19):
            socket.send_fds(vmm.sock, [message[:cut]], [kick])
            time.sleep(0.02)
            host.kill() if cut % 2 else None
            vmm.sock.sendall(message[cut:])
            assert vmm.receive()[:2] == (Request.SET_VRING_KICK, m.u64.pack(0))
        vmm.kicks[0], kick = kick, vmm.kicks[0]
        os.close(kick)
        assert vmm.driver.get_value(0) == 1


def test_messages_that_wait_while_nobody_serves_are_answered_each_once(path: str) -> None:
    with Host(path, lives=[30]) as host, Vmm() as vmm:
        vmm.connect(path)
        host.kill()
        for _ in range(20):
            vmm.send(Request.GET_FEATURES)
            vmm.send(Request.GET_QUEUE_NUM)
        for _ in range(20):
            assert vmm.receive()[0] == Request.GET_FEATURES
            assert vmm.receive()[1] == m.u64.pack(2)
        assert vmm.sock is not None
        assert not select.select([vmm.sock], [], [], 0.05)[0]


def test_lines_are_again_what_they_were_also_of_a_guest_that_is_paused(host: Host, path: str) -> None:
    with Vmm() as vmm:
        vmm.connect(path)
        vmm.start()
        vmm.driver.direction_output(0, 1)
        vmm.driver.direction_input(1)
        bases = vmm.stop()
        host.kill()
        vmm.start(bases)
        assert vmm.driver.get_value(1) == 1


@pytest.mark.parametrize("begun", [False, True])
def test_lines_are_restored_for_a_guest_that_has_begun_only(begun: bool) -> None:
    """What a record has otherwise is of a VM before this one."""
    simulator = Simulator(now_ns)
    chip = simulator.add_chip("s", [""] * LINES)
    state = memoryview(bytearray(state_size(LINES)))
    record = Record(LINES)
    record.bind(Tracked(state, 2, QUEUE_SIZE_MAX).record(record.size))
    record.save(0, u.VIRTIO_GPIO_DIRECTION_OUT, 0, False, 1)
    ours, theirs = socket.socketpair()
    reactor = Reactor(simulator.deadlines)
    peer = Peer(1, 0, 0, "vmm")
    parked = Parked(lambda: None)
    connection = Connection(ours, peer, chip, reactor, state, {}, lambda: None, parked, Keeping())
    ring = VringState(4, 0, (0, 0, 0) if begun else None, False, False, False)
    connection.resume(SessionState(0, 0, 0, (), (ring, ring), None).encode(), {})
    assert chip.line_info(0).used is begun
    connection.close()
    theirs.close()
    reactor.close()


def test_vm_that_ends_while_nobody_serves_is_forgotten_and_the_next_is_served(path: str) -> None:
    with Host(path) as host:
        with Vmm() as vmm:
            vmm.connect(path)
            vmm.start()
            vmm.driver.direction_output(0, 1)
            os.kill(host.nursery, signal.SIGSTOP)
            host.kill()
        os.kill(host.nursery, signal.SIGCONT)
        life(path)


def test_vms_that_wait_go_on_waiting(host: Host, path: str) -> None:
    with Vmm() as first, Vmm() as second:
        first.connect(path)
        waiting = socket.socket(socket.AF_UNIX)
        waiting.connect(path)
        time.sleep(
            0.1
        )  # till who waits is known: it is lost with one who dies between accept(2) and saying so
        for _ in range(3):
            host.kill()
            first.get_config(0, 8)
        first.disconnect()
        second.connect(waiting)
        second.start()
        use(second)


def test_vm_goes_on_without_its_keeper(host: Host, path: str) -> None:
    with Vmm() as vmm:
        vmm.connect(path)
        os.kill(host.keeper, signal.SIGKILL)
        vmm.start()
        use(vmm)
    life(path)


def test_vm_goes_on_when_its_keeper_does_not_answer(host: Host, path: str) -> None:
    with Vmm() as vmm:
        vmm.connect(path)
        os.kill(host.keeper, signal.SIGSTOP)
        began = time.monotonic()
        vmm.start()
        assert 0.5 < time.monotonic() - began < 3
        assert select.select([host.channel], [], [], 1)[0]  # whoever has it sees that it is of no more use
        use(vmm)
        os.kill(host.keeper, signal.SIGCONT)
        for _ in range(10):
            assert vmm.get_config(0, 8)


def test_another_keeper_is_told_all(tmp_path: Path) -> None:
    """Of a session that has come to all it can, and of who waits."""
    simulator = Simulator(now_ns)
    reactor = Reactor(simulator.deadlines)

    def pump() -> None:
        for _ in range(20):
            reactor.soon(lambda: reactor.soon(reactor.stop))
            reactor._running = True
            reactor.run()

    def server(keeping: Keeping) -> VmServer:
        state = KeptState(map_shared(memory, state_size(LINES)))
        return VmServer(chip, SocketListener(listener.dup()), state, reactor, {}, keeping=keeping)

    chip = simulator.add_chip("s", [""] * LINES)
    memory = shared_memory("state", state_size(LINES))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "vm"))
        listener.listen()
        first = server(Keeping())
        with Vmm(pump=pump) as vmm:
            vmm.connect(str(tmp_path / "vm"))
            vmm.get_inflight()
            vmm.start()
            vmm.driver.direction_output(0, 1)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if not pid:
                for sock in (ours, vmm.sock):
                    assert sock is not None
                    sock.close()
                Keeper(theirs).run()
                os._exit(0)
            theirs.close()
            first.use_keeper(ours.dup())
            state, files = Keeping(ours).load()
            assert state
            assert sorted(files) == [
                *("call:0", "call:1", "inflight", "kick:0", "kick:1", "memory:40000000", "socket")
            ]
            for fd in files.values():
                os.close(fd)
        pump()
        assert Keeping(ours).load() == ("", {})
        first.close()
        ours.close()
        os.waitpid(pid, 0)
    os.close(memory)


@pytest.mark.parametrize(
    "packet",
    [b"x", b"[]", b"{}", b'{"number":1,"state":"","put":["a"],"dropped":[],"message":"","answers":[]}'],
)
def test_packet_that_is_none_is_refused(packet: bytes) -> None:
    with pytest.raises(PeerError):
        Update.decode(packet, [])
    with pytest.raises(PeerError):
        Answer.decode(packet, [])


def test_keeper_bears_anything_and_ends_with_its_channel() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        ours.close()
        Keeper(theirs).run()
        os._exit(7)
    theirs.close()
    for packet in (b"x", b"{}", b"[" * 10_000):
        ours.send(packet)
    eventfd = os.eventfd(0)
    keeping = Keeping(ours)
    keeping.note({"a": eventfd, "b": eventfd}, state="s")
    keeping.note({}, ["b", "c"])
    state, files = keeping.load()
    assert (state, list(files)) == ("s", ["a"])
    keeping.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    for fd in (eventfd, *files.values()):
        os.close(fd)
