# SPDX-License-Identifier: MIT
"""The short form of `make faults`: whoever dies, lines become safe, and those of the living do not move."""

from __future__ import annotations

import pytest

from tests.guest.faults import suffer

LEAVE_THE_WORKER = (
    "nothing",
    "program-KILL",
    "supervisor-KILL",
    "vmm-KILL",
    "custodian-KILL",
    "simulator-KILL",
)
WITH_THE_WORKER = (
    "supervisor-KILL,worker-KILL",
    "worker-KILL,supervisor-KILL",
    "vmm-KILL,worker-KILL",
    "custodian-KILL,supervisor-KILL",
    "fork-server-KILL,worker-KILL",
)


@pytest.mark.usefixtures("has_uml")
@pytest.mark.parametrize("cases", [LEAVE_THE_WORKER, WITH_THE_WORKER], ids=["worker lives", "worker dies"])
def test_lines_of_the_dead_become_safe_and_others_stay(cases: tuple[str, ...]) -> None:
    outcomes = suffer(cases, 60 + 40 * len(cases))
    assert [outcome.case for outcome in outcomes] == list(cases)
    for outcome in outcomes:
        assert None not in outcome.safe.values(), outcome
        assert bool(outcome.safe) == any(who in outcome.case for who in ("program", "supervisor", "vmm"))
        # without a worker, and on a machine too busy to have another one soon, they may be made safe, too
        assert not outcome.moved or "worker" in outcome.case, outcome
