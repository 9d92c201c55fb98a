# SPDX-License-Identifier: MIT
"""Runs on a board: a VM's front end and its guest's driver, beside the process that serves its chip.

python3 vm.py SOCKET requests N   drive line 0 low and high and read it back, N times; how many were right
python3 vm.py SOCKET edges        "ready", then two edges of line 1: 1 rising, 2 falling

Guest and server look for what the other has put into their memory again and again: no system call, which
would order their loads and stores, need be between them.
"""

from __future__ import annotations

import json
import sys

from gpiovirt.testing.virtio_driver import GpioDriver
from gpiovirt.testing.vmm import Vmm
from gpiovirt.uapi.virtio_gpio import VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH

LOOKS = 1_000_000


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def requests(vmm: Vmm, count: str) -> None:
    driver = GpioDriver(vmm.queues[0], vmm.queues[1], vmm.kick, lambda: None, patience=LOOKS)
    driver.direction_output(0, 0)
    right = 0
    for number in range(int(count)):
        driver.set_value(0, number & 1)
        right += driver.get_value(0) == number & 1
    say(right=right)


def edges(vmm: Vmm) -> None:
    driver = vmm.driver
    driver.direction_input(1)
    driver.set_irq_type(1, VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH)
    driver.unmask(1)
    say(ready=True)
    for _ in range(2):
        while not vmm.wait(1, 60) or not (happened := driver.events()):
            continue
        assert [line for line, _ in happened] == [1]
        driver.unmask(1)
        say(edge=2 - driver.get_value(1))


if __name__ == "__main__":
    socket, what, *arguments = sys.argv[1:]
    with Vmm(timeout_s=60) as vmm:
        vmm.connect(socket)
        vmm.start()
        globals()[what](vmm, *arguments)
