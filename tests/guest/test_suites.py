# SPDX-License-Identifier: MIT
"""Test suites of others, as their maintainers run them, on our gpio-sim: every case of theirs is counted."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from guests.guest import built
from tests.guest.conftest import ROOT, build
from tests.machine import outside

USER = 4242
# the system's / is this one's, in mounts of its own; a program's user namespace wants no chroot
ENTER = """
set -e
root=$1 source=$2 user=$3
shift 3
mount --make-rprivate /
mount --rbind "$root" "$root"
for name in proc sys dev; do mount --rbind "/$name" "$root/$name"; done
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mkdir "$root/tmp/gpiovirt"
mount --bind "$source" "$root/tmp/gpiovirt"
cd "$root"
pivot_root . .
umount -l .
cd /tmp
exec setpriv --reuid="$user" --regid="$user" --clear-groups env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin \\
	PYTHONPATH=/tmp/gpiovirt PYTHONDONTWRITEBYTECODE=1 LANG=C.UTF-8 HOME=/tmp sh -c "$@"
"""
RUN = "python3 -m gpiovirt run --gpio-sim --uname 6.17.0 --"  # which the C suite and the tools' want
LIBRARIES = "LD_LIBRARY_PATH=/suite/lib/.libs:/suite/tests/gpiosim/.libs"


@pytest.fixture(scope="module")
def system() -> Path:
    """Debian 13 with libgpiod's suites."""
    if os.getuid():
        pytest.fail("the suites are built and entered by root; they are run as a user, too")
    build("libgpiod")
    return built("libgpiod") / "root"


def run(system: Path, user: int, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", ENTER, "sh", system, ROOT / "src", str(user), command],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def check_tap(done: subprocess.CompletedProcess[str], count: int, skipped: Sequence[str] = ()) -> None:
    """What GLib's test programs print: a line for each case."""
    lines = [line for line in done.stdout.splitlines() if re.match(r"(not )?ok ", line)]
    assert [line for line in lines if line.startswith("not")] == []
    assert [line.split()[2] for line in lines if "# SKIP" in line] == list(skipped)
    assert (len(lines), done.returncode) == (count, 0), done.stderr[-2000:]


both = pytest.mark.parametrize("user", [0, USER], ids=["root", "user"])


@both
def test_libgpiod_c(system: Path, user: int) -> None:
    done = run(system, user, f"{RUN} /suite/tests/gpiod-test")
    check_tap(done, 106, ["/gpiod/line-info/event_clock"])  # a chip without a timestamp engine


@both
def test_libgpiod_cxx(system: Path, user: int) -> None:
    done = run(system, user, f"{RUN} /suite/bindings/cxx/tests/gpiod-cxx-test")
    assert "All tests passed (389 assertions in 51 test cases)" in done.stdout, done.stdout[-2000:]


@both
def test_libgpiod_glib(system: Path, user: int) -> None:
    check_tap(run(system, user, f"{RUN} /suite/bindings/glib/tests/gpiod-glib-test"), 70)


@both
def test_libgpiod_python(system: Path, user: int) -> None:
    done = run(system, user, f"cd /suite/bindings/python && {LIBRARIES} {RUN} python3 -m tests")
    assert re.search(r"^Ran 142 tests in [\d.]+s\n\nOK$", done.stderr, re.M), done.stderr[-2000:]


@both
def test_libgpiod_tools(system: Path, user: int) -> None:
    path = "PATH=/suite/tools:/suite/tests/scripts:$PATH"
    done = run(system, user, f"{path} {RUN} bash /suite/tools/gpio-tools-test.bash")
    plain = re.sub(r"\x1b\[[\d;]*m", "", done.stdout)
    assert re.search(r"^Ran 165 tests\.\n\nOK$", plain, re.M), plain[-2000:] + done.stderr[-2000:]


def test_libgpiod_python_of_the_package_index(system: Path, tmp_path: Path) -> None:
    """A newer one, with the library that the sdist brings and Debian's libgpiosim."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += ["--no-binary", "gpiod", "gpiod==2.5.0", "--dest", str(tmp_path)]
    subprocess.run([*outside(), *pip], check=True)
    shutil.unpack_archive(tmp_path / "gpiod-2.5.0.tar.gz", tmp_path)
    tests = tmp_path / "gpiod-2.5.0"
    for folder in ("include", "lib"):
        shutil.rmtree(tests / folder)  # those of the system's version
    tmp_path.chmod(0o755)
    source = shlex.quote(str(tests))
    command = f"""
cp -r /tmp/gpiovirt-tests /tmp/tests && cd /tmp/tests
TOP_SRCDIR=/suite TOP_BUILDDIR=/suite python3 build_tests.py >/dev/null 2>&1
{LIBRARIES} {RUN} python3 -m tests
"""
    entered = ENTER.replace(
        "pivot_root . .",
        f"mkdir tmp/gpiovirt-tests; mount --bind {source} tmp/gpiovirt-tests\npivot_root . .",
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", entered, "sh", system, ROOT / "src", "0", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert re.search(r"^Ran 162 tests in [\d.]+s\n\nOK$", done.stderr, re.M), done.stderr[-2000:]


# the kernel's own


@pytest.fixture(scope="module")
def selftests() -> Path:
    build("selftests")
    return built("selftests")


def selftest(*command: str | Path) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "gpiovirt", "run", "--gpio-sim", "--", *command]
    return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_linux_gpio_sim(selftests: Path) -> None:
    done = selftest("sh", selftests / "gpio-sim.sh")
    steps = [line for line in done.stdout.splitlines() if re.match(r"\d+\.\d+\. ", line)]
    assert (len(steps), done.stdout.splitlines()[-1]) == (23, "GPIO gpio-sim test PASS"), done.stderr
    assert done.returncode == 0


def test_linux_gpio_aggregator_but_for_the_unloading_of_modules(selftests: Path, tmp_path: Path) -> None:
    script = (selftests / "gpio-aggregator.sh").read_text()
    first, third, rest = re.split(r'^(?=echo "(?:3\. Module unload|4\. GPIO forwarder))', script, flags=re.M)
    rest, fifth, end = re.split(r'^(?=echo "(?:5\. Race|GPIO \$MODULE test PASS))', rest, flags=re.M)
    assert third.count("modprobe -r")
    assert fifth.count("modprobe -r")
    shutil.copytree(selftests, tmp_path / "gpio")
    (tmp_path / "gpio/gpio-aggregator.sh").write_text(first + rest + end)
    done = selftest("sh", tmp_path / "gpio/gpio-aggregator.sh")
    steps = [line for line in done.stdout.splitlines() if re.match(r"[\d.]+\. ", line)]
    assert (len(steps), done.stdout.splitlines()[-1]) == (50, "GPIO gpio-aggregator test PASS"), done.stderr
    assert done.returncode == 0


CASES = ["chip ioctl", "handle ioctl", "event poll", "event ioctl", "req poll", "req ioctl"]
OTHERS = ["chip poll", "chip read", "event read", "req read"]


def test_linux_gpio_cdev_uaf(selftests: Path) -> None:
    """A chip goes while its files are open, which then read as a pipe or a terminal that has ended."""
    told = {case: selftest(selftests / "gpio-cdev-uaf", *case.split()).returncode for case in CASES + OTHERS}
    assert told == dict.fromkeys(CASES, 0) | dict.fromkeys(OTHERS, 1)
