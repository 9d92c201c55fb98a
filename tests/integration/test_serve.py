# SPDX-License-Identifier: MIT
"""gpiovirt serve as a process, with pretended VMMs that are good, bad, and gone."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gpiovirt.errors import HostError, PeerError
from gpiovirt.host.received import send
from gpiovirt.protocols.vhost_user import messages as m
from gpiovirt.protocols.vhost_user.messages import Request
from gpiovirt.testing.service import Service
from gpiovirt.testing.virtio_driver import RequestFailedError
from gpiovirt.testing.vmm import Vmm
from gpiovirt.uapi import virtio_gpio as u
from gpiovirt.uapi import virtio_ring as r
from tests.silent_file import silent_file

RISING, BOTH = u.VIRTIO_GPIO_IRQ_TYPE_EDGE_RISING, u.VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH
GET, OK, ERR = u.VIRTIO_GPIO_MSG_GET_VALUE, u.VIRTIO_GPIO_STATUS_OK, u.VIRTIO_GPIO_STATUS_ERR


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "chip.sock")


@pytest.fixture
def service(path: str) -> Iterator[Service]:
    with Service(["--sim", "a:4", "--vm", f"a={path}"]) as service:
        yield service
        assert "fault of ours" not in service.log()


def started(path: str) -> Vmm:
    vmm = Vmm()
    vmm.connect(path)
    vmm.start()
    for index in range(2):  # a call fd is written to when it comes
        vmm.wait(index)
    return vmm


def check_served(path: str) -> None:
    """A VM that behaves is served, at once."""
    with started(path) as vmm:
        vmm.driver.direction_input(0)
        vmm.driver.set_irq_type(0, BOTH)
        vmm.driver.set_irq_type(0, u.VIRTIO_GPIO_IRQ_TYPE_NONE)
        vmm.driver.direction_output(0, 1)
        assert vmm.driver.get_value(0) == 1


def test_vm_drives_reads_and_watches_lines(service: Service, path: str) -> None:
    with started(path) as vmm:
        vmm.driver.direction_output(0, 1)
        assert service.sim.get("a:0") == 1
        vmm.driver.direction_input(1)
        vmm.driver.set_irq_type(1, BOTH)
        for level in (1, 0, 1):
            vmm.driver.unmask(1)
            service.sim.pull("a:1", "up" if level else "down")
            assert vmm.wait(u.VIRTIO_GPIO_EVENTQ)
            assert vmm.driver.events() == [(1, u.VIRTIO_GPIO_IRQ_STATUS_VALID)]
            assert vmm.driver.get_value(1) == level
    service.wait_for_log("is gone; its lines are released")


def test_who_connects_is_logged(service: Service, path: str) -> None:
    with started(path):
        service.wait_for_log(f"(pid {os.getpid()}, uid {os.getuid()}) has connected")
        service.wait_for_consumer("a:0", "")


def test_lines_of_a_vm_that_dies_are_released_and_the_next_is_served(service: Service, path: str) -> None:
    for _ in range(5):
        with started(path) as vmm:
            vmm.driver.direction_output(0, 1)
            vmm.driver.direction_input(1)
            vmm.driver.set_irq_type(1, BOTH)
            vmm.driver.unmask(1)
        service.wait_for_consumer("a:0", "")
        assert service.sim.get("a:0") == 0


def test_fast_reconnects_are_all_served(service: Service, path: str) -> None:
    for _ in range(50):
        with Vmm() as vmm:
            vmm.connect(path)
            assert vmm.config


def test_next_vm_waits_until_the_first_is_gone(service: Service, path: str) -> None:
    first = started(path)
    first.driver.direction_output(0, 1)
    with Vmm() as second, Vmm() as third:
        for vmm in (second, third):
            vmm.sock = socket.socket(socket.AF_UNIX)
            vmm.sock.connect(path)
        service.wait_for_log("waits, since")
        third.disconnect()  # gives up
        first.close()
        assert second.sock is not None
        second.connect(second.sock)
        second.start()
        second.driver.direction_output(0, 0)
        assert service.sim.get("a:0") == 0


def test_too_many_who_wait_are_turned_away(service: Service, path: str) -> None:
    with started(path) as vmm:
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(6)]
        for sock in waiting:
            sock.connect(path)
        service.wait_for_log("was turned away: 4 wait already")
        assert waiting[5].recv(1) == b""
        vmm.driver.direction_output(0, 1)
        for sock in waiting:
            sock.close()


def test_guest_that_resets_has_no_lines(service: Service, path: str) -> None:
    with started(path) as vmm:
        vmm.driver.direction_input(0)
        vmm.driver.set_irq_type(0, RISING)
        vmm.driver.unmask(0)
        vmm.stop()
        vmm.boot()
        vmm.start()
        service.wait_for_consumer("a:0", "")
        vmm.driver.direction_input(0)
        vmm.driver.set_irq_type(0, u.VIRTIO_GPIO_IRQ_TYPE_EDGE_FALLING)
        vmm.driver.unmask(0)
        service.sim.pull("a:0", "up")
        assert vmm.driver.get_value(0) == 1
        assert vmm.driver.events() == []


def test_guest_goes_on_when_the_index_of_its_requests_came_round_to_0(service: Service, path: str) -> None:
    with Vmm() as vmm:
        vmm.connect(path)
        requests = vmm.queues[0]
        requests.avail_idx = requests.last_used_idx = requests.used16[1] = requests.available16[1] = 0xFFF0
        vmm.start([0xFFF0, 0])
        vmm.driver.direction_output(0, 1)
        while requests.used16[1]:
            vmm.driver.get_value(0)
        service.kill()
        vmm.disconnect()
        service.start()
        vmm.connect(path)
        vmm.resume()
        assert vmm.driver.get_value(0) == 1
        service.wait_for_log("goes on with its lines")
        assert service.sim.get("a:0") == 1


@pytest.mark.parametrize("gently", [False, True])
@pytest.mark.parametrize("inflight", [False, True])
def test_guest_goes_on_when_we_were_restarted(
    service: Service, path: str, gently: bool, inflight: bool
) -> None:
    """With memory that the VMM keeps for us, as newer ones do, or with our own file, as for QEMU 7.2."""
    with Vmm() as vmm:
        vmm.connect(path)
        if inflight:
            vmm.get_inflight()
        vmm.start()
        vmm.driver.direction_output(0, 1)
        for line in (1, 2):
            vmm.driver.direction_input(line)
            vmm.driver.set_irq_type(line, BOTH)
            vmm.driver.unmask(line)
        service.sim.pull("a:1", "up")
        assert vmm.wait(u.VIRTIO_GPIO_EVENTQ)
        assert vmm.driver.events() == [(1, 1)]
        vmm.driver.unmask(1)
        service.stop() if gently else service.kill()
        vmm.queues[0].add([u.virtio_gpio_request.pack(GET, 0, 0)], [2])
        vmm.disconnect()
        service.start()
        vmm.connect(path)
        if inflight:
            vmm.set_inflight()
        vmm.resume()
        vmm.wait(u.VIRTIO_GPIO_EVENTQ)
        while vmm.queues[0].used16[1] != vmm.queues[0].avail_idx:
            assert vmm.wait()
        assert vmm.queues[0].collect()[-1].data == bytes((OK, 1))
        service.wait_for_log("goes on with its lines")
        assert service.sim.get("a:0") == 1
        # line 1 was up when we ended, and a new simulator has it down
        assert vmm.driver.events() == [(1, 1)]
        vmm.driver.unmask(1)
        events = []
        for line in (1, 2):
            service.sim.pull(f"a:{line}", "up")
            assert vmm.wait(u.VIRTIO_GPIO_EVENTQ)
            events += vmm.driver.events()
        assert events == [(1, 1), (2, 1)]


def test_sigterm_ends_it_cleanly(path: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        with Service(["--sim", "a:4", "--vm", f"a={path}"], env=environment) as service:
            assert manager.recv(1000).splitlines()[0] == b"READY=1"
            assert service.stop() == 0
            assert manager.recv(1000) == b"STOPPING=1"
    assert [file.name for file in tmp_path.iterdir()] == ["notify"]


# the socket


def test_socket_has_owner_group_and_mode(path: str) -> None:
    if os.getuid():
        pytest.skip("only root gives files away")
    arguments = ["--sim", "a:1", "--vm", f"a={path}", "--owner", "a=daemon:4242:0620"]
    with Service(arguments):
        status = os.stat(path)
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1, 4242, 0o620)


def test_socket_is_for_its_owner_and_group_by_default(service: Service, path: str) -> None:
    status = os.stat(path)
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
    assert stat.S_IMODE(status.st_mode) == 0o660


def test_other_users_may_not_connect(service: Service, path: str, tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("needs another user")
    for folder in [tmp_path, *tmp_path.parents[:-1]]:
        if folder != Path("/tmp"):
            folder.chmod(0o755)
    program = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
    refused = subprocess.run(
        ["/usr/bin/python3", "-c", program], user=4242, group=4242, extra_groups=[], capture_output=True
    )
    assert b"PermissionError" in refused.stderr


def test_socket_in_use_is_left_alone(service: Service, path: str) -> None:
    with pytest.raises(HostError, match="in use by a running gpiovirt; choose another"):
        Service(["--sim", "b:4", "--vm", f"b={path}"])
    check_served(path)


def test_socket_of_another_program_is_left_alone(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(HostError, match="in use by a running server"):
            Service(["--sim", "b:4", "--vm", f"b={path}"])
        assert os.path.exists(path)


def test_file_that_is_no_socket_is_left_alone(path: str) -> None:
    Path(path).write_text("mine")
    with pytest.raises(HostError, match="exists and is not a socket"):
        Service(["--sim", "b:4", "--vm", f"b={path}"])
    assert Path(path).read_text() == "mine"


def test_stale_socket_is_replaced(service: Service, path: str) -> None:
    service.kill()
    assert os.path.exists(path)
    service.start()
    check_served(path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to serve"),
        (["--vm", "x=/tmp/x"], "no chip 'x'; the chips are: a"),
        (["--vm", "a"], "write NAME=..."),
        (["--vm", "a=/tmp/x", "--owner", "a=::9"], "'9' is not an octal mode"),
        (["--vm", "a=/tmp/x", "--owner", "a=nobody-such"], "no user 'nobody-such'"),
        (["--vm", "a=/tmp/x", "--owner", "a=:nobody-such"], "no group 'nobody-such'"),
        (
            ["--vm", "a=/tmp/x", "--line", "a:9=pull-up"],
            "options of line 9: a has no such line; its offsets are 0 to 3",
        ),
        (["--vm", "a=/tmp/x", "--line", "a:1=pull-sideways"], "'pull-sideways' is not one of pull-up"),
        (["--vm", "a=/tmp/x", "--line", "a:1=debounce=5"], "'5' is not a duration"),
        (["--vm", "a=/tmp/x", "--line", "a:1"], "write NAME:LINE=OPTIONS"),
        (["--vm", "a=/no/such/folder/x"], "/no/such/folder"),
        (["--vm", "a=/tmp/" + 120 * "x"], "AF_UNIX path too long"),
        (["--chip", "v=a 0-1", "--chip", "w=a 1-2", "--vm", "v=/tmp/x"], 'a:1 is held by "gpiovirt:v"'),
    ],
)
def test_what_cannot_be_is_said(arguments: list[str], said: str) -> None:
    with pytest.raises(HostError) as caught:
        Service(["--sim", "a:4", *arguments])
    assert said in str(caught.value)
    assert "Traceback" not in str(caught.value)


# chips


def test_names_bias_and_debounce_are_the_chips(path: str) -> None:
    arguments = ["--sim", "a:DOOR,LAMP,DOOR,X", "--chip", "plc=a 3, a 0", "--vm", f"plc={path}"]
    lines = ["--line", "plc:X=pull-up", "--line", "plc:1=debounce=20ms,active-low"]
    with Service([*arguments, *lines]) as service, started(path) as vmm:
        assert vmm.driver.names(*u.virtio_gpio_config.unpack(vmm.config)) == ["X", "DOOR"]
        vmm.driver.direction_input(0)
        assert vmm.driver.get_value(0) == 1
        vmm.driver.direction_input(1)
        vmm.driver.set_irq_type(1, BOTH)
        vmm.driver.unmask(1)
        for _ in range(4):
            service.sim.pull("a:0", "up")
            service.sim.pull("a:0", "down")
        service.sim.pull("a:0", "up")
        assert vmm.wait(u.VIRTIO_GPIO_EVENTQ)
        assert vmm.driver.events() == [(1, 1)]
        vmm.driver.unmask(1)
        assert not vmm.wait(u.VIRTIO_GPIO_EVENTQ, 0.1)
        assert vmm.driver.get_value(1) == 0


def test_two_vms_on_chips_of_the_same_source_are_apart(tmp_path: Path) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    arguments = ["--sim", "s:4", "--chip", "one=s 0, s 2", "--chip", "two=s 1, s 3"]
    with (
        Service([*arguments, "--vm", f"one={one}", "--vm", f"two={two}"]) as service,
        started(one) as first,
        started(two) as second,
    ):
        first.driver.direction_output(1, 1)
        second.driver.direction_input(1)
        second.driver.set_irq_type(1, BOTH)
        second.driver.unmask(1)
        with pytest.raises(RequestFailedError):
            first.driver.direction_input(2)
        assert (service.sim.get("s:2"), service.sim.get("s:3")) == (1, 0)
        first.disconnect()
        service.sim.pull("s:3", "up")
        assert second.wait(u.VIRTIO_GPIO_EVENTQ)
        assert second.driver.get_value(1) == 1


@pytest.mark.parametrize(
    ("sealed", "others", "warned"), [(True, 1, False), (False, 1, True), (False, 0, False)]
)
def test_memory_that_a_vm_can_shorten_is_told_where_others_are_served(
    tmp_path: Path, sealed: bool, others: int, warned: bool
) -> None:
    chips = "ab"[: 1 + others]
    arguments = [f"--sim={name}:1" for name in chips] + [f"--vm={name}={tmp_path}/{name}" for name in chips]
    with Service(arguments) as service, Vmm(sealed=sealed) as vmm:
        vmm.connect(str(tmp_path / "a"))
        vmm.start()
        assert vmm.driver.get_value(0) == 0
        assert ("can truncate its memory file" in service.log()) is warned


def test_line_that_another_vm_holds_is_refused_to_the_second(tmp_path: Path) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    with (
        Service(["--sim", "s:2", "--vm", f"s={one}", "--vm", f"s={two}"]) as service,
        started(one) as first,
        started(two) as second,
    ):
        first.driver.direction_output(0, 1)
        with pytest.raises(RequestFailedError):
            second.driver.direction_output(0, 0)
        second.driver.direction_output(1, 1)
        vmm = f':{os.getpid()}" (pid {os.getpid()}, uid {os.getuid()}); release'
        service.wait_for_log('line s:0 is held by "vm:')
        assert vmm in service.log()
        assert service.sim.get("s:0") == 1
        first.driver.release(0)
        second.driver.direction_output(0, 0)


# peers that misbehave


def test_armed_line_is_read_at_once(service: Service, path: str) -> None:
    with started(path) as vmm:
        for line in range(4):
            vmm.driver.direction_input(line)
            vmm.driver.set_irq_type(line, BOTH)
            vmm.driver.unmask(line)
        began = time.monotonic()
        for _ in range(100):
            assert [vmm.driver.get_value(line) for line in range(4)] == [0, 0, 0, 0]
        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        u.virtio_gpio_request.pack(GET, 4, 0),
        u.virtio_gpio_request.pack(GET, 0xFFFF, 0),
        u.virtio_gpio_request.pack(77, 0, 0),
        b"",
        b"\4\0\0\0\0\0\0",
        bytes(9),
        bytes(4096),
    ],
)
def test_request_that_is_none_is_answered_with_an_error(
    service: Service, path: str, request_bytes: bytes
) -> None:
    with started(path) as vmm:
        vmm.queues[0].add([request_bytes], [2])
        vmm.kick(0)
        assert vmm.wait()
        assert vmm.queues[0].collect()[0].data[:1] == bytes((ERR,))
        vmm.driver.direction_input(0)


@pytest.mark.parametrize(
    ("readable", "writable"), [(1, []), (0, [2]), (1, [0]), (1, [1]), (2, [2]), (1, [1, 1]), (3, [1, 2, 1])]
)
def test_chain_of_any_shape_comes_back(
    service: Service, path: str, readable: int, writable: list[int]
) -> None:
    with started(path) as vmm:
        whole = u.virtio_gpio_request.pack(GET, 0, 0)
        parts = [whole[i * 8 // readable : (i + 1) * 8 // readable] for i in range(readable)]
        vmm.queues[0].add(parts, writable)
        behind = vmm.ram.allocate(64)
        vmm.kick(0)
        assert vmm.wait()
        (completion,) = vmm.queues[0].collect()
        assert completion.written <= sum(writable)
        assert bytes(vmm.ram.bytes_at(behind, 64)) == bytes(64)
        vmm.driver.direction_input(0)


def test_chain_outside_of_memory_or_in_a_loop_comes_back(service: Service, path: str) -> None:
    with started(path) as vmm:
        queue = vmm.queues[0]
        request = vmm.ram.allocate(8)
        for address, length, flags, following in (
            (0x10, 8, r.VRING_DESC_F_NEXT, 61),
            ((1 << 64) - 4, 8, r.VRING_DESC_F_NEXT, 61),
            (request, 0xFFFF_FFFF, r.VRING_DESC_F_NEXT, 61),
            (request, 8, r.VRING_DESC_F_NEXT, 60),
            (request, 8, r.VRING_DESC_F_NEXT, 64),
            (request, 16, r.VRING_DESC_F_INDIRECT, 0),
        ):
            queue.describe(60, address, length, flags, following)
            queue.describe(61, request, 8, r.VRING_DESC_F_WRITE)
            queue._chains[60] = ([60], [])
            queue.offer(60)
            vmm.kick(0)
            assert vmm.wait()
            assert len(queue.collect()) == 1
            queue.free.remove(60)
        vmm.driver.direction_input(0)


def test_jump_of_the_available_index_stops_the_queue_and_nothing_else(service: Service, path: str) -> None:
    with started(path) as vmm:
        vmm.driver.direction_output(0, 1)
        vmm.queues[0].available16[1] = 1000
        vmm.kick(0)
        service.wait_for_log("queue 0 is stopped, the guest broke it: available index jumped")
        assert vmm.get_config(0, 2) == b"\4\0"
        vmm.stop()
        vmm.boot()
        vmm.start()
        vmm.driver.direction_output(0, 1)
    check_served(path)


def test_config_past_its_end_is_answered_with_nothing(service: Service, path: str) -> None:
    with started(path) as vmm:
        assert vmm.get_config(4, 200) == b""
        assert vmm.get_config(200, 4) == b""
        assert len(vmm.get_config(0, 8)) == 8


def test_unknown_message_is_refused_and_the_device_goes_on(service: Service, path: str) -> None:
    with started(path) as vmm:
        vmm.send(99, b"what")
        with pytest.raises(PeerError):
            vmm.tell(100, b"what")
        vmm.driver.direction_output(0, 1)
    service.wait_for_log("request 99 refused")


@pytest.mark.parametrize(
    "garbage",
    [
        m.header.pack(1, m.VERSION, 1 << 20),
        m.header.pack(1, 0, 0),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        os.urandom(4096),
    ],
)
def test_what_is_no_message_ends_the_connection_only(service: Service, path: str, garbage: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(path)
        sock.sendall(garbage)
        with suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    service.wait_for_log("broke the protocol")
    check_served(path)


def test_connection_that_ends_in_a_message_is_forgotten(service: Service, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        eventfd = os.eventfd(0)
        content = m.header.pack(Request.SET_VRING_CALL, m.VERSION, 8) + b"\0"
        socket.send_fds(sock, [content], [eventfd] * 3)
        os.close(eventfd)
    check_served(path)


def test_message_that_never_ends_costs_its_sender_only(service: Service, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(m.header.pack(Request.SET_VRING_CALL, m.VERSION, 4000))
        sock.setblocking(False)
        eventfd = os.eventfd(0)
        with suppress(OSError):
            for _ in range(1000):
                send(sock, b"\0", [eventfd] * 3)
        os.close(eventfd)
        assert len(os.listdir(f"/proc/{service.process.pid}/fd")) < 30
    service.wait_for_log("is gone")
    check_served(path)


def test_who_does_not_read_its_answers_is_disconnected(service: Service, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        with pytest.raises(OSError):
            while True:
                sock.sendall(m.header.pack(Request.GET_FEATURES, m.VERSION, 0) * 1000)
    service.wait_for_log("does not take its answers")
    check_served(path)


def test_vmm_that_is_killed_while_it_is_answered_has_ended_and_broken_nothing(
    service: Service, path: str
) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    service.wait_for_log("has connected")
    os.kill(service.process.pid, signal.SIGSTOP)
    sock.sendall(m.header.pack(Request.GET_FEATURES, m.VERSION, 0) * 3)
    sock.close()
    os.kill(service.process.pid, signal.SIGCONT)
    service.wait_for_log("is gone; its lines are released")
    assert "broke the protocol" not in service.log()


def test_memory_that_is_not_there_is_refused(service: Service, path: str) -> None:
    with Vmm() as vmm:
        vmm.connect(path)
        region = vmm.ram.region
        short = os.memfd_create("short")
        os.ftruncate(short, 4096)
        for fd, offset in ((short, 0), (vmm._memfd, 1 << 20), (vmm._memfd, (1 << 64) - 4096)):
            fields = (region.guest_address, region.size, region.user_address, offset)
            with pytest.raises(PeerError, match="SET_MEM_TABLE was refused"):
                vmm.tell(
                    Request.SET_MEM_TABLE, m.memory_table.pack(1, 0) + m.memory_region.pack(*fields), [fd]
                )
        os.close(short)
        vmm.start()
        vmm.driver.direction_output(0, 1)


def test_memory_at_an_odd_offset_is_mapped(service: Service, path: str) -> None:
    with Vmm() as vmm:
        vmm.connect(path)
        region = vmm.ram.region
        fields = (region.guest_address + 0x1234, 0x10, region.user_address + 0x1234, 0x1234)
        vmm.tell(
            Request.SET_MEM_TABLE,
            m.memory_table.pack(1, 0) + m.memory_region.pack(*fields),
            [vmm._memfd],
        )


def test_fds_of_the_wrong_kind_are_refused(service: Service, path: str) -> None:
    one, other = socket.socketpair()
    with Vmm() as vmm, one, other:
        vmm.connect(path)
        for fd, requests in (
            (vmm._memfd, (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR)),
            (one.fileno(), (Request.SET_VRING_KICK, Request.SET_MEM_TABLE, Request.SET_INFLIGHT_FD)),
            (vmm.kicks[0], (Request.SET_MEM_TABLE, Request.SET_INFLIGHT_FD)),
        ):
            for request in requests:
                payload = {
                    Request.SET_MEM_TABLE: m.memory_table.pack(1, 0) + m.memory_region.pack(0, 4096, 0, 0),
                    Request.SET_INFLIGHT_FD: m.inflight.pack(1 << 16, 0, 2, 64),
                }.get(request, m.u64.pack(0))
                with pytest.raises(PeerError, match="was refused"):
                    vmm.tell(request, payload, [fd])
        vmm.start()
        vmm.driver.direction_output(0, 1)


def strange_files(folder: Path) -> Iterator[int]:
    """Files that only their file system, or something worse, knows when asked or closed."""
    (folder / "on_disk").write_bytes(bytes(4096))
    yield os.open(folder / "on_disk", os.O_RDWR)
    yield os.open(folder, os.O_RDONLY)
    yield os.open("/dev/null", os.O_RDWR)
    yield os.pipe()[0]
    with select.epoll() as epoll:
        yield os.dup(epoll.fileno())
    for family, kind in ((socket.AF_INET, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_DGRAM)):
        yield socket.socket(family, kind).detach()


def test_file_of_an_unknown_kind_ends_the_connection_and_is_left_alone(
    service: Service, path: str, tmp_path: Path
) -> None:
    def others() -> set[str]:
        fds = Path(f"/proc/{service.process.pid}/fd").iterdir()
        return {name for name in map(os.readlink, fds) if name.startswith(str(tmp_path))}

    before = others()
    for request in (Request.SET_VRING_CALL, Request.SET_MEM_TABLE, Request.SET_LOG_FD):
        with socket.socket(socket.AF_UNIX) as sock, open(tmp_path / f"{request}", "w") as file:
            sock.settimeout(5)
            sock.connect(path)
            eventfd = os.eventfd(0)
            content = m.header.pack(request, m.VERSION, 8) + m.u64.pack(0)
            socket.send_fds(sock, [content], [eventfd, file.fileno()])
            with suppress(ConnectionResetError):
                assert sock.recv(1) == b""
            os.close(eventfd)
            service.wait_for_log(f"eventfd or Unix socket: '{file.name}'")
            assert others() - before == {file.name}
            before.add(file.name)
    check_served(path)


def test_socket_that_has_brought_too_many_unknown_files_is_closed_for_good(tmp_path: Path) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    arguments = ["--sim", "a:4", "--sim", "b:4", "--vm", f"a={one}", "--vm", f"b={two}"]
    with Service(arguments) as service, started(two) as good:
        sent = 0
        with pytest.raises(OSError):
            while sent < 100:
                for fd in strange_files(tmp_path):
                    with socket.socket(socket.AF_UNIX) as sock:
                        sock.settimeout(5)
                        sock.connect(one)
                        send(sock, m.header.pack(Request.SET_VRING_ERR, m.VERSION, 8) + bytes(8), [fd])
                        with suppress(ConnectionResetError):
                            assert sock.recv(1) == b""
                    os.close(fd)
                    sent += 1
        assert 16 <= sent < 25
        service.wait_for_log("serves no more VMs")
        good.driver.direction_output(0, 1)
        assert service.sim.get("b:0") == 1
    assert not os.path.exists(one)


def test_files_past_what_a_message_has_never_get_here(service: Service, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock, open("/etc/hosts") as file:
        sock.settimeout(5)
        sock.connect(path)
        eventfd = os.eventfd(0)
        socket.send_fds(
            sock,
            [m.header.pack(Request.SET_VRING_CALL, m.VERSION, 8) + m.u64.pack(0)],
            [eventfd] * m.FDS_MAX + [file.fileno()] * 20,
        )
        with suppress(ConnectionResetError):
            assert sock.recv(1) == b""
        os.close(eventfd)
    service.wait_for_log("more than 8 files with one message")
    directory = f"/proc/{service.process.pid}/fd"
    assert "/etc/hosts" not in {os.readlink(f"{directory}/{fd}") for fd in os.listdir(directory)}
    check_served(path)


def test_file_of_a_file_system_that_never_answers_stops_nobody(
    service: Service, path: str, tmp_path: Path
) -> None:
    """It is not stat-ed, mapped or closed: whoever does waits for ever, and cannot be killed."""
    with silent_file(tmp_path / "fuse") as fd:
        for request in (Request.SET_MEM_TABLE, Request.SET_VRING_KICK, Request.SET_VRING_CALL):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(5)
                sock.connect(path)
                content = m.memory_table.pack(1, 0) + m.memory_region.pack(0, 4096, 0, 0)
                socket.send_fds(sock, [m.header.pack(request, m.VERSION, len(content)) + content], [fd])
                with suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
        check_served(path)


def test_call_fd_that_is_full_or_closed_blocks_nobody(service: Service, path: str) -> None:
    ours, theirs = socket.socketpair()
    full = os.eventfd(0, 0)
    os.write(full, struct.pack("=Q", (1 << 64) - 2))
    with started(path) as vmm:
        for fd in (full, theirs.fileno()):
            vmm.tell(Request.SET_VRING_CALL, m.u64.pack(0), [fd])
            vmm.driver._patience = 1000
            vmm.driver._wait = lambda: time.sleep(0.001)
            vmm.driver.direction_output(0, 1)
            if fd == theirs.fileno():
                theirs.close()
                ours.close()
                vmm.driver.direction_output(0, 0)
        assert os.get_blocking(full) is False
    os.close(full)
    check_served(path)


def test_guest_that_never_stops_kicking_does_not_stop_the_others(tmp_path: Path) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    arguments = ["--sim", "a:4", "--sim", "b:4", "--vm", f"a={one}", "--vm", f"b={two}"]
    with Service(arguments) as service, started(one) as bad, started(two) as good:
        queue = bad.queues[0]
        head = queue.add([u.virtio_gpio_request.pack(GET, 0, 0)], [2])
        flood = f"""
