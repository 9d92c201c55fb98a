# SPDX-License-Identifier: MIT
"""The rig fixture: each test of the suite runs over every chip there is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.rigs import Rig, make_rig, rig_names

LEFT_OUT = {"shows_the_consumers_request": "source:", "lines_are_given_back": "kept:"}
"""Markers of tests that are not for a kind of rig"""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "shows_the_consumers_request: not for a kernel chip as a source")
    config.addinivalue_line("markers", "lines_are_given_back: not for a chip whose keeper holds its lines")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A kernel chip as a source shows how gpiovirt holds its lines, not how its consumer asked.

    Lines of gpiovirtd's chips stay held, and so as they are, when their consumer gives them back.
    """
    left_out = [
        item
        for item in items
        for marker, kind in LEFT_OUT.items()
        if item.get_closest_marker(marker)
        and isinstance(item, pytest.Function)
        and str(item.callspec.params["rig"]).startswith(kind)
    ]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(params=rig_names())
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = make_rig(request.param)
    yield made
    made.close()
