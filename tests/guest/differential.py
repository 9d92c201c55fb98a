# SPDX-License-Identifier: MIT
"""Random sequences of ioctls on this kernel's gpio-sim and on a simulated chip of ours, step by step.

python -m tests.guest.differential FIRST COUNT   runs the sequences of that many seeds; the first difference
ends it, and is printed with its seed and the steps that led there.

Left out is that a uAPI v1 handle sets lines of which the first is an output and another an input, taken as
they are: gpio-sim then gives the input that level, and nobody can do that to a line of the kernel by uAPI v2.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from gpiovirt.core.line import Clock, Direction
from gpiovirt.host.clock import now_ns
from gpiovirt.protocols.gpiochip import ChipFile
from gpiovirt.sources.simulator import Simulator
from tests.conformance import test_uapi as u
from tests.conformance.device import QueueFifo
from tests.conformance.rigs import LINE_NAMES
from tests.holders import OPENER

CONFIG = Path("/sys/kernel/config/gpio-sim/sim")
LINES = len(LINE_NAMES)
STEPS = 60
DEBOUNCE_US = 1000
SETTLE_S = 0.004
RECORDS = {"chip": (288, 256), "line": (48, 0), "event": (16, 0)}
"""What the files give: (size of a record, where its timestamp is)"""

Answer = tuple[str, bytes]
"""(errno's name or "", the argument as it came back)"""


class Kernel:
    """gpio-sim, made anew."""

    def __init__(self) -> None:
        (CONFIG / "live").write_text("0")
        (CONFIG / "live").write_text("1")
        self._name = (CONFIG / "bank/chip_name").read_text().strip()
        self._world = Path("/sys/devices/platform", (CONFIG / "dev_name").read_text().strip(), self._name)

    def open(self) -> int:
        return os.open(f"/dev/{self._name}", os.O_RDWR)

    def ioctl(self, file: object, cmd: int, arg: bytes) -> tuple[Answer, object | None]:
        assert isinstance(file, int)
        buffer = bytearray(arg)
        try:
            fcntl.ioctl(file, cmd, buffer)
        except OSError as error:
            return (errno.errorcode[error.errno or 0], b""), None
        if cmd in OPENING:
            (fd,) = struct.unpack_from("i", buffer, len(arg) - 4)
            return ("", bytes(buffer[:-4])), fd
        return ("", bytes(buffer)), None

    def read(self, file: object, size: int, expected: int) -> list[bytes]:
        assert isinstance(file, int)
        records: list[bytes] = []
        # what is expected may take its time, what is not must have come by then
        while select.select([file], [], [], 1 if len(records) < expected else 0)[0]:
            records.append(os.read(file, size))
        return records

    def close(self, file: object) -> None:
        assert isinstance(file, int)
        os.close(file)

    def pull(self, offset: int, level: int) -> None:
        (self._world / f"sim_gpio{offset}/pull").write_text("pull-up" if level else "pull-down")

    def level(self, offset: int) -> int:
        return int((self._world / f"sim_gpio{offset}/value").read_text())

    def settle(self) -> None:
        time.sleep(SETTLE_S)


class Ours:
    """The state machine of the character device over a simulated chip."""

    def __init__(self) -> None:
        self._ns = 1_000_000_000
        self._sim = Simulator(lambda clock: now_ns(clock) if clock is Clock.REALTIME else self._ns)
        self._chip = self._sim.add_chip("sim", LINE_NAMES)

    def open(self) -> object:
        return ChipFile(self._chip, "gpiochip0", QueueFifo, OPENER)

    def ioctl(self, file: object, cmd: int, arg: bytes) -> tuple[Answer, object | None]:
        answer = file.ioctl(cmd, arg)  # type: ignore[attr-defined]
        if answer.errno:
            return (errno.errorcode[answer.errno], b""), None
        reply = arg if answer.reply is None else answer.reply
        return ("", reply[:-4] if cmd in OPENING else reply), answer.file

    def read(self, file: object, size: int, expected: int) -> list[bytes]:
        fifo = file.fifo  # type: ignore[attr-defined]
        records = list(fifo.records)
        fifo.records.clear()
        return records

    def close(self, file: object) -> None:
        file.close()  # type: ignore[attr-defined]

    def pull(self, offset: int, level: int) -> None:
        self._sim.pull("sim", offset, level)

    def level(self, offset: int) -> int:
        return self._sim.level("sim", offset)

    def directions(self, offsets: Sequence[int]) -> set[Direction]:
        return {self._chip.line_info(offset).direction for offset in offsets}

    def settle(self) -> None:
        end = self._ns + int(SETTLE_S * 1e9)
        while (deadline := self._sim.deadlines.next_deadline_ns()) is not None and deadline <= end:
            self._ns = deadline
            self._sim.deadlines.on_deadline(deadline)
        self._ns = end


OPENING = (u.GET_LINE, u.V1_HANDLE, u.V1_EVENT)


class Held(NamedTuple):
    """An open file, on both sides."""

    ours: object
    kernel: object
    kind: str
    offsets: tuple[int, ...]


class DifferenceError(Exception):
    """The two sides do not agree."""


class RandomRun:
    """One random sequence."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.ours, self.kernel = Ours(), Kernel()
        self.files: list[Held] = []
        self.steps: list[str] = []
        self.debounced = False
        self._open("chip")

    def run(self) -> None:
        try:
            for _ in range(STEPS):
                self._step()
                self._compare_world()
        finally:
            for held in self.files:
                self.kernel.close(held.kernel)

    def _step(self) -> None:
        steps: list[tuple[int, Callable[[], None]]] = [
            (10, self._get_line),
            (8, self._values),
            (6, self._set_config),
            (12, self._pull),
            (8, self._release),
            (4, self._info),
            (3, self._watch),
            (1, lambda: self._open("chip")),
            (3, self._get_handle),
            (3, self._get_event),
            (2, self._handle_values),
        ]
        weights, actions = zip(*steps, strict=True)
        self.random.choices(actions, weights)[0]()

    def _same(self, what: str, ours: object, kernel: object) -> None:
        if ours != kernel:
            raise DifferenceError(f"{what}:\n  ours   {_shown(ours)}\n  kernel {_shown(kernel)}")

    def _call(self, held: Held, cmd: int, arg: bytes, what: str) -> Held | None:
        self.steps.append(f"{held.kind} {self.files.index(held)}: {what}")
        ours, new_ours = self.ours.ioctl(held.ours, cmd, arg)
        kernel, new_kernel = self.kernel.ioctl(held.kernel, cmd, arg)
        if new_kernel is not None and new_ours is None:
            self.kernel.close(new_kernel)
        self._same(what, ours, kernel)
        if new_ours is None or new_kernel is None:
            return None
        return Held(new_ours, new_kernel, what.split()[0], ())

    def _open(self, kind: str) -> None:
        self.steps.append("open the chip")
        self.files.append(Held(self.ours.open(), self.kernel.open(), kind, ()))

    def _pick(self, *kinds: str) -> Held | None:
        there = [held for held in self.files if held.kind in kinds]
        return self.random.choice(there) if there else None

    def _offsets(self) -> list[int]:
        count = self.random.choice((1, 1, 1, 2, 3, 4))
        free = [line for line in range(LINES) if not any(line in held.offsets for held in self.files)]
        offsets = self.random.sample(free if len(free) >= count else range(LINES), count)
        if self.random.random() < 0.05:
            offsets[-1] = self.random.choice((offsets[0], LINES, 0xFFFFFFFF))
        return offsets

    def _flags(self) -> int:
        random = self.random
        flags = random.choice((0, u.INPUT, u.INPUT, u.OUTPUT, u.OUTPUT))
        if flags == u.INPUT or random.random() < 0.03:
            flags |= random.choice((0, u.RISING, u.FALLING, u.RISING | u.FALLING))
        if random.random() < 0.3:
            flags |= u.ACTIVE_LOW
        if random.random() < 0.2:
            flags |= random.choice((u.PULL_UP, u.PULL_DOWN, u.NO_BIAS))
        if flags & u.OUTPUT and random.random() < 0.2:
            flags |= random.choice((u.OPEN_DRAIN, u.OPEN_SOURCE))
        if random.random() < 0.1:
            flags |= u.REALTIME
        if random.random() < 0.03:
            flags |= 1 << random.randrange(16)
        return flags

    def _attrs(self, lines: int) -> list[tuple[int, int, int]]:
        random = self.random
        attrs: list[tuple[int, int, int]] = []

        def mask() -> int:
            return random.getrandbits(lines + (random.random() < 0.1))

        if random.random() < 0.5:
            attrs.append((u.VALUES, random.getrandbits(lines), mask()))
        if random.random() < 0.2:
            attrs.append((u.FLAGS, self._flags(), mask()))
        if random.random() < 0.15:
            attrs.append((u.DEBOUNCE, DEBOUNCE_US, mask()))
            self.debounced = True
        if random.random() < 0.02:
            attrs.append((random.choice((0, 4)), 1, mask()))
        random.shuffle(attrs)
        return attrs

    def _note_made(self, made: Held | None, offsets: list[int]) -> None:
        if made is not None:
            self.files.append(made._replace(offsets=tuple(offsets)))

    def _get_line(self) -> None:
        chip = self._pick("chip")
        assert chip is not None
        offsets, flags = self._offsets(), self._flags()
        attrs = self._attrs(len(offsets))
        size = self.random.choice((0, 0, 0, 1, 2, 3))
        consumer = self.random.choice((b"", b"me", b"x" * 32))
        what = f"line offsets={offsets} flags={flags:#x} attrs={attrs} size={size} consumer={consumer!r}"
        arg = u.line_request(offsets, flags, *attrs, consumer=consumer, size=size)
        made = self._call(chip, u.GET_LINE, arg, what)
        self._note_made(made, offsets)

    def _set_config(self) -> None:
        if (held := self._pick("line")) is not None:
            flags, attrs = self._flags(), self._attrs(len(held.offsets))
            what = f"config of {held.offsets} flags={flags:#x} attrs={attrs}"
            self._call(held, u.SET_CONFIG, u.config(flags, *attrs), what)

    def _values(self) -> None:
        if (held := self._pick("line")) is None:
            return
        lines = len(held.offsets)
        mask, bits = self.random.getrandbits(lines), self.random.getrandbits(lines)
        if self.random.random() < 0.5:
            self._call(
                held, u.SET, struct.pack("=QQ", bits, mask), f"set {held.offsets} {bits:#b} of {mask:#b}"
            )
            return
        self._call(held, u.GET, struct.pack("=QQ", 0, mask), f"get {held.offsets} {mask:#b}")

    def _pull(self) -> None:
        offset, level = self.random.randrange(LINES), self.random.getrandbits(1)
        self.steps.append(f"pull {offset} to {level}")
        self.ours.pull(offset, level)
        self.kernel.pull(offset, level)

    def _release(self) -> None:
        held = self._pick("line", "handle", "event")
        if held is None and len(self.files) > 1:
            held = self.files[-1]
        if held is None:
            return
        self.steps.append(f"close {held.kind} {self.files.index(held)} of {held.offsets}")
        self.ours.close(held.ours)
        self.kernel.close(held.kernel)
        self.files.remove(held)

    def _info(self) -> None:
        chip = self._pick("chip")
        assert chip is not None
        offset = self.random.choice([*range(LINES), LINES, 1 << 31])
        if self.random.random() < 0.5:
            self._call(chip, u.LINEINFO, u.line_info(offset), f"info of {offset}")
        else:
            self._call(chip, u.V1_LINEINFO, struct.pack("=I68x", offset), f"v1 info of {offset}")

    def _watch(self) -> None:
        chip = self._pick("chip")
        assert chip is not None
        offset = self.random.randrange(LINES + 1)
        if self.random.random() < 0.7:
            self._call(chip, u.WATCH, u.line_info(offset), f"watch {offset}")
        else:
            self._call(chip, u.UNWATCH, struct.pack("=I", offset), f"unwatch {offset}")

    def _v1_flags(self) -> int:
        random = self.random
        flags = int(random.choice((0, u.V1_IN, u.V1_IN, u.V1_OUT, u.V1_OUT)))
        if random.random() < 0.4:
            flags |= random.choice((u.V1_LOW, u.V1_LOW, u.V1_UP, u.V1_DOWN, u.V1_NO_BIAS))
        if flags & u.V1_OUT and random.random() < 0.2:
            flags |= random.choice((u.V1_DRAIN, u.V1_SOURCE))
        if random.random() < 0.05:
            flags |= 1 << random.randrange(10)
        return flags

    def _get_handle(self) -> None:
        chip = self._pick("chip")
        assert chip is not None
        offsets, flags = self._offsets(), self._v1_flags()
        values = bytes(self.random.getrandbits(1) for _ in offsets)
        what = f"handle offsets={offsets} flags={flags:#x} values={values.hex()}"
        made = self._call(chip, u.V1_HANDLE, u.handle_request(offsets, flags, values), what)
        self._note_made(made, offsets)

    def _get_event(self) -> None:
        chip = self._pick("chip")
        assert chip is not None
        offset, handle, event = self._offsets()[0], self._v1_flags(), self.random.randrange(1, 4)
        what = f"event offset={offset} flags={handle:#x} events={event}"
        made = self._call(chip, u.V1_EVENT, u.event_request(offset, handle, event), what)
        self._note_made(made, [offset])

    def _handle_values(self) -> None:
        if (held := self._pick("handle", "event")) is None:
            return
        values = bytes(self.random.getrandbits(1) for _ in held.offsets).ljust(64, b"\0")
        choice = self.random.randrange(3)
        if choice == 0:
            self._call(held, u.V1_GET, bytes(64), f"get {held.offsets}")
        elif choice == 1 and self.ours.directions(held.offsets) != {Direction.OUTPUT, Direction.INPUT}:
            self._call(held, u.V1_SET, values, f"set {held.offsets} {values.hex()[:16]}")
        elif choice == 2:
            flags = self._v1_flags()
            what = f"config of {held.offsets} flags={flags:#x}"
            self._call(held, u.V1_CONFIG, struct.pack("=I64s16x", flags, values), what)

    def _compare_world(self) -> None:
        """After each step: levels of all lines, and what has happened on all files."""
        if self.debounced:
            self.ours.settle()
            self.kernel.settle()
        self._same(
            "levels", *([side.level(line) for line in range(LINES)] for side in (self.ours, self.kernel))
        )
        for held in self.files:
            if held.kind == "handle":
                continue
            size, at = RECORDS[held.kind]
            ours = self.ours.read(held.ours, size, 0)
            kernel = self.kernel.read(held.kernel, size, len(ours))
            told = [
                [record[:at] + bytes(8) + record[at + 8 :] for record in records]
                for records in (ours, kernel)
            ]
            self._same(f"what {held.kind} {self.files.index(held)} of {held.offsets} tells", *told)


def _shown(answer: object) -> str:
    if isinstance(answer, bytes):
        return answer.rstrip(b"\0").hex(" ", 4)
    if isinstance(answer, tuple | list):
        return "[" + ", ".join(map(_shown, answer)) + "]"
    return repr(answer)


def main() -> int:
    first, count = map(int, sys.argv[1:])
    for seed in range(first, first + count):
        sequence = RandomRun(seed)
        try:
            sequence.run()
        except DifferenceError as difference:
            steps = "\n".join(sequence.steps)
            print(f"seed {seed} differs after {len(sequence.steps)} steps:\n{steps}\n{difference}")
            return 1
    print(f"{count} sequences are the same")
    return 0


if __name__ == "__main__":
    sys.exit(main())
