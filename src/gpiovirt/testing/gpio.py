# SPDX-License-Identifier: MIT
"""Start programs on simulated chips: from a test with the fixture `gpio`, or with running()."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gpiovirt.testing.asynchronous import Asynchronous
from gpiovirt.testing.launched import launch
from gpiovirt.testing.program import Program

__all__ = ["Gpio", "running"]


class Gpio:
    """Starts programs, and ends them all when it is closed."""

    def __init__(self) -> None:
        self._programs: list[Program] = []

    @property
    def aio(self) -> Asynchronous:
        """The same method to be awaited: `program = await gpio.aio.run([...])`."""
        return Asynchronous(self)

    def run(
        self,
        program: Sequence[str],
        *,
        board: str | os.PathLike[str] | None = None,
        sims: Sequence[str] = (),
        chips: Sequence[str] = (),
        wires: Sequence[str] = (),
        hogs: Sequence[str] = (),
        options: Sequence[str] = (),
        ready: Iterable[str] | bool = True,
        timeout_s: float = 10,
        **popen: Any,
    ) -> Program:
        """Run a program on simulated chips, given as to `gpiovirt run`; `options` are more of that.

        Returns when the lines `ready` are held; True: when some are, and for 0.1 s no more; False: at once.
        Keywords go to subprocess.Popen. UsageError, HostError if it cannot run; AssertionError if it ends, or
        does not get ready.
        """
        __tracebackhide__ = True
        words = ["--board", os.fspath(board)] if board is not None else []
        for option, texts in (("--sim", sims), ("--chip", chips), ("--wire", wires), ("--hog", hogs)):
            for text in texts:
                words += [option, text]
        started = Program(launch(program, [*words, *options], popen))
        self._programs.append(started)
        if ready is not False:
            started.await_ready([ready] if isinstance(ready, str) else ready, timeout_s)
        return started

    def close(self) -> None:
        """End all programs."""
        while self._programs:
            self._programs.pop().close()


@contextmanager
def running(
    program: Sequence[str],
    sims: Sequence[str] = (),
    chips: Sequence[str] = (),
    wires: Sequence[str] = (),
    hogs: Sequence[str] = (),
    board: str | os.PathLike[str] | None = None,
    ready: Iterable[str] | bool = False,
    **popen: Any,
) -> Iterator[Program]:
    """Run a program on simulated chips, as Gpio.run() does; it is killed at the end."""
    gpio = Gpio()
    try:
        yield gpio.run(
            program, board=board, sims=sims, chips=chips, wires=wires, hogs=hogs, ready=ready, **popen
        )
    finally:
        gpio.close()
