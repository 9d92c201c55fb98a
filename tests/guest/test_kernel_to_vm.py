# SPDX-License-Identifier: MIT
"""Lines of a real kernel's chip reach a virtual machine.

QEMU's guest has gpio-sim and runs gpiovirt; User Mode Linux, in it, is the VM.
"""

from __future__ import annotations

import sys

import pytest

from guests.guest import Qemu
from guests.recipes import cache_root
from tests.guest.conftest import ROOT

PROGRAM = f"{sys.executable} -m tests.guest.kernel_to_vm_program"
OLD_CPU = ["-cpu", "Nehalem"]  # has little state that User Mode Linux must save at each switch


@pytest.mark.usefixtures("has_uml", "has_x86")
def test_a_vm_drives_reads_and_watches_lines_of_the_kernel() -> None:
    with Qemu(host_root=True, mem="1536M", extra_args=OLD_CPU) as guest:
        result = guest.run(
            f"cd {ROOT} && guests/gpio-sim sim 8 '' '' DOOR >/dev/null && {PROGRAM}",
            timeout_s=300,
            env={"GPIOVIRT_CACHE": str(cache_root().parent)},
        )
    assert result.status == 0, result.stdout + result.stderr[-3000:]
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    held = "['gpiovirt:plc', '', 'gpiovirt:plc', 'gpiovirt:plc']"
    assert lines == [
        "gpiovirt: serving plc at /run/plc.sock",
        f"held: {held}",
        "gpiochip0 - 3 lines:",
        "line 0: unnamed unused input active-high",
        'line 1: "DOOR" unused input active-high',
        "line 2: unnamed unused input active-high",
        "1",
        "driven: True 0",
        "edge: 1 0",
        "still driven: 1",
        "released with its VM: True",
        f"still held: {held}",
        "ended: 0",
        "given back: ['', '', '', '']",
    ]
