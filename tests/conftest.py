# SPDX-License-Identifier: MIT
"""All tests at once: several side by side, guest kernels built meanwhile, and in CI none left out.

A worker of pytest-xdist has, as root, mounts and a network of its own: simulators are found by abstract
sockets, and a test is to find its own only. What else there is once is for `tests.machine.the_only_one`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.machine import part_from_others

_FOLDER = pytest.StashKey[str]()
_BUILDS = pytest.StashKey[subprocess.Popen[bytes]]()
_BUILD = [str(Path(__file__).parents[1] / "guests/build")]
_BUILD += ["uml", "x86", "uml-7.3", "qemu10", "arm64", "containerd", "selftests", "libgpiod"]


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Part a worker from the others; have a folder for temporary files that no other run closes to users.

    pytest's own is one for all of a user's runs: each closes it, and removes what it finds to be old.
    """
    # what a shell's job or nohup has ignored programs would inherit; of a handler they get the default
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    if _is_worker(config):
        if os.getuid() == 0:
            part_from_others()
    elif not config.option.basetemp:
        config.option.basetemp = config.stash[_FOLDER] = tempfile.mkdtemp(prefix="gpiovirt-")


def pytest_sessionstart(session: pytest.Session) -> None:
    """If all tests are to run, begin to build the guests' kernels; the tests that need them wait."""
    config = session.config
    if config.args_source is config.ArgsSource.TESTPATHS and not _is_worker(config):
        config.stash[_BUILDS] = subprocess.Popen(
            ["nice", *_BUILD],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """End the building if nobody waited for it, as after -x or Ctrl-C; keep the files of what failed."""
    if exitstatus == pytest.ExitCode.OK and (folder := session.config.stash.get(_FOLDER, "")):
        shutil.rmtree(folder, ignore_errors=True)
    if builds := session.config.stash.get(_BUILDS, None):
        if builds.poll() is None:
            os.killpg(builds.pid, signal.SIGTERM)
        builds.wait()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Guests last: their kernels may not be there yet."""
    items.sort(key=lambda item: "tests/guest/" in item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that is skipped has failed."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"in CI no test is left out: {report.longrepr}"
    return report
