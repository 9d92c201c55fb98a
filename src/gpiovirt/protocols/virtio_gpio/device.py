# SPDX-License-Identifier: MIT
"""The virtio GPIO device over a Chip. virtio-v1.2 5.18

It owns a guest's state of each line: the request that holds it, its interrupt, and a record of
both, which outlives us if the export keeps it in memory that does. Queues come in through start().
A guest's fault is an error answer or a call of `on_broken`, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpiovirt.core.chip import Chip, LineRequest
from gpiovirt.core.holder import Holder
from gpiovirt.core.line import AS_IS, Direction, Edge, EdgeEvent, LineSettings
from gpiovirt.errors import GpiovirtError, PeerError, UsageError
from gpiovirt.protocols.virtio_gpio.guest_line import GuestLine
from gpiovirt.protocols.virtio_gpio.irq import STEPS, IrqAction, IrqEvent, IrqState
from gpiovirt.protocols.virtio_gpio.record import LineRecord, Record, names_block
from gpiovirt.protocols.virtqueue import Chain, Virtqueue
from gpiovirt.uapi import virtio_gpio as u
from gpiovirt.uapi.virtio_ring import VIRTIO_F_VERSION_1, VIRTIO_RING_F_INDIRECT_DESC

__all__ = ["GpioDevice"]


_OK = bytes((u.VIRTIO_GPIO_STATUS_OK, 0))
_OK_1 = bytes((u.VIRTIO_GPIO_STATUS_OK, 1))
_ERROR = bytes((u.VIRTIO_GPIO_STATUS_ERR, 0))
_VALID = bytes((u.VIRTIO_GPIO_IRQ_STATUS_VALID,))
_INVALID = bytes((u.VIRTIO_GPIO_IRQ_STATUS_INVALID,))
_IRQ_EDGES = {
    u.VIRTIO_GPIO_IRQ_TYPE_NONE: Edge.NONE,
    u.VIRTIO_GPIO_IRQ_TYPE_EDGE_RISING: Edge.RISING,
    u.VIRTIO_GPIO_IRQ_TYPE_EDGE_FALLING: Edge.FALLING,
    u.VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH: Edge.BOTH,
    u.VIRTIO_GPIO_IRQ_TYPE_LEVEL_HIGH: Edge.BOTH,
    u.VIRTIO_GPIO_IRQ_TYPE_LEVEL_LOW: Edge.BOTH,
}
_DIRECTION_OF = {Direction.OUTPUT: u.VIRTIO_GPIO_DIRECTION_OUT, Direction.INPUT: u.VIRTIO_GPIO_DIRECTION_IN}

# on the path of every edge; looking up a member takes a call in Python 3.11
_LATCHED, _ARMED = IrqState.LATCHED, IrqState.ARMED
_BUFFER, _EDGE = IrqEvent.BUFFER, IrqEvent.EDGE
_NOTHING, _TELL, _REFUSE = IrqAction.NOTHING, IrqAction.VALID, IrqAction.REFUSE
_RISING, _FALLING = Edge.RISING, Edge.FALLING

_unpack_request = u.virtio_gpio_request.unpack
_REQUEST_SIZE = u.virtio_gpio_request.size
_RESPONSE_SIZE = u.virtio_gpio_response.size

_BUDGET = 64  # chains per kick, before others get their turn
_EVENT_BUFFERS = 100  # a ring of 256 has room for as many without indirect descriptors
_EDGES_MAX = 1024  # edges of a line not yet reported; a busy machine can stall for 100 ms


class GpioDevice:
    """A virtio GPIO device whose lines are those of `chip`.

    `call(index)` notifies the guest of a queue; `on_refused(offset, error)` is called when a request is
    answered with an error, `on_broken(index, error)` when a queue can no longer be used. `defaults` has what
    a guest cannot ask for, per line: bias, drive, debounce period, active-low.
    """

    num_queues = 2

    def __init__(
        self,
        chip: Chip,
        call: Callable[[int], None],
        on_refused: Callable[[int | None, GpiovirtError], None],
        on_broken: Callable[[int, PeerError], None],
        *,
        holder: Holder,
        defaults: Mapping[int, LineSettings] | None = None,
    ) -> None:
        num_lines = chip.info.num_lines
        if not 0 < num_lines <= 0xFFFF:
            raise UsageError(f"chip {chip.info.label} has {num_lines} lines; a VM can have 1 to 65535")
        self._chip = chip
        self._call = call
        self._on_refused = on_refused
        self._on_broken = on_broken
        self._holder = holder
        self._num_lines = num_lines
        self._lines = [GuestLine(offset, (defaults or {}).get(offset, AS_IS)) for offset in range(num_lines)]
        self._names = names_block(chip.line_info(offset).name for offset in range(num_lines))
        self._irq = False
        self._queues: list[Virtqueue | None] = [None, None]
        self._stopped_at = [0, 0]
        self._handlers: dict[int, Callable[[GuestLine, int], bytes]] = {
            u.VIRTIO_GPIO_MSG_GET_DIRECTION: self._get_direction,
            u.VIRTIO_GPIO_MSG_SET_DIRECTION: self._set_direction,
            u.VIRTIO_GPIO_MSG_GET_VALUE: self._get_value,
            u.VIRTIO_GPIO_MSG_SET_VALUE: self._set_value,
            u.VIRTIO_GPIO_MSG_IRQ_TYPE: self._set_irq_type,
        }
        self._kicks = self._serve_requests, self._serve_events
        self._known: dict[bytes, tuple[Callable[[GuestLine, int], bytes], GuestLine, int]] = {}
        self.config = u.virtio_gpio_config.pack(num_lines, len(self._names))
        self.record = Record(num_lines)

    @property
    def features(self) -> int:
        """Feature bits to offer. Indirect descriptors cost time, so only where events need the room."""
        bits = [u.VIRTIO_GPIO_F_IRQ, VIRTIO_F_VERSION_1]
        if len(self._lines) > _EVENT_BUFFERS:
            bits.append(VIRTIO_RING_F_INDIRECT_DESC)
        return sum(1 << bit for bit in bits)

    def negotiate(self, features: int) -> None:
        """The driver's choice of features."""
        self._irq = bool(features & 1 << u.VIRTIO_GPIO_F_IRQ)

    def start(self, index: int, queue: Virtqueue) -> bool:
        """A queue is ready; serves what is in it already, as kick() does."""
        self._queues[index] = queue
        return self.kick(index)

    def kick(self, index: int) -> bool:
        """Serve a queue for a bounded time; True: call again soon, there may be more."""
        return self._kicks[index]()

    def kick_of(self, index: int) -> Callable[[], bool]:
        """kick() of one queue; the fast path."""
        return self._kicks[index]

    def _serve_requests(self) -> bool:
        queue = self._queues[u.VIRTIO_GPIO_REQUESTQ]
        if queue is None:
            return False
        try:
            return queue.serve(self._answer, _BUDGET)
        except PeerError as error:
            self._break(u.VIRTIO_GPIO_REQUESTQ, error)
            return False
        finally:
            if queue.used_idx != queue.called_idx and queue.should_call():
                self._call(u.VIRTIO_GPIO_REQUESTQ)

    def stop(self, index: int) -> int:
        """Stop the queue; returns the available index to go on from."""
        queue = self._queues[index]
        if index == u.VIRTIO_GPIO_EVENTQ:
            for line in self._lines:
                if line.buffer is not None and (queue is None or queue.logged):
                    line.buffer = None
                    line.irq_state = IrqState.MASKED
                elif line.buffer is not None:
                    self._step(line, IrqEvent.WITHDRAW)
        if queue is not None:
            self._stopped_at[index] = queue.last_avail_idx
            self._queues[index] = None
        return self._stopped_at[index]

    def _break(self, index: int, error: PeerError) -> None:
        queue = self._queues[index]
        if queue is not None:
            self._stopped_at[index] = queue.last_avail_idx
            self._queues[index] = None
            self._on_broken(index, error)

    def _answer(self, request: bytes, room: int, fault: str) -> bytes:
        known = self._known.get(request)
        if known is not None and room >= _RESPONSE_SIZE and not fault:
            handle, line, value = known
            try:
                return handle(line, value)
            except GpiovirtError as error:
                self._on_refused(line.offset, error)
                return _ERROR
        return self._answer_new(request, room, fault)

    def _answer_new(self, request: bytes, room: int, fault: str) -> bytes:
        gpio: int | None = None
        try:
            if len(request) != _REQUEST_SIZE or room < _RESPONSE_SIZE or fault:
                raise PeerError(fault or f"a request of {len(request)} bytes with {room} for the response")
            kind, gpio, value = _unpack_request(request)
            handler = self._handlers.get(kind)
            if handler is not None and gpio < self._num_lines:
                line = self._lines[gpio]
                if value <= 1:  # so that these are few
                    self._known[request] = handler, line, value
                return handler(line, value)
            if kind == u.VIRTIO_GPIO_MSG_GET_NAMES:
                return self._get_names(room)
            raise PeerError(f"no message {kind} for line {gpio} of {self._num_lines}")
        except GpiovirtError as error:
            self._on_refused(gpio, error)
            return _ERROR

    def _get_names(self, room: int) -> bytes:
        if not self._names or room <= len(self._names):
            raise PeerError(
                f"no room in {room} bytes for {len(self._names)} bytes of line names, or no names"
            )
        return _OK[:1] + self._names

    def _get_direction(self, line: GuestLine, value: int) -> bytes:
        """Direction of a line that is not active: the real one, since drivers take "none" for an error."""
        return bytes((0, line.direction or _DIRECTION_OF[self._chip.line_info(line.offset).direction]))

    def _set_direction(self, line: GuestLine, value: int) -> bytes:
        if value == u.VIRTIO_GPIO_DIRECTION_NONE:
            self._release(line)
            return _OK
        if value == u.VIRTIO_GPIO_DIRECTION_IN:
            direction = Direction.INPUT
        elif value != u.VIRTIO_GPIO_DIRECTION_OUT:
            raise PeerError(f"line {line.offset}: no direction {value}")
        elif line.irq_type:
            raise PeerError(f"line {line.offset}: an output cannot have an interrupt; disable it first")
        else:
            direction = Direction.OUTPUT
        if line.direction != value:
            self._configure(line, line.settings(direction, _IRQ_EDGES[line.irq_type]))
            line.direction = value
            self._save(line)
        return _OK

    def _get_value(self, line: GuestLine, value: int) -> bytes:
        """Of a line with pending edges, once: the level after the edge that was reported.

        A driver learns by reading which kind of edge was reported.
        """
        if line.told is not None:
            told, line.told = line.told, None
            if line.edges:
                return _OK_1 if told else _OK
        request = line.request or self._activate_as_is(line)
        return _OK_1 if request.get_values(1) else _OK

    def _set_value(self, line: GuestLine, value: int) -> bytes:
        """Before the line is an output, this is its initial value."""
        if value > 1:
            raise PeerError(f"line {line.offset}: no value {value}")
        if line.request is None and self._chip.is_output(line.offset):
            self._activate_as_is(line)
        if line.request is not None and line.direction == u.VIRTIO_GPIO_DIRECTION_OUT:
            line.request.set_values(1, value)
        line.value = value
        self.record.save_value(line.offset, value)
        return _OK

    def _set_irq_type(self, line: GuestLine, irq_type: int) -> bytes:
        if not self._irq:
            raise PeerError(f"line {line.offset}: interrupts were not negotiated")
        if irq_type not in _IRQ_EDGES:
            raise PeerError(f"line {line.offset}: no interrupt type {irq_type}")
        if irq_type == line.irq_type:
            return _OK
        if irq_type == u.VIRTIO_GPIO_IRQ_TYPE_NONE:
            self._disable_irq(line)
        elif line.irq_type:
            raise PeerError(f"line {line.offset}: interrupt type {line.irq_type} must be disabled first")
        elif line.direction == u.VIRTIO_GPIO_DIRECTION_OUT:
            raise PeerError(f"line {line.offset}: an output cannot have an interrupt")
        else:
            self._enable_irq(line, irq_type)
        return _OK

    def _configure(self, line: GuestLine, settings: LineSettings) -> None:
        if line.request is None:
            line.request = self._request(line, settings)
        else:
            line.request.reconfigure({0: settings})

    def _request(self, line: GuestLine, settings: LineSettings) -> LineRequest:
        return self._chip.request([line.offset], [settings], self._holder, self._on_edge, self._on_presence)

    def _on_presence(self, offset: int, there: bool) -> None:
        """A line that vanished is back: restore what the guest had made of it."""
        line = self._lines[offset]
        if there and line.request is not None:
            is_output = line.direction == u.VIRTIO_GPIO_DIRECTION_OUT
            edge = _IRQ_EDGES[line.irq_type] if line.irq_type else Edge.NONE
            try:
                self._configure(line, line.settings(Direction.OUTPUT if is_output else Direction.INPUT, edge))
            except GpiovirtError as error:
                self._on_refused(offset, error)

    def _activate_as_is(self, line: GuestLine) -> LineRequest:
        request = line.request = self._request(line, AS_IS)
        line.direction = _DIRECTION_OF[self._chip.line_info(line.offset).direction]
        self._save(line)
        return request

    def _release(self, line: GuestLine) -> None:
        """Discard all state of a line. virtio-v1.2 5.18.6.9"""
        request = line.request
        self._disarm(line)
        line.forget()
        self._save(line)
        if request is not None:
            request.release()

    def _enable_irq(self, line: GuestLine, irq_type: int) -> int:
        """Returns the level at the time; an edge may come while the line is being configured."""
        line.irq_type = irq_type
        self._step(line, IrqEvent.ENABLE)
        try:
            self._configure(line, line.settings(Direction.INPUT, _IRQ_EDGES[irq_type]))
            assert line.request is not None
            level = line.request.get_values(1)
        except GpiovirtError:
            self._disarm(line)
            raise
        self._save(line)
        self.record.save_level(line.offset, level)
        return level

    def _disarm(self, line: GuestLine) -> None:
        line.irq_type = u.VIRTIO_GPIO_IRQ_TYPE_NONE
        line.edges.clear()
        line.told = None
        self._step(line, IrqEvent.DISABLE)

    def _disable_irq(self, line: GuestLine) -> None:
        self._disarm(line)
        if line.direction == u.VIRTIO_GPIO_DIRECTION_NONE:
            self._release(line)
        else:
            self._configure(line, line.settings(Direction.INPUT))
            self._save(line)

    def _serve_events(self) -> bool:
        queue = self._queues[u.VIRTIO_GPIO_EVENTQ]
        if queue is None:
            return False
        try:
            for _ in range(_BUDGET):
                chain = queue.pop()
                if chain is None:
                    return False
                self._take_buffer(queue, chain)
            return True
        except PeerError as error:
            self._break(u.VIRTIO_GPIO_EVENTQ, error)
            return False
        finally:
            if queue.used_idx != queue.called_idx and queue.should_call():
                self._call(u.VIRTIO_GPIO_EVENTQ)

    def _take_buffer(self, queue: Virtqueue, chain: Chain) -> None:
        fault = chain.error
        if not fault and len(chain.readable) != u.virtio_gpio_irq_request.size:
            fault = f"an event request of {len(chain.readable)} bytes or more"
        if not fault and not chain.writable:
            fault = "an event response buffer of 0 bytes"
        gpio: int | None = None
        if not fault:
            (gpio,) = u.virtio_gpio_irq_request.unpack(chain.readable)
            if gpio < self._num_lines:
                line = self._lines[gpio]
                self._step(line, _BUFFER, chain)
                if line.edges:
                    self._step(line, _EDGE)
                elif line.irq_state is _ARMED and line.irq_type > u.VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH:
                    self._check_level(line)
                return
            fault = f"an event buffer for line {gpio} of {self._num_lines}"
        queue.complete(chain, _INVALID)
        self._on_refused(gpio, PeerError(fault))

    def _on_edge(self, event: EdgeEvent) -> None:
        line = self._lines[event.offset]
        irq_type = line.irq_type
        if irq_type > u.VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH:
            self._check_level(line)
        elif irq_type & (_RISING if event.rising else _FALLING):
            self._latch(line, event.rising)
        self.record.save_level(event.offset, event.rising)  # a crash before this reports it twice, not never

    def _latch(self, line: GuestLine, level: bool) -> None:
        if len(line.edges) < _EDGES_MAX:
            line.edges.append(level)
        self._step(line, _EDGE)

    def _check_level(self, line: GuestLine) -> None:
        """An interrupt if the level is active now: past events do not count."""
        if line.request is None:
            return
        try:
            high = line.request.get_values(1)
        except GpiovirtError as error:
            self._on_refused(line.offset, error)
            return
        if high == (line.irq_type == u.VIRTIO_GPIO_IRQ_TYPE_LEVEL_HIGH):
            self._step(line, IrqEvent.LEVEL)

    def _step(self, line: GuestLine, event: IrqEvent, came: Chain | None = None) -> None:
        """One transition of a line's interrupt; `came` is the buffer of a BUFFER event."""
        before = line.irq_state
        line.irq_state, action = STEPS[before][event]
        if before is not line.irq_state and (before is _LATCHED or line.irq_state is _LATCHED):
            self._save(line)
        if action is _REFUSE:
            self._on_refused(line.offset, PeerError(f"line {line.offset}: a second event buffer"))
            self._return_buffer(came, _INVALID)
            return
        if came is not None:
            line.buffer = came
        if action is not _NOTHING:
            if action is _TELL and line.edges:
                level = line.edges.popleft()
                line.told = level if line.irq_type == u.VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH else None
            buffer, line.buffer = line.buffer, None
            self._return_buffer(buffer, _VALID if action is _TELL else _INVALID)

    def _return_buffer(self, buffer: Chain | None, status: bytes) -> None:
        queue = self._queues[u.VIRTIO_GPIO_EVENTQ]
        if queue is None or buffer is None:
            return
        try:
            queue.complete(buffer, status)
            if queue.should_call():
                self._call(u.VIRTIO_GPIO_EVENTQ)
        except PeerError as error:
            self._break(u.VIRTIO_GPIO_EVENTQ, error)

    def _save(self, line: GuestLine) -> None:
        latched = line.irq_state is _LATCHED
        self.record.save(line.offset, line.direction, line.irq_type, latched, line.value)

    def suspend(self) -> None:
        """Stop the queues and release all lines; the record keeps their state, for restore()."""
        for index in (u.VIRTIO_GPIO_EVENTQ, u.VIRTIO_GPIO_REQUESTQ):
            self.stop(index)
        for line in self._lines:
            request = line.request
            line.forget()
            if request is not None:
                request.release()

    def reset(self) -> None:
        """The device is reset or its guest is gone: no line is held, and the record is empty."""
        self.suspend()
        self.record.clear()

    def restore(self) -> None:
        """Restore the lines from the record, before the queues start.

        A missed edge counts as one if the level differs from the last one seen.
        """
        self.suspend()
        for line in self._lines:
            record = self.record.load(line.offset)
            if record.direction or record.irq_type:
                try:
                    self._restore_line(line, record)
                except GpiovirtError as error:
                    self._on_refused(line.offset, error)

    def _restore_line(self, line: GuestLine, record: LineRecord) -> None:
        line.value = record.value
        if record.direction:
            self._set_direction(line, record.direction)
        if not record.irq_type or record.irq_type not in _IRQ_EDGES:
            return
        level = self._enable_irq(line, record.irq_type)
        missed = level != record.level and record.irq_type & (Edge.RISING if level else Edge.FALLING)
        if record.irq_type <= u.VIRTIO_GPIO_IRQ_TYPE_EDGE_BOTH and (record.latched or missed):
            self._latch(line, bool(level))
