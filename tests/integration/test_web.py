# SPDX-License-Identifier: MIT
"""`gpiovirt web`: who comes in, what they see and may do, and what others cannot do to it."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from gpiovirt.protocols.control.requests import New
from gpiovirt.testing.daemon import Daemon
from gpiovirt.waveform.fst import from_vcd, read_recording
from tests.integration.conftest import Installation, as_user, let_all_pass
from tests.web_rig import Web

SIMS = ["--sim", "panel:DOOR,LAMP,STOP", "--sim", "other:4"]
OTHER = 4242
LIBRARIES = """\
fastapi starlette uvicorn h11 pydantic pydantic_core typing_inspection annotated_types annotated_doc anyio
sniffio idna click opentelemetry* prometheus_client typing_extensions.py"""


def eventually(what: Callable[[], Any], timeout_s: float = 15) -> Any:
    """What it gives, once that is something."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("web")
    let_all_pass(folder)
    with Daemon(folder, SIMS) as made:
        with made.client() as client:
            client.ask(New("panel 0-1", name="plc", options={"1": "safe=low"}))
            client.ask(New("other 0-1", name="secret"))
        yield made


@pytest.fixture
def environment(daemon: Daemon, tmp_path: Path) -> dict[str, str]:
    return {**daemon.environment, "GPIOVIRT_STATE_DIR": str(tmp_path)}


@pytest.fixture
def web(environment: dict[str, str]) -> Iterator[Web]:
    with Web(env=environment) as made:
        yield made


@pytest.fixture
def page(web: Web) -> Web:
    assert web.log_in().status == 200
    return web


def token(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "gpiovirt", "token", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def chip(web: Web, name: str) -> dict[str, Any]:
    return next(each for each in web("GET", "/web/chips").body["chips"] if each["name"] == name)


def line(web: Web, name: str, offset: int) -> dict[str, Any]:
    found: dict[str, Any] = chip(web, name)["lines"][offset]
    return found


class TestComingIn:
    def test_the_link_lets_one_browser_in_once(self, web: Web) -> None:
        assert web("GET", "/web/hello").status == 401
        assert web.log_in().status == 200
        assert web("GET", "/web/hello").body["user"] == "root"
        again = web.log_in()
        assert (again.status, "that link has been used" in again.body["detail"]) == (403, True)

    def test_the_cookie_is_for_this_site_only_and_no_script_sees_it(self, web: Web) -> None:
        cookie = web.log_in().headers["set-cookie"].lower()
        assert {"httponly", "samesite=strict", "path=/"} <= {part.strip() for part in cookie.split(";")}

    def test_neither_the_cookie_nor_the_key_is_enough(self, page: Web) -> None:
        """A server at another port of this host gets the cookie, and could send it back."""
        assert page("GET", "/web/chips", headers={"X-Gpiovirt-Key": None}).status == 401
        assert page("GET", "/web/chips", headers={"X-Gpiovirt-Key": "x" * 43}).status == 401
        assert page("GET", "/web/chips", headers={"Cookie": None}).status == 401
        assert page("GET", "/chips", headers={"X-Gpiovirt-Key": None}).status == 401

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", "127.0.0.1", ""])
    def test_a_name_that_was_made_to_lead_here_is_refused(self, page: Web, host: str) -> None:
        assert page("GET", "/web/chips", headers={"Host": host.format(port=page.port)}).status == 421
        assert page("GET", "/", headers={"Host": host.format(port=page.port)}).status == 421

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ],
        ids=lambda headers: "-".join(headers.values()),
    )
    def test_a_page_from_elsewhere_can_ask_nothing(self, page: Web, headers: dict[str, str]) -> None:
        order = {"chip": "chip:plc", "offset": 1, "level": 1}
        assert page("POST", "/web/drive", order, headers).status == 403
        assert page("GET", "/web/chips", None, headers).status == 403
        assert page("POST", "/web/login", {"token": "x"}, headers).status == 403

    def test_the_page_may_run_its_own_scripts_only_and_is_in_no_frame(self, web: Web) -> None:
        answer = web("GET", "/")
        assert answer.status == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "<script>" not in answer.body and "onclick" not in answer.body and "style=" not in answer.body

    def test_all_of_the_page_is_less_than_150_kb(self) -> None:
        import gpiovirt.web

        folder = Path(gpiovirt.web.__file__).with_name("page")
        assert 10_000 < sum(path.stat().st_size for path in folder.iterdir()) < 150_000

    @pytest.mark.parametrize(
        "path", ["/../server.py", "/%2e%2e/server.py", "/page/index.html", "/index.html/"]
    )
    def test_no_other_file_is_served(self, web: Web, path: str) -> None:
        assert web("GET", path).status in (401, 404)

    def test_other_users_are_not_served_at_all(self, web: Web) -> None:
        os.seteuid(OTHER)
        try:
            with web.connect() as sock:
                sock.sendall(f"GET / HTTP/1.1\r\nHost: {web.host}\r\n\r\n".encode())
                with pytest.raises(ConnectionError):
                    if not sock.recv(100):
                        raise ConnectionResetError
        finally:
            os.seteuid(0)
        assert web("GET", "/").status == 200


