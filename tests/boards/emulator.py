# SPDX-License-Identifier: MIT
"""The outside of an emulated board: moves its inputs, and reads and writes registers behind its back."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUTPUTS = {
    "raspi3b": 0x3F20_0034,  # BCM2835 ARM Peripherals 6.1: GPLEV0
    "raspi4b": 0xFE20_0034,
    "virt-arm64": 0x0903_03FC,  # ARM DDI 0190, 3.3.1: GPIODATA, all lines
    "virt-armhf": 0x0903_03FC,
    "sifive_u": 0x1006_000C,  # SiFive FU540-C000 Manual, 17: output_val
    "ast2600-evb": 0x1E78_0000,
}
"""The register of the first lines' levels"""


@dataclass(frozen=True)
class Emulator:
    """QEMU, by its sockets for QMP and for tests."""

    name: str
    folder: Path

    @property
    def options(self) -> list[str]:
        sockets = [f"unix:{self.folder}/{kind},server=on,wait=off" for kind in ("qmp", "qtest")]
        return ["-qmp", sockets[0], "-qtest", sockets[1], "-qtest-log", "none"]

    def drive(self, line: int, *values: int, pause_s: float = 0.0) -> None:
        """Give an input these levels, one after the other."""
        if self.name == "ast2600-evb":
            target = {"path": "/machine/soc/gpio", "property": f"gpioA{line}"}
            for value in values:
                self.qmp("qom-set", **target, value=bool(value))
                time.sleep(pause_s)
            return
        (controller,) = (
            f"/machine/unattached/{child['name']}"
            for child in self.qmp("qom-list", path="/machine/unattached")
            if child["type"] == "child<pl061>"
        )
        with self._tests() as ask:
            for value in values:
                ask(f"set_irq_in {controller} unnamed-gpio-in {line} {value}")
                time.sleep(pause_s)

    @contextmanager
    def levels(self, line: int) -> Iterator[list[int]]:
        """What the register of outputs has for a line, read all the while."""
        seen: list[int] = []

        def look() -> None:
            with self._tests() as ask:
                while not ended.wait(0.002):  # without a pause the board would stand still
                    seen.append(int(ask(f"readl {OUTPUTS[self.name]:#x}"), 16) >> line & 1)

        ended = threading.Event()
        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield seen
        finally:
            ended.set()
            thread.join()

    @contextmanager
    def holding(self, address: int, value: int) -> Iterator[None]:
        """Write a register over and over, whatever the driver puts there."""

        def write() -> None:
            with self._tests() as ask:
                while not ended.wait(0.002):
                    ask(f"writel {address:#x} {value:#x}")

        ended = threading.Event()
        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def qmp(self, command: str, **arguments: Any) -> Any:
        with self._stream("qmp") as stream:
            stream.readline()
            for execute, its in ("qmp_capabilities", {}), (command, arguments):
                stream.write(json.dumps({"execute": execute, "arguments": its}) + "\n")
                stream.flush()
                while "return" not in (answer := json.loads(stream.readline())):
                    assert "error" not in answer, answer
        return answer["return"]

    @contextmanager
    def _tests(self) -> Iterator[Callable[[str], str]]:
        with self._stream("qtest") as stream:

            def ask(command: str) -> str:
                stream.write(command + "\n")
                stream.flush()
                ok, _, answer = stream.readline().strip().partition(" ")
                assert ok == "OK", (command, ok, answer)
                return str(answer)

            yield ask

    @contextmanager
    def _stream(self, kind: str) -> Iterator[Any]:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(20)
            control.connect(str(self.folder / kind))
            yield control.makefile("rw")
