# SPDX-License-Identifier: MIT
"""new_device, delete_device and the directories of chips, by the commands of the 2019 proposal."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpiovirt.testing.daemon import Daemon
from tests.integration.conftest import as_user

SIMS = ["--sim", "gpiochip0:24", "--sim", "gpiochip2:8", "--sim", "named:DOOR,LAMP"]
SYSFS = Path("/sys/bus/platform/drivers/gpio-virt-agg")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, SIMS) as made:
        yield made


@pytest.fixture
def drivers(daemon: Daemon) -> Path:
    return daemon.run / "bus/platform/drivers"


def error_of(path: Path, text: str) -> str:
    """The errno that a write fails with."""
    with pytest.raises(OSError) as raised:
        path.write_text(text)
    return errno.errorcode[raised.value.errno or 0]


def test_the_commands_of_the_proposal_work_as_written(drivers: Path, daemon: Daemon) -> None:
    script = f"""
        set -e
        cd {drivers}/gpio-virt-agg
        echo "gpiochip0 19 20, gpiochip2 1" > new_device
        cat gpio-virt-agg.0/label gpio-virt-agg.0/lines gpio-virt-agg.0/state gpio-virt-agg.0/exports
        echo gpio-virt-agg.0 > delete_device
        ls
    """
    printed = subprocess.check_output(["sh", "-c", script], text=True, timeout=20)
    assert printed.split() == [
        "gpio-virt-agg.0",
        *("0", "gpiochip0:19", "1", "gpiochip0:20", "2", "gpiochip2:1"),
        "live",
        *("device", f"{daemon.run}/chips/gpio-virt-agg.0"),
        *("delete_device", "new_device"),
    ]


@pytest.mark.parametrize(
    ("entry", "text", "number"),
    [
        ("new_device", "\n", "EINVAL"),
        ("new_device", "3 gpiochip0", "EINVAL"),
        ("new_device", "nochip 3", "ENODEV"),
        ("new_device", "NOLINE", "ENOENT"),
        ("new_device", "gpiochip0 99", "ERANGE"),
        ("new_device", "gpiochip0 7", "EBUSY"),
        ("new_device", "x" * 4097, "EINVAL"),
        ("delete_device", "\n", "EINVAL"),
        ("delete_device", "junk", "EINVAL"),
        ("delete_device", "gpio-aggregator.0", "EINVAL"),
        ("delete_device", "gpio-virt-agg.x", "EINVAL"),
        ("delete_device", "gpio-virt-agg.7", "ENOENT"),
    ],
)
def test_a_write_fails_with_the_errno_that_says_why(
    drivers: Path, entry: str, text: str, number: str
) -> None:
    (drivers / "gpio-virt-agg/new_device").write_text("gpiochip0 7")
    assert error_of(drivers / "gpio-virt-agg" / entry, text) == number
    assert sorted(os.listdir(drivers / "gpio-virt-agg")) == ["delete_device", "gpio-virt-agg.0", "new_device"]


def test_a_chip_in_use_is_not_deleted(drivers: Path, daemon: Daemon) -> None:
    (drivers / "gpio-virt-agg/new_device").write_text("gpiochip0 7")
    held = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gpiovirt",
            "run",
            "--chip",
            "gpio-virt-agg.0",
            "--",
            "gpioset",
            "-m",
            "signal",
            "gpiochip0",
            "0=1",
        ],
        env=daemon.environment,
    )
    daemon.wait_for(lambda: daemon.show("gpio-virt-agg.0").lines[0].used)
    assert error_of(drivers / "gpio-virt-agg/delete_device", "gpio-virt-agg.0") == "EBUSY"
    held.terminate()
    held.wait()
    daemon.wait_for(lambda: not daemon.show("gpio-virt-agg.0").lines[0].used)
    (drivers / "gpio-virt-agg/delete_device").write_text("gpio-virt-agg.0")


def test_the_kernels_driver_is_imitated_beside_it(drivers: Path) -> None:
    driver = drivers / "gpio-aggregator"
    (driver / "new_device").write_text("gpiochip0 5,3 DOOR gpiochip2 1-2\n")
    assert (driver / "gpio-aggregator.0/lines").read_text().split()[1::2] == [
        *("gpiochip0:3", "gpiochip0:5", "named:0", "gpiochip2:1", "gpiochip2:2")
    ]
    assert (driver / "gpio-aggregator.0/names").read_text() == "\n\nDOOR\n\n\n"
    assert error_of(driver / "delete_device", "gpio-virt-agg.0") == "EINVAL"
    assert "gpio-aggregator.0" not in os.listdir(drivers / "gpio-virt-agg")
    (driver / "delete_device").write_text("gpio-aggregator.0\n")
    assert sorted(os.listdir(driver)) == ["delete_device", "new_device"]


def test_owner_group_and_mode_of_a_directory_are_those_of_the_sockets(drivers: Path, daemon: Daemon) -> None:
    (drivers / "gpio-virt-agg/new_device").write_text("gpiochip0 7")
    entry = drivers / "gpio-virt-agg/gpio-virt-agg.0"
    subprocess.run(["chown", "65534:65533", entry], check=True)
    subprocess.run(["chmod", "0600", entry], check=True)
    status = os.stat(daemon.run / "chips/gpio-virt-agg.0")
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65533, 0o600)
    subprocess.run(["chgrp", "65532", entry], check=True)
    assert os.stat(daemon.run / "chips/gpio-virt-agg.0").st_gid == 65532
    with pytest.raises(PermissionError):
        os.chmod(drivers / "gpio-virt-agg/new_device", 0o666)


@contextmanager
def as_other() -> Iterator[None]:
    """As an ordinary user, in this process."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_ordinary_user_can_make_nothing_and_sees_nothing_of_others(drivers: Path, daemon: Daemon) -> None:
    for folder in (daemon.run.parent, *daemon.run.parent.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o055)
    (drivers / "gpio-virt-agg/new_device").write_text("gpiochip0 7")
    script = f"cd {drivers}/gpio-virt-agg && ls && ! echo x > new_device && ! ls gpio-virt-agg.0"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, **as_user(65534))
    assert done.stdout.split() == ["delete_device", "new_device"]
    assert "new_device: Permission denied" in done.stderr
    assert "gpio-virt-agg.0': No such file" in done.stderr
    with pytest.raises(PermissionError), as_other():
        os.listdir(daemon.run / "chips")


