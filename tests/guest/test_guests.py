# SPDX-License-Identifier: MIT
"""The test guests themselves: they are built, they boot, they have GPIO, and they leave nothing behind."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guests.debian import BuildError
from guests.guest import Guest, GuestError, GuestTimeoutError, Qemu, Uml, qemu, uml
from guests.kernel import apply
from guests.recipes import RECIPES, Edit, build_path, stale_builds
from tests.guest.conftest import ROOT, build

TWO_EDGES = """
set -- $(gpio-sim edges 4 DOOR LAMP)
gpiomon --num-events=2 --format='%o %e' "$1" 1 >/run/events &
until grep -q gpiomon /proc/interrupts; do :; done
echo pull-up >"$2/sim_gpio1/pull"
echo pull-down >"$2/sim_gpio1/pull"
wait
cat /run/events
"""

OVERLAY_OF_AN_ORDINARY_USER = """
mount -t tmpfs none /mnt && cd /mnt && mkdir lower upper work merged && echo below >lower/file &&
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work,userxattr overlay merged &&
echo above >merged/file && cat lower/file upper/file
"""


@pytest.fixture(scope="session", params=["uml", "x86"])
def boot(request: pytest.FixtureRequest) -> Callable[[], Guest]:
    build(request.param)
    return Uml if request.param == "uml" else Qemu


def session_members(leader: int) -> list[str]:
    """The processes of a session that are alive."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            process, _, rest = stat.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, _, session, *_ = rest.split()
        if int(session) == leader and state != "Z":
            members.append(process)
    return members


def wait_until_gone(leader: int) -> None:
    deadline = time.monotonic() + 5
    while members := session_members(leader):
        assert time.monotonic() < deadline, members
        time.sleep(0.02)


def test_a_finished_build_is_found_at_once(boot: Callable[[], Guest]) -> None:
    assert build("uml" if boot is Uml else "x86") < 1


def test_output_and_status_of_a_command_come_back(boot: Callable[[], Guest]) -> None:
    with boot() as guest:
        result = guest.run('echo "out: $WORD"; echo err >&2; exit 3', env={"WORD": "two words"})
    assert (result.stdout, result.stderr, result.status) == ("out: two words\n", "err\n", 3)
    with pytest.raises(GuestError, match="status 3: err"):
        result.check()


def test_large_output_arrives_whole(boot: Callable[[], Guest]) -> None:
    with boot() as guest:
        assert guest.run("seq 100000").check().split() == [str(n) for n in range(1, 100001)]


def test_a_guest_keeps_its_state_between_commands_until_it_reboots(boot: Callable[[], Guest]) -> None:
    with boot() as guest:
        guest.run("gpio-sim first 2").check()
        guest.run("gpio-sim second 3 DOOR").check()
        chips = "gpiochip0 [first] (2 lines)\ngpiochip1 [second] (3 lines)\n"
        assert guest.run("gpiodetect").check() == chips
        pid = guest.pid
        guest.reboot()
        assert guest.run("gpiodetect").stdout == ""
        assert guest.pid == pid


def test_both_of_two_close_edges_arrive(boot: Callable[[], Guest]) -> None:
    with boot() as guest:
        assert guest.run(TWO_EDGES).check() == "1 1\n1 0\n"


def test_a_hung_command_is_reported_and_its_guest_killed(boot: Callable[[], Guest]) -> None:
    with boot() as guest:
        with pytest.raises(GuestTimeoutError, match=r"'echo started; sleep 60' did not end in 1 s.*started"):
            guest.run("echo started; sleep 60", timeout_s=1)
        wait_until_gone(guest.pid)


def test_a_guest_that_dies_is_reported(boot: Callable[[], Guest]) -> None:
    with boot() as guest:
        os.kill(guest.pid, signal.SIGKILL)
        with pytest.raises(GuestError, match=r"the guest (died, of signal 9|takes no command)"):
            guest.run("true")
        wait_until_gone(guest.pid)