class TestTheChips:
    def test_lines_holders_and_levels_are_shown(self, page: Web, daemon: Daemon) -> None:
        found = chip(page, "plc")
        assert [each["name"] for each in found["lines"]] == ["DOOR", "LAMP"]
        assert found["lines"][1]["options"] == "safe=low"
        assert [each["level"] for each in found["lines"]] == [0, 0]
        names = [each["name"] for each in page("GET", "/web/chips").body["chips"]]
        assert names[:2] == ["plc", "secret"]
        assert {"panel", "other"} <= {*names}  # other simulators may run

    def test_a_line_is_driven_while_a_page_looks_and_then_safe(self, page: Web, daemon: Daemon) -> None:
        order = {"chip": "chip:plc", "offset": 1, "level": 1}
        assert page("POST", "/web/drive", order).status == 422
        with page.live():
            assert page("POST", "/web/drive", order).status == 204
            shown = line(page, "plc", 1)
            held = (1, "gpiovirt web", ["drive", "release"])
            assert (shown["level"], shown["consumer"], shown["can"]) == held
        eventually(lambda: line(page, "plc", 1)["level"] == 0, 20)

    def test_a_refusal_is_told_in_the_words_of_the_command_line(self, page: Web, daemon: Daemon) -> None:
        command = [sys.executable, "-m", "gpiovirt", "set", "--hold", "20s", "plc:DOOR=high"]
        with subprocess.Popen(command, env=daemon.environment) as holder, page.live():
            eventually(lambda: line(page, "plc", 0)["used"])
            answer = page("POST", "/web/drive", {"chip": "chip:plc", "offset": 0, "level": 0})
            assert answer.status == 409
            assert "held by" in answer.body["detail"]
            holder.terminate()

    def test_a_simulated_line_is_pulled_and_stuck(self, page: Web) -> None:
        key = chip(page, "panel")["key"]
        for do, level, seen in (("pull", 1, 1), ("stick", 0, 0), ("unstick", 0, 1), ("pull", 0, 0)):
            order = {"chip": key, "offset": 2, "do": do, "level": level}
            assert page("POST", "/web/sim", order).status == 204
            assert line(page, "panel", 2)["level"] == seen

    @pytest.mark.parametrize(
        "order",
        [
            {"chip": "chip:plc", "offset": 99, "level": 1},
            {"chip": "chip:plc", "offset": -1, "level": 1},
            {"chip": "chip:plc", "offset": 1 << 40, "level": 1},
            {"chip": "chip:plc", "offset": 0, "level": 2},
            {"chip": "chip:plc", "offset": 0, "level": "1"},
            {"chip": "chip:" + "x" * 1000, "offset": 0, "level": 1},
            {"chip": "chip:../../etc", "offset": 0, "level": 1},
            {"chip": "sim:1.2:panel", "offset": 0, "level": 1},
            {"chip": 7, "offset": 0, "level": 1},
            [],
        ],
    )
    def test_what_is_no_order_is_a_problem(self, page: Web, order: Any) -> None:
        with page.live():
            answer = page("POST", "/web/drive", order)
        assert answer.status in (404, 409, 422)
        assert answer.headers["content-type"] == "application/problem+json"

    def test_the_past_of_a_line_comes_from_the_record(self, page: Web, daemon: Daemon) -> None:
        with page.live():
            before = page("GET", "/web/hello").body["now"]
            for level in (1, 0, 1, 0):
                order = {"chip": "chip:plc", "offset": 1, "level": level}
                assert page("POST", "/web/drive", order).status == 204
            page("POST", "/web/drive", {"chip": "chip:plc", "offset": 1, "level": None})

            def past() -> bool:
                until = page("GET", "/web/hello").body["now"] + 1
                query = f"chip=chip:plc&since={before}&until={until}&columns=4000"
                told = page("GET", f"/web/waves?{query}").body["lines"].get("1", [])
                return "1010" in "".join(map(str, told[2::3]))

            eventually(past)

    def test_what_happens_is_told_as_it_happens(self, page: Web, daemon: Daemon) -> None:
        with page.live() as live:
            while not live.readline().startswith(b"event: now"):
                pass
            page("GET", "/web/chips")
            key = chip(page, "panel")["key"]
            page("POST", "/web/sim", {"chip": key, "offset": 2, "do": "pull", "level": 1})
            while live.readline() != b"event: levels\n":
                pass
            told = live.readline().decode()
            assert f'"chip":"{key}"' in told and told.rstrip().endswith(",1]}")
        page("POST", "/web/sim", {"chip": key, "offset": 2, "do": "pull", "level": 0})

    def test_the_log_says_who_did_what(self, page: Web) -> None:
        def made() -> Any:
            answer = page("GET", "/web/log?chip=chip:plc&kinds=made").body["records"]
            return [(each["what"], each["who"]["uid"]) for each in answer]

        assert eventually(made) == [("made", 0)]

    def test_reading_only_is_reading_only(self, environment: dict[str, str]) -> None:
        with Web("--read-only", env=environment) as web:
            web.log_in()
            assert all(not each["can"] for each in chip(web, "plc")["lines"] + chip(web, "panel")["lines"])
            for path, order in (
                ("/web/drive", {"chip": "chip:plc", "offset": 1, "level": 1}),
                ("/web/sim", {"chip": chip(web, "panel")["key"], "offset": 2, "do": "pull", "level": 1}),
                ("/chips", {"name": "more", "lines": "other 3"}),
            ):
                assert web("POST", path, order).status == 403
            assert web("DELETE", "/chips/plc").status == 403

    def test_a_user_sees_what_they_may_use_and_no_more(
        self, daemon: Daemon, installation: Installation, environment: dict[str, str], tmp_path: Path
    ) -> None:
        let_all_pass(tmp_path)
        for name in LIBRARIES.split():
            for path in Path(sysconfig.get_paths()["platlib"]).glob(name):
                target = installation.folder / path.name
                shutil.copytree(path, target, dirs_exist_ok=True) if path.is_dir() else shutil.copy(
                    path, target
                )
        others = {**environment, "PYTHONPATH": str(installation.folder)}
        with Web(python=[installation.python], env=others, cwd="/", **as_user(OTHER)) as web:
            assert web.log_in().status == 200  # by root, who may
            told = web("GET", "/web/chips").body
            assert (told["daemon"]["there"], told["chips"]) == (True, [])
            assert web("GET", "/web/waves?chip=chip:plc&since=0&until=9").status == 404
            assert web("POST", "/chips", {"name": "more", "lines": "other 3"}).status == 403


