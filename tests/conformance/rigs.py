# SPDX-License-Identifier: MIT
"""What the conformance suite runs over: one interface to a chip of eight lines and its world.

The names, lines 2 and 5 being named, are LINE_NAMES. A refusal is an OSError with the kernel's errno,
whatever the thing below raises.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from gpiovirt.control.simulator import ENVIRONMENT, SimClient
from gpiovirt.core.aggregate import Aggregate
from gpiovirt.core.chip import Chip, LineRequest
from gpiovirt.core.line import (
    Bias,
    Clock,
    Direction,
    Drive,
    Edge,
    EdgeEvent,
    InfoEvent,
    InfoEventType,
    LineInfo,
    LineSettings,
)
from gpiovirt.core.task import Future
from gpiovirt.errors import GpiovirtError
from gpiovirt.host.clock import now_ns
from gpiovirt.host.gpio_device import ChipDevice
from gpiovirt.host.reactor import Reactor
from gpiovirt.sources.line_files import KernelLine
from gpiovirt.sources.simulator import Simulator
from gpiovirt.virtual.stack import StackedLine, VirtualChip
from tests.conformance.hostfs import HostfsWorld
from tests.holders import program

LINE_NAMES = ["", "", "DOOR", "", "", "LAMP", "", ""]


class Request(Protocol):
    """Lines held."""

    def get(self, mask: int) -> int: ...
    def set(self, mask: int, bits: int) -> None: ...
    def reconfigure(self, settings: Mapping[int, LineSettings]) -> None: ...
    def events(self, count: int) -> list[EdgeEvent]: ...
    def no_event(self) -> bool: ...
    def release(self) -> None: ...


with contextlib.suppress(ModuleNotFoundError):  # what runs without it uses no GpiodRig
    import gpiod
    from gpiod import line


class Rig(Protocol):
    """A chip under test."""

    def line_info(self, offset: int) -> LineInfo: ...
    def watch(self, *offsets: int) -> Callable[[int], list[InfoEvent]]: ...
    def request(
        self, settings: Mapping[int, LineSettings], consumer: str = "test", buffer_size: int = 0
    ) -> Request: ...
    def pull(self, offset: int, level: int) -> None: ...
    def level(self, offset: int) -> int: ...
    def wait(self, seconds: float) -> None: ...
    def close(self) -> None: ...


@contextlib.contextmanager
def errors_as_oserror() -> Iterator[None]:
    """One form for all refusals."""
    try:
        yield
    except GpiovirtError as error:
        # past the end is ERANGE to those who make chips, and EINVAL on the character device
        number = errno.EINVAL if error.errno == errno.ERANGE else error.errno
        raise OSError(number, str(error)) from error
    except ValueError as error:  # the gpiod binding's form of EINVAL
        raise OSError(errno.EINVAL, str(error)) from error


class CoreRequest:
    """A LineRequest of the core, with its events in a queue."""

    def __init__(
        self,
        request: LineRequest,
        queue: deque[EdgeEvent],
        pump: Callable[[float], object] = lambda _: None,
    ) -> None:
        self._request = request
        self._queue = queue
        self._pump = pump

    def get(self, mask: int) -> int:
        return self._request.get_values(mask)

    def set(self, mask: int, bits: int) -> None:
        with errors_as_oserror():
            self._request.set_values(mask, bits)

    def reconfigure(self, settings: Mapping[int, LineSettings]) -> None:
        offsets = list(self._request.offsets)
        self._request.reconfigure({offsets.index(offset): wanted for offset, wanted in settings.items()})

    def events(self, count: int) -> list[EdgeEvent]:
        self._pump(0.05)
        assert len(self._queue) >= count, f"{len(self._queue)} events, not {count}"
        return [self._queue.popleft() for _ in range(count)]

    def no_event(self) -> bool:
        self._pump(0.05)
        return not self._queue

    def release(self) -> None:
        self._request.release()


class CoreRig:
    """A Chip in this process: `depth` aggregates above a simulated chip."""

    def __init__(self, depth: int) -> None:
        self._now_ns = 1_000_000_000
        self._simulator = Simulator(lambda clock: now_ns(clock) if clock is Clock.REALTIME else self._now_ns)
        chip: Chip = self._simulator.add_chip("bank-a", ["", "", "DOOR", ""] if depth else LINE_NAMES)
        if depth:
            other = self._simulator.add_chip("bank-b", ["", "LAMP", "", ""])
            lines = [(chip, i) for i in range(4)] + [(other, i) for i in range(4)]
            chip = Aggregate("agg-1", lines, lambda _: self._now_ns)
        for level in range(2, depth + 1):
            chip = Aggregate(f"agg-{level}", [(chip, i) for i in range(8)], lambda _: self._now_ns)
        self.chip = chip
        self._places = [("bank-a", i) if i < 4 or not depth else ("bank-b", i - 4) for i in range(8)]

    def line_info(self, offset: int) -> LineInfo:
        with errors_as_oserror():
            return self.chip.line_info(offset)

    def watch(self, *offsets: int) -> Callable[[int], list[InfoEvent]]:
        queue: deque[InfoEvent] = deque()
        self.chip.watch(lambda event: queue.append(event) if event.info.offset in offsets else None)
        return lambda count: [queue.popleft() for _ in range(count)]

    def request(
        self, settings: Mapping[int, LineSettings], consumer: str = "test", buffer_size: int = 0
    ) -> Request:
        queue: deque[EdgeEvent] = deque(maxlen=buffer_size or 16 * len(settings))
        with errors_as_oserror():
            request = self.chip.request(
                list(settings), list(settings.values()), program(consumer), queue.append
            )
        return CoreRequest(request, queue)

    def pull(self, offset: int, level: int) -> None:
        self._simulator.pull(*self._places[offset], level)

    def level(self, offset: int) -> int:
        return self._simulator.level(*self._places[offset])

    def wait(self, seconds: float) -> None:
        end = self._now_ns + int(seconds * 1e9)
        while (deadline := self._simulator.deadlines.next_deadline_ns()) is not None and deadline <= end:
            self._now_ns = deadline
            self._simulator.deadlines.on_deadline(deadline)
        self._now_ns = end

    def close(self) -> None:
        pass


class World(Protocol):
    """The other side of a real chip's lines."""

    def pull(self, offset: int, level: int) -> None: ...
    def level(self, offset: int) -> int: ...
    def close(self) -> None: ...


