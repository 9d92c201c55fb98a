# SPDX-License-Identifier: MIT
"""What the harnesses share: a time limit, a seed, the input that failed, and faults that are only logged."""

from __future__ import annotations

import argparse
import logging
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable

__all__ = ["fail_on_faults", "main"]


def main(what: str, once: Callable[[random.Random], Counter[str] | None]) -> int:
    """Call `once` with fresh randomness until the time is over; 1 and a way to repeat it if it raises.

    What it may return, how often things happened, is added up and printed.
    """
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="repeat the one run of this seed")
    options = parser.parse_args()
    if options.seed is not None:
        once(random.Random(options.seed))
        return 0
    end, runs = time.monotonic() + options.seconds, 0
    report: Counter[str] = Counter()
    while time.monotonic() < end:
        seed = random.SystemRandom().getrandbits(48)
        try:
            report.update(once(random.Random(seed)) or ())
        except Exception:
            traceback.print_exc()
            print(f"repeat with: --seed {seed}")
            return 1
        runs += 1
    print(f"{runs} runs in {options.seconds:g} s: {what}")
    if report:
        print(", ".join(f"{count} {name}" for name, count in report.most_common()))
    return 0


class _Faults(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            raise AssertionError(record.getMessage()) from (record.exc_info or (None, None))[1]


def fail_on_faults() -> None:
    """Make what the code logs as a fault of its own a failure."""
    logger = logging.getLogger("gpiovirt")
    logger.addHandler(_Faults())
    logger.propagate = False
