# SPDX-License-Identifier: MIT
"""Proxies and monitoring as docs/web.md has them, by the real nginx, Caddy and Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gpiovirt.protocols.control.requests import New
from gpiovirt.testing.daemon import Daemon
from tests.integration.conftest import ROOT, let_all_pass
from tests.web_rig import Web

PAGE = (ROOT / "docs/web.md").read_text()
ALERTS = ROOT / "data/monitoring/gpiovirt-alerts.yml"
DASHBOARD = ROOT / "data/monitoring/gpiovirt-grafana.json"


def shown(kind: str) -> str:
    """The block of the page."""
    found = re.search(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("monitoring")
    let_all_pass(folder)
    with Daemon(folder, ["--sim", "panel:DOOR,LAMP", "--sim", "wide:1100"]) as made:
        with made.client() as client:
            rules = {"interlock": [{"never_both": ["DOOR", "LAMP"]}]}
            client.ask(New("panel 0-1", name="plc", rules=rules))
        yield made


@pytest.fixture
def plant(daemon: Daemon, tmp_path: Path) -> Iterator[tuple[Web, str]]:
    """It, behind a proxy, and a token; a certificate is in the folder."""
    environment = {**daemon.environment, "GPIOVIRT_STATE_DIR": str(tmp_path / "state")}
    names = ["-addext", "subjectAltName=DNS:plant.example", "-keyout", "plant.key", "-out", "plant.crt"]
    made = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=plant.example",
        *names,
    ]
    subprocess.run(["openssl", *made], cwd=tmp_path, check=True, capture_output=True)
    command = [sys.executable, "-m", "gpiovirt", "token", "--read", "plc"]
    token = subprocess.check_output(command, env=environment, text=True).strip()
    arguments = ["--tokens", "--behind-proxy", "--listen", "127.0.0.1:18413"]
    for name in ("plant.example", "plant.example:18443"):
        arguments += ["--name", name]
    with Web(*arguments, env=environment) as web:
        web.port = 18413
        yield web, token


@contextmanager
def proxy(command: list[str], folder: Path) -> Iterator[None]:
    with (
        (folder / "proxy.log").open("w") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process,
    ):
        try:
            yield
        finally:
            process.terminate()


def fetch(folder: Path, path: str, *options: str) -> str:
    """Over TLS, by the name, with the certificate checked."""
    command = ["curl", "-sS", "--noproxy", "*", "--cacert", "plant.crt", "--max-time", "3"]
    command += ["--resolve", "plant.example:18443:127.0.0.1", *options, f"https://plant.example:18443{path}"]
    deadline = time.monotonic() + 20
    while True:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 7:  # nobody listens yet
            return done.stdout
        assert time.monotonic() < deadline, (folder / "proxy.log").read_text()
        time.sleep(0.1)


def adapted(text: str, folder: Path) -> str:
    """With ports and files of this test."""
    return (
        text.replace("/etc/ssl/", f"{folder}/").replace("8413", "18413").replace("listen 443", "listen 18443")
    )


def check_through_proxy(folder: Path, token: str) -> None:
    bearer = ["-H", f"Authorization: Bearer {token}"]
    assert 'gpiovirt_lines{chip="plc"} 2.0' in fetch(folder, "/metrics", *bearer)
    assert "with a token" in fetch(folder, "/metrics")
    assert "event: now" in fetch(folder, "/web/live", *bearer)  # which has no end, and is not held back
    login = fetch(folder, "/web/login", "-i", "--json", json.dumps({"token": token}))
    assert "__Host-gpiovirt" in login and "Secure" in login
    cross = ["-H", "Origin: https://evil.example"]
    assert "from elsewhere" in fetch(folder, "/web/login", *cross, "--json", "{}")


def test_the_recipe_for_nginx_works(plant: tuple[Web, str], tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}/b; proxy_temp_path {tmp_path}/p;\n"
        f"fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n"
        f"{adapted(shown('nginx'), tmp_path)} }}"
    )
    with proxy(["nginx", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)], tmp_path):
        check_through_proxy(tmp_path, plant[1])


def test_the_recipe_for_caddy_works(plant: tuple[Web, str], tmp_path: Path) -> None:
    text = adapted(shown("caddy"), tmp_path).replace("plant.example {", "plant.example:18443 {")
    (tmp_path / "Caddyfile").write_text("{\n admin off\n auto_https disable_redirects\n}\n" + text)
    command = ["env", f"HOME={tmp_path}", "caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"]
    with proxy(command, tmp_path):
        check_through_proxy(tmp_path, plant[1])


def metrics(web: Web, token: str) -> str:
    headers = {"Authorization": f"Bearer {token}", "Host": "plant.example"}
    answer = web("GET", "/metrics", None, headers)
    assert answer.status == 200
    return str(answer.body)


def test_lines_and_rules_have_series_and_no_more_than_a_prometheus_bears(
    plant: tuple[Web, str], daemon: Daemon
) -> None:
    text = metrics(*plant)
    assert 'gpiovirt_line_held{chip="plc",line="LAMP",offset="1"} 0.0' in text
    assert 'gpiovirt_rule_refused_total{chip="plc",rule="' in text
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    from gpiovirt.api.metrics import exposition
    from gpiovirt.protocols.control.requests import State

    with daemon.client() as client:
        client.ask(New("wide 0-899", name="wide1"))
        client.ask(New("wide 900-1099", name="wide2"))
        state, chips = client.ask(State()), [client.show(name) for name in ("plc", "wide1", "wide2")]
    samples = [
        sample
        for family in text_string_to_metric_families(exposition(state, chips).decode())
        for sample in family.samples
    ]
    assert sum(sample.name == "gpiovirt_line_held" for sample in samples) == 1000
    assert [sample.value for sample in samples if sample.name == "gpiovirt_untold_series"] == [102]


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    def case(series: str, values: str, at: str, alert: str, fires: bool, **labels: str) -> dict[str, object]:
        name = re.match(r"[a-z_]+", series)
        assert name is not None
        expected = [{"exp_labels": labels}] if fires else []
        return {
            "interval": "1m",
            "input_series": [{"series": series, "values": values}],
            "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": expected}],
        }

    def with_summary(test: dict[str, object], text: str) -> dict[str, object]:
        for each in test["alert_rule_test"]:  # type: ignore[attr-defined]
            for alert in each["exp_alerts"]:
                alert["exp_annotations"] = {"summary": text}
        return test

    gone = 'gpiovirt_lines_gone{chip="plc"}'
    rule = 'gpiovirt_rule_tripped{chip="plc",rule="watchdog"}'
    tests = [
        case(gone, "0x5", "5m", "GpiovirtLineGone", False),
        with_summary(
            case(gone, "0 0 2", "2m", "GpiovirtLineGone", True, severity="critical", chip="plc"),
            "2 lines of plc have lost their source",
        ),
        with_summary(
            case(
                rule,
                "0 1",
                "1m",
                "GpiovirtRuleTripped",
                True,
                severity="critical",
                chip="plc",
                rule="watchdog",
            ),
            "plc: watchdog: lines are kept safe",
        ),
    ]
    content = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(content))
    done = subprocess.run(
        ["promtool", "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_alerts_and_dashboard_ask_for_is_there(plant: tuple[Web, str], tmp_path: Path) -> None:
    there = set(re.findall(r"^(gpiovirt_\w+)", metrics(*plant), re.M))
    asked = [
        rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked += [target["expr"].replace("$chip", ".*") for panel in panels for target in panel["targets"]]
    names = {name for text in asked for name in re.findall(r"gpiovirt_\w+", text)}
    assert len(asked) == 12 and names and names <= there
    rules = [{"record": f"asked:{number}", "expr": text} for number, text in enumerate(asked)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_of_prometheus_is_one(tmp_path: Path) -> None:
    text = shown("yaml").replace("/usr/share/gpiovirt/", f"{ALERTS.parent}/")
    (tmp_path / "token").write_text("x")
    text = text.replace("/etc/prometheus/gpiovirt.token", str(tmp_path / "token"))
    (tmp_path / "prometheus.yml").write_text(text)
    done = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 rules found" in done.stdout


def test_the_unit_gives_away_little() -> None:
    unit = ROOT / "data/systemd/gpiovirt-web.service"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"exposure level for gpiovirt-web.service: ([\d.]+)", done.stdout)
    assert found is not None and float(found[1]) < 3