class SimWorld:
    """Lines of a simulator that `gpiovirt run` serves: bank-a 0-3 and bank-b 0-3."""

    def __init__(self) -> None:
        self._client = SimClient(os.environ[ENVIRONMENT])

    def pull(self, offset: int, level: int) -> None:
        self._client.pull(f"bank-{'ab'[offset // 4]}:{offset % 4}", "up" if level else "down")

    def level(self, offset: int) -> int:
        return self._client.get(f"bank-{'ab'[offset // 4]}:{offset % 4}")

    def close(self) -> None:
        self._client.close()


class GpioSimWorld:
    """Lines of the kernel's gpio-sim, by its attributes in the given sysfs directory."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def pull(self, offset: int, level: int) -> None:
        (self._directory / f"sim_gpio{offset}/pull").write_text("pull-up" if level else "pull-down")

    def level(self, offset: int) -> int:
        return int((self._directory / f"sim_gpio{offset}/value").read_text())

    def close(self) -> None:
        pass


class KernelRig:
    """A virtual chip of all lines of a kernel's chip, in this process, and `depth` aggregates above it."""

    def __init__(self, path: str, world: World, depth: int) -> None:
        self._reactor = Reactor()
        self._device = ChipDevice(path)
        self._virtual = VirtualChip(
            "rig",
            [StackedLine(self._device.line_info(offset).name, *self._request(offset)) for offset in range(8)],
            now_ns,
            self._reactor,
            request_anew=self._request,
        )
        chip: Chip = self._virtual
        for level in range(depth):
            chip = Aggregate(f"agg-{level}", [(chip, i) for i in range(8)], now_ns)
        self.chip = chip
        self._world = world
        self._requests: list[CoreRequest] = []
        self.pull = world.pull
        self.level = world.level

    def _request(self, offset: int) -> tuple[KernelLine, bool]:
        file = KernelLine(self._device.request(offset, "rig"))
        return file, self._device.line_info(offset).direction is Direction.OUTPUT

    def _pump(self, seconds: float) -> None:
        self._reactor.run_until(Future(), int(seconds * 1e9))

    wait = _pump

    def line_info(self, offset: int) -> LineInfo:
        with errors_as_oserror():
            return self.chip.line_info(offset)

    def watch(self, *offsets: int) -> Callable[[int], list[InfoEvent]]:
        queue: deque[InfoEvent] = deque()
        self.chip.watch(lambda event: queue.append(event) if event.info.offset in offsets else None)

        def read(count: int) -> list[InfoEvent]:
            self._pump(0.05)
            return [queue.popleft() for _ in range(count)]

        return read

    def request(
        self, settings: Mapping[int, LineSettings], consumer: str = "test", buffer_size: int = 0
    ) -> Request:
        queue: deque[EdgeEvent] = deque(maxlen=buffer_size or 16 * len(settings))
        with errors_as_oserror():
            request = self.chip.request(
                list(settings), list(settings.values()), program(consumer), queue.append
            )
        self._requests.append(CoreRequest(request, queue, self._pump))
        return self._requests[-1]

    def close(self) -> None:
        for request in self._requests:
            request.release()
        if isinstance(self.chip, Aggregate):
            self.chip.close()
        self._virtual.close()
        self._device.close()
        self._world.close()


