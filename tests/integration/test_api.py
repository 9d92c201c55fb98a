# SPDX-License-Identifier: MIT
"""The HTTP API of gpiovirtd: what it says, whom it lets do what, and what it bears."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gpiovirt.protocols.control.answers import RefusedError
from gpiovirt.protocols.control.requests import Delete, Sources
from gpiovirt.testing.api import ApiClient, connect_as
from gpiovirt.testing.daemon import Daemon
from tests.integration.conftest import ROOT, let_all_pass

SIMS = ["--sim", "sim-a:8", "--sim", "sim-b:DOOR,LAMP", "--no-files"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    if os.getuid() == 0:
        request.getfixturevalue("users")  # it looks for its group when it starts
    folder = tmp_path_factory.mktemp("api")
    let_all_pass(folder)
    with Daemon(folder, SIMS) as made:
        yield made


@pytest.fixture
def path(daemon: Daemon) -> Iterator[str]:
    yield str(daemon.run / "api.sock")
    with daemon.client() as client:
        for chip in client.chips():
            client.ask(Delete(name=chip.name, force=True))


@pytest.fixture
def api(path: str) -> ApiClient:
    return ApiClient(path)


def make(api: ApiClient, name: str = "plc", lines: Any = "sim-a 0-3", **what: Any) -> dict[str, Any]:
    answer = api("POST", "/chips", {"name": name, "lines": lines, **what})
    assert answer.status == 201, answer
    made: dict[str, Any] = answer.body
    return made


def process_of(daemon: Daemon) -> int:
    """The API's process."""
    command = ["pgrep", "-P", str(daemon.process.pid), "-f", "gpiovirt.api.main"]
    return int(subprocess.check_output(command))


def on_plc(daemon: Daemon, *program: str) -> subprocess.Popen[bytes]:
    """A program on the chip plc."""
    command = [sys.executable, "-m", "gpiovirt", "run", "--chip", "plc", "--", *program]
    return subprocess.Popen(command, env=daemon.environment)


def named(body: dict[str, Any]) -> set[str]:
    return {error["path"] for error in body["errors"]}


