# SPDX-License-Identifier: MIT
"""Levels of lines over HTTP: as `gpiovirt get` and `set` have them, with the same rights, rules and words."""

from __future__ import annotations

import json
import os
import pwd
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpiovirt.protocols.control.requests import Own
from gpiovirt.testing.api import ApiClient, connect_as
from gpiovirt.testing.daemon import Daemon
from tests.integration.conftest import let_all_pass
from tests.integration.test_api import make, on_plc, process_of
from tests.integration.test_configuration import command

RULES: dict[str, Any] = {"interlock": [{"only_while": {"line": "MOTOR", "is": {"DOOR": 0}}}]}
PLC = ["DOOR", "STOP", {"name": "LAMP", "options": "safe=low"}, {"name": "MOTOR", "options": "safe=low"}]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    if os.getuid() == 0:
        request.getfixturevalue("users")
    folder = tmp_path_factory.mktemp("levels")
    let_all_pass(folder)
    with Daemon(folder, ["--sim", "panel:DOOR,STOP,LAMP,MOTOR", "--no-files"]) as made:
        yield made


@pytest.fixture
def path(daemon: Daemon) -> Iterator[str]:
    path = str(daemon.run / "api.sock")
    make(ApiClient(path), lines=PLC, **RULES)
    yield path
    assert ApiClient(path)("DELETE", "/chips/plc?force=true").status == 204
    pull(daemon, "down")


@pytest.fixture
def api(path: str) -> ApiClient:
    return ApiClient(path)


def pull(daemon: Daemon, level: str) -> None:
    with daemon.simulator() as world:
        world.pull("panel:DOOR", level)


def level_of(daemon: Daemon, line: str) -> int:
    with daemon.simulator() as world:
        return world.get(line)


def levels(body: list[dict[str, Any]]) -> dict[str, int]:
    return {row["name"]: row["level"] for row in body}


def lamp(api: ApiClient) -> dict[str, Any]:
    line: dict[str, Any] = api("GET", "/chips/plc/lines").body[2]
    return line


def test_levels_are_read_as_get_reads_them(api: ApiClient, daemon: Daemon) -> None:
    pull(daemon, "up")
    told = api("GET", "/chips/plc/levels")
    assert (told.status, levels(told.body)) == (200, {"DOOR": 1, "STOP": 0, "LAMP": 0, "MOTOR": 0})
    assert told.body == json.loads(command(daemon, "get", "plc", "--json"))
    some = api("GET", "/chips/plc/levels?line=LAMP&line=0").body
    assert [(row["offset"], row["level"]) for row in some] == [(2, 0), (0, 1)]


def test_a_line_that_is_set_is_let_go_and_safe_again(api: ApiClient, daemon: Daemon) -> None:
    told = api("PUT", "/chips/plc/levels", {"STOP": 1, "2": 1})
    assert (told.status, levels(told.body)) == (200, {"STOP": 1, "LAMP": 0})
    assert level_of(daemon, "panel:STOP") == 1
    assert not any(line["used"] for line in api("GET", "/chips/plc/lines").body)


def test_a_held_line_is_that_users_and_as_it_was_set(api: ApiClient, path: str, daemon: Daemon) -> None:
    answers: list[Any] = []
    holding = threading.Thread(
        target=lambda: answers.append(api("PUT", "/chips/plc/levels?hold_ms=2500", {"LAMP": 1}))
    )
    began = time.monotonic()
    holding.start()
    daemon.wait_for(lambda: lamp(api)["used"])
    line = lamp(api)
    assert (line["consumer"], line["direction"]) == ("gpiovirt http", "output")
    assert (line["holder"]["kind"], line["holder"]["uid"]) == ("program", os.getuid())
    refused = api("PUT", "/chips/plc/levels", {"STOP": 1, "LAMP": 0})
    assert (refused.status, refused.body["errno"]) == (409, "EBUSY")
    assert "gpiovirt http" in refused.body["detail"]
    assert levels(api("GET", "/chips/plc/levels").body)["STOP"] == 0, "all or none"
    by_command = command(daemon, "set", "plc:LAMP=0", status=1)
    assert by_command.removeprefix("gpiovirt: ").strip() == refused.body["detail"].replace(
        "plc: ", "plc:LAMP: "
    )
    holding.join(20)
    assert time.monotonic() - began >= 2.5
    assert (answers[0].status, levels(answers[0].body)) == (200, {"LAMP": 1})
    daemon.wait_for(lambda: not lamp(api)["used"])
    assert levels(api("GET", "/chips/plc/levels?line=LAMP").body) == {"LAMP": 0}