import os
kick = os.dup({bad.kicks[0]})
while True:
    os.write(kick, b"\\1\\0\\0\\0\\0\\0\\0\\0")
"""
        with subprocess.Popen([sys.executable, "-c", flood], pass_fds=[bad.kicks[0]]) as flooder:
            try:
                for i in range(500):
                    for _ in range(60):
                        queue.offer(head)
                    good.driver.direction_output(0, i & 1)
                    assert service.sim.get("b:0") == i & 1
            finally:
                flooder.kill()


def test_complaints_do_not_flood_the_log(service: Service, path: str) -> None:
    with started(path) as vmm:
        for _ in range(500):
            with pytest.raises(RequestFailedError):
                vmm.driver.get_value(99)
    service.wait_for_log("more warnings like these")
    assert len(service.log()) < 4000


def test_nothing_of_a_vm_is_kept_when_it_is_gone(service: Service, path: str) -> None:
    check_served(path)
    service.wait_for_log("is gone")
    files = os.listdir(f"/proc/{service.process.pid}/fd")
    for _ in range(20):
        with Vmm() as vmm:
            vmm.connect(path)
            vmm.get_inflight()
            vmm.start()
            vmm.driver.direction_input(0)
            vmm.driver.set_irq_type(0, BOTH)
            vmm.driver.unmask(0)
    deadline = time.monotonic() + 5
    while service.log().count("is gone") < 21:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(os.listdir(f"/proc/{service.process.pid}/fd")) == len(files)
    assert "guest" not in Path(f"/proc/{service.process.pid}/maps").read_text()


def test_a_hang_up_ends_it_unless_under_nohup(path: str) -> None:
    with Service(["--sim", "a:4", "--vm", f"a={path}"]) as service:
        service.sim.close()
        service.process.send_signal(signal.SIGHUP)
        assert service.process.wait(10) == 0
        assert service.log().endswith(
            "gpiovirt: ended by SIGHUP; there is nothing to reload, start it again\n"
        )
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        kept = Service(["--sim", "a:4", "--vm", f"a={path}"])
    finally:
        signal.signal(signal.SIGHUP, ignored)
    with kept as service:
        service.process.send_signal(signal.SIGHUP)
        check_served(path)