class TestChips:
    def test_a_chip_that_was_made_is_live_and_shown(self, api: ApiClient, daemon: Daemon) -> None:
        line = {"chip": "sim-a", "offset": 3, "options": "pull-up,safe=low,name=MOTOR"}
        answer = api("POST", "/chips", {"name": "plc", "lines": ["DOOR", line], "vm": True, "mode": "0600"})
        assert (answer.status, answer.headers["location"]) == (201, "/chips/plc")
        assert answer.body["state"] == "live"
        shown = api("GET", "/chips/plc").body
        assert answer.body.items() <= shown.items()
        assert shown["vm"] == str(daemon.run / "vm/plc")
        assert (shown["owner"], shown["mode"]) == ("root", "0600")
        assert [(one["name"], one["source"], one["options"]) for one in shown["lines"]] == [
            ("DOOR", "sim-b:0", ""),
            ("MOTOR", "sim-a:3", "pull-up,safe=low,name=MOTOR"),
        ]
        assert api("GET", "/chips/plc/lines").body == shown["lines"]
        assert api("GET", "/chips").body == [answer.body]
        assert api("DELETE", "/chips/plc").status == 204
        assert api("GET", "/chips").body == []

    def test_what_is_shown_can_be_put_back(self, api: ApiClient) -> None:
        make(api, lines=["DOOR", {"name": "LAMP", "options": "safe=high,name=L"}])
        description = api("GET", "/chips/plc").body["description"]
        description["lines"].append("sim-a 7")
        changed = api("PUT", "/chips/plc", description)
        assert (changed.status, changed.body["num_lines"]) == (200, 3)
        assert api("GET", "/chips/plc").body["description"] == description

    def test_a_change_that_cannot_be_changes_nothing(self, api: ApiClient) -> None:
        make(api)
        before = api("GET", "/chips/plc").body
        for lines, status in (("sim-a 0-9", 422), ("sim-a 0, NOTHING", 422), ([], 422)):
            assert api("PUT", "/chips/plc", {"name": "plc", "lines": lines}).status == status
        assert api("PUT", "/chips/plc", {"name": "other", "lines": "sim-a 0"}).status == 422
        assert api("PUT", "/chips/other", {"name": "other", "lines": "sim-a 0"}).status == 404
        assert api("GET", "/chips/plc").body == before

    def test_access_is_that_of_the_socket(self, api: ApiClient, daemon: Daemon) -> None:
        make(api)
        answer = api("PATCH", "/chips/plc/access", {"owner": "nobody", "mode": "0606"})
        assert (answer.status, answer.body["owner"], answer.body["mode"]) == (200, "nobody", "0606")
        status = os.stat(daemon.run / "chips/plc")
        assert (status.st_uid, status.st_mode & 0o777) == (65534, 0o606)
        assert api("PATCH", "/chips/plc/access", {}).body == answer.body
        wrong = api("PATCH", "/chips/plc/access", {"owner": "nobody there"})
        assert (wrong.status, named(wrong.body)) == (422, {"owner"})

    def test_save_makes_it_permanent_until_told_otherwise(self, api: ApiClient) -> None:
        make(api)
        assert api("POST", "/chips/plc/save").body["permanent"] is True
        assert api("GET", "/chips/plc").body["permanent"] is True
        assert api("POST", "/chips/plc/save?permanent=false").body["permanent"] is False

    def test_a_chip_in_use_is_deleted_by_force_only(self, api: ApiClient, daemon: Daemon) -> None:
        make(api)
        holder = on_plc(daemon, "gpiomon", "gpiochip0", "0")
        daemon.wait_for(lambda: any(line["used"] for line in api("GET", "/chips/plc/lines").body))
        consumers = api("GET", "/chips/plc/consumers").body
        assert [(one["kind"], one["user"]) for one in consumers] == [("process", "root")]
        refused = api("DELETE", "/chips/plc")
        assert (refused.status, refused.body["errno"]) == (409, "EBUSY")
        assert "gpiomon" in refused.body["detail"]
        assert api("DELETE", "/chips/plc?force=true").status == 204
        holder.wait(20)

    def test_sources_and_state(self, api: ApiClient) -> None:
        make(api, lines="DOOR")
        by_label = {source["label"]: source for source in api("GET", "/sources").body}
        assert [line["consumer"] for line in by_label["sim-b"]["lines"]] == ["gpiovirt:plc", ""]
        state = api("GET", "/state").body
        assert (state["chips"], state["live"], state["lines"]) == (1, 1, 1)
        assert (state["user"], state["manager"]) == ("root", True)


class TestErrors:
    @pytest.mark.parametrize(
        ("body", "key", "detail"),
        [
            (
                {"name": "x", "lines": ["DOOR", {"name": "LAMP", "options": "up"}]},
                "lines.1.options",
                "not one of pull-up",
            ),
            ({"name": "x", "lines": ["DOOR", "NOTHING"]}, "lines.1", "no line is named 'NOTHING'"),
            ({"name": "x", "lines": ["sim-a 8"]}, "lines.0", "sim-a"),
            ({"name": "x", "lines": "sim-c 0"}, "lines", "no chip"),
            ({"name": "x", "lines": "DOOR", "owner": "x\0y"}, "owner", "no user"),
            ({"name": "x", "lines": "DOOR", "owner": "9" * 5000}, "owner", "no user"),
            ({"name": "x", "lines": "DOOR", "group": "4294967295"}, "group", "no group"),
            ({"name": "x", "lines": "DOOR", "mode": 432}, "mode", "octal"),
            ({"name": "x", "lines": "DOOR", "colour": 1}, "colour", "unknown key"),
            ({"name": "-x", "lines": "DOOR"}, "name", "cannot name a chip"),
            ({"lines": "DOOR"}, "name", "missing"),
            ([], "", "dictionary"),
        ],
    )
    def test_what_is_wrong_is_told_by_its_place(
        self, api: ApiClient, body: Any, key: str, detail: str
    ) -> None:
        answer = api("POST", "/chips", body)
        assert answer.status == 422, answer
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.body["status"] == 422
        (error,) = answer.body["errors"]
        assert error["path"] == key
        assert detail in error["detail"]

    def test_busy_and_there_already(self, api: ApiClient) -> None:
        make(api, lines="DOOR")
        there = api("POST", "/chips", {"name": "plc", "lines": "LAMP"})
        assert (there.status, there.body["errno"], there.body["title"]) == (409, "EEXIST", "Conflict")
        busy = api("POST", "/chips", {"name": "two", "lines": ["LAMP", "DOOR"]})
        assert (busy.status, busy.body["errno"], named(busy.body)) == (409, "EBUSY", {"lines.1"})

    @pytest.mark.parametrize(
        ("method", "target", "status"),
        [
            ("GET", "/chips/nothing", 404),
            ("GET", "/chips/nothing/lines", 404),
            ("DELETE", "/chips/nothing", 404),
            ("POST", "/chips/nothing/save", 404),
            ("GET", "/events?chip=nothing", 404),
            ("GET", "/chips/%00", 404),
            ("GET", "/chips/%ff", 404),
            ("GET", "/nowhere", 404),
            ("BREW", "/chips", 405),
            ("POST", "/chips/x/save?permanent=perhaps", 422),
        ],
    )
    def test_every_error_is_a_problem(self, api: ApiClient, method: str, target: str, status: int) -> None:
        answer = api(method, target)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
        assert answer.body["status"] == status
        assert answer.body["detail"]

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"{", 422),
            (b"\xff", 400),
            (b"[" * 100_000, 400),
            (b"9" * 5000, 400),
            (b" " * 200_000, 413),
            (b'{"name": "\\ud800", "lines": "\\ud800"}', 422),
            (b'{"name": "x", "lines": "\\u0000 1"}', 422),
        ],
    )
    def test_a_body_that_makes_no_sense(self, path: str, body: bytes, status: int) -> None:
        head = b"POST /chips HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
        with connect_as(path) as sock:
            sock.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert b"application/problem+json" in answer

    def test_without_the_daemon_it_says_so(self, tmp_path: Path) -> None:
        let_all_pass(tmp_path)
        with Daemon(tmp_path, SIMS) as daemon:
            api = ApiClient(str(daemon.run / "api.sock"))
            assert api("GET", "/chips").status == 200
            os.unlink(daemon.run / "control")
            answer = api("GET", "/chips")
            assert (answer.status, answer.body["title"]) == (503, "Service Unavailable")
            assert "gpiovirtd" in answer.body["detail"]