def test_a_line_is_held_no_longer_than_its_connection(path: str, api: ApiClient, daemon: Daemon) -> None:
    body = b'{"LAMP": 1}'
    with connect_as(path) as sock:
        sock.sendall(
            b"PUT /chips/plc/levels?hold_ms=60000 HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        daemon.wait_for(lambda: lamp(api)["used"])
    daemon.wait_for(lambda: not lamp(api)["used"])


def test_rules_hold_and_say_why_in_the_same_words(api: ApiClient, daemon: Daemon) -> None:
    pull(daemon, "up")
    refused = api("PUT", "/chips/plc/levels", {"MOTOR": 1})
    assert (refused.status, refused.body["errno"]) == (403, "EPERM")
    by_command = command(daemon, "set", "plc:MOTOR=1", status=1)
    assert by_command.removeprefix("gpiovirt: ").strip() == refused.body["detail"]
    assert "DOOR" in refused.body["detail"]
    assert level_of(daemon, "panel:MOTOR") == 0


def test_lines_that_are_lost_meanwhile_are_told(api: ApiClient, daemon: Daemon) -> None:
    answers: list[Any] = []
    holding = threading.Thread(
        target=lambda: answers.append(api("PUT", "/chips/plc/levels?hold_ms=1000", {"LAMP": 1}))
    )
    holding.start()
    daemon.wait_for(lambda: lamp(api)["used"])
    assert api("PUT", "/chips/plc?force=true", {"name": "plc", "lines": ["LAMP", "DOOR"]}).status == 200
    holding.join(20)
    assert answers[0].status in (409, 422), answers


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({}, 422, "at least 1"),
        ({"LAMP": 2}, 422, "at most 1"),
        ({"LAMP": True}, 422, "integer"),
        ({"LAMP": "high"}, 422, "integer"),
        ([1], 422, "dictionary"),
        ({"LAMPP": 1}, 422, "no line 'LAMPP'"),
        ({"LAMP": 1, "2": 0}, 422, "twice"),
        ({"\ud800": 1}, 422, ""),
        ({"4": 1}, 422, "0 to 3"),
        ({"9" * 5000: 1}, 422, "0 to 3"),
        ({str(offset): 1 for offset in range(65)}, 422, "at most 64"),
    ],
)
def test_what_cannot_be_set_is_refused_in_words(api: ApiClient, body: Any, status: int, word: str) -> None:
    answer = api("PUT", "/chips/plc/levels", body)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer
    assert word in answer.body["detail"], answer
    assert api("GET", "/chips/plc/levels?line=9").status == 422
    assert api("PUT", "/chips/plc/levels?hold_ms=3600001", {"LAMP": 1}).status == 422


@pytest.mark.usefixtures("users")
class TestUsers:
    def test_who_may_not_open_the_chip_sets_nothing(self, path: str, daemon: Daemon, api: ApiClient) -> None:
        boss, alice, bob = (ApiClient(path, user) for user in ("gpvboss", "gpvalice", "gpvbob"))
        with daemon.client() as client:
            client.ask(Own("plc", uid=_uid("gpvalice"), gid=0, mode=0o600))
        assert bob("PUT", "/chips/plc/levels", {"STOP": 1}).status == 404
        assert bob("GET", "/chips/plc/levels").status == 404
        told = boss("PUT", "/chips/plc/levels", {"STOP": 1})
        assert (told.status, told.body["errno"]) == (403, "EPERM"), "managers manage; they do not drive"
        assert "it is gpvalice's, of group root, mode 0600" in told.body["detail"]
        assert levels(boss("GET", "/chips/plc/levels?line=STOP").body) == {"STOP": 0}
        assert alice("PUT", "/chips/plc/levels", {"STOP": 1}).status == 200
        assert levels(api("GET", "/chips/plc/levels?line=STOP").body) == {"STOP": 1}

    def test_a_user_who_holds_all_they_may_stops_nobody(self, path: str, daemon: Daemon) -> None:
        with daemon.client() as client:
            client.ask(Own("plc", mode=0o666))
        alice, bob = ApiClient(path, "gpvalice"), ApiClient(path, "gpvbob")
        body = b'{"LAMP": 1}'
        head = b"PUT /chips/plc/levels?hold_ms=30000 HTTP/1.1\r\nhost: x\r\n"
        head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        held = [connect_as(path, "gpvalice") for _ in range(40)]
        try:
            for sock in held:
                sock.sendall(head + body)
            daemon.wait_for(lambda: lamp(bob)["used"])
            assert lamp(bob)["holder"]["uid"] == _uid("gpvalice")
            began = time.monotonic()
            told = bob("PUT", "/chips/plc/levels?hold_ms=100", {"STOP": 1})
            assert (told.status, levels(told.body)) == (200, {"STOP": 1})
            assert time.monotonic() - began < 5
        finally:
            for sock in held:
                sock.close()
        daemon.wait_for(lambda: not lamp(alice)["used"])

    def test_the_process_of_the_api_may_not_open_the_chip_itself(self, path: str, daemon: Daemon) -> None:
        ApiClient(path)("GET", "/state")
        uid = os.stat(f"/proc/{process_of(daemon)}").st_uid
        mode = os.stat(daemon.run / "chips/plc").st_mode
        assert uid != os.stat(daemon.run / "chips/plc").st_uid
        assert not mode & 0o006


def test_a_program_that_holds_the_line_keeps_it(api: ApiClient, daemon: Daemon) -> None:
    holder = on_plc(daemon, "gpioset", "--mode=signal", "gpiochip0", "2=1")
    daemon.wait_for(lambda: lamp(api)["used"])
    refused = api("PUT", "/chips/plc/levels", {"LAMP": 0})
    assert (refused.status, levels(api("GET", "/chips/plc/levels?line=LAMP").body)) == (409, {"LAMP": 1})
    holder.terminate()
    holder.wait(20)


def test_a_line_that_is_set_is_in_the_record(tmp_path: Path) -> None:
    let_all_pass(tmp_path)
    with Daemon(tmp_path, ["--sim", "panel:DOOR,LAMP", "--no-files"]) as daemon:
        api = ApiClient(str(daemon.run / "api.sock"))
        make(api, lines="LAMP")
        assert api("PUT", "/chips/plc/levels", {"LAMP": 1}).status == 200
        daemon.wait_for(lambda: '"gpiovirt http"' in command(daemon, "log", "plc", "--json"))


def _uid(user: str) -> int:
    return pwd.getpwnam(user).pw_uid
