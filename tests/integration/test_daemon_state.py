# SPDX-License-Identifier: MIT
"""What gpiovirtd keeps of its chips: over a crash of the machine, and on a full disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpiovirt.protocols.control.answers import RefusedError
from gpiovirt.protocols.control.requests import Change, Delete, New, Own, Save
from gpiovirt.testing.daemon import Daemon
from tests.integration.test_configuration import SIMS, chips, command, describe, full, new
from tests.integration.test_daemon import records


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, SIMS) as made:
        made.config.mkdir()
        yield made


def processes(daemon: Daemon) -> list[int]:
    """All that run for it."""
    mark = f"GPIOVIRT_RUNTIME_DIR={daemon.run}\0".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environment.read_bytes():
                found.append(int(environment.parent.name))
        except OSError:
            continue
    return found


def crash(daemon: Daemon) -> None:
    """As when the power fails: every process ends, and what is in /run is gone."""
    daemon.kill()
    while pids := processes(daemon):
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    for mount in Path("/proc/self/mounts").read_text().splitlines():
        if (there := mount.split()[1]).startswith(f"{daemon.run}/"):  # its server was killed, too
            subprocess.run(["fusermount3", "-u", "-z", there], check=True)
    shutil.rmtree(daemon.run)
    for path in daemon.state.glob("*.json"):
        record = json.loads(path.read_text())
        record["boot_id"] = "00000000-0000-0000-0000-000000000000"
        path.write_text(json.dumps(record))


def test_after_a_reboot_the_permanent_chips_are_back_and_no_others(daemon: Daemon) -> None:
    for line in range(3):
        new(daemon, f"sim-a {line}")
    new(daemon, "sim-a 3", name="passing")
    describe(
        daemon.config,
        plc='lines = ["DOOR", {name = "LAMP", options = "name=GLOW"}]\nowner = "4242"\nvm = true\n',
    )
    command(daemon, "apply")
    command(daemon, "save", "gpio-virt-agg.1")
    with daemon.client() as client:
        client.ask(Own(name="gpio-virt-agg.1", uid=4243, gid=4244, mode=0o600))
    before = {name: daemon.show(name) for name in ("gpio-virt-agg.1", "plc")}
    crash(daemon)
    written = {path: path.stat().st_ino for path in daemon.state.glob("*.json") if path.stem in before}
    daemon.start()
    assert chips(daemon) == ["gpio-virt-agg.1", "plc"]
    assert written == {path: path.stat().st_ino for path in daemon.state.glob("*.json")}
    for name, chip in before.items():
        after = daemon.show(name)
        assert after._replace(chip=after.chip._replace(worker=chip.chip.worker)) == chip
        status = os.stat(after.chip.device)
        assert (status.st_uid, status.st_gid) == (after.chip.uid, after.chip.gid)
    assert len(list(daemon.state.glob("*"))) == 3
    new(daemon, "sim-a 0")
    assert "gpio-virt-agg.0" in chips(daemon)


def test_a_full_disk_refuses_what_cannot_be_kept_and_loses_nothing(tmp_path: Path) -> None:
    full(tmp_path / "state", "12k")
    try:
        with Daemon(tmp_path, SIMS) as daemon:
            made = []
            with daemon.client() as client, pytest.raises(RefusedError, match="No space left") as raised:
                for line in range(8):
                    client.ask(New(definition=f"sim-a {line}", name=f"c{line}", permanent=True))
                    made.append(f"c{line}")
            assert "cannot write" in str(raised.value)
            assert made
            before = {name: daemon.show(name) for name in made}
            for request in (Change("c0", "sim-a 7"), Own("c0", 4242), Save("c0", origin="/other")):
                with daemon.client() as client, pytest.raises(RefusedError, match="No space left"):
                    client.ask(request)
            assert {name: daemon.show(name) for name in chips(daemon)} == before
            assert records(daemon) == [f"{name}.json" for name in made]
            daemon.kill()
            daemon.start()
            assert {name: daemon.show(name) for name in chips(daemon)} == before
            with daemon.client() as client:
                client.ask(Delete(name="c0"))
                client.ask(New(definition="sim-a 7", name="again", permanent=True))
            assert chips(daemon) == ["again", *made[1:]]
    finally:
        subprocess.run(["umount", tmp_path / "state"], check=True)
