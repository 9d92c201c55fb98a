# SPDX-License-Identifier: MIT
"""A chip in a real guest: the kernel's own driver, in User Mode Linux."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpiovirt.testing.service import Service
from guests.guest import Uml
from tests.conformance.hostfs import Host
from tests.conformance.rigs import LINE_NAMES
from tests.guest.conftest import ROOT

pytestmark = pytest.mark.usefixtures("has_uml")

NOT_SAID = "not bias and not taken_as_it_is and not an_output_made_an_input_keeps_its_level"  # by its bias
WAIT_FOR_MONITOR = "until grep -q gpiomon /proc/interrupts; do :; done"
EVERY_EDGE = """
import gpiod, sys
from gpiod.line import Direction, Edge, Value
output, both = gpiod.LineSettings(direction=Direction.OUTPUT), gpiod.LineSettings(edge_detection=Edge.BOTH)
with (
    gpiod.request_lines("/dev/gpiochip0", config={1: both}) as watched,
    gpiod.request_lines("/dev/gpiochip0", config={0: output}) as driven,
):
    for i in range(int(sys.argv[1])):
        driven.set_value(0, Value(1 - i % 2))
        assert watched.wait_edge_events(5), i
        events = [(event.event_type.value, event.global_seqno) for event in watched.read_edge_events()]
        assert events == [(1 + i % 2, i + 1)], (i, events)
