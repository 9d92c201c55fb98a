# SPDX-License-Identifier: MIT
"""The Debian package, installed: what users are told to type works as written."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT
from tests.machine import the_only_one

SIMS = "--sim gpiochip0:24 --sim gpiochip2:8 --sim e6050000.gpio:32 --sim panel:START,STOP --sysfs"
USERS = {"alice": 7301, "bob": 7302}


def sh(script: str, status: int | None = 0) -> str:
    """What a shell command prints to both its outputs."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    done = subprocess.run(
        ["sh", "-c", script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert status is None or done.returncode == status, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def installed(package: Path) -> Iterator[None]:
    """The package, two users and their group; all is gone afterwards."""
    with ExitStack() as undo:
        undo.enter_context(the_only_one())
        assert not Path("/run/gpiovirt/control").exists(), "a gpiovirtd runs on this machine"
        undo.callback(
            sh, "dpkg --purge gpiovirt; userdel gpiovirt; userdel gpiovirt-web; groupdel gpio", status=None
        )
        subprocess.run(["dpkg", "-i", package], check=True, stdout=subprocess.DEVNULL)
        undo.callback(sh, "groupdel plc", status=None)
        sh("groupadd -g 7300 plc")
        for name, uid in USERS.items():
            undo.callback(sh, f"userdel {name}")
            sh(f"useradd -u {uid} -M -s /bin/sh {name}")
        sh("usermod -aG plc alice")
        yield
    assert not shutil.which("gpiovirt", path="/usr/bin")
    assert not Path("/var/lib/gpiovirt").exists()


@pytest.fixture
def daemon(installed: None, tmp_path: Path) -> Iterator[None]:
    log = tmp_path / "log"
    with (
        log.open("wb") as file,
        subprocess.Popen(["/usr/bin/gpiovirtd", *SIMS.split()], stderr=file) as process,
    ):
        try:
            deadline = time.monotonic() + 30
            while "ready" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0


@pytest.mark.usefixtures("daemon")
def test_the_commands_of_the_readme_work_as_written() -> None:
    driver = "/run/gpiovirt/bus/platform/drivers/gpio-virt-agg"
    for directory in (driver, "/sys/bus/platform/drivers/gpio-virt-agg"):
        sh(f'echo "gpiochip0 19 20, gpiochip2 1" > {directory}/new_device')
        chip = "/run/gpiovirt/chips/gpio-virt-agg.0"
        sh(f"chown alice:plc {chip} && chmod 0660 {chip}")
        assert "3 lines" in sh("su alice -c 'gpiovirt run --chip gpio-virt-agg.0 -- gpioinfo'")
        assert "Permission denied" in sh("su bob -c 'gpiovirt run --chip gpio-virt-agg.0 -- gpioinfo'", 1)
        sh(f"echo gpio-virt-agg.0 > {directory}/delete_device")
    sh("gpiovirt new plc 'START STOP e6050000.gpio 20-21' --owner alice --group plc --vm")
    assert "plc 4 lines, alice:plc 0660, live" in sh("gpiovirt list")
    assert "e6050000.gpio:21" in sh("gpiovirt show plc")
    assert "path=/run/gpiovirt/vm/plc" in sh("gpiovirt vm-args qemu plc")
    sh("gpiovirt delete plc")
    Path("/etc/gpiovirt/chips.d/line.toml").write_text('lines = "gpiochip0 0-3"\nowner = "bob"\n')
    sh("gpiovirt check")
    assert "line" in sh("gpiovirt diff", status=1)
    sh("gpiovirt apply")
    assert sh("gpiovirt diff") == ""
    assert "4 lines" in sh("su bob -c 'gpiovirt run --chip line -- gpioinfo'")
    Path("/etc/gpiovirt/chips.d/line.toml").unlink()
    sh("gpiovirt apply")
    assert "no chip 'line'" in sh("gpiovirt show line", status=2)


@pytest.mark.usefixtures("installed")
def test_workers_become_the_user_that_the_package_makes() -> None:
    assert re.match(r"gpiovirt:.*:/nonexistent:", sh("getent passwd gpiovirt"))
    assert sh("getent group gpio")


@pytest.mark.usefixtures("installed")
def test_man_pages_say_what_there_is() -> None:
    page = sh("man --warnings gpiovirt | cat")
    for text in ("gpiovirt new", "--while-me", "EXIT STATUS", "FILES", "vm-args"):
        assert text in page
    assert "--sysfs" in sh("man --warnings gpiovirtd | cat")
    assert "--kill-children" in sh("man --warnings gpiovirt-run | cat")
    page = sh("man --warnings 5 gpiovirt-chips | cat")
    for text in ("poll_us", "never_both", "timeout_ms", "[line.MOTOR]"):
        assert text in page
    for page in sh("ls /usr/share/man/man*/gpiovirt*").split():
        assert sh(f"man --warnings {page} 2>&1 >/dev/null") == "", page


@pytest.mark.usefixtures("daemon")
def test_shells_complete_lines() -> None:
    sh("gpiovirt new plc 'START STOP gpiochip0 20' --line 'START=name=MOTOR FWD'")
    assert sh("gpiovirt list --names virtual") == "plc:MOTOR FWD\nplc:STOP\nplc:2\n"
    script = """
        . /usr/share/bash-completion/completions/gpiovirt
        complete_line() {
            COMP_LINE=$1; COMP_POINT=${#COMP_LINE}; COMP_WORDS=($2); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            COMPREPLY=(); _shtab_gpiovirt gpiovirt "$3" ""
            echo "${COMPREPLY[@]}"
        }
        complete_line 'gpiovirt get p' 'gpiovirt get p' p
        complete_line 'gpiovirt get plc:S' 'gpiovirt get plc : S' S
        complete_line 'gpiovirt force plc:' 'gpiovirt force plc :' :
        complete_line 'gpiovirt log p' 'gpiovirt log p' p
    """
    said = subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert said == "plc:STOP plc:2\nSTOP\nSTOP 2\nplc\n"
    assert sh("fish -c 'complete -C \"gpiovirt get plc:S\"'").split("\t")[0] == "plc:STOP"
    sh("gpiovirt delete plc")


@pytest.mark.usefixtures("daemon")
def test_the_sample_of_a_description_is_right_and_its_chip_tells_when_it_comes_back() -> None:
    sh("cp /usr/share/doc/gpiovirt/examples/chips.d/plc.toml /etc/gpiovirt/chips.d/")
    sh("sed -i 's/relays/gpiochip2/' /etc/gpiovirt/chips.d/plc.toml && gpiovirt check && gpiovirt apply")
    assert "MOTOR only while STOP is 0" in sh("gpiovirt rules plc")
    said = sh("gpiovirt delete plc")
    assert said.startswith(
        "plc: /etc/gpiovirt/chips.d/plc.toml describes it, and brings it back with the next"
    )
    sh("gpiovirt apply && gpiovirt show plc && rm /etc/gpiovirt/chips.d/plc.toml && gpiovirt apply")


@pytest.mark.usefixtures("installed")
def test_the_options_of_the_service_are_in_a_file_of_the_administrators() -> None:
    assert "/etc/default/gpiovirt" in sh("cat /var/lib/dpkg/info/gpiovirt.conffiles")
    assert sh(". /etc/default/gpiovirt; echo $GPIOVIRTD_OPTIONS$GPIOVIRT_SYSFS") == "\n"
    unit = sh("cat /usr/lib/systemd/system/gpiovirtd.service")
    assert "EnvironmentFile=-/etc/default/gpiovirt\nExecStart=/usr/bin/gpiovirtd --no-files" in unit


@pytest.mark.usefixtures("installed")
def test_shells_complete_commands_options_and_chips() -> None:
    share = Path("/usr/share")
    sh(f"zsh -n {share}/zsh/site-functions/_gpiovirt")
    sh(f"fish -n {share}/fish/vendor_completions.d/gpiovirt.fish")
    script = """
        . /usr/share/bash-completion/completions/gpiovirt
        complete_line() {
            COMP_WORDS=($1 "$2"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
            _shtab_gpiovirt gpiovirt "$2" ""
            echo "${COMPREPLY[@]}"
        }
        complete_line gpiovirt vm
        complete_line 'gpiovirt new' --whi
        complete_line 'gpiovirt pinout' pi
    """
    done = subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["vm-args", "--while", "--while-me", "pi3", "pi4", "pi5"]


def test_units_are_hardened_and_well_formed() -> None:
    unit = ROOT / "data/systemd/gpiovirtd.service"
    said = sh(f"systemd-analyze security --offline=true --no-pager {unit}")
    level = re.search(r"Overall exposure level for gpiovirtd.service: ([\d.]+)", said)
    assert level
    assert float(level[1]) < 3.0


@pytest.mark.usefixtures("installed")
def test_units_can_be_loaded() -> None:
    units = " ".join(map(str, Path("/usr/lib/systemd/system").glob("gpiovirt*.service")))
    said = sh(f"systemd-analyze verify {units}", status=None)
    assert not [line for line in said.splitlines() if "gpiovirt" in line], said
