# SPDX-License-Identifier: MIT
"""The world of a guest's chip, which is on the host: commands and answers as names of directories.

A guest on hostfs shares no socket with the host, and its page cache holds what it writes; the names
of a directory are the host's at once.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from gpiovirt.control.simulator import SimClient

TIMEOUT_S = 10


class HostfsWorld:
    """The guest's side: lines of a `Host` that serves the directory."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def _ask(self, what: str) -> int:
        name = f"{time.monotonic_ns()}-{what}"
        (self._directory / "asked" / name).mkdir()
        answers = [self._directory / "answered" / f"{name}-{value}" for value in (0, 1)]
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            for value, answer in enumerate(answers):
                if answer.exists():
                    return value
        raise TimeoutError(f"the host does not answer {what}")

    def pull(self, offset: int, level: int) -> None:
        self._ask(f"pull-{offset}-{level}")

    def level(self, offset: int) -> int:
        return self._ask(f"level-{offset}")

    def close(self) -> None:
        pass


class Host:
    """The host's side, over line i of the simulated chip `chip`; it serves while in a `with`."""

    def __init__(self, directory: Path, sim: SimClient, chip: str) -> None:
        self._asked, self._answered = directory / "asked", directory / "answered"
        for folder in (self._asked, self._answered):
            folder.mkdir(parents=True)
        self._sim = sim
        self._chip = chip
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while not self._ended.wait(0.0005):
            for name in os.listdir(self._asked):
                _, what, offset, *level = name.split("-")
                line = f"{self._chip}:{offset}"
                if what == "pull":
                    self._sim.pull(line, "up" if level == ["1"] else "down")
                value = self._sim.get(line)
                (self._answered / f"{name}-{value}").mkdir()
                (self._asked / name).rmdir()

    def __enter__(self) -> Host:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