@pytest.mark.usefixtures("users")
class TestUsers:
    @pytest.fixture
    def made(self, api: ApiClient) -> None:
        make(api, "hers", "sim-a 0", owner="gpvalice", group="gpvplc")
        make(api, "his", "sim-a 1", owner="gpvbob", group="gpvbob", mode="0600")
        make(api, "ours", "sim-a 2", owner="root", group="gpvplc", mode="0660")

    @pytest.mark.parametrize(
        ("user", "seen"),
        [
            ("root", ["hers", "his", "ours"]),
            ("gpvboss", ["hers", "his", "ours"]),
            ("gpvalice", ["hers", "ours"]),
            ("gpvbob", ["his"]),
            ("nobody", []),
        ],
    )
    def test_a_user_sees_what_he_may_use(self, made: None, path: str, user: str, seen: list[str]) -> None:
        api = ApiClient(path, user)
        assert [chip["name"] for chip in api("GET", "/chips").body] == seen
        for name in ("hers", "his", "ours"):
            for target in (f"/chips/{name}", f"/chips/{name}/lines", f"/chips/{name}/consumers"):
                assert api("GET", target).status == (200 if name in seen else 404), target
        told = {name for name in ("hers", "his", "ours") if f'chip="{name}"' in api("GET", "/metrics").body}
        assert told == set(seen)
        assert api("GET", "/state").body["chips"] == len(seen)
        assert api("GET", "/state").body["user"] == user

    @pytest.mark.parametrize(
        ("user", "may"),
        [("root", True), ("gpvboss", True), ("gpvalice", False), ("gpvbob", False), ("nobody", False)],
    )
    def test_managers_make_change_and_delete(self, made: None, path: str, user: str, may: bool) -> None:
        api = ApiClient(path, user)
        new, old = {"name": "new", "lines": "sim-a 7"}, {"name": "hers", "lines": "sim-a 6"}
        sees = may or user == "gpvalice"
        for method, target, body, status in (
            ("GET", "/sources", None, 200),
            ("POST", "/chips", new, 201),
            ("PUT", "/chips/hers", old, 200),
            ("PATCH", "/chips/hers/access", {"mode": "0666"}, 200),
            ("POST", "/chips/hers/save", None, 200),
            ("DELETE", "/chips/hers", None, 204),
        ):
            answer = api(method, target, body)
            hidden = not sees and method == "PUT"
            assert answer.status == (status if may else 404 if hidden else 403), (method, target, answer)
            if not may and not hidden:
                assert answer.body["errno"] == "EPERM"
        names = [chip["name"] for chip in ApiClient(path)("GET", "/chips").body]
        assert names == (["his", "new", "ours"] if may else ["hers", "his", "ours"])

    def test_curl_of_a_real_user_simply_works(self, made: None, path: str) -> None:
        command = f"curl -s --unix-socket {path} http://gpiovirt/chips"
        printed = subprocess.check_output(["su", "gpvalice", "-c", command], text=True)
        assert re.findall(r'"name":"(\w+)"', printed) == ["hers", "ours"]

    def test_events_are_of_chips_that_the_user_sees(self, made: None, path: str, api: ApiClient) -> None:
        with ApiClient(path, "gpvalice").stream("GET", "/events") as events:
            for name in ("his", "hers"):
                assert api("DELETE", f"/chips/{name}").status == 204
            assert next(events) == {"event": "deleted", "chip": "hers"}

    def test_the_process_of_the_api_is_nobody_and_can_nothing(self, api: ApiClient, daemon: Daemon) -> None:
        api("GET", "/chips")
        status = Path(f"/proc/{process_of(daemon)}/status").read_text()
        fields = dict(re.findall(r"^(\w+):\t(.*)$", status, re.M))
        assert 0 not in map(int, fields["Uid"].split() + fields["Gid"].split())
        assert fields["Groups"].strip() == ""
        assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert fields["NoNewPrivs"] == "1"

    def test_others_of_the_apis_user_cannot_ask_for_others(self, api: ApiClient, daemon: Daemon) -> None:
        api("GET", "/chips")
        uid = os.stat(f"/proc/{process_of(daemon)}").st_uid
        # as the same user, but not the process that gpiovirtd started; root's pytest may read the sources
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.seteuid(uid)
        try:
            with (
                sock,
                daemon.client(acting_for=(0, [])) as client,
                pytest.raises(RefusedError, match="act for"),
            ):
                client.ask(Sources())
        finally:
            os.seteuid(0)


