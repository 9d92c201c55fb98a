# SPDX-License-Identifier: MIT
"""docs/openapi.json: it is what the code says, and the running API does what it says, whatever is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from requests.adapters import HTTPAdapter
from schemathesis.specs.openapi.checks import positive_data_acceptance
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from docs import update_openapi
from gpiovirt.testing.api import connect_as
from gpiovirt.testing.daemon import Daemon
from tests.integration.conftest import let_all_pass

SIMS = ["--sim", "sim-a:8", "--sim", "sim-b:DOOR,LAMP", "--no-files"]
schema = schemathesis.openapi.from_path(update_openapi.DOCUMENT)
without_streams = schema.exclude(path="/events")  # that has no end


def test_the_document_is_what_the_code_says() -> None:
    assert update_openapi.DOCUMENT.read_text() == update_openapi.document(), (
        "run: python docs/update_openapi.py"
    )


def test_the_document_is_served(session: requests.Session) -> None:
    assert session.get("http://gpiovirt/openapi.json").json() == json.loads(update_openapi.document())


class _Pool(HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        super().__init__("gpiovirt")
        self._path = path

    def _new_conn(self) -> HTTPConnection:
        connection = _Connection("gpiovirt", timeout=20)
        connection.path = self._path
        return connection


class _Connection(HTTPConnection):
    path = ""

    def _new_conn(self) -> Any:
        return connect_as(self.path)


class _Adapter(HTTPAdapter):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._pool = _Pool(path)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        return self._pool


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[requests.Session]:
    folder = tmp_path_factory.mktemp("schema")
    let_all_pass(folder)
    with Daemon(folder, SIMS) as daemon, requests.Session() as made:
        path = str(daemon.run / "api.sock")
        made.mount("http://", _Adapter(path))
        yield made
        assert "internal error" not in daemon.log()


EXAMPLES = settings(
    max_examples=int(os.environ.get("GPIOVIRT_EXAMPLES", "30")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def validate(case: schemathesis.Case[Any], session: requests.Session) -> None:
    case.query.pop("lifetime", None)  # a stream
    # which lines and users there are the document cannot say
    case.call_and_validate(
        base_url="http://gpiovirt", session=session, excluded_checks=[positive_data_acceptance]
    )


@without_streams.parametrize()
@EXAMPLES
def test_it_does_what_the_document_says(case: schemathesis.Case[Any], session: requests.Session) -> None:
    validate(case, session)


@without_streams.include(path_regex="^/chips").parametrize()
@EXAMPLES
def test_it_does_so_with_chips_that_can_be(case: schemathesis.Case[Any], session: requests.Session) -> None:
    if case.path == "/chips":
        session.delete("http://gpiovirt/chips/plc")
    else:
        line = {"chip": "sim-a", "offset": 3, "safe": "low"}
        session.post("http://gpiovirt/chips", json={"name": "plc", "lines": ["DOOR", line]})
    if "name" in case.path_parameters:
        case.path_parameters["name"] = "plc"
    if (
        case.meta
        and case.meta.generation.mode.is_positive
        and isinstance(case.body, dict)
        and case.body.get("lines")
    ):
        case.body.update({"name": "plc", "lines": "sim-a 1-3, LAMP", "owner": "nobody", "group": ""})
    validate(case, session)