def test_a_dead_guest_says_why_and_what_it_printed_last(boot: Callable[[], Guest]) -> None:
    with boot() as guest:
        guest.run("echo last words >/dev/kmsg").check()
        with pytest.raises(GuestTimeoutError):
            guest.run("sleep 60", timeout_s=1)
        said = r"the guest is dead: 'sleep 60' did not end in 1 s(.|\n)*last words"
        for again in guest.run, lambda _: guest.reboot():
            with pytest.raises(GuestError, match=said):
                again("true")
    with boot() as guest:
        guest.run("echo last words >/dev/kmsg").check()
    with pytest.raises(GuestError, match=r"the guest is dead: it was killed\n(.|\n)*last words"):
        guest.run("true")


def test_a_guest_dies_with_the_process_that_started_it(boot: Callable[[], Guest]) -> None:
    starter = f"""
import signal, sys
sys.path.insert(0, {str(ROOT)!r})
from guests.guest import Qemu, Uml
guest = {boot.__name__}()
print(guest.pid, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            leader = int(process.stdout.readline())
            assert session_members(leader)
        finally:
            process.kill()
    wait_until_gone(leader)


@pytest.mark.parametrize("text", ["", "int old;\nint old;\n"], ids=["missing", "twice"])
def test_a_source_edit_that_does_not_fit_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "file.c").write_text(text)
    with pytest.raises(BuildError, match=r"file\.c of .* does not hold, exactly once, .*'int old;'"):
        apply(Edit("file.c", "int old;", "int new;"), tmp_path)
    assert (tmp_path / "file.c").read_text() == text


def test_only_former_builds_of_the_same_guest_are_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPIOVIRT_CACHE", str(tmp_path))
    former = ["uml-0123456789ab", "uml-0123456789ab.new"]
    current = build_path(RECIPES["uml"])
    for name in (*former, "uml-7.3-0123456789ab", "x86-0123456789ab", current.name):
        (current.parent / name).mkdir(parents=True)
    assert sorted(path.name for path in stale_builds(RECIPES["uml"])) == former


@pytest.mark.usefixtures("has_uml")
def test_uml_runs_this_interpreter_and_its_files_are_the_hosts(tmp_path: Path) -> None:
    program = f"open({str(tmp_path / 'file')!r}, 'w').write('from the guest'); print('done')"
    result = uml(shlex.join([sys.executable, "-c", program]))
    assert result.check() == "done\n"
    assert (tmp_path / "file").read_text() == "from the guest"
    assert "gpiovirt-uml" in result.console


@pytest.mark.usefixtures("has_uml")
def test_uml_runs_commands_as_an_ordinary_user() -> None:
    result = uml('id -un; echo "$WORD"; cat /sys/kernel/debug/gpio', user="nobody", env={"WORD": "kept"})
    assert result.stdout == "nobody\nkept\n"
    assert "Permission denied" in result.stderr


@pytest.mark.usefixtures("has_uml")
def test_uml_lets_an_ordinary_user_mount_an_overlay_in_namespaces_of_its_own() -> None:
    mount = shlex.join(["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "sh", "-c"])
    result = uml(f"{mount} {shlex.quote(OVERLAY_OF_AN_ORDINARY_USER)}", user="nobody")
    assert result.check() == "below\nabove\n"


@pytest.mark.usefixtures("has_x86")
def test_qemu_runs_this_interpreter_from_the_hosts_root() -> None:
    version = [sys.executable, "-c", "import platform; print(platform.python_version(), platform.release())"]
    python, kernel = qemu(shlex.join(version), host_root=True, mem="512M").check().split()
    assert python == ".".join(map(str, sys.version_info[:3]))
    assert kernel.endswith("-gpiovirt-x86")


@pytest.mark.usefixtures("has_x86")
def test_why_an_emulator_did_not_start_is_said(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match=r"the guest died, with status 1\n.*nobody\.sock"):
        qemu("true", vhost_gpio=[str(tmp_path / "nobody.sock")])
