# SPDX-License-Identifier: MIT
"""The simulated chips of a daemon: they live in a process of their own, which outlives the daemon's."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from gpiovirt.core.task import Future
from gpiovirt.daemon.directories import Directories
from gpiovirt.daemon.fork_server import ForkServer
from gpiovirt.daemon.sources import OwnChip
from gpiovirt.daemon.worker_handle import WorkerHandle
from gpiovirt.errors import HostError, PeerError
from gpiovirt.host.reactor import Reactor
from gpiovirt.protocols.control.answers import SourceLine, SourceState

__all__ = ["Simulation"]

_log = logging.getLogger(__name__)

_STATUS_S = 0.5
_NAME_MAX = 64


class Simulation:
    """Simulated chips, as (label, names), and wires between them."""

    simulates = True

    def __init__(
        self,
        chips: Sequence[tuple[str, Sequence[str]]],
        wires: Sequence[tuple[str, str]],
        directories: Directories,
        reactor: Reactor,
        forkserver: ForkServer,
    ) -> None:
        self.labels = {label for label, _ in chips}
        self._spec: dict[str, Any] = {
            "chips": [[label, list(names)] for label, names in chips],
            "wires": [list(wire) for wire in wires],
        }
        path = f"{directories.workers}/:simulator"
        self.handle = WorkerHandle("the simulator", path, self, reactor, forkserver)
        self.chips = [OwnChip(label, names, self.handle, index) for index, (label, names) in enumerate(chips)]
        self.ready: Future[None] = Future()
        self.on_back: Any = lambda: None

    def start(self) -> None:
        """Have the chips, those that exist already if they are the same; `ready` says when."""
        if not self.labels:
            self.ready.set(None)
        elif not self.handle.find():
            self.start_again()

    def serve(self) -> tuple[dict[str, Any], list[int]]:
        """The spec of a new worker; it needs no files."""
        return self._spec, []

    def on_hand_over(self, spec: dict[str, Any], fds: list[int]) -> None:
        """A simulator from before us."""
        if spec != self._spec or fds:
            raise PeerError("it simulates other chips than requested")

    def on_ready(self) -> None:
        """The chips are live."""
        self.ready.set(None)
        self.on_back()

    def on_failed(self, message: str) -> None:
        """They cannot be made."""
        _log.error("the simulator: %s", message)

    def on_told(self, body: Mapping[str, Any]) -> None:
        """It has nothing to say unasked."""
        raise PeerError(f"a simulator says {str(list(body))[:80]}")

    def on_lost(self) -> None:
        """Their state is lost, and chips with lines of them lose those."""

    def start_again(self) -> None:
        """Start the simulator."""
        self.handle.start()

    def as_sources(self) -> list[OwnChip]:
        """The chips to take lines from, for one look."""
        return [chip.anew() for chip in self.chips]

    async def states(self) -> list[SourceState]:
        """The chips and their lines, as they are now; HostError if the simulator does not answer."""
        if not self.labels:
            return []
        answer = await self.handle.ask(_STATUS_S, do="status")
        try:
            told = answer.body["status"]["chips"]
            return [_state(chip, lines) for chip, lines in zip(self.chips, told, strict=True)]
        except (KeyError, TypeError, ValueError) as error:
            raise HostError("the simulator breaks the protocol") from error

    def close(self) -> None:
        """End the simulator."""
        if self.labels:
            self.handle.close()


def _state(chip: OwnChip, told: Sequence[Mapping[str, Any]]) -> SourceState:
    lines = [
        SourceLine(
            chip.line_info(offset).name,
            str(line["consumer"])[:_NAME_MAX],
            "output" if line["direction"] == "output" else "input",
        )
        for offset, line in zip(range(chip.info.num_lines), told, strict=True)
    ]
    return SourceState(chip.info.label, chip.info.label, "simulated", tuple(lines))
