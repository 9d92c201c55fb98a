# SPDX-License-Identifier: MIT
"""The rig fixture: each test of the suite runs over every chip there is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.rigs import Rig, make_rig, rig_names


@pytest.fixture(params=rig_names())
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = make_rig(request.param)
    yield made
    made.close()