"""
ALL_LINES = """
import gpiod, sys
from gpiod.line import Direction, Value
first, count = int(sys.argv[1]), int(sys.argv[2])
outputs, inputs = range(first, first + count // 2), range(first + count // 2, first + count)
config = {tuple(outputs): gpiod.LineSettings(direction=Direction.OUTPUT), tuple(inputs): None}
with gpiod.request_lines("/dev/gpiochip0", config=config) as request:
    for pattern in ([i % 3 == 0 for i in outputs], [i % 2 == 0 for i in outputs]):
        request.set_values({i: Value(int(on)) for i, on in zip(outputs, pattern)})
        assert [value.value for value in request.get_values(inputs)] == pattern
"""
KINDS = """
import gpiod, sys
from gpiod.line import Edge
count, path = int(sys.argv[1]), sys.argv[2]
both = gpiod.LineSettings(edge_detection=Edge.BOTH)
with gpiod.request_lines("/dev/gpiochip0", config={3: both}, event_buffer_size=count) as request:
    open(path, "w").close()
    kinds = []
    while len(kinds) < count and request.wait_edge_events(5):
        kinds += [event.event_type.value for event in request.read_edge_events()]
print(kinds == [1, 2] * (count // 2) or kinds)
"""
EDGE_OF_EACH = """
import gpiod, sys
from gpiod.line import Edge
count, path = int(sys.argv[1]), sys.argv[2]
wanted = gpiod.LineSettings(edge_detection=Edge.RISING)
requests = [
    gpiod.request_lines("/dev/gpiochip0", config={tuple(range(first, first + 50)): wanted})
    for first in range(0, count, 50)
]
open(path, "w").close()
seen = []
for request in requests:
    while sum(offset in request.offsets for offset in seen) < 50 and request.wait_edge_events(5):
        seen += [event.line_offset for event in request.read_edge_events()]
print(sorted(seen) == list(range(count)))
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "chip.sock")


@pytest.fixture
def service(path: str) -> Iterator[Service]:
    with Service(["--sim", "s:8", "--wire", "s:0=s:1", "--vm", f"s={path}"]) as service:
        yield service
        assert "fault of ours" not in service.log()


def python(program: str, *arguments: object) -> str:
    return shlex.join([sys.executable, "-c", program, *map(str, arguments)])


def test_lines_behave_in_a_guest_as_the_conformance_suite_says(tmp_path: Path, path: str) -> None:
    """But for a bias, and a line that is taken as it is: a virtio GPIO device has no message for these."""
    arguments = ["--sim", f"s:{','.join(LINE_NAMES)}", "--vm", f"s={path}"]
    with (
        Service(arguments) as service,
        Host(tmp_path / "world", service.sim, "s"),
        Uml(vhost_gpio=[path]) as guest,
    ):
        result = guest.run(
            f"{sys.executable} -m pytest -p no:cacheprovider -k '{NOT_SAID}' "
            "tests/conformance/test_lines.py tests/conformance/test_events.py",
            env={"GPIOVIRT_RIG": f"/dev/gpiochip0@hostfs:{tmp_path}/world"},
            cwd=str(ROOT),
            timeout_s=120,
        )
        assert result.status == 0, result.stdout[-6000:] + result.stderr[-2000:]
        passed = re.search(r"(\d+) passed", result.stdout)
        assert passed is not None
        assert int(passed[1]) >= 48
        assert "skipped" not in result.stdout
        assert "refused" not in service.log()


def test_tools_list_drive_read_and_watch_the_lines(service: Service, path: str) -> None:
    with Uml(vhost_gpio=[path]) as guest:
        assert "(8 lines)" in guest.run("gpiodetect").check()
        driven = guest.run("gpioset --mode=time --sec=1 gpiochip0 2=1 & sleep 0.2; gpioget gpiochip0 3")
        assert driven.check() == "0\n"
        assert service.sim.get("s:2") == 1
        service.sim.pull("s:3", "up")
        assert guest.run("gpioget gpiochip0 3").check() == "1\n"
        watched = guest.run(
            f"gpiomon --num-events=2 --format='%o %e' gpiochip0 1 >/run/edges & {WAIT_FOR_MONITOR}; "
            "gpioset --mode=time --usec=100000 gpiochip0 0=1; wait; cat /run/edges"
        )
        assert watched.check() == "1 1\n1 0\n"


def test_names_reach_the_guest(path: str) -> None:
    arguments = ["--sim", "a:DOOR,,x y", "--sim", "b:DOOR,LAMP", "--chip", "plc=b 1, a 0-2, b 0"]
    with Service([*arguments, "--vm", f"plc={path}"]), Uml(vhost_gpio=[path]) as guest:
        lines = [line.split(maxsplit=2)[2] for line in guest.run("gpioinfo").check().splitlines()[1:]]
        assert [re.sub(r" +", " ", line) for line in lines] == [
            '"LAMP" unused input active-high ',
            '"DOOR" unused input active-high ',
            "unnamed unused input active-high ",
            '"x y" unused input active-high ',
            "unnamed unused input active-high ",  # a second DOOR: the device's names are unique
        ]


@pytest.mark.parametrize(("count", "first"), [(64, 0), (500, 0), (500, 436)])
def test_many_lines_in_one_request(path: str, count: int, first: int) -> None:
    wires = [f"--wire=s:{first + i}=s:{first + 32 + i}" for i in range(32)]
    with Service(["--sim", f"s:{count}", *wires, "--vm", f"s={path}"]), Uml(vhost_gpio=[path]) as guest:
        assert f"({count} lines)" in guest.run("gpiodetect").check()
        guest.run(python(ALL_LINES, first, 64)).check()


def test_edges_of_every_line_arrive(path: str) -> None:
    """More lines than the event queue has room for without indirect descriptors."""
    with Service(["--sim", "s:200", "--vm", f"s={path}"]) as service, Uml(vhost_gpio=[path]) as guest:
        ready = Path(path).with_name("ready")
        guest.run(f"{python(EDGE_OF_EACH, 200, ready)} >/run/seen 2>&1 &")
        wait_for(ready)
        for offset in range(200):
            service.sim.pull(f"s:{offset}", "up")
        assert guest.run("sleep 0.5; cat /run/seen").check() == "True\n"


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 20
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_edges_that_are_faster_than_the_guest_arrive_in_order_and_as_what_they_were(
    service: Service, path: str
) -> None:
    ready = Path(path).with_name("ready")
    with Uml(vhost_gpio=[path]) as guest:
        guest.run(f"{python(KINDS, 300, ready)} >/run/kinds 2>&1 &")
        wait_for(ready)
        for i in range(300):
            service.sim.pull("s:3", "down" if i & 1 else "up")
        assert guest.run("until [ -s /run/kinds ]; do sleep 0.05; done; cat /run/kinds").check() == "True\n"


def test_every_edge_arrives_once(service: Service, path: str) -> None:
    with Uml(vhost_gpio=[path]) as guest:
        guest.run(python(EVERY_EDGE, 3000)).check()


def test_lines_of_a_killed_guest_are_released_and_the_next_is_served(service: Service, path: str) -> None:
    for _ in range(3):
        with Uml(vhost_gpio=[path]) as guest:
            guest.run("gpioset --mode=time --sec=60 gpiochip0 2=1 & gpiomon gpiochip0 1 >/dev/null &")
            guest.run(WAIT_FOR_MONITOR).check()
            service.wait_for_consumer("s:2", "vm:linux:")
            assert service.sim.get("s:2") == 1
        service.wait_for_consumer("s:2", "")
        service.wait_for_consumer("s:1", "")
        assert service.sim.get("s:2") == 0


def test_guest_that_reboots_gets_a_fresh_device(service: Service, path: str) -> None:
    with Uml(vhost_gpio=[path]) as guest:
        for _ in range(2):
            guest.run("gpioset --mode=time --sec=60 gpiochip0 2=1 & gpiomon gpiochip0 1 >/dev/null &")
            guest.run(WAIT_FOR_MONITOR).check()
            guest.reboot()
            assert guest.run("gpioget gpiochip0 2").check() == "0\n"


def test_guests_on_chips_of_one_source_are_apart(tmp_path: Path) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    arguments = ["--sim", "s:4", "--chip", "one=s 0, s 2", "--chip", "two=s 1, s 3"]
    with (
        Service([*arguments, "--vm", f"one={one}", "--vm", f"two={two}"]) as service,
        Uml(vhost_gpio=[one]) as first,
        Uml(vhost_gpio=[two]) as second,
    ):
        first.run("gpioset --mode=time --sec=60 gpiochip0 0=0 1=1 &").check()
        second.run("gpioset --mode=time --sec=60 gpiochip0 0=1 1=0 &").check()
        service.wait_for_consumer("s:3", "gpiovirt:two")
        time.sleep(0.3)
        assert [service.sim.get(f"s:{i}") for i in range(4)] == [0, 1, 1, 0]
        assert first.run("gpioget gpiochip0 2").status
        first.kill()
        time.sleep(0.1)
        assert service.sim.get("s:1") == 1


def test_guest_with_two_chips_has_both(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "ab"]
    arguments = ["--sim", "a:2", "--sim", "b:3", "--wire", "a:0=b:0"]
    with (
        Service([*arguments, "--vm", f"a={paths[0]}", "--vm", f"b={paths[1]}"]),
        Uml(vhost_gpio=paths) as guest,
    ):
        shown = guest.run(
            "gpioset --mode=time --sec=1 gpiochip0 0=1 & sleep 0.2; gpioget gpiochip1 0; gpiodetect"
        )
        assert shown.check().splitlines()[0] == "1"
        assert len(shown.stdout.splitlines()) == 3


def test_line_of_the_kernel_that_a_vm_has_is_busy_to_a_program() -> None:
    gpiovirt = f"{sys.executable} -m gpiovirt"
    with Uml() as guest:
        guest.run("guests/gpio-sim sim 4", cwd=str(ROOT)).check()
        guest.run(f"{gpiovirt} serve --chip 'plc=sim 0-1' --vm plc=/run/plc.sock 2>/run/log &")
        guest.run("until grep -q serving /run/log; do sleep 0.05; done", timeout_s=20).check()
        refused = guest.run(f"{gpiovirt} run --chip 'mine=sim 1' -- true")
        assert refused.status == 1
        assert 'line sim:1 is held by "gpiovirt:plc"; release it or choose another' in refused.stderr
        guest.run(f"{gpiovirt} run --chip 'mine=sim 2' -- true").check()
