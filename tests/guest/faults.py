# SPDX-License-Identifier: MIT
"""Measures what comes of every fault and of every pair of them, and writes the tables in docs/faults.md.

    python -m tests.guest.faults [RUNS [PAIR...]]

Guests of a share of the cases each follow one another, one for every two CPUs at a time: what a busy host
adds to the times is not ours. Single faults are had RUNS times; of pairs those that are named, as in
`fork-server-KILL,worker-KILL`, or all, in both orders.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, combinations, permutations

from guests.guest import Uml
from tests.guest.conftest import ROOT
from tests.guest.faults_program import TARGETS, Outcome

__all__ = ["PAIRS", "SINGLES", "suffer"]

HOW = "KILL", "STOP"
SINGLES = [f"{target}-{how}" for target in TARGETS for how in HOW]
PAIRS = [
    f"{one},{other}"
    for one, other in permutations(SINGLES, 2)
    if len({one.rpartition("-")[0], other.rpartition("-")[0]} - {"api"}) == 2
]
"""The API has no part in what lines do: it asks gpiovirtd, as any client"""
DOCUMENT = ROOT / "docs/faults.md"
BEGIN, END = "<!-- measured by make faults -->\n", "<!-- end of what is measured -->\n"
_CASES_PER_GUEST = 24


def suffer(cases: Sequence[str], timeout_s: float) -> list[Outcome]:
    """Have these faults in a guest of their own; what came of those that it got to."""
    with Uml(mem="512M") as guest:
        result = guest.run(
            f"cd {ROOT} && guests/gpio-sim sim 8 >/dev/null && "
            f"{sys.executable} -m tests.guest.faults_program {' '.join(cases)}",
            timeout_s=timeout_s,
        )
    outcomes = [Outcome(**json.loads(line)) for line in result.stdout.splitlines()]
    sys.stderr.write("".join(f"{outcome}\n" for outcome in outcomes))
    if result.status or len(outcomes) != len(cases):
        sys.stderr.write(f"{cases[len(outcomes) :][:1]}: {result.stderr[-3000:]}\n")
    return outcomes


def _of_share(cases: list[str]) -> Iterator[Outcome]:
    """A case that its guest does not survive is left out, and said so."""
    while cases:
        outcomes = suffer(cases, 60 + 30 * len(cases))
        yield from outcomes
        cases = cases[len(outcomes) + 1 :]


def _safe(outcomes: Iterable[Outcome]) -> list[float | None]:
    return [ms for outcome in outcomes for ms in outcome.safe.values()]


def _worst(figures: Iterable[float | None]) -> str:
    found = list(figures)
    if not found:
        return ""
    return "never" if None in found else _ms(max(ms for ms in found if ms is not None))


def _ms(ms: float) -> str:
    return f"{ms:.1f}" if ms < 10 else f"{ms:.0f}"


def _median_and_worst(figures: Sequence[float | None]) -> str:
    known = [ms for ms in figures if ms is not None]
    if not known or len(known) < len(figures):
        return _worst(figures)
    return f"{_ms(statistics.median(known))} / {_ms(max(known))}"


def _moved(outcomes: Iterable[Outcome]) -> str:
    worst: dict[str, float] = {}
    for outcome in outcomes:
        for name, ms in outcome.moved.items():
            worst[name] = max(ms, worst.get(name, 0))
    return ", ".join(f"{name} ({_ms(ms)})" for name, ms in sorted(worst.items())) or "none"


def singles(outcomes: Sequence[Outcome]) -> str:
    """The table of single faults."""
    rows = [
        "| fault | safe | outputs of the living that moved | other chip | same chip |",
        "|---|--:|---|--:|--:|",
    ]
    for case in ["nothing", *SINGLES]:
        if its := [outcome for outcome in outcomes if outcome.case == case]:
            own = [outcome.own for outcome in its]
            rows.append(
                f"| {case} | {_median_and_worst(_safe(its))} | {_moved(its)} "
                f"| {_median_and_worst([outcome.other for outcome in its])} | {_median_and_worst(own)} |"
            )
    return "\n".join(rows)


def pairs(outcomes: Sequence[Outcome]) -> str:
    """The table of pairs: of both orders the worse."""
    rows = [
        "| pair | safe | outputs of the living that moved | other chip | same chip |",
        "|---|--:|---|--:|--:|",
    ]
    for one, other in combinations(SINGLES, 2):
        its = [outcome for outcome in outcomes if outcome.case in (f"{one},{other}", f"{other},{one}")]
        if its:
            rows.append(
                f"| {one}, {other} | {_worst(_safe(its))} | {_moved(its)} "
                f"| {_worst(outcome.other for outcome in its)} | {_worst(outcome.own for outcome in its)} |"
            )
    return "\n".join(rows)


def summary(outcomes: Sequence[Outcome], runs: int) -> str:
    """What was measured, and how much of it meets the aims."""
    safe = [ms for outcome in outcomes if len(outcome.safe) for ms in outcome.safe.values()]
    consumer = [
        ms
        for outcome in outcomes
        if outcome.case in ("program-KILL", "supervisor-KILL", "vmm-KILL")
        for ms in outcome.safe.values()
    ]
    num_pairs = len({outcome.case for outcome in outcomes if "," in outcome.case})
    others = [outcome.other for outcome in outcomes]
    reached = sum(ms is not None and ms <= 1500 for ms in safe)
    quick = sum(ms is not None and ms <= 5 for ms in consumer)
    answered = sum(ms <= 50 for ms in others)
    return (
        f"{len(outcomes)} cases: single faults, {runs} times each, and {num_pairs} of the {len(PAIRS)} "
        f"ordered pairs, once. Met: safe within 1.5 s {reached} of {len(safe)} times, within 5 ms of a "
        f"consumer's own end {quick} of {len(consumer)}; the other chip answered within 50 ms "
        f"{answered} of {len(others)} times."
    )


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    cases = ["nothing", *SINGLES] * runs + (sys.argv[2:] or PAIRS)
    shares = [cases[at : at + _CASES_PER_GUEST] for at in range(0, len(cases), _CASES_PER_GUEST)]
    with ThreadPoolExecutor(max(len(os.sched_getaffinity(0)) // 2, 1)) as pool:
        outcomes = list(chain.from_iterable(pool.map(lambda share: list(_of_share(share)), shares)))
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    measured = f"{summary(outcomes, runs)}\n\n{singles(outcomes)}\n\n### Pairs\n\n{pairs(outcomes)}\n"
    DOCUMENT.write_text(f"{before}{BEGIN}\n{measured}\n{END}{after}")


if __name__ == "__main__":
    main()