class GpiodRequest:
    """A request of the gpiod binding."""

    def __init__(self, rig: GpiodRig, settings: Mapping[int, LineSettings], consumer: str, size: int) -> None:
        self._request = rig.chip.request_lines(
            {offset: rig.encode(wanted) for offset, wanted in settings.items()},
            consumer=consumer,
            event_buffer_size=size,
            output_values={
                offset: gpiod.line.Value(wanted.output_value)
                for offset, wanted in settings.items()
                if wanted.direction is Direction.OUTPUT
            },
        )
        self._rig = rig
        self._offsets = list(settings)

    def _masked(self, mask: int) -> list[int]:
        return [offset for i, offset in enumerate(self._offsets) if mask >> i & 1]

    def get(self, mask: int) -> int:
        values = self._request.get_values(self._masked(mask))
        return sum(
            value.value << self._offsets.index(o) for o, value in zip(self._masked(mask), values, strict=True)
        )

    def set(self, mask: int, bits: int) -> None:
        with errors_as_oserror():
            self._request.set_values(
                {o: gpiod.line.Value(bits >> self._offsets.index(o) & 1) for o in self._masked(mask)}
            )

    def reconfigure(self, settings: Mapping[int, LineSettings]) -> None:
        self._request.reconfigure_lines({o: self._rig.encode(wanted) for o, wanted in settings.items()})

    def events(self, count: int) -> list[EdgeEvent]:
        events: list[EdgeEvent] = []
        while len(events) < count:
            assert self._request.wait_edge_events(5), f"{len(events)} events, not {count}"
            events += [
                EdgeEvent(
                    event.line_offset,
                    event.event_type is gpiod.EdgeEvent.Type.RISING_EDGE,
                    event.timestamp_ns,
                    event.global_seqno,
                    event.line_seqno,
                )
                for event in self._request.read_edge_events(count - len(events))
            ]
        return events

    def no_event(self) -> bool:
        return not select.select([self._request.fd], [], [], 0.05)[0]

    def release(self) -> None:
        self._request.release()


