# SPDX-License-Identifier: MIT
"""The rig fixture: each test of the suite runs over every chip there is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.rigs import Rig, make_rig, rig_names


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "shows_the_consumers_request: not for a kernel chip as a source")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A kernel chip as a source shows how gpiovirt holds its lines, not how its consumer asked."""
    left_out = [
        item
        for item in items
        if item.get_closest_marker("shows_the_consumers_request")
        and isinstance(item, pytest.Function)
        and str(item.callspec.params["rig"]).startswith("source:")
    ]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(params=rig_names())
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = make_rig(request.param)
    yield made
    made.close()
