# SPDX-License-Identifier: MIT
"""One VMM's connection: what its messages ask for is done to memory, files and the device.

All that the VMM gave us ends with the connection, and so do the lines its guest held. The connection can be
another process's that died: then it goes on where that was.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from gpiovirt.core.chip import Chip
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import LineSettings
from gpiovirt.errors import GpiovirtError, PeerError
from gpiovirt.exports.vm.complaints import Complaints
from gpiovirt.exports.vm.front_end import GONE, peek
from gpiovirt.exports.vm.keeping import Keeping
from gpiovirt.exports.vm.parked import Parked
from gpiovirt.exports.vm.session import SOCKET, SessionFiles
from gpiovirt.exports.vm.state import QUEUE_SIZE_MAX, Tracked
from gpiovirt.exports.vm.vring import Vring
from gpiovirt.host.fence import ordering_fence
from gpiovirt.host.mapping import can_shrink, map_shared, shared_memory
from gpiovirt.host.notifier import Notifier, check_eventfd
from gpiovirt.host.reactor import Reactor
from gpiovirt.host.received import name_of, untouchable
from gpiovirt.host.unix_socket import Peer
from gpiovirt.protocols import vhost_user as v
from gpiovirt.protocols.guest_memory import GuestMemory, Region
from gpiovirt.protocols.vhost_user.messages import FDS_MAX
from gpiovirt.protocols.virtio_gpio import GpioDevice
from gpiovirt.protocols.virtqueue import Ring, Virtqueue, ran_before, used_index
from gpiovirt.uapi.virtio_gpio import VIRTIO_GPIO_EVENTQ, VIRTIO_GPIO_REQUESTQ
from gpiovirt.uapi.virtio_ring import VIRTIO_RING_F_INDIRECT_DESC

__all__ = ["Connection"]

_log = logging.getLogger(__name__)

_MESSAGES_PER_TURN = 32


class Connection:
    """Serves the VMM at the other end of `sock` until it goes, breaks the protocol, or close().

    What becomes of the connection is noted with `keeping`. `shared` says that this process serves others,
    too, which the VMM should not be able to end.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: Peer,
        chip: Chip,
        reactor: Reactor,
        state: memoryview,
        defaults: Mapping[int, LineSettings],
        on_closed: Callable[[], None],
        parked: Parked,
        keeping: Keeping,
        shared: bool = False,
    ) -> None:
        self._sock = sock
        self._parked = parked
        self._keeping = keeping
        self.peer = peer
        self._reactor = reactor
        self._on_closed = on_closed
        self._log = Complaints(_log, chip.info.name)
        self._vrings = [Vring(reactor) for _ in range(GpioDevice.num_queues)]
        self._device = GpioDevice(
            chip,
            self._call,
            self._refused,
            self._broken,
            holder=Holder.of(f"vm:{peer.name}:{peer.pid}", HolderKind.VM, peer.pid, peer.uid),
            defaults=defaults,
        )
        self._tracked = Tracked(state, GpioDevice.num_queues, QUEUE_SIZE_MAX)
        self._device.record.bind(self._tracked.record(self._device.record.size))
        self._backend = v.Backend(
            self._device.features,
            self._device.config,
            num_queues=GpioDevice.num_queues,
            queue_size_max=QUEUE_SIZE_MAX,
            record_size=self._device.record.size,
        )
        self._files = SessionFiles()
        self._regions: dict[tuple[int, int, int], Region] = {}
        self._memory = GuestMemory(())
        self._features = 0
        self._fence = ordering_fence()
        self._inflight_fd: int | None = None
        self._has_run = False
        self._resumes = False
        self._to_serve: list[int] = []
        self._warns_of_shrinking = shared
        self._calls: list[Callable[[], None] | None] = [None] * GpioDevice.num_queues
        self._event_calls = 0
        self._closed = False

    def begin(self, name: str = "") -> None:
        """Serve from now on a VMM that has just connected, and was kept as `name` until now."""
        self._log.info("%s has connected", self.peer)
        self.note_all([name] if name else [])
        self._listen()

    def resume(self, state: str, files: dict[str, int]) -> None:
        """Serve on a VMM whose process has died, with that one's `files`: they are ours. PeerError if not."""
        try:
            if reason := self._admit(list(files.values())):
                files.clear()
                raise PeerError(reason)
            self._resumes = True
            for event in self._backend.resume(state, files):
                if isinstance(event, v.StartRing):
                    self._restore()
                self._do(event)
            if self._backend.has_rings:  # or the record is of a VM before this one
                self._restore()
            self._resumes = False
            self._log.info("the guest of %s goes on with its lines", self.peer)
            self._listen()
            self._serve_started()
        except GpiovirtError:
            self.close()
            raise
        finally:
            self._close_fds([tuple(files.values())])

    def _restore(self) -> None:
        if not self._has_run:
            self._device.restore()
            self._has_run = True

    def _listen(self) -> None:
        self._reactor.add_edge_reader(self._sock.fileno(), self._receive, self._fail)

    def note_all(self, dropped: Sequence[str] = ()) -> None:
        """Tell a keeper that knows nothing of it yet."""
        files = {SOCKET: self._sock.fileno(), **self._files.everything()}
        self._files.changes()
        self._keeping.note(files, dropped, self._backend.state())

    def close(self, keep_state: bool = False) -> None:
        """End the connection; the lines are released. With `keep_state`, its guest can go on afterwards."""
        if self._closed:
            return
        self._closed = True
        self._reactor.remove_reader(self._sock.fileno())
        if keep_state:
            self._device.suspend()
        else:
            self._device.reset()
        self._device.record.unbind()
        self._close_fds(event.fds for event in self._backend.close() if isinstance(event, v.CloseFds))
        for vring in self._vrings:
            vring.close()
        self._calls = [None] * GpioDevice.num_queues  # a call for edges may still be due
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # for who takes over if we die now, and whoever has a copy
        self._keeping.note({}, [SOCKET, *self._files.everything()], "")
        self._files.drop_all("")
        if self._inflight_fd is not None:
            os.close(self._inflight_fd)
        self._sock.close()
        # unmapped now, and not when the next collection of garbage happens to be
        self._regions.clear()
        self._memory = GuestMemory(())
        self._tracked = Tracked(memoryview(b""), 0, 0)
        self._log.report_unsaid()

    @property
    def may_go_on(self) -> bool:
        """Whether a guest runs that would miss its lines."""
        return self._has_run and not self._closed

    def _end(self, reason: str) -> None:
        if not self._closed:
            self.close()
            self._log.info("%s %s; its lines are released", self.peer, reason)
            self._on_closed()

    def _fail(self) -> None:
        """A fault of ours: rather no device than one that does not answer."""
        self._log.exception("internal error serving %s", self.peer)
        self._end("is disconnected")

    @staticmethod
    def _close_fds(groups: Iterable[tuple[int, ...]]) -> None:
        for fds in groups:
            for fd in fds:
                os.close(fd)

    # messages

    def _receive(self) -> bool:
        try:
            return self._receive_messages()
        except Exception:
            self._fail()
            return False

    def _receive_messages(self) -> bool:
        """Returns whether there may be more."""
        for _ in range(_MESSAGES_PER_TURN):
            try:
                peeked = peek(self._sock)
            except EOFError:
                self._end(GONE)
                return False
            except PeerError as error:
                self._expel(str(error))
                return False
            if peeked is None:
                return False
            message, fds, more = peeked
            reason = self._admit(fds) or self._understand(message, fds)
            if reason == GONE:
                self._end(GONE)
            elif reason or more:
                self._expel(reason or f"more than {FDS_MAX} files with one message")
            if self._closed:
                return False
        return True

    def _expel(self, reason: str) -> None:
        self._log.complain(f"{self.peer}: {reason}")
        self._end("broke the protocol and was disconnected")

    def _admit(self, fds: list[int]) -> str:
        """Past here every file can be closed; returns why the connection must end, or nothing."""
        strange = untouchable(fds)
        if not strange:
            return ""
        names = ", ".join(name_of(fd) or "?" for fd in strange)
        self._close_fds([tuple(fd for fd in fds if fd not in strange)])
        self._parked.park(strange)
        return f"sent a file that is not memory (memfd, tmpfs, hugetlbfs), eventfd or Unix socket: {names!r}"

    def _understand(self, message: bytes, fds: list[int]) -> str:
        """Do what it says, and answer; returns why the connection must end, or nothing.

        Rings are served afterwards: if we die before, they begin where they would have.
        """
        reason = ""
        for event in self._backend.receive(message, fds):
            if isinstance(event, v.CloseConnection):
                reason = event.reason
            else:
                self._do(event)
        answers = self._backend.data_to_send()
        if self._closed or reason:
            return reason
        changes = self._files.changes()
        reason = self._keeping.finish(self._sock, self._backend.state(), changes, message, answers)
        if not reason:
            self._serve_started()
        return reason

    def _do(self, event: v.Event) -> None:
        try:
            self._handle(event)
        except GpiovirtError as error:
            self._backend.fail(error)

    def _serve_started(self) -> None:
        started, self._to_serve = self._to_serve, []
        for index in started:
            queue = self._vrings[index].queue
            if queue is not None and self._device.start(index, queue):
                self._reactor.soon(partial(self._serve_on, index))

    def _handle(self, event: v.Event) -> None:
        self._log.debug("%s", event)
        _HANDLERS[type(event)](self, event)

    def _map_memory(self, event: v.MapMemory) -> None:
        try:
            regions = {
                region[:3]: self._map(region, fd) for region, fd in zip(event.regions, event.fds, strict=True)
            }
            self._use_memory(regions)
        except BaseException:
            self._close_fds([event.fds])
            raise
        self._files.drop_all("memory:")
        for region, fd in zip(event.regions, event.fds, strict=True):
            self._files.put(v.memory_file(region), fd)

    def _add_memory(self, event: v.AddMemory) -> None:
        try:
            self._use_memory({**self._regions, event.region[:3]: self._map(event.region, event.fd)})
        except BaseException:
            os.close(event.fd)
            raise
        self._files.put(v.memory_file(event.region), event.fd)

    def _remove_memory(self, event: v.RemoveMemory) -> None:
        self._files.drop(v.memory_file(event.region))
        gone = event.region[:3]
        self._use_memory({where: region for where, region in self._regions.items() if where != gone})

    def _map(self, region: v.MemoryRegion, fd: int) -> Region:
        if self._warns_of_shrinking and can_shrink(fd):
            self._warns_of_shrinking = False
            self._log.warning(
                "%s can truncate its memory file, and so end everything that this process serves; "
                "use sealed memory (QEMU: memory-backend-memfd), or a process of its own",
                self.peer,
            )
        return Region(*region[:3], map_shared(fd, region.size, region.mmap_offset))

    def _use_memory(self, regions: dict[tuple[int, int, int], Region]) -> None:
        self._memory = GuestMemory(list(regions.values()))
        self._regions = regions
        for index, vring in enumerate(self._vrings):
            if vring.queue is not None:
                try:
                    vring.queue.use(self._memory)
                except PeerError as error:
                    self._device.stop(index)
                    self._broken(index, error)

    def _set_features(self, event: v.SetFeatures) -> None:
        self._features = event.features
        self._device.negotiate(event.features)

    def _set_status(self, event: v.SetStatus) -> None:
        """A reset is seen by its rings starting anew: QEMU says 0 when it only stops, too."""

    def _set_kick(self, event: v.SetKick) -> None:
        vring = self._vrings[event.vring]
        vring.set_kick(None)
        name = v.ring_file("kick", event.vring)
        self._files.put(name, event.fd)
        try:
            check_eventfd(event.fd)
            kick = self._device.kick_of(event.vring)
            self._reactor.add_edge_reader(event.fd, kick, partial(self._end, "is disconnected"))
        except PeerError:
            self._files.drop(name)
            raise
        except OSError as error:
            self._files.drop(name)
            raise PeerError(f"a kick fd that cannot be waited for: {error.strerror}") from error
        vring.kick = event.fd

    def _set_call(self, event: v.SetCall) -> None:
        vring = self._vrings[event.vring]
        vring.set_call(self._notifier("call", event.vring, event.fd))
        self._calls[event.vring] = None if vring.call is None else vring.call.notify
        if vring.call is not None:
            vring.call.notify()  # of what was completed before it was there

    def _set_err(self, event: v.SetErr) -> None:
        self._vrings[event.vring].set_err(self._notifier("err", event.vring, event.fd))

    def _notifier(self, use: str, index: int, fd: int | None) -> Notifier | None:
        """In place of the one there is, which stays if the file is of no use."""
        name = v.ring_file(use, index)
        if fd is None:
            self._files.drop(name)
            return None
        try:
            notifier = Notifier(fd)
        except BaseException:
            os.close(fd)
            raise
        self._files.put(name, fd)
        return notifier

    def _create_inflight(self, event: v.CreateInflight) -> None:
        if self._inflight_fd is not None:
            os.close(self._inflight_fd)
        self._inflight_fd = shared_memory("gpiovirt-inflight", event.size_bytes)
        self._backend.inflight_created(self._inflight_fd)

    def _set_inflight(self, event: v.SetInflight) -> None:
        try:
            if any(vring.queue is not None for vring in self._vrings):
                raise PeerError("inflight memory for rings that are running")
            view = map_shared(event.fd, event.size_bytes, event.mmap_offset)
            self._tracked = Tracked(view, event.num_queues, event.queue_size)
            with suppress(PeerError):  # made by another back-end: the record stays where it is
                self._device.record.bind(self._tracked.record(self._device.record.size))
        except BaseException:
            os.close(event.fd)
            raise
        self._files.put(v.INFLIGHT, event.fd)

    def _set_request_fd(self, event: v.SetBackendRequestFd) -> None:
        self._files.put(v.REQUEST, event.fd)

    def _reset_device(self, _: v.ResetDevice) -> None:
        self._device.reset()
        self._has_run = False

    def _close_unused(self, event: v.CloseFds) -> None:
        self._close_fds([event.fds])

    def _on_refused(self, event: v.Refused) -> None:
        self._log.complain(f"{event.request} refused: {event.reason}")

    # rings

    def _start_ring(self, event: v.StartRing) -> None:
        if self._resumes:  # requests are answered in order, and the log knows the events' buffers
            event = event._replace(last_avail_idx=used_index(self._memory, event.ring))
        if event.vring != VIRTIO_GPIO_REQUESTQ and self._vrings[VIRTIO_GPIO_REQUESTQ].queue is None:
            # what state the lines have is known when the other starts
            self._vrings[event.vring].waiting = event.ring, event.last_avail_idx
            return
        if event.vring == VIRTIO_GPIO_REQUESTQ:
            if not ran_before(self._memory, event.ring, event.last_avail_idx):
                self._device.reset()
            elif not self._has_run:
                self._device.restore()
                self._log.info("the guest of %s goes on with its lines", self.peer)
            self._has_run = True
        self._start(event.vring, event.ring, event.last_avail_idx)
        for index, vring in enumerate(self._vrings):
            if vring.waiting is not None:
                (ring, base), vring.waiting = vring.waiting, None
                try:
                    self._start(index, ring, base)
                except PeerError as error:
                    self._broken(index, error)

    def _start(self, index: int, ring: Ring, last_avail_idx: int) -> None:
        queue = Virtqueue(
            self._memory,
            ring,
            last_avail_idx,
            indirect=bool(self._features >> VIRTIO_RING_F_INDIRECT_DESC & 1),
            log=self._tracked.log(index, ring.size) if index == VIRTIO_GPIO_EVENTQ else None,
            fence=self._fence,
        )
        self._vrings[index].queue = queue
        self._to_serve.append(index)

    def _stop_ring(self, event: v.StopRing) -> None:
        vring = self._vrings[event.vring]
        if vring.waiting is not None:
            (_, base), vring.waiting = vring.waiting, None
            self._backend.ring_stopped(event.vring, base)
            return
        self._backend.ring_stopped(event.vring, self._device.stop(event.vring))
        vring.queue = None

    def _serve_on(self, index: int) -> None:
        """What was in a queue when it was started is more than is served at once."""
        try:
            if self._device.kick(index):
                self._reactor.soon(partial(self._serve_on, index))
        except Exception:
            self._fail()

    def _call(self, index: int) -> None:
        if index == VIRTIO_GPIO_EVENTQ:
            self._event_calls += 1
            if self._event_calls > 1:
                return
            self._reactor.soon(self._call_events)  # once more, for all further edges of this turn
        call = self._calls[index]
        if call is not None:
            call()

    def _call_events(self) -> None:
        more, self._event_calls = self._event_calls > 1, 0
        call = self._calls[VIRTIO_GPIO_EVENTQ]
        if more and call is not None:
            call()

    def _refused(self, _: int | None, error: GpiovirtError) -> None:
        self._log.complain(f"refused to the guest: {error}")

    def _broken(self, index: int, error: PeerError) -> None:
        vring = self._vrings[index]
        vring.queue = None
        self._log.complain(f"queue {index} is stopped, the guest broke it: {error}")
        if vring.err is not None:
            vring.err.notify()


_HANDLERS: dict[type[v.Event], Callable[[Connection, Any], None]] = {
    v.AddMemory: Connection._add_memory,
    v.CloseFds: Connection._close_unused,
    v.CreateInflight: Connection._create_inflight,
    v.MapMemory: Connection._map_memory,
    v.Refused: Connection._on_refused,
    v.RemoveMemory: Connection._remove_memory,
    v.ResetDevice: Connection._reset_device,
    v.SetBackendRequestFd: Connection._set_request_fd,
    v.SetCall: Connection._set_call,
    v.SetErr: Connection._set_err,
    v.SetFeatures: Connection._set_features,
    v.SetInflight: Connection._set_inflight,
    v.SetKick: Connection._set_kick,
    v.SetStatus: Connection._set_status,
    v.StartRing: Connection._start_ring,
    v.StopRing: Connection._stop_ring,
}