def test_the_files_survive_their_process_and_the_daemons_end(daemon: Daemon, drivers: Path) -> None:
    (drivers / "gpio-virt-agg/new_device").write_text("gpiochip0 7")
    for victim in ("files", "daemon"):
        if victim == "files":
            subprocess.run(["pkill", "-KILL", "-f", f"gpiovirt.files.main.*{daemon.run}"], check=True)
        else:
            daemon.kill()
            daemon.start()
        deadline = time.monotonic() + 20
        while True:
            try:
                assert (drivers / "gpio-virt-agg/gpio-virt-agg.0/state").read_text() == "live\n"
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    daemon.stop(signal.SIGINT)
    assert not os.path.ismount(drivers)


def test_gpiovirtd_does_not_wait_for_files_whose_process_is_stopped(daemon: Daemon, drivers: Path) -> None:
    stopped = int(subprocess.check_output(["pgrep", "-f", f"gpiovirt.files.main.*{daemon.run}"]))
    os.kill(stopped, signal.SIGSTOP)
    try:
        daemon.kill()
        daemon.start()
        assert (drivers / "gpio-virt-agg/new_device").exists()
    finally:
        os.kill(stopped, signal.SIGCONT)


def test_the_proposals_own_path_is_there_with_sysfs(tmp_path: Path) -> None:
    drivers = set(os.listdir(SYSFS.parent))
    with Daemon(tmp_path, [*SIMS, "--sysfs"]):
        assert drivers <= set(os.listdir(SYSFS.parent))
        (SYSFS / "new_device").write_text("gpiochip0 19 20, gpiochip2 1")
        assert (SYSFS / "gpio-virt-agg.0/state").read_text() == "live\n"
        (SYSFS / "delete_device").write_text("gpio-virt-agg.0")
        assert sorted(os.listdir(SYSFS)) == ["delete_device", "new_device"]
    assert set(os.listdir(SYSFS.parent)) == drivers
    mounts = Path("/proc/self/mounts").read_text()
    assert str(tmp_path) not in mounts
    assert str(SYSFS.parent) not in mounts


def test_many_chips_leave_nothing_behind(daemon: Daemon, drivers: Path) -> None:
    times = int(os.environ.get("GPIOVIRT_FAULTS", "3")) * 10
    pid = daemon.process.pid

    def kept() -> tuple[int, int, int]:
        mounts = Path(f"/proc/{pid}/mounts").read_text().count("\n")
        return len(os.listdir(f"/proc/{pid}/fd")), mounts, len(daemon.workers())

    def resident() -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])

    def make_and_delete() -> None:
        (drivers / "gpio-virt-agg/new_device").write_text("gpiochip0 0-7, gpiochip2 1")
        (drivers / "gpio-virt-agg/delete_device").write_text("gpio-virt-agg.0")

    for _ in range(5):
        make_and_delete()
    daemon.wait_for(lambda: kept()[2] == 1)
    before, pages = kept(), resident()
    for _ in range(times):
        make_and_delete()
    # what of the first five was still on its way out may be less now
    daemon.wait_for(lambda: all(now <= was for now, was in zip(kept(), before, strict=True)))
    assert resident() - pages < 256  # 1 MiB
    for folder in ("chips", "vm"):
        assert os.listdir(daemon.run / folder) == []