class TestTokens:
    @pytest.fixture
    def plant(self, environment: dict[str, str]) -> Iterator[Web]:
        with Web("--tokens", env=environment) as made:
            yield made

    def test_a_token_of_one_chip_shows_that_chip_only(self, plant: Web, environment: dict[str, str]) -> None:
        bearer = {"Authorization": f"Bearer {token(environment, '--read', 'plc')}"}
        assert plant("GET", "/chips").status == 401
        assert [each["name"] for each in plant("GET", "/chips", None, bearer).body] == ["plc"]
        assert plant("GET", "/chips/secret", None, bearer).status == 404
        missing = plant("GET", "/chips/nothing", None, bearer)
        assert (missing.status, "secret" in missing.body["detail"]) == (404, False)
        metrics = plant("GET", "/metrics", None, bearer).body
        assert 'chip="plc"' in metrics and "secret" not in metrics
        assert [each["name"] for each in plant("GET", "/web/chips", None, bearer).body["chips"]] == ["plc"]
        assert plant("GET", "/web/log", None, bearer).status == 422
        assert plant("GET", "/web/log?chip=chip:secret", None, bearer).status == 404
        assert plant("GET", "/sources", None, bearer).status == 403
        assert plant("GET", "/state", None, bearer).body["chips"] == 1

    @pytest.mark.parametrize("option", ["--read", "--drive"])
    def test_who_has_a_token_can_do_no_more_than_it_says(
        self, plant: Web, environment: dict[str, str], option: str
    ) -> None:
        bearer = {"Authorization": f"Bearer {token(environment, option, 'plc')}"}
        for method, path, body in (
            ("POST", "/chips", {"name": "more", "lines": "other 3"}),
            ("PUT", "/chips/plc", {"name": "plc", "lines": "other 3"}),
            ("DELETE", "/chips/plc", None),
            ("PATCH", "/chips/plc/access", {"mode": "0666"}),
            ("POST", "/web/force", {"chip": "chip:plc", "offset": 1, "level": "high"}),
            ("POST", "/web/sim", {"chip": "sim:1.2:panel", "offset": 1, "do": "pull"}),
            ("POST", "/web/drive", {"chip": "chip:secret", "offset": 1, "level": 1}),
            ("PUT", "/chips/secret/levels", {"1": 1}),
        ):
            assert plant(method, path, body, bearer).status in (403, 404), path
        set_it = plant("PUT", "/chips/plc/levels", {"1": 1}, bearer)
        assert set_it.status == (200 if option == "--drive" else 403), set_it.body

    def test_a_token_that_drives_drives_its_chip(self, plant: Web, environment: dict[str, str]) -> None:
        assert plant.log_in(token(environment, "--drive", "plc")).status == 200
        with plant.live():
            assert plant("POST", "/web/drive", {"chip": "chip:plc", "offset": 1, "level": 1}).status == 204
            assert line(plant, "plc", 1)["level"] == 1

    def test_one_that_is_revoked_ends_sessions_and_streams(
        self, plant: Web, environment: dict[str, str]
    ) -> None:
        plant.log_in(token(environment, "--read"))
        (listed,) = token(environment, "--list").splitlines()
        with plant.live() as live:
            token(environment, "--revoke", listed.split()[0])
            assert plant("GET", "/web/chips").status == 401
            while live.readline() != b"event: over\n":
                pass
        assert token(environment, "--list") == ""

    def test_one_that_has_ended_is_refused(self, plant: Web, environment: dict[str, str]) -> None:
        short = token(environment, "--read", "--for", "1ms")
        answer = plant("GET", "/chips", None, {"Authorization": f"Bearer {short}"})
        assert (answer.status, "has ended" in answer.body["detail"]) == (401, True)
        assert plant.log_in(short).status == 403

    def test_what_is_kept_is_not_the_token_and_for_its_owner_only(
        self, environment: dict[str, str], tmp_path: Path
    ) -> None:
        made = token(environment, "--manage")
        (path,) = tmp_path.glob("web-tokens.json")
        assert made not in path.read_text()
        assert path.stat().st_mode & 0o777 == 0o600

    def test_a_file_that_others_can_write_is_not_used(
        self, plant: Web, environment: dict[str, str], tmp_path: Path
    ) -> None:
        made = token(environment, "--read")
        (tmp_path / "web-tokens.json").chmod(0o666)
        assert plant("GET", "/chips", None, {"Authorization": f"Bearer {made}"}).status >= 400

    def test_there_is_no_link_where_there_are_tokens(self, plant: Web) -> None:
        assert plant.token == ""
        assert plant.log_in("").status == 403

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--listen", "0.0.0.0:0"],
            ["--listen", "0.0.0.0:0", "--tokens"],
            ["--listen", "0.0.0.0:0", "--tokens", "--tls", "a", "b"],
            ["--behind-proxy"],
            ["--behind-proxy", "--tokens"],
            ["--port", "70000"],
        ],
        ids=" ".join,
    )
    def test_it_is_not_opened_to_others_by_mistake(self, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "gpiovirt", "web", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        assert (done.returncode, done.stdout) == (2, "")

    @pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\nx"])
    def test_what_is_no_certificate_is_said(self, tmp_path: Path, content: str | None) -> None:
        for name in ("cert.pem", "key.pem"):
            if content is not None:
                (tmp_path / name).write_text(content)
        arguments = ["--listen", "127.0.0.1:0", "--tokens", "--tls", "cert.pem", "key.pem"]
        command = [sys.executable, "-m", "gpiovirt", "web", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "cert.pem" in done.stderr

    def test_tls_is_served_with_the_certificate(self, environment: dict[str, str], tmp_path: Path) -> None:
        made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=plant"]
        names = ["-addext", "subjectAltName=DNS:plant", "-keyout", "key.pem", "-out", "cert.pem"]
        subprocess.run(["openssl", *made, *names], cwd=tmp_path, check=True, capture_output=True)
        bearer = token(environment, "--read", "plc")
        arguments = ["--listen", "127.0.0.1:0", "--name", "plant", "--tokens", "--tls", "cert.pem", "key.pem"]
        with Web(*arguments, env=environment, cwd=tmp_path) as web:
            assert web.url.startswith("https://plant:")
            context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
            request = f"GET /chips HTTP/1.1\r\nHost: {web.host}\r\nAuthorization: Bearer {bearer}\r\n\r\n"
            with context.wrap_socket(web.connect(), server_hostname="plant") as sock:
                sock.sendall(request.encode())
                assert sock.recv(1000).startswith(b"HTTP/1.1 200")
            with web.connect() as sock:
                sock.sendall(request.encode())
                assert not sock.recv(1000).startswith(b"HTTP/1.1 200")


def recorded(tmp_path: Path, name: str, pause_ms: int) -> str:
    """A recording of a pulse of that length."""
    program = "from gpiod import *; import time; r = request_lines('/dev/gpiochip0', "
    program += "{1: LineSettings(direction=line.Direction.OUTPUT)}); r.set_value(1, line.Value(1)); "
    program += f"time.sleep({pause_ms / 1000}); r.set_value(1, line.Value(0)); time.sleep(0.05)"
    path = str(tmp_path / name)
    run = [sys.executable, "-m", "gpiovirt", "run", "--sim", "panel:DOOR,LAMP", "--record", path, "--"]
    subprocess.run([*run, sys.executable, "-c", program], check=True, timeout=30)
    eventually(lambda: Path(path).exists() and "#" in Path(path).read_text())
    time.sleep(0.3)
    return path


class TestRecordings:
    def test_a_recording_is_shown_from_its_beginning(self, tmp_path: Path) -> None:
        with Web(recorded(tmp_path, "a.vcd", 100), what="view") as web:
            web.log_in()
            (shown,) = web("GET", "/web/chips").body["chips"]
            assert [each["name"] for each in shown["lines"]] == ["DOOR", "LAMP"]
            end = web("GET", "/web/hello").body["view"]["end"]
            assert 100_000 < end < 5_000_000
            query = {"chip": shown["key"], "since": 0, "until": end, "columns": 4000}
            told = web("GET", "/web/waves?" + urlencode(query)).body["lines"]["1"]
            assert told[2::3][-2:] == [1, 0]
            assert web("GET", "/web/differences").body is None
            assert web("POST", "/web/sim", {"chip": shown["key"], "offset": 1, "do": "pull"}).status == 403

    def test_two_are_compared(self, tmp_path: Path) -> None:
        one, other = recorded(tmp_path, "a.vcd", 50), recorded(tmp_path, "b.vcd", 400)
        for tolerance, number in (("10ms", 1), ("5s", 0)):
            with Web(one, other, "--tolerance", tolerance, what="view") as web:
                web.log_in()
                assert len(web("GET", "/web/chips").body["chips"]) == 2
                found = web("GET", "/web/differences").body["found"]
                assert len(found) == number
                assert all("panel.LAMP" in text for text in found)

    def test_fst_is_shown_as_vcd_is(self, tmp_path: Path) -> None:
        path = recorded(tmp_path, "a.vcd", 50)
        from_vcd(path, str(tmp_path / "a.fst"))
        with Web(path, str(tmp_path / "a.fst"), what="view") as web:
            web.log_in()
            assert web("GET", "/web/differences").body["found"] == []

    def test_a_chip_is_recorded_as_fst(self, daemon: Daemon, tmp_path: Path) -> None:
        path = str(tmp_path / "plc.fst")
        command = [sys.executable, "-m", "gpiovirt", "record", "plc", "-o", path, "--since", "1h"]
        subprocess.run(command, env=daemon.environment, check=True, stdout=subprocess.DEVNULL, timeout=60)
        assert {signal.name for signal in read_recording(path).levels} == {"DOOR", "LAMP"}

    @pytest.mark.parametrize("name", ["a.vcd", "a.fst"])
    @pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"$enddefinitions $end #0 1!"])
    def test_what_is_no_recording_is_said(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        command = [sys.executable, "-m", "gpiovirt", "view", name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode in (1, 2) and done.stdout == ""
        assert done.stderr.startswith(f"gpiovirt: {name}") and "Traceback" not in done.stderr

    def test_the_page_of_run_shows_its_program_only_and_ends_after_it(self, tmp_path: Path) -> None:
        run = [sys.executable, "-m", "gpiovirt", "run", "--web", "--sim", "alone:DOOR,LAMP", "--"]
        program = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        with subprocess.Popen(
            [*run, *program], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None and process.stderr is not None
            url = process.stderr.readline().strip()
            web = Web.at(url)
            assert web.log_in().status == 200
            (shown,) = web("GET", "/web/chips").body["chips"]
            assert shown["name"] == "alone"
            pull = {"chip": shown["key"], "offset": 0, "do": "pull", "level": 1}
            assert web("POST", "/web/sim", pull).status == 204
            assert line(web, "alone", 0)["level"] == 1
            process.stdin.close()
            assert process.wait(20) == 0
            eventually(lambda: not _answers(web), 30)

    def test_run_says_what_it_cannot_show(self) -> None:
        run = [sys.executable, "-m", "gpiovirt", "run", "--web", "--chip", "plc", "--", "true"]
        done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode in (1, 2)
        assert done.stderr.startswith("gpiovirt: ")


class TestAttacks:
    def test_who_asks_by_halves_is_not_waited_for_and_keeps_nobody_out_for_long(self, web: Web) -> None:
        head = f"POST /web/login HTTP/1.1\r\nHost: {web.host}\r\nContent-Length: 40\r\n\r\n{{"
        began = time.monotonic()
        with web.connect() as no_end, web.connect() as no_body:
            no_end.sendall(b"GET / HTTP/1.1\r\nHost: ")
            no_body.sendall(head.encode())
            many = [web.connect() for _ in range(300)]
            for sock in (no_end, no_body):
                assert sock.recv(1) == b""
            eventually(lambda: _answers(web))
            assert time.monotonic() - began < 15
            for sock in many:
                sock.close()
        assert web.is_running()

    def test_another_user_cannot_take_all_connections_from_those_with_tokens(
        self, environment: dict[str, str]
    ) -> None:
        bearer = {"Authorization": f"Bearer {token(environment, '--read', 'plc')}"}
        with Web("--tokens", env=environment) as web:
            os.seteuid(OTHER)
            try:
                many = [web.connect() for _ in range(300)]
            finally:
                os.seteuid(0)
            try:
                assert web("GET", "/chips", None, bearer).status == 200
            finally:
                for sock in many:
                    sock.close()

    def test_huge_heads_and_bodies_are_refused(self, page: Web) -> None:
        with page.connect() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * (1 << 17))
            assert b" 400 " in sock.recv(100)
        assert page("POST", "/web/login", b"x" * 5000).status == 413
        assert page("POST", "/web/drive", b"x" * (1 << 18)).status == 413
        assert page("POST", "/web/drive", b"[" * 100_000).status in (400, 413, 422)
        assert page("GET", "/web/chips").status == 200

    def test_a_page_that_does_not_read_costs_neither_memory_nor_others(self, page: Web) -> None:
        key = chip(page, "panel")["key"]
        slow = page.connect()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": page.host, **page.session}.items())
        slow.sendall(f"GET /web/live HTTP/1.1\r\n{head}\r\n".encode())
        before = page.memory_kb()
        simulator = [sys.executable, "-c", PULLS, key.split(":")[1]]
        subprocess.run(simulator, check=True, timeout=120)
        assert page.memory_kb() - before < 40_000
        began = time.monotonic()
        assert page("GET", "/web/chips").status == 200
        assert time.monotonic() - began < 5
        slow.close()

    def test_questions_without_sense_are_problems(self, page: Web) -> None:
        for query in (
            "chip=chip:plc&since=0&until=0",
            "chip=chip:plc&since=-99999999999999999999&until=0",
            "chip=chip:plc&since=0&until=5&columns=0",
            "chip=chip:plc&since=0&until=5&columns=999999",
            "chip=chip:plc&since=nan&until=5",
            "chip=sim:nothing:&since=0&until=5",
            "since=0&until=5",
        ):
            assert 400 <= page("GET", f"/web/waves?{query}").status < 600, query
            assert page("GET", f"/web/waves?{query}").headers["content-type"] == "application/problem+json"

    def test_what_a_program_calls_itself_is_shown_as_text(self, page: Web, daemon: Daemon) -> None:
        with daemon.client() as client:
            client.ask(New("other 3", name="named", options={"0": "name=<img src=x>"}))
        try:
            assert line(page, "named", 0)["name"] == "<img src=x>"
        finally:
            page("DELETE", "/chips/named?force=true")


def _answers(web: Web) -> bool:
    try:
        return web("GET", "/").status == 200
    except OSError:
        return False


PULLS = """
import sys
from gpiovirt.control.simulator import SimClient, running
name = next(name for name in running() if name.endswith(sys.argv[1]))
with SimClient(name) as client:
    for number in range(20000):
        client.pull("panel:2", number & 1)
"""
