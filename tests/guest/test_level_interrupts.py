# SPDX-License-Identifier: MIT
"""Level interrupts, taken from inside a guest by a driver of its kernel (guests/level-irq.c)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gpiovirt.testing.service import Service
from guests.guest import Uml

pytestmark = pytest.mark.usefixtures("has_uml")

ACTIVE = {"high": "up", "low": "down"}
IDLE = {"high": "down", "low": "up"}


class Device:
    """A device on line 3 whose interrupt is active at a level, with its driver in the guest."""

    def __init__(self, service: Service, guest: Uml, level: str) -> None:
        self._sim = service.sim
        self._guest = guest
        self._level = level
        self.idle()
        # one shell keeps the file open, does what is written to the fifo, and says what the file then reads
        guest.run(
            "mkfifo /run/say; (exec 3<>/dev/level-irq 4<>/run/say; while read -r what <&4; do "
            '[ "$what" = read ] || echo "$what" >&3; '
            "echo $? $(dd bs=16 count=1 <&3 2>/dev/null) >/run/said; done) 2>/run/fault &"
        ).check()

    def take(self) -> None:
        """The driver asks for the interrupt."""
        self.say(f"virtio0 3 {self._level}")

    def say(self, what: str) -> int:
        """Have the driver do something; returns how often its handler was called so far."""
        done = f"rm -f /run/said; echo {what} >/run/say; until [ -s /run/said ]; do :; done; cat /run/said"
        status, calls = self._guest.run(done, timeout_s=10).check().split()
        assert status == "0", self._guest.run("cat /run/fault").stdout
        return int(calls)

    def idle(self) -> None:
        self._sim.pull("s:3", IDLE[self._level])

    def active(self) -> None:
        self._sim.pull("s:3", ACTIVE[self._level])

    def calls(self) -> int:
        """How often the handler was called, some time after the last thing done."""
        self._guest.run("sleep 0.1").check()
        return self.say("read")


@pytest.fixture(params=["high", "low"])
def device(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Device]:
    path = str(tmp_path / "chip.sock")
    with Service(["--sim", "s:8", "--vm", f"s={path}"]) as service, Uml(vhost_gpio=[path]) as guest:
        yield Device(service, guest, request.param)
        assert "refused" not in service.log()


def test_level_is_told_once_and_again_after_each_time_it_was_handled(device: Device) -> None:
    device.take()
    assert device.calls() == 0
    device.active()
    assert device.calls() == 1  # masked while it is handled, though the level stays
    device.say("ack")
    assert device.calls() == 2
    device.idle()
    device.say("ack")
    assert device.calls() == 2
    device.active()
    assert device.calls() == 3


def test_level_that_is_over_when_it_was_handled_is_not_told_again(device: Device) -> None:
    device.take()
    device.active()
    assert device.calls() == 1
    for _ in range(3):
        device.idle()
        device.active()
    device.idle()
    device.say("ack")
    assert device.calls() == 1


def test_level_while_disabled_is_told_when_enabled_if_it_lasts(device: Device) -> None:
    device.take()
    device.say("mask")
    device.active()
    device.idle()
    device.say("unmask")
    assert device.calls() == 0
    device.say("mask")
    device.active()
    assert device.calls() == 0
    device.say("unmask")
    assert device.calls() == 1


def test_level_that_is_active_when_it_is_asked_for_is_told(device: Device) -> None:
    device.active()
    device.take()
    assert device.calls() == 1