class GpiodRig:
    """An ordinary /dev/gpiochipN, by the official Python binding."""

    def __init__(self, path: str, world: World) -> None:
        self.chip = gpiod.Chip(path)
        self._world = world
        self._requests: list[GpiodRequest] = []
        self.pull = world.pull
        self.level = world.level

    @staticmethod
    def encode(wanted: LineSettings) -> gpiod.LineSettings:
        """The binding's LineSettings."""
        return gpiod.LineSettings(
            direction=line.Direction[wanted.direction.name],
            edge_detection=line.Edge[wanted.edge.name],
            bias=line.Bias[wanted.bias.name],
            drive=line.Drive[wanted.drive.name],
            active_low=wanted.active_low,
            debounce_period=timedelta(microseconds=wanted.debounce_period_us),
            event_clock=line.Clock[wanted.event_clock.name],
            output_value=line.Value(wanted.output_value),
        )

    @staticmethod
    def _info(info: gpiod.LineInfo) -> LineInfo:
        bias = info.bias.name
        return LineInfo(
            info.offset,
            info.name or "",
            info.consumer or "",
            info.used,
            Direction[info.direction.name],
            LineSettings(
                edge=Edge[info.edge_detection.name],
                bias=Bias.AS_IS if bias == "UNKNOWN" else Bias[bias],
                drive=Drive[info.drive.name],
                active_low=info.active_low,
                debounce_period_us=info.debounce_period // timedelta(microseconds=1),
                event_clock=Clock[info.event_clock.name],
            ),
        )

    def line_info(self, offset: int) -> LineInfo:
        with errors_as_oserror():
            return self._info(self.chip.get_line_info(offset))

    def watch(self, *offsets: int) -> Callable[[int], list[InfoEvent]]:
        for offset in offsets:
            self.chip.watch_line_info(offset)

        def read(count: int) -> list[InfoEvent]:
            events: list[InfoEvent] = []
            for _ in range(count):
                assert self.chip.wait_info_event(5), f"{len(events)} info events, not {count}"
                event = self.chip.read_info_event()
                events.append(
                    InfoEvent(
                        InfoEventType(event.event_type.value), event.timestamp_ns, self._info(event.line_info)
                    )
                )
            return events

        return read

    def request(
        self, settings: Mapping[int, LineSettings], consumer: str = "test", buffer_size: int = 0
    ) -> Request:
        with errors_as_oserror():
            self._requests.append(GpiodRequest(self, settings, consumer, buffer_size))
        return self._requests[-1]

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        for request in self._requests:
            request.release()
        self.chip.close()
        self._world.close()


def rig_names() -> Sequence[str]:
    """What to run over here: otherwise than the core, GPIOVIRT_RIG=[source:|aggregate:|kept:]PATH[@SYSFS].

    PATH is a character device; with `source:` it is used through our KernelChip, with `aggregate:`
    through an aggregate above that; with `kept:` it is a chip of gpiovirtd. SYSFS is the directory of a
    gpio-sim chip; or `hostfs:DIR`, where a guest finds a world on the host.
    """
    given = os.environ.get("GPIOVIRT_RIG")
    return given.split(" ") if given else ["simulator", "aggregate", "aggregate of aggregates"]


def make_rig(name: str) -> Rig:
    """The rig of that name, all of its lines free, pulled down and inputs where that can be had."""
    depth = {"simulator": 0, "aggregate": 1, "aggregate of aggregates": 3}.get(name)
    if depth is not None:
        return CoreRig(depth)
    device, _, sysfs = name.partition("@")
    kind, _, path = device.rpartition(":")
    world: World = GpioSimWorld(sysfs) if sysfs else SimWorld()
    if sysfs.startswith("hostfs:"):
        world = HostfsWorld(sysfs.removeprefix("hostfs:"))
    ours = kind in ("source", "aggregate")
    rig = KernelRig(path, world, int(kind == "aggregate")) if ours else GpiodRig(path, world)
    rig.request({offset: LineSettings(Direction.INPUT) for offset in range(8)}).release()
    for offset in range(8):
        rig.pull(offset, 0)
    return rig