class TestEvents:
    def test_what_happens_is_told_in_order(self, api: ApiClient, daemon: Daemon) -> None:
        make(api)
        with api.stream("GET", "/events?chip=plc") as events:
            make(api, "other", "DOOR")
            on_plc(daemon, "gpioset", "gpiochip0", "1=1").wait(20)
            assert api("DELETE", "/chips/plc").status == 204
            found = [next(events) for _ in range(3)]
        assert [(one["event"], one["chip"]) for one in found] == [
            ("line-requested", "plc"),
            ("line-released", "plc"),
            ("deleted", "plc"),
        ]
        assert (found[0]["offset"], found[0]["consumer"]) == (1, "gpioset")

    def test_a_closed_stream_leaves_nothing(self, api: ApiClient, daemon: Daemon) -> None:
        api("GET", "/chips")
        files = f"/proc/{process_of(daemon)}/fd"
        before = len(os.listdir(files))
        for _ in range(40):
            with api.stream("GET", "/events"):
                pass
        daemon.wait_for(lambda: len(os.listdir(files)) <= before)
        assert api("GET", "/state").body["watchers"] == 0

    def test_streams_are_bounded_by_user(self, path: str, api: ApiClient, users: None) -> None:
        bob = ApiClient(path, "gpvbob")
        streams = [bob.stream("GET", "/events") for _ in range(16)]
        for stream in streams:
            stream.__enter__()
        try:
            assert bob("GET", "/events").status == 429
            assert bob("GET", "/chips").status == 200
            with ApiClient(path, "gpvalice").stream("GET", "/events"):
                pass
        finally:
            for stream in streams:
                stream.__exit__(None, None, None)

    def test_a_reader_that_stalls_misses_events_is_told_so_and_holds_up_nobody(
        self, path: str, api: ApiClient, daemon: Daemon
    ) -> None:
        make(api)
        busy = "import gpiod\nwhile True: gpiod.request_lines('/dev/gpiochip0', {0: None}).release()"
        with connect_as(path) as stalled:
            stalled.sendall(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
            daemon.wait_for(lambda: api("GET", "/state").body["watchers"] == 1)
            program = on_plc(daemon, sys.executable, "-c", busy)
            try:
                with api.stream("GET", "/events") as events:
                    seen = [next(events)["event"] for _ in range(500)]
                    assert {"line-requested", "line-released"} <= set(seen)
                assert api("GET", "/state").body["watchers"] >= 1
                stalled.settimeout(20)
                received = b""
                while b"event: lost" not in received:
                    received += stalled.recv(1 << 16)
            finally:
                program.kill()
                program.wait()


class TestCreator:
    def test_the_chip_goes_with_the_connection(self, api: ApiClient, daemon: Daemon) -> None:
        chip = {"name": "plc", "lines": "sim-a 0-1"}
        with api.stream("POST", "/chips?lifetime=connection", chip) as events:
            made = next(events)
            assert (made["name"], made["state"]) == ("plc", "live")
            assert api("GET", "/chips/plc").status == 200
            assert api("POST", "/chips/plc/save").status == 422
        daemon.wait_for(lambda: api("GET", "/chips/plc").status == 404)

    def test_the_stream_ends_when_another_deletes_the_chip(self, api: ApiClient) -> None:
        with api.stream("POST", "/chips?lifetime=connection", {"name": "plc", "lines": "DOOR"}) as events:
            next(events)
            assert api("DELETE", "/chips/plc?force=true").status == 204
            assert [one["event"] for one in events] == ["deleted"]

    def test_the_chip_goes_with_the_process_of_the_api(self, api: ApiClient, daemon: Daemon) -> None:
        make(api, "stays", "LAMP")
        with api.stream("POST", "/chips?lifetime=connection", {"name": "plc", "lines": "DOOR"}) as events:
            next(events)
            os.kill(process_of(daemon), 9)
            assert list(events) == []
        # it is started again, for the next who asks
        daemon.wait_for(lambda: [chip["name"] for chip in api("GET", "/chips").body] == ["stays"])

    def test_a_chip_that_cannot_be_made_is_a_problem_and_no_stream(self, api: ApiClient) -> None:
        answer = api("POST", "/chips?lifetime=connection", {"name": "plc", "lines": "NOTHING"})
        assert (answer.status, named(answer.body)) == (422, {"lines"})


class TestEnds:
    def test_the_next_daemon_serves_http_though_the_former_ones_process_lives(
        self, api: ApiClient, daemon: Daemon
    ) -> None:
        make(api)
        former = process_of(daemon)
        os.kill(former, signal.SIGSTOP)  # so that it cannot end with its daemon
        try:
            daemon.kill()
            daemon.start()
            assert [chip["name"] for chip in api("GET", "/chips").body] == ["plc"]
        finally:
            os.kill(former, signal.SIGKILL)


class TestOthersGoOn:
    def test_half_requests_and_garbage_hurt_nobody(self, path: str, api: ApiClient, users: None) -> None:
        halves = [b"POST /chips HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{", b"\0" * 99, b"GET /"]
        stalled = [connect_as(path, "gpvbob") for _ in range(60)]
        try:
            for number, sock in enumerate(stalled):
                sock.sendall(halves[number % len(halves)])
            started = time.monotonic()
            for _ in range(20):
                assert api("GET", "/chips").status == 200
            assert time.monotonic() - started < 5
        finally:
            for sock in stalled:
                sock.close()

    def test_one_user_cannot_have_all_connections(self, path: str, api: ApiClient, users: None) -> None:
        socks = []
        try:
            for _ in range(64):
                socks.append(connect_as(path, "gpvbob"))
            with connect_as(path, "gpvbob") as one_more:
                one_more.settimeout(10)
                try:
                    one_more.sendall(b"GET /chips HTTP/1.1\r\nhost: x\r\n\r\n")
                    assert one_more.recv(1) == b""
                except (BrokenPipeError, ConnectionResetError):
                    pass
            assert ApiClient(path, "gpvalice")("GET", "/chips").status == 200
        finally:
            for sock in socks:
                sock.close()


def test_metrics_are_what_prometheus_reads(api: ApiClient, daemon: Daemon) -> None:
    make(api, lines="DOOR LAMP")
    make(api, "two", "sim-a 0-3")
    holder = on_plc(daemon, "gpiomon", "gpiochip0", "0")
    daemon.wait_for(lambda: any(line["used"] for line in api("GET", "/chips/plc/lines").body))
    os.kill(api("GET", "/chips/two").body["worker"], 9)
    daemon.wait_for(lambda: api("GET", "/chips/two").body["restarts"] == 1)
    daemon.wait_for(lambda: api("GET", "/chips/two").body["state"] == "live")
    answer = api("GET", "/metrics")
    holder.terminate()
    holder.wait(20)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.body)
        for sample in family.samples
    }
    version = api("GET", "/state").body["version"]
    lines = [("plc", "DOOR", "0"), ("plc", "LAMP", "1"), *(("two", "", str(offset)) for offset in range(4))]
    of_lines: dict[tuple[str, ...], float] = {
        (f"gpiovirt_line_{what}", *line): what == "held" and line == ("plc", "DOOR", "0")
        for what in ("held", "forced")
        for line in lines
    }
    assert found == {
        ("gpiovirt_info", version): 1,
        ("gpiovirt_watchers",): 0,
        ("gpiovirt_chips", "live"): 2,
        ("gpiovirt_chips", "starting"): 0,
        ("gpiovirt_chips", "waiting"): 0,
        ("gpiovirt_lines", "plc"): 2,
        ("gpiovirt_lines", "two"): 4,
        ("gpiovirt_lines_held", "plc"): 1,
        ("gpiovirt_lines_held", "two"): 0,
        ("gpiovirt_lines_gone", "plc"): 0,
        ("gpiovirt_lines_gone", "two"): 0,
        ("gpiovirt_untold_series",): 0,
        **of_lines,
        ("gpiovirt_consumers", "plc"): 1,
        ("gpiovirt_consumers", "two"): 0,
        ("gpiovirt_worker_restarts_total", "plc"): 0,
        ("gpiovirt_worker_restarts_total", "two"): 1,
    }


class TestProcess:
    def test_it_is_started_for_the_first_who_asks(self, tmp_path: Path) -> None:
        with Daemon(tmp_path, SIMS) as daemon:
            with pytest.raises(subprocess.CalledProcessError):
                process_of(daemon)
            assert ApiClient(str(daemon.run / "api.sock"))("GET", "/chips").status == 200
            assert process_of(daemon)
            said = [line for line in daemon.log().splitlines() if " made by " not in line]
            assert len(said) == 1

    def test_it_works_where_only_root_can_read_what_is_installed(self, tmp_path: Path) -> None:
        """As in a clone in root's home."""
        let_all_pass(tmp_path)
        private = tmp_path / "private"
        private.mkdir(mode=0o700)
        (private / "src").symlink_to(ROOT / "src")
        (private / "site").symlink_to(sysconfig.get_paths()["purelib"])
        environment = {**os.environ, "PYTHONPATH": f"{private}/src:{private}/site"}
        with Daemon(tmp_path, SIMS, env=environment) as daemon:
            api = ApiClient(str(daemon.run / "api.sock"))
            make(api)
            for target in ("/chips/plc", "/openapi.json", "/metrics"):
                assert api("GET", target).status == 200, daemon.log()
            assert api("GET", "/nothing").status == 404
            said = [line for line in daemon.log().splitlines() if " made by " not in line]
            assert len(said) == 1

    def test_it_can_be_left_out(self, tmp_path: Path) -> None:
        let_all_pass(tmp_path)
        with Daemon(tmp_path, [*SIMS, "--no-api"]) as daemon:
            assert not (daemon.run / "api.sock").exists()

    def test_streams_end_with_the_daemon_at_once(self, tmp_path: Path) -> None:
        let_all_pass(tmp_path)
        with Daemon(tmp_path, SIMS) as daemon:
            api = ApiClient(str(daemon.run / "api.sock"))
            with api.stream("GET", "/events") as events:
                started = time.monotonic()
                daemon.stop()
                assert list(events) == []
                assert time.monotonic() - started < 2
            assert not (daemon.run / "api.sock").exists()
            daemon.start()
            assert api("GET", "/chips").status == 200

    def test_without_fastapi_it_says_so_once(self, tmp_path: Path) -> None:
        let_all_pass(tmp_path)
        (tmp_path / "fastapi.py").write_text("raise ImportError('no FastAPI here')")
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        with Daemon(tmp_path, SIMS, env=environment) as daemon:
            with pytest.raises((OSError, http.client.HTTPException)):
                ApiClient(str(daemon.run / "api.sock"))("GET", "/chips")
            daemon.wait_for(lambda: not (daemon.run / "api.sock").exists())
            assert daemon.log().count("there is no HTTP API: no FastAPI here") == 1
            with daemon.client() as client:
                assert client.chips() == []
